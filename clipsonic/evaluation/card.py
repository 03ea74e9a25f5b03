"""`python -m clipsonic evaluate-card`: tables in README and model card, written from a report and never by hand."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from clipsonic.errors import DataError
from clipsonic.evaluation.report import COLUMNS, Interval, table
from clipsonic.storage import write_text

MARK = "evaluation"
METRICS = ("fad", "clap", "clip_picture", "clip_prompt", "kl", "accuracy", "top1", "top5", "condition")
COMPARED = ("accuracy", "top5", "clip_picture", "clip_prompt", "condition")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate-card`."""
    parser.add_argument("--report", type=Path, required=True, help="report.json, or the folder that evaluate wrote")
    parser.add_argument("--card", type=Path, nargs="+", required=True, help="Markdown files with the two markers")
    parser.add_argument("--rows", nargs="+", help="rows to show, in this order; all if not given")


def run(args: argparse.Namespace) -> int:
    """Rewrite the tables; return the exit status."""
    for card in args.card:
        check_card(card)
    for card in args.card:
        update_card(card, args.report, args.rows)
        print(card)
    return 0


def check_card(card: Path, mark: str = MARK) -> tuple[str, str]:
    """Return what stands before and after a card's table.

    Raises:
        DataError: The file is missing or has not exactly one pair of markers.
    """
    begin, end = markers(mark)
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {card}: {error}; give a Markdown file") from error
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise DataError(f"{card} must hold {begin} and then {end}, once each; add the two lines where the table goes")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def markers(mark: str) -> tuple[str, str]:
    """Return the comments between which a table lies."""
    return f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"


def replace_between(card: Path, text: str, mark: str = MARK) -> None:
    """Put a text between a card's markers.

    Raises:
        DataError: The card has no markers.
        OutputError: The card cannot be written.
    """
    before, after = check_card(card, mark)
    write_text(card, f"{before}\n{text.strip()}\n{after}")


def update_card(card: Path, report: Path, rows: list[str] | None = None) -> None:
    """Write a card's table anew.

    Args:
        card: A Markdown file with the markers.
        report: `report.json`, or its folder.
        rows: Rows to show; all if left out.

    Raises:
        DataError: The card has no markers, or the report cannot be used or lacks a row.
        OutputError: The card cannot be written.
    """
    replace_between(card, summary(read_report(report), rows))


def read_report(path: Path) -> dict[str, Any]:
    """Read `report.json`.

    Raises:
        DataError: It is missing or is no report.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["rows"] = {
            name: {metric: Interval(**cell) for metric, cell in row.items()} for name, row in values["rows"].items()
        }
        values["settings"]["model_sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot use {path}: {error}; give the report.json that evaluate wrote") from error
    return values


def summary(report: dict[str, Any], rows: list[str] | None = None) -> str:
    """Return a report's table and comparisons as Markdown.

    Raises:
        DataError: The report lacks one of the rows.
    """
    if missing := [name for name in rows or [] if name not in report["rows"]]:
        raise DataError(f"the report has no row {', '.join(missing)}; it has {', '.join(report['rows'])}")
    shown = {
        name: {metric: cell for metric, cell in report["rows"][name].items() if metric in METRICS}
        for name in rows or report["rows"]
    }
    settings = report["settings"]
    parts = [
        f"Model `{settings['model_sha256'][:12]}`, {len(settings.get('things', []))} things, 95 % intervals.",
        table(shown),
    ]
    lines = [
        f"* {COLUMNS[metric]}: {name} {pair['value']:.3f} [{pair['low']:.3f}, {pair['high']:.3f}], p = {pair['p']:.4f}"
        for metric in COMPARED
        for name, pair in report.get("comparisons", {}).get(metric, {}).items()
    ]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])
