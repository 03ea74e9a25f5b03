"""CSV files that no spreadsheet runs: a text that would be a formula is written with a leading apostrophe."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsonic.errors import DataError
from clipsonic.storage import write_text

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MAX_BYTES = 256 * 2**20


def cell(value: Any) -> str:
    """Return what a CSV cell holds for a value.

    Args:
        value: Text, a number, a truth value, None (an empty cell), or a list or mapping (JSON).

    Returns:
        Text without null characters and carriage returns; if it came as text and starts as a formula would, an
        apostrophe leads it.
    """
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return repr(value) if isinstance(value, float) else str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as CSV text with a header; see `cell` for what becomes of the values."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([cell(column) for column in columns])
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return buffer.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text(path, csv_text(columns, rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with a header; cells and column names are stripped of spaces, blank lines left out.

    Raises:
        DataError: The file is missing, is not UTF-8 CSV, has no header, or a row has more cells than the header.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES // 2**20} MB; give a table of ratings")
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if any(c.strip() for c in line)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; give a UTF-8 CSV file") from error
    if not lines:
        raise DataError(f"{path} is empty; give a CSV file with a header")
    header = [column.strip() for column in lines[0]]
    if len(set(header)) != len(header):
        raise DataError(f"{path} names a column twice in its header: {', '.join(header)[:200]}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) > len(header):
            raise DataError(f"{path} row {number} has {len(line)} cells, the header {len(header)}; mend that row")
    return [dict(zip(header, (c.strip() for c in line + [""] * len(header)), strict=False)) for line in lines[1:]]
