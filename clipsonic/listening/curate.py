"""Candidates made in bulk, judged by a curator, the chosen ones built into a sample set.

Everything lies in SET/curation: `candidates/*.wav` and `curation.sqlite` (WAL). A decision is one row of its own,
written before anything else happens, so two curators, a reload or a crash lose nothing; a run that was killed goes on
where it was and ends in the same set.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import soundfile

from clipsonic.audio import read_audio
from clipsonic.errors import DataError, OutputError, SettingsError
from clipsonic.listening.plan import Plan, find_sounds
from clipsonic.listening.sets import CURATION
from clipsonic.output import ClipSonicAudio, ClipSonicOutput
from clipsonic.storage import write_whole

DATABASE = "curation.sqlite"
DECISIONS = ("", "keep", "reject", "star")
_PATIENCE_S = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS candidates (
    id TEXT PRIMARY KEY, item TEXT NOT NULL, system TEXT NOT NULL, slot INTEGER NOT NULL, file TEXT NOT NULL,
    seed INTEGER, score REAL, settings TEXT NOT NULL, model TEXT NOT NULL, model_sha256 TEXT NOT NULL,
    source TEXT NOT NULL, decision TEXT NOT NULL DEFAULT '' CHECK (decision IN ('', 'keep', 'reject', 'star')));
CREATE INDEX IF NOT EXISTS cells ON candidates (item, system, slot);
"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A sound that may become a stimulus.

    Attributes:
        id: Such as "p001.zs.s3".
        item: Of which item.
        system: Of which system.
        slot: For which of the item's and system's stimuli, from 0.
        file: Name in `curation/candidates`.
        seed: Of the model, or None.
        score: Clip-Score, or None.
        settings: `GenerationSettings` as JSON text; "{}" for another system's.
        model: The model's name.
        model_sha256: Its hash.
        source: The file another system's sound was taken from.
        decision: One of `DECISIONS`.
    """

    id: str
    item: str
    system: str
    slot: int
    file: str
    seed: int | None = None
    score: float | None = None
    settings: str = "{}"
    model: str = ""
    model_sha256: str = ""
    source: str = ""
    decision: str = ""


_COLUMNS = ", ".join(f.name for f in fields(Candidate))
_RANK = "CASE decision WHEN 'star' THEN 0 WHEN 'keep' THEN 1 WHEN '' THEN 2 ELSE 3 END"


class Pipeline(Protocol):
    """What makes sounds: `ClipSonicPipeline`, or another with its interface."""

    def __call__(self, *args: Any, **kwargs: Any) -> ClipSonicOutput:
        """Make sounds for a prompt or a picture."""


class Curation:
    """The candidates of one set, and what curators decided; any number of processes may have it open.

    Attributes:
        folder: The set's folder.
        plan: What is curated.
        salt: Makes the file names of this set unguessable.
    """

    def __init__(self, folder: Path, plan: Plan, salt: str) -> None:
        """Use `create` or `open`."""
        self.folder, self.plan, self.salt = folder, plan, salt

    @classmethod
    def create(cls, folder: Path, plan: Plan) -> Self:
        """Begin to curate, or go on with the same plan.

        Raises:
            SettingsError: The folder was begun with another plan.
            OutputError: The folder cannot be written to.
        """
        for system in plan.systems:
            find_sounds(system, plan.queries)
        try:
            (folder / CURATION / "candidates").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write into {folder}: {error.strerror}; choose another --out") from error
        text = json.dumps(plan.to_dict(), sort_keys=True)
        with _connect(folder) as database:
            database.executescript(_SCHEMA)
            new = [("plan", text), ("salt", secrets.token_hex(16))]
            database.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", new)
        begun = cls.open(folder)
        if json.dumps(begun.plan.to_dict(), sort_keys=True) != text:
            changed = [f.name for f in fields(Plan) if getattr(plan, f.name) != getattr(begun.plan, f.name)]
            raise SettingsError(f"{folder} was begun with other {', '.join(changed)}; choose another --out")
        return begun

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what was begun.

        Raises:
            DataError: Nothing was begun there.
        """
        if not (folder / CURATION / DATABASE).is_file():
            raise DataError(f"nothing is being curated in {folder}; begin with `listen curate`")
        with _connect(folder) as database:
            meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
        try:
            return cls(folder, Plan.from_dict(json.loads(meta["plan"])), meta["salt"])
        except (KeyError, ValueError) as error:
            raise DataError(f"{folder / CURATION / DATABASE} is damaged: {error}; choose another --out") from error

    def path(self, candidate: Candidate) -> Path:
        """Return where a candidate's sound lies."""
        return self.folder / CURATION / "candidates" / candidate.file

    def candidates(self) -> list[Candidate]:
        """Return all candidates by item, system, slot, then best first: star, keep, undecided, reject, then score.

        Candidates without a score stand in the order of their seeds.
        """
        order = f"item, system, slot, {_RANK}, score IS NULL, score DESC, seed, source"
        with _connect(self.folder) as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM candidates ORDER BY {order}")
            names = [f.name for f in fields(Candidate)]
            return [Candidate(**dict(zip(names, row, strict=True))) for row in rows]

    def decide(self, candidate: str, decision: str) -> None:
        """Keep, reject or star a candidate, or take that back with "".

        Raises:
            SettingsError: The decision is none.
            DataError: There is no such candidate.
        """
        if decision not in DECISIONS:
            raise SettingsError(f"the decision is {decision!r}; allowed: keep, reject, star, or nothing")
        with _connect(self.folder) as database:
            done = database.execute("UPDATE candidates SET decision = ? WHERE id = ?", (decision, candidate))
        if done.rowcount != 1:
            raise DataError(f"there is no candidate {candidate!r} in {self.folder}")

    def generate(self, pipeline: Pipeline | None, callback: Callable[[int, int], None] | None = None) -> None:
        """Make or collect every candidate that is not there yet.

        Args:
            pipeline: Makes the sounds; None if the plan has no methods.
            callback: Called with the cells done and the cells in all; may raise `Cancelled`.

        Raises:
            ClipSonicError: What the pipeline or a system's folder is at fault for.
        """
        jobs = list(self._jobs())
        made = self.candidates()
        lost = {(c.item, c.system, c.slot) for c in made if not self.path(c).is_file()}
        there = {(c.item, c.system, c.slot) for c in made} - lost
        for number, (cells, make) in enumerate(jobs):
            if callback is not None:
                callback(number, len(jobs))
            if not cells <= there:
                self._add(make(pipeline))
        if callback is not None:
            callback(len(jobs), len(jobs))

    def _jobs(self) -> Iterator[tuple[set[tuple[str, str, int]], Callable[[Pipeline | None], list[Candidate]]]]:
        """List what to do: the cells it fills, and what fills them."""
        plan = self.plan
        for item, query in zip(plan.item_ids(), plan.queries, strict=True):
            for kind, methods in plan.methods_of(query).items():
                asked = query.prompt if kind == "prompt" else query.picture
                for slot in range(plan.seeds) if methods else ():
                    cells = {(item, method, slot) for method in methods}
                    yield cells, partial(self._render, item, kind, asked, methods, slot)
        for system in plan.systems:
            for item, sounds in zip(plan.item_ids(), find_sounds(system, plan.queries), strict=True):
                cells = {(item, system.name, slot) for slot in range(min(plan.seeds, len(sounds)))}
                yield cells, partial(self._collect, item, system.name, sounds)

    def _render(
        self, item: str, kind: str, asked: str, methods: tuple[str, ...], slot: int, pipeline: Pipeline | None
    ) -> list[Candidate]:
        """Make the candidates of one item and slot with all methods that share a query."""
        if pipeline is None:
            raise SettingsError(f"a model is needed for {', '.join(methods)}; give --model")
        plan = self.plan
        first = plan.settings.seed + slot * plan.candidates
        settings = replace(plan.settings, methods=methods, seed=first, num_audios=plan.candidates, candidates=1)
        output = pipeline(**{kind: asked}, settings=settings, callback=lambda progress: None)
        made = []
        for audio in output.audios:
            name = f"{item}.{audio.method}.s{audio.seed}"
            _write_float(self.folder / CURATION / "candidates" / f"{name}.wav", audio.waveform, output.sample_rate)
            made.append(self._of(audio, output, name, item, slot))
        return made

    def _of(self, audio: ClipSonicAudio, output: ClipSonicOutput, name: str, item: str, slot: int) -> Candidate:
        settings = replace(output.settings, methods=(audio.method,), num_audios=1, seed=audio.seed)
        return Candidate(
            id=name,
            item=item,
            system=audio.method,
            slot=slot,
            file=f"{name}.wav",
            seed=audio.seed,
            score=getattr(audio, "score", None),
            settings=json.dumps(settings.to_dict(), ensure_ascii=False),
            model=output.model,
            model_sha256=output.model_sha256,
        )

    def _collect(self, item: str, system: str, sounds: list[Path], _: Pipeline | None) -> list[Candidate]:
        """Take another system's sounds of one item; they are dealt out to the slots in turn."""
        made = []
        for number, path in enumerate(sounds):
            waveform, rate = read_audio(path)
            name = f"{item}.{system}.f{number}"
            _write_float(self.folder / CURATION / "candidates" / f"{name}.wav", waveform, rate)
            slot = number % self.plan.seeds
            made.append(Candidate(id=name, item=item, system=system, slot=slot, file=f"{name}.wav", source=path.name))
        return made

    def _add(self, made: list[Candidate]) -> None:
        """Note candidates whose files are there; what was decided about them before stays."""
        marks = ", ".join("?" * len(fields(Candidate)))
        with _connect(self.folder) as database:
            rows = [astuple(candidate) for candidate in made]
            database.executemany(f"INSERT OR IGNORE INTO candidates ({_COLUMNS}) VALUES ({marks})", rows)


def choose(candidates: list[Candidate]) -> dict[tuple[str, str, int], Candidate]:
    """Choose one candidate for each item, system and slot: a starred one, a kept one, or the best of the others.

    Args:
        candidates: In the order of `Curation.candidates`.

    Raises:
        DataError: All candidates of a cell were rejected.
    """
    chosen: dict[tuple[str, str, int], Candidate] = {}
    for candidate in candidates:
        chosen.setdefault((candidate.item, candidate.system, candidate.slot), candidate)
    refused = [f"{c.item} {c.system} {c.slot}" for c in chosen.values() if c.decision == "reject"]
    if refused:
        raise DataError(f"all candidates were rejected for {', '.join(refused[:5])}; keep one of each, or curate more")
    return chosen


@contextmanager
def _connect(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for one transaction, which is on the disk when the block ends."""
    path = folder / CURATION / DATABASE
    try:
        database = sqlite3.connect(path, timeout=_PATIENCE_S)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            with database:
                yield database
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        raise OutputError(f"cannot use {path}: {error}; is the disk full, or the file damaged?") from error


def _write_float(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write a candidate with all of its precision, for its level still changes."""
    with write_whole(path) as temporary:
        try:
            soundfile.write(temporary, waveform, sample_rate, "FLOAT")
        except soundfile.LibsndfileError as error:
            raise OSError(error.error_string) from error
