"""A judge of what a sound is of: its nearest neighbours among real training sounds, in aiSFX embeddings.

The judge is exactly this. The bank holds embeddings of training sounds. A query is compared by cosine with each
of them, after the bank's mean is taken off both; a source recording counts once, by its most similar sound, so
that the neighbours of a query are distinct recordings. `top1` asks whether the nearest recording is of the right
thing, `top5` whether any of the five nearest is. Scores are averaged within each thing, then over things.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.audio import normalize_loudness
from clipsonic.errors import DataError
from clipsonic.evaluation.report import Interval

NEIGHBOURS = {"top1": 1, "top5": 5}
RESAMPLES = 2000
SEED = 0

Embed = Callable[[Tensor, int], Tensor]
"""Takes sounds, float32, shape (batch, samples), and their sample rate; returns embeddings, shape (batch, dim)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Sounds and whether the judge knew them.

    Attributes:
        labels: What each sound should be of, shape (sounds,).
        neighbours: The labels of each sound's nearest recordings, nearest first, shape (sounds, 5).
    """

    labels: np.ndarray
    neighbours: np.ndarray

    def hits(self, metric: str) -> np.ndarray:
        """Return for each sound whether it was known, bool, shape (sounds,); `metric` is one of `NEIGHBOURS`."""
        return (self.neighbours[:, : NEIGHBOURS[metric]] == self.labels[:, None]).any(1)

    def by_thing(self, metric: str) -> dict[str, float]:
        """Return the share of each thing's sounds that were known."""
        hits = self.hits(metric)
        return {str(label): float(hits[self.labels == label].mean()) for label in np.unique(self.labels)}

    def scores(self) -> dict[str, Interval]:
        """Return the mean over things of each metric, with 95 % bootstrap intervals over things."""
        return {metric: bootstrap_mean(list(self.by_thing(metric).values()), len(self.labels)) for metric in NEIGHBOURS}

    def by_chance(self) -> dict[str, Interval]:
        """Return what the same sounds score when each is asked to be of every other thing instead of its own."""
        things = np.unique(self.labels)
        scores = {}
        for metric, count in NEIGHBOURS.items():
            shares = []
            for thing in things:
                others = self.neighbours[self.labels != thing][:, :count]
                shares.append(float((others == thing).any(1).mean()) if len(others) else 0.0)
            scores[metric] = bootstrap_mean(shares, len(self.labels))
        return scores


class Judge:
    """Names sounds by their nearest recordings in a bank."""

    def __init__(self, embed: Embed, embeddings: Tensor, labels: Sequence[str], sources: Sequence[str]) -> None:
        """Build the bank.

        Args:
            embed: What turns sounds into embeddings.
            embeddings: The bank's sounds, float32, shape (sounds, dim).
            labels: What each is of.
            sources: The recording each was cut from.

        Raises:
            DataError: The bank has fewer than five recordings.
        """
        self._embed = embed
        names, positions = np.unique(np.asarray(sources), return_inverse=True)
        if len(names) < max(NEIGHBOURS.values()):
            raise DataError(f"the judge's bank has {len(names)} recordings, it needs at least 5; prepare more data")
        self._positions = torch.from_numpy(positions)
        self.sources = len(names)
        self._source_labels = np.empty(len(names), dtype=object)
        self._source_labels[positions] = np.asarray(labels, dtype=object)
        self._mean = embeddings.mean(0)
        self._bank = self.centre(embeddings)

    @property
    def things(self) -> frozenset[str]:
        """The labels that the bank knows."""
        return frozenset(self._source_labels)

    def judge(self, waveforms: Sequence[np.ndarray], sample_rate: int, labels: Sequence[str]) -> Judged:
        """Find the nearest recordings of each sound.

        Args:
            waveforms: Sounds in [-1, 1], float32, shape (samples,) each.
            sample_rate: Their rate in Hz.
            labels: What each should be of.
        """
        embeddings = embed_sounds(self._embed, waveforms, sample_rate)
        return Judged(labels=np.asarray(labels, dtype=object), neighbours=self.neighbours(embeddings))

    def neighbours(self, embeddings: Tensor) -> np.ndarray:
        """Return the labels of the five nearest recordings, nearest first.

        Args:
            embeddings: Sounds, float32, shape (sounds, dim).

        Returns:
            Labels, shape (sounds, 5).
        """
        best = self.similarity(embeddings)
        return self._source_labels[best.topk(max(NEIGHBOURS.values())).indices.numpy()]

    def similarity(self, embeddings: Tensor) -> Tensor:
        """Return the cosine of each sound to the most similar sound of every recording, shape (sounds, sources)."""
        similarity = self.centre(embeddings) @ self._bank.T
        best = torch.full((len(embeddings), self.sources), -2.0)
        return best.scatter_reduce_(1, self._positions.expand_as(similarity), similarity, "amax")

    def centre(self, embeddings: Tensor) -> Tensor:
        """Return embeddings without the bank's mean, of unit length, same shape."""
        return F.normalize(embeddings - self._mean, dim=1)


def embed_sounds(embed: Embed, waveforms: Sequence[np.ndarray], sample_rate: int, batch: int = 16) -> Tensor:
    """Embed sounds brought to one loudness, so that the judge hears what they are, not how loud.

    Args:
        embed: What turns sounds into embeddings.
        waveforms: Sounds in [-1, 1], float32, shape (samples,) each; those of one length go faster.
        sample_rate: Their rate in Hz.
        batch: How many to embed at once.

    Returns:
        Embeddings, float32, shape (sounds, dim).
    """
    parts = []
    if len({len(waveform) for waveform in waveforms}) > 1:
        batch = 1
    for start in range(0, len(waveforms), batch):
        levelled = [normalize_loudness(w, sample_rate) for w in waveforms[start : start + batch]]
        parts.append(embed(torch.from_numpy(np.stack(levelled)), sample_rate))
    return torch.cat(parts)


def bootstrap_mean(values: Sequence[float], count: int) -> Interval:
    """Return the mean with its 95 % percentile bootstrap interval.

    Args:
        values: One value a thing.
        count: How many sounds they stand for.
    """
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(SEED).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(1), [2.5, 97.5])
    return Interval(value=float(array.mean()), low=float(low), high=float(high), n=count)
