"""What the shards give an evaluation: held-out sounds and frames, and the things to ask for."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipsonic.errors import DataError
from clipsonic.evaluation.bank import label_of
from clipsonic.shards import Label, read_labels, read_samples

LEAST_RECORDINGS = 3
"""Training recordings that a thing must have to be asked for."""
PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """A held-out video.

    Attributes:
        label: What it shows.
        waveform: Its sound in [-1, 1], float32, shape (samples,).
        frame: One of its frames.
        sample_rate: Hz.
    """

    label: str
    waveform: np.ndarray
    frame: Image.Image
    sample_rate: int


def choose_things(labels: Mapping[str, Label], count: int, seed: int = 0) -> list[str]:
    """Draw the things to evaluate, among those with held-out sounds and enough training recordings.

    Raises:
        DataError: No thing qualifies.
    """
    recordings: dict[str, set[str]] = defaultdict(set)
    for label in labels.values():
        if label.split == "train":
            recordings[label.label].add(label.source)
    held = {label.label for label in labels.values() if label.split == "test"}
    fit = sorted(thing for thing in held if len(recordings[thing]) >= LEAST_RECORDINGS)
    if not fit:
        raise DataError(f"no thing has {LEAST_RECORDINGS} training recordings and a held-out one; prepare more data")
    order = np.random.default_rng(seed).permutation(len(fit))
    return sorted(fit[index] for index in order[:count])


def read_held(folder: Path, things: Sequence[str], per_thing: int) -> list[Held]:
    """Read held-out videos of the things, at most `per_thing` of each, of as many recordings as there are.

    Raises:
        DataError: The shards or their labels cannot be used.
    """
    labels = read_labels(folder)
    wanted = {key: number for thing in things for number, key in enumerate(_spread(labels, thing, per_thing))}
    held = []
    for sample in read_samples(folder, "test"):
        if sample.key in wanted:
            frame = sample.frames[wanted[sample.key] % len(sample.frames)]
            label = label_of(labels, sample.key, folder).label
            held.append(Held(label=label, waveform=sample.waveform, frame=frame, sample_rate=sample.sample_rate))
    return sorted(held, key=lambda video: video.label)


def _spread(labels: Mapping[str, Label], thing: str, count: int) -> list[str]:
    """Return keys of a thing's held-out samples, taking one of each recording before a second of any."""
    rounds: Counter[str] = Counter()
    ranked = []
    for label in labels.values():
        if label.split == "test" and label.label == thing:
            ranked.append((rounds[label.source], label.key))
            rounds[label.source] += 1
    return [key for _, key in sorted(ranked)][:count]


def read_pairs(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """Read a CSV file that says what thing each of its prompts or pictures is of.

    Args:
        path: The file; its columns include `column` and `label`.
        column: "prompt" or "file".

    Yields:
        The value of `column`, and the label.

    Raises:
        DataError: The file is missing or lacks a column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield row[column], row["label"]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; it needs the columns {column},label") from error
