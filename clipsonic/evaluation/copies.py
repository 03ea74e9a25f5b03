"""Whether a model plays its corpus back, and whether it makes the same sound every time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsonic.evaluation.bank import Bank
from clipsonic.evaluation.judge import Judge


class Copies:
    """Compares sounds with the training sounds by the judge's cosine.

    Attributes:
        take_similarity: The median similarity of two takes of one training recording; nan where none has two. A sound
            nearer than that to a training sound is as good as a copy.
        other_similarity: The median similarity of a training sound to its nearest from another recording.
    """

    def __init__(self, judge: Judge, bank: Bank) -> None:
        """Measure how near training sounds are to each other."""
        self._judge = judge
        unit = judge.centre(bank.embeddings)
        own = defaultdict(list)
        for row, source in enumerate(bank.sources):
            own[source].append(row)
        takes = [float(unit[rows[0]] @ unit[rows[1]]) for rows in own.values() if len(rows) > 1]
        self.take_similarity = float(np.median(takes)) if takes else float("nan")
        self.other_similarity = float(np.median(_nearest_others(unit, bank.sources)))

    def nearest(self, embeddings: Tensor) -> NDArray[np.float64]:
        """Return each sound's similarity to its nearest training sound, shape (sounds,).

        Args:
            embeddings: float32, shape (sounds, dim).
        """
        return self._judge.similarity(embeddings).amax(1).numpy().astype(np.float64)

    def spread(self, embeddings: Tensor, labels: Sequence[str]) -> dict[str, float]:
        """Return the mean distance, 1 - cosine, between the sounds of each thing that has several.

        Args:
            embeddings: float32, shape (sounds, dim).
            labels: What each was asked to be of.
        """
        unit, own = self._judge.centre(embeddings), np.asarray(labels, dtype=object)
        spread = {}
        for label in sorted(set(labels)):
            group = unit[torch.from_numpy(own == label)]
            if len(group) > 1:
                pairs = torch.triu_indices(len(group), len(group), offset=1)
                spread[label] = float(1 - (group @ group.T)[pairs[0], pairs[1]].mean())
        return spread


def _nearest_others(unit: Tensor, sources: Sequence[str]) -> list[float]:
    """Return each sound's similarity to the nearest sound of another recording."""
    _, numbers = np.unique(np.asarray(sources), return_inverse=True)
    source = torch.from_numpy(numbers)
    best = []
    for start in range(0, len(unit), 512):
        similarity = unit[start : start + 512] @ unit.T
        similarity[source[start : start + 512, None] == source[None]] = -2.0
        best += similarity.amax(1).tolist()
    return best
