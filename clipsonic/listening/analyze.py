"""From ratings to results: who is left out, means, tests, agreement; as `results.json` for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from clipsonic.errors import DataError
from clipsonic.listening.answers import stored_ratings
from clipsonic.listening.ratings import RATING_COLUMNS, Rating
from clipsonic.listening.screening import Screened, screen
from clipsonic.listening.sets import ANSWERS, IMPORTS, ListeningSet
from clipsonic.listening.statistics import (
    Comparison,
    Mean,
    agreement,
    by_prompt,
    frame,
    means,
    paired_tests,
    preferences,
)
from clipsonic.listening.tables import read_csv, write_csv


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a test found.

    Attributes:
        systems: System → scale → mean opinion.
        tests: Between systems.
        screened: Listeners left out.
        agreement: Krippendorff's alpha by scale.
        prompts: One row an item, system and scale.
        listeners: Number of listeners whose ratings count.
        ratings: The ratings that count.
    """

    systems: dict[str, dict[str, Mean]]
    tests: list[Comparison]
    screened: list[Screened]
    agreement: dict[str, float | None]
    prompts: list[dict[str, Any]]
    listeners: int
    ratings: list[Rating]

    def to_json(self) -> str:
        """Return `results.json`."""
        values = {
            "systems": {name: {s: asdict(mean) for s, mean in row.items()} for name, row in self.systems.items()},
            "tests": [test.to_dict() for test in self.tests],
            "screened": [asdict(entry) for entry in self.screened],
            "agreement": self.agreement,
            "listeners": self.listeners,
            "ratings": len(self.ratings),
        }
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def analyze(listening_set: ListeningSet, ratings: Sequence[Rating]) -> Results:
    """Screen the listeners and compute everything.

    Args:
        listening_set: What was rated.
        ratings: All ratings, those of gold and trapping items among them.

    Raises:
        DataError: There are no ratings, all listeners were left out, or a rating is of no stimulus of the set.
    """
    if not ratings:
        raise DataError(f"{listening_set.folder} has no ratings yet; run the test, or `listen import` its answers")
    for rating in ratings:
        if rating.purpose == "rating" and rating.stimulus not in listening_set.stimuli:
            raise DataError(f"a rating is of {rating.stimulus!r}, which {listening_set.folder} does not have")
    references = frozenset(s.id for s in listening_set.manifest.stimuli if s.role == "reference")
    kept, screened = screen(ratings, references)
    if not kept:
        raise DataError(f"no ratings are left: all {len(screened)} listeners failed the checks of attention")
    data = frame(kept)
    order = {name: number for number, name in enumerate(listening_set.systems)}
    found = means(data)
    return Results(
        systems={name: found[name] for name in sorted(found, key=lambda n: (order.get(n, len(order)), n))},
        tests=[*paired_tests(data), *preferences(data)],
        screened=screened,
        agreement=agreement(data),
        prompts=by_prompt(data),
        listeners=len({rating.listener for rating in kept}),
        ratings=kept,
    )


def read_ratings(listening_set: ListeningSet) -> list[Rating]:
    """Return all ratings of a set: the running test's, then the imported ones.

    Raises:
        DataError: A file of ratings cannot be read.
    """
    ratings: list[Rating] = []
    if (listening_set.folder / ANSWERS).is_file():
        ratings += stored_ratings(listening_set.folder / ANSWERS)
    for path in sorted((listening_set.folder / IMPORTS).glob("*.csv")):
        ratings += [rating_from_row(row, path) for row in read_csv(path)]
    # An answer that was imported again, or changed, counts once. A MUSHRA gold page has one stimulus twice, plain and
    # in noise; only of the latter is the answer known.
    latest = {
        (r.listener, r.stimulus, r.other, r.scale, r.design, r.purpose, r.trial, r.low, r.high): r for r in ratings
    }
    return list(latest.values())


def write_ratings(path: Path, ratings: Sequence[Rating]) -> None:
    """Write ratings as CSV that `read_ratings` takes back.

    Raises:
        OutputError: The file cannot be written.
    """
    write_csv(path, RATING_COLUMNS, (rating.to_dict() for rating in ratings))


_HINTS = {name: hint for name, hint in get_type_hints(Rating).items() if name in {f.name for f in fields(Rating)}}


def rating_from_row(row: dict[str, str], path: Path) -> Rating:
    """Return the rating in a row that `write_ratings` wrote to the file at `path`.

    Raises:
        DataError: A value is missing or impossible.
    """
    values: dict[str, Any] = {}
    try:
        for name, hint in _HINTS.items():
            text = row[name]
            if hint is str:
                values[name] = text.removeprefix("'")
            elif text:
                values[name] = int(text) if hint is int else float(text)
        return Rating(**values)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"cannot read the ratings in {path}: {error}; import them again") from error
