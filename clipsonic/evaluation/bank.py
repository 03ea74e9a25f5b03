"""The training sounds that others are compared with: their embeddings, kept between evaluations."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from clipsonic.errors import DataError
from clipsonic.evaluation.judge import Embed, Judge, embed_sounds
from clipsonic.shards import INDEX_NAME, Label, read_labels, read_samples
from clipsonic.storage import sha256, write_whole

COPIES = 2
"""Training samples that the bank holds of each source recording: two takes of it."""
SAVE_EVERY = 50
DEFAULT_CACHE = Path("~/.cache/clipsonic/evaluation")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Embedded training sounds.

    Attributes:
        keys: Their names in the shards.
        embeddings: float32, shape (sounds, dim).
        labels: What each is of; "" if nobody says.
        sources: The recording each was cut from.
        seconds: Their length altogether.
    """

    keys: list[str]
    embeddings: Tensor
    labels: list[str]
    sources: list[str]
    seconds: float

    def judge(self, embed: Embed) -> Judge:
        """Return a judge over the bank's sounds.

        Raises:
            DataError: The bank has fewer than five recordings.
        """
        return Judge(embed, self.embeddings, self.labels, self.sources)

    def rows_of(self, things: frozenset[str]) -> list[int]:
        """Return the positions of the sounds that are of one of the things."""
        return [row for row, label in enumerate(self.labels) if label in things]


def read_bank(folder: Path, embed: Embed, name: str = "aisfx", cache: Path = DEFAULT_CACHE) -> Bank:
    """Embed a folder's training sounds, or take them from `cache`.

    Args:
        folder: Folder of shards.
        embed: What turns sounds into embeddings.
        name: Its name, which tells its bank from others'.
        cache: Folder for the embeddings.

    Raises:
        DataError: The shards or their labels cannot be used.
        OutputError: The cache cannot be written to.
    """
    labels = read_labels(folder)
    path = cache.expanduser() / f"bank-{name}-{fingerprint(folder)}.safetensors"
    kept = read_cached(path)
    if kept is None:
        kept = _embed(folder, labels, embed, path.with_suffix(".part.safetensors"))
        _save(kept, path)
        path.with_suffix(".part.safetensors").unlink(missing_ok=True)
    seconds = float(kept.pop("seconds").item())
    known = [label_of(labels, key, folder) for key in kept]
    return Bank(
        keys=list(kept),
        embeddings=torch.stack(list(kept.values())),
        labels=[label.label for label in known],
        sources=[label.source for label in known],
        seconds=seconds,
    )


def build_judge(folder: Path, embed: Embed, cache: Path = DEFAULT_CACHE) -> Judge:
    """Build a judge whose bank holds a folder's training sounds; embeddings are kept in `cache`.

    Raises:
        DataError: The shards or their labels cannot be used.
        OutputError: The cache cannot be written to.
    """
    return read_bank(folder, embed, cache=cache).judge(embed)


def fingerprint(folder: Path) -> str:
    """Name what a bank depends on: the shards, and how it is drawn from them."""
    return hashlib.sha256(f"{sha256(folder / INDEX_NAME)} {COPIES} 2".encode()).hexdigest()[:16]


def read_cached(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a cache file, or None if there is none that can be used."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def label_of(labels: Mapping[str, Label], key: str, folder: Path) -> Label:
    """Return what a sample shows.

    Raises:
        DataError: `labels.csv` does not know the sample.
    """
    if key not in labels:
        raise DataError(f"{folder}/labels.csv has no line for sample {key}; prepare the shards again")
    return labels[key]


def _save(bank: dict[str, Tensor], path: Path) -> None:
    with write_whole(path) as temporary:
        save_file(bank, temporary)


def _embed(folder: Path, labels: Mapping[str, Label], embed: Embed, partial: Path) -> dict[str, Tensor]:
    """Return the embeddings of at most `COPIES` training samples of each recording, by key, and their seconds.

    What is done is kept in `partial` every `SAVE_EVERY` sounds, so that an interruption costs little.
    """
    copies: Counter[str] = Counter()
    done = read_cached(partial) or {}
    bank: dict[str, Tensor] = {}
    seconds = 0.0
    for sample in tqdm(read_samples(folder, "train", frames=False), desc="bank", unit="sound", disable=None):
        source = label_of(labels, sample.key, folder).source
        copies[source] += 1
        if copies[source] <= COPIES:
            row = done.get(sample.key)
            if row is None:
                row = embed_sounds(embed, [sample.waveform], sample.sample_rate)[0].contiguous()
            bank[sample.key] = row
            seconds += len(sample.waveform) / sample.sample_rate
            if len(bank) % SAVE_EVERY == 0 and len(bank) > len(done):
                _save(bank, partial)
    return bank | {"seconds": torch.tensor(seconds)}
