"""From a list of videos to shards: planned, cut by an engine, written in order, taken up again where a run stopped.

Beside the shards lie `index.json`, `labels.csv`, `report.json` and `report.csv`, and in `state/` what each finished
shard holds, which is what a later run goes by.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipsonic.data.clips import MEL, UNIT_CLIPS, Clip, ClipSettings, Cut, Cutter, Embedder, Probe, Unit
from clipsonic.data.engines import Crashed, Engine
from clipsonic.data.report import Report
from clipsonic.data.sources import Found
from clipsonic.errors import DataError, OutputError
from clipsonic.shards import INDEX_NAME, Index, Label, Shard, ShardWriter, clip_sha256, write_labels
from clipsonic.storage import sha256, write_text

RECIPE = 1
"""Raised whenever the same videos would give other shards."""
STATE = "state"
_INDEX_EVERY_S = 30.0
_CRASH = "brings the decoder down"


@dataclass(frozen=True)
class Plan:
    """A shard to be written; the fingerprint says what of, so that it is known whether it need be written again."""

    name: str
    split: str
    units: tuple[Unit, ...]
    fingerprint: str


@dataclass(frozen=True)
class Finished:
    """A shard as written; none (only skipped clips) if `shard` is None."""

    plan: Plan
    shard: Shard | None
    skipped: dict[str, str]

    def labels(self) -> list[Label]:
        """Return what the clips in it show."""
        return [
            Label(clip.key, unit.video.label, unit.video.split, unit.video.source)
            for unit in self.plan.units
            for clip in unit.clips
            if clip.key not in self.skipped
        ]


@dataclass
class Corpus:
    """One run of `prepare` over a list of videos.

    Attributes:
        found: The videos.
        out: Folder for the shards.
        settings: How to cut them.
        engine: Who does the work.
        clip_folder: The CLIP to embed frames with, if any.
    """

    found: Found
    out: Path
    settings: ClipSettings
    engine: Engine
    clip_folder: Path | None = None
    finished: list[Finished] = field(default_factory=list)

    def prepare(self) -> Report:
        """Write the shards that are not there yet, then index, labels and report.

        Returns:
            What was written and what was skipped, and why.

        Raises:
            DataError: No video gives a clip, or the folder holds another corpus.
            OutputError: The folder cannot be written to, or another run is writing to it.
        """
        start_s = time.perf_counter()
        self._clip_sha256 = clip_sha256(self.clip_folder) if self.clip_folder else ""
        with _only_run(self.out):
            self._check_out()
            self.report = Report(self.found)
            plans = self._plans()
            pending = [plan for plan in plans if not self._take_up(plan)]
            self._write_index()
            self._write_shards(plans, pending)
            self._drop_others(plans)
            index = self._write_index()
            self.report.finish(self.finished, index.counts, time.perf_counter() - start_s)
            self.report.write(self.out)
        if not index.shards:
            raise DataError(
                f"none of the videos in {self.found.folder} gave a clip; {self.out / 'report.csv'} says why"
            )
        return self.report

    def _check_out(self) -> None:
        """Refuse a folder of other shards, and clear away what a killed run left half written."""
        if (self.out / INDEX_NAME).is_file():
            dataset = Index.read(self.out).settings.get("dataset")
            if dataset != self.found.dataset:
                other = dataset or "another corpus"
                raise DataError(f"{self.out} already holds shards of {other}; choose another folder with --out")
        for folder in (self.out, self.out / STATE):
            for path in folder.glob(".*.part*"):
                path.unlink(missing_ok=True)

    def _plans(self) -> list[Plan]:
        """Look at every video and share its clips out among shards; the order is by hash, so that shards are mixed."""
        videos = sorted(self.found.videos, key=lambda v: (hashlib.sha256(v.source.encode()).digest(), v.path))
        probe = Probe(self.found.folder, self.settings)
        bar = tqdm(self.engine.run([probe], videos), "videos", len(videos), unit="video", mininterval=1.0)
        clips: dict[str, list[tuple[int, Clip]]] = {"train": [], "test": []}
        for number, (video, places) in enumerate(zip(videos, bar, strict=True)):
            if isinstance(places, Crashed | str):
                self.report.skip_video(video, places if isinstance(places, str) else _CRASH)
                continue
            own = clips[video.split]
            for place in places:
                own.append((number, Clip(f"{video.split}-{len(own):06d}", *place)))
        plans = []
        for split, own in clips.items():
            for shard, first in enumerate(range(0, len(own), self.settings.shard_clips)):
                units = tuple(_units(videos, own[first : first + self.settings.shard_clips]))
                plans.append(Plan(f"{split}-{shard:06d}.tar", split, units, self._fingerprint(units)))
        return plans

    def _fingerprint(self, units: Sequence[Unit]) -> str:
        """Name what a shard depends on: the recipe, the settings, CLIP, the clips, and the sizes of their videos."""
        sizes = [_size(self.found.folder / unit.video.path) for unit in units]
        cuts = [(u.video.source, u.video.label, u.clips, size) for u, size in zip(units, sizes, strict=True)]
        settings = self.settings.to_json(), self._clip_sha256
        return hashlib.sha256(repr((RECIPE, settings, cuts)).encode()).hexdigest()

    def _take_up(self, plan: Plan) -> bool:
        """Say whether an earlier run wrote this shard whole; a damaged one is written again."""
        try:
            state = json.loads(self._state(plan.name).read_text(encoding="utf-8"))
            shard = Shard.from_dict(state["shard"]) if state["shard"] else None
            if state["plan"] != plan.fingerprint:
                return False
            if shard and sha256(self.out / plan.name) != shard.sha256:
                tqdm.write(f"{self.out / plan.name} is damaged and is written again", sys.stderr)
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.finished.append(Finished(plan, shard, state["skipped"]))
        return True

    def _write_shards(self, plans: Sequence[Plan], pending: Sequence[Plan]) -> None:
        stages = [Cutter(self.found.folder, self.settings)]
        stages += [Embedder(self.clip_folder, self.settings.frames)] if self.clip_folder else []  # type: ignore[list-item]
        cuts = self.engine.run(stages, [unit for plan in pending for unit in plan.units])
        total, rest = (sum(len(unit.clips) for plan in part for unit in plan.units) for part in (plans, pending))
        indexed_s = time.monotonic()
        with tqdm(desc="clips", total=total, initial=total - rest, unit="clip", mininterval=1.0) as bar:
            for plan in pending:
                self.finished.append(self._write_shard(plan, cuts, bar))
                if time.monotonic() - indexed_s > _INDEX_EVERY_S:
                    self._write_index()
                    indexed_s = time.monotonic()

    def _write_shard(self, plan: Plan, cuts: Iterator[Cut | Crashed], bar: tqdm) -> Finished:
        """Write one shard out of the next results, and its state once it is there."""
        skipped: dict[str, str] = {}
        with ExitStack() as stack:
            writer = None
            for unit in plan.units:
                cut = next(cuts)
                if isinstance(cut, Crashed):
                    cut = Cut(unit, skipped={clip.key: _CRASH for clip in unit.clips})
                start_s = time.perf_counter()
                for key, files in cut.files.items():
                    writer = writer or stack.enter_context(ShardWriter(self.out / plan.name))
                    writer.write_files(key, files)
                cut.seconds["write"] += time.perf_counter() - start_s
                skipped |= cut.skipped
                self.report.count(cut)
                bar.update(len(unit.clips))
        finished = Finished(plan, writer.entry(plan.fingerprint) if writer else None, skipped)
        shard = finished.shard.to_dict() if finished.shard else None
        state = {"plan": plan.fingerprint, "shard": shard, "skipped": skipped}
        write_text(self._state(plan.name), json.dumps(state))
        return finished

    def _drop_others(self, plans: Sequence[Plan]) -> None:
        """Remove shards of an earlier run over other videos, which would be taken for this one's."""
        written = {item.plan.name for item in self.finished if item.shard}
        for state in (self.out / STATE).glob("*.json"):
            name = state.with_suffix(".tar").name
            if name not in written:
                (self.out / name).unlink(missing_ok=True)
            if name not in {plan.name for plan in plans}:
                state.unlink()

    def _write_index(self) -> Index:
        """Write labels and index as they stand, so that an interrupted run leaves a usable folder."""
        ordered = sorted(self.finished, key=lambda item: item.plan.name)
        labels = [label for item in ordered for label in item.labels()]
        counts = {split: n for split in ("test", "train") if (n := sum(label.split == split for label in labels))}
        write_labels(self.out, sorted(labels, key=lambda label: label.key))
        index = Index(
            settings={"dataset": self.found.dataset, **self.settings.to_dict()},
            shards=tuple(item.shard for item in ordered if item.shard),
            sample_rate=MEL.sample_rate,
            counts=counts,
            clip_sha256=self._clip_sha256,
        )
        index.write(self.out)
        return index

    def _state(self, name: str) -> Path:
        return self.out / STATE / Path(name).with_suffix(".json")


def _units(videos: Sequence[Any], clips: Sequence[tuple[int, Clip]]) -> Iterator[Unit]:
    """Group a shard's clips by their video, at most `UNIT_CLIPS` at once."""
    for number, group in groupby(clips, key=lambda item: item[0]):
        own = [clip for _, clip in group]
        for first in range(0, len(own), UNIT_CLIPS):
            yield Unit(videos[number], tuple(own[first : first + UNIT_CLIPS]))


@contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Hold the folder for this run; the lock goes with the process, however that ends."""
    path = out / STATE / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}; choose a writable folder") from error
    with file:
        _lock(file.fileno(), out)
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lock(handle: int, out: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps two runs apart there
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"another run is writing to {out}; wait for it or choose another folder") from error
