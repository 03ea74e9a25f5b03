"""Ratings from other tools: webMUSHRA's CSV files with their quirks, pymushra's, the P.808 toolkit's votes, our own.

What a file is, its columns say.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from clipsonic.errors import DataError
from clipsonic.listening.analyze import rating_from_row, write_ratings
from clipsonic.listening.exports import PREFIX
from clipsonic.listening.ratings import RATING_COLUMNS, Rating
from clipsonic.listening.sets import IMPORTS, WAVS, ListeningSet, Stimulus
from clipsonic.listening.tables import read_csv
from clipsonic.storage import sha256, slug

LISTENER_COLUMNS = ("session_uuid", "questionaire_uuid", "participant", "uuid", "workerid", "email", "listener")
"""Where a listener's key is looked for, in this order, unless a column is named."""
MISSING = {"", "NA", "N/A", "nan", "None", "undefined"}
_CODE = re.compile(r"_c\d+$")
_SECOND = 1000.0
_CHOICES = {"correct": 1.0, "incorrect": 0.0, "undecided": 0.5, "unknown": 0.5}
_HIDDEN = ("reference", "anchor35", "anchor70")


def import_file(listening_set: ListeningSet, path: Path, *, listener: str = "", scale: str = "") -> list[Rating]:
    """Read a file of ratings and keep them with the set; the same file again replaces itself.

    Args:
        listening_set: What was rated.
        path: The file.
        listener: The column that tells listeners apart; looked for among `LISTENER_COLUMNS` if left out.
        scale: What was judged, where the file does not say; the set's first scale if left out.

    Returns:
        The ratings.

    Raises:
        DataError: The file cannot be read, is of no known kind, or rates what is not in the set.
        OutputError: The set's folder cannot be written to.
    """
    ratings = read_file(listening_set, path, listener=listener, scale=scale)
    if not ratings:
        raise DataError(f"{path} holds no ratings; give a file with answers")
    name = f"{slug(path.stem)}-{sha256(path)[:12]}.csv"
    write_ratings(listening_set.folder / IMPORTS / name, ratings)
    return ratings


def read_file(listening_set: ListeningSet, path: Path, *, listener: str = "", scale: str = "") -> list[Rating]:
    """Read a file of ratings; see `import_file`."""
    rows = _rows(path)
    columns = set(rows[0]) if rows else set()
    reader = _Reader(listening_set, path, listener, scale or listening_set.manifest.scales[0].name)
    if set(RATING_COLUMNS) <= columns:
        return [rating_from_row(row, path) for row in rows]
    for known, read in (
        ({"rating_stimulus", "rating_score"}, reader.mushra),
        ({"choice_reference", "choice_non_reference", "choice_answer"}, reader.paired),
        ({"responses_stimulus", "responses_score"}, reader.pymushra),
        ({"responses_stimulus", "responses_stimulusRating"}, reader.pymushra),
        ({"stimuli", "stimuli_rating"}, reader.likert),
        ({"stimuli", "stimuli_rating1"}, reader.likert),
        ({"workerid", "file", "vote"}, reader.votes),
        ({"file_url", "vote_1"}, reader.clips),
    ):
        if known <= columns:
            return [rating for number, row in enumerate(rows, 2) for rating in read(row, number)]
    kinds = (
        "webMUSHRA's lss, lms, mushra or paired_comparison.csv, pymushra's, P.808's votes_per_worker or votes_per_clip"
    )
    raise DataError(f"{path} is of no known kind, its columns are {', '.join(sorted(columns))[:200]}; give {kinds}")


def _rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file, separated by commas or, as pymushra writes it, semicolons."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"cannot read {path}: {error}; give a UTF-8 CSV file") from error
    first = text.partition("\n")[0]
    if first.count(";") <= first.count(","):
        return read_csv(path)
    return [
        {k: (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(io.StringIO(text), delimiter=";")
    ]


class _Reader:
    """Turns rows of one file into ratings."""

    def __init__(self, listening_set: ListeningSet, path: Path, listener: str, scale: str) -> None:
        self._set, self._path, self._column, self._scale = listening_set, path, listener, scale
        self._anonymous = 0

    def likert(self, row: dict[str, str], number: int) -> Iterator[Rating]:
        """Read a row of lss.csv (one rating, or one a scale) or lms.csv (ratings between spaces)."""
        if "stimuli_rating" in row:
            values = _list(row["stimuli_rating"])
        else:
            marked = sorted((n for n in row if re.fullmatch(r"stimuli_rating\d+", n)), key=lambda n: int(n[14:]))
            values = [row[name] for name in marked]
        yield from self._scales(row, number, row["stimuli"], values, _seconds(row.get("rating_time")))

    def _scales(
        self, row: dict[str, str], number: int, name: str, values: list[Any], seconds: float | None
    ) -> Iterator[Rating]:
        names = [scale.name for scale in self._set.manifest.scales] if len(values) > 1 else [self._scale]
        if len(values) > len(names):
            raise DataError(f"{self._path} row {number} has {len(values)} ratings, the set only {len(names)} scales")
        stimulus = self._find(name, number)
        for scale, value in zip(names, values, strict=False):
            if str(value).strip() not in MISSING:
                yield self._rating(row, number, stimulus, scale, value, seconds=seconds)

    def mushra(self, row: dict[str, str], number: int) -> Iterator[Rating]:
        """Read a row of mushra.csv."""
        if row["rating_score"] not in MISSING:
            stimulus = self._hidden(row["rating_stimulus"], row.get("trial_id", ""), number)
            seconds = _seconds(row.get("rating_time"))
            yield self._rating(row, number, stimulus, "quality", row["rating_score"], "mushra", seconds=seconds)

    def paired(self, row: dict[str, str], number: int) -> Iterator[Rating]:
        """Read a row of paired_comparison.csv, which asks for the reference: was it told from the other?"""
        value = _CHOICES.get(row["choice_answer"].lower())
        if value is None:
            raise DataError(f"{self._path} row {number} answers {row['choice_answer']!r}; known: {', '.join(_CHOICES)}")
        reference, other = (self._find(row[name], number) for name in ("choice_reference", "choice_non_reference"))
        about = {"other": other.id, "other_system": other.system, "seconds": _seconds(row.get("choice_time"))}
        yield self._rating(row, number, reference, "is-reference", value, "preference", **about)

    def pymushra(self, row: dict[str, str], number: int) -> Iterator[Rating]:
        """Read a row of pymushra's download of a whole test."""
        seconds = _seconds(row.get("responses_time"))
        if row.get("wm_type") == "mushra":
            if row["responses_score"] not in MISSING:
                stimulus = self._hidden(row["responses_stimulus"], row.get("wm_id", ""), number)
                score = row["responses_score"]
                yield self._rating(row, number, stimulus, "quality", score, "mushra", seconds=seconds)
        elif "responses_stimulusRating" in row:
            values = _list(row["responses_stimulusRating"])
            yield from self._scales(row, number, row["responses_stimulus"], values, seconds)

    def votes(self, row: dict[str, str], number: int) -> Iterator[Rating]:
        """Read a row of the P.808 toolkit's votes_per_worker.csv."""
        if row["vote"] not in MISSING:
            yield self._rating(row, number, self._find(row["file"], number), self._scale, row["vote"])

    def clips(self, row: dict[str, str], number: int) -> Iterator[Rating]:
        """Read a row of votes_per_clip.csv; it does not say whose the votes are, so each is its own listener's."""
        stimulus = self._find(row["file_url"], number)
        for name in sorted((n for n in row if re.fullmatch(r"vote_\d+", n)), key=lambda n: int(n[5:])):
            if row[name] not in MISSING:
                self._anonymous += 1
                own = {"listener": f"anonymous{self._anonymous:06}"}
                yield self._rating(own, number, stimulus, self._scale, row[name])

    def _rating(
        self,
        row: dict[str, str],
        number: int,
        stimulus: Stimulus,
        scale: str,
        value: Any,
        design: str = "acr",
        **about: Any,
    ) -> Rating:
        kind = self._set.items[stimulus.item].kind
        low, high = stimulus.expected.get(scale, (None, None))
        try:
            return Rating(
                listener=self._listener(row),
                item=stimulus.item,
                stimulus=stimulus.id,
                system=stimulus.system,
                scale=scale,
                value=float(value),
                design=design,
                purpose="rating" if kind == "test" else kind,
                low=low,
                high=high,
                **about,
            )
        except ValueError as error:
            raise DataError(f"{self._path} row {number}: {error}") from error

    def _listener(self, row: dict[str, str]) -> str:
        columns = (self._column,) if self._column else LISTENER_COLUMNS
        for column in columns:
            if row.get(column):
                return row[column]
        has = ", ".join(row)[:200]
        raise DataError(f"{self._path} does not say who the listener is; name the column with --listener: {has}")

    def _find(self, name: str, number: int) -> Stimulus:
        stem = _CODE.sub("", PurePosixPath(name).name.removesuffix(".wav")).removeprefix(PREFIX)
        stimulus = self._set.key.get(f"{WAVS}/{stem}.wav")
        if stimulus is None:
            raise DataError(f"{self._path} row {number} rates {name[:100]!r}, which the set does not have")
        return self._set.stimuli[stimulus]

    def _hidden(self, name: str, trial: str, number: int) -> Stimulus:
        """Find a sound, also one that webMUSHRA itself calls the reference or an anchor of its page."""
        if name not in _HIDDEN:
            return self._find(name, number)
        items = [item for item in self._set.manifest.items if item.kind == "test"]
        match = re.fullmatch(r"page_(\d+)", trial)
        page = int(match[1]) if match else 0
        if 1 <= page <= len(items):
            for stimulus in self._set.of_item(items[page - 1].id):
                if stimulus.role == name:
                    return stimulus
        raise DataError(f"{self._path} row {number} rates the {name} of the page {trial[:60]!r}; the set has none")


def _list(text: str) -> list[Any]:
    """Return the ratings of a cell: one, or several as a list that was turned into text."""
    bare = text.strip()
    if bare.startswith("["):
        try:
            return [str(value) for value in json.loads(bare.replace("'", '"'))]
        except ValueError:
            return [bare]
    return [part.strip() for part in bare.split(",")]


def _seconds(text: str | None) -> float | None:
    """Return webMUSHRA's milliseconds as seconds; None if there are none."""
    try:
        return float(text or "") / _SECOND
    except ValueError:
        return None
