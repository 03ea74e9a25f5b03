"""Reads the running test's answers for the statistics, gold and trapping pages among them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from clipsonic.errors import DataError
from clipsonic.listening.ratings import Rating

_QUERY = """
SELECT listeners.id AS listener, pages.item, pages.position, pages.design, pages.purpose, pages.expected,
    a.stimulus, a.system, a.noise, a.slot, answers.scale, answers.rating, answers.seconds, answers.given_at,
    b.stimulus AS other, b.system AS other_system,
    (SELECT max(s.noise) FROM sounds s WHERE s.page = pages.id) AS has_noise
FROM answers JOIN sounds a ON a.id = answers.sound JOIN pages ON pages.id = a.page
JOIN listeners ON listeners.id = pages.listener
LEFT JOIN sounds b ON pages.design = 'preference' AND b.page = pages.id AND b.slot = 1
ORDER BY listeners.id, pages.position, a.slot, answers.scale
"""
_PREFERENCE = {1: 1.0, 2: 0.0, 0: 0.5}
"""What a listener chose: sound 1, sound 2, or neither."""


def stored_ratings(path: Path) -> list[Rating]:
    """Return every answer in a test's SQLite file; the test may be running.

    Raises:
        DataError: It is no answer store.
    """
    try:
        database = sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True, timeout=20)
        try:
            cursor = database.execute(_QUERY)
            names = [column[0] for column in cursor.description]
            return [_rating(dict(zip(names, row, strict=True))) for row in cursor]
        finally:
            database.close()
    except (sqlite3.DatabaseError, ValueError, KeyError) as error:
        raise DataError(f"cannot read the answers in {path}: {error}; give the file of a running test") from error


def _rating(row: dict[str, Any]) -> Rating:
    preference = row["design"] == "preference"
    low, high = _span(row)
    value = _PREFERENCE[row["rating"]] if preference else float(row["rating"])
    if preference and low is not None and high is not None:
        ends = [_PREFERENCE[choice] for choice in range(int(low), int(high) + 1)]
        low, high = min(ends), max(ends)
    return Rating(
        listener=f"L{row['listener']:04d}",
        item=row["item"],
        stimulus=row["stimulus"],
        system=row["system"],
        scale=row["scale"],
        value=value,
        design=row["design"],
        other=row["other"] or "",
        other_system=row["other_system"] or "",
        trial=row["position"] + 1,
        seconds=row["seconds"],
        at=row["given_at"],
        purpose=row["purpose"],
        low=low,
        high=high,
    )


def _span(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return what an attentive listener answers; it is known of the sound in noise, or else the page's first."""
    expected = json.loads(row["expected"] or "{}").get(row["scale"])
    judged = row["noise"] if row["has_noise"] and row["design"] != "preference" else row["slot"] == 0
    return (float(expected[0]), float(expected[1])) if expected and judged else (None, None)
