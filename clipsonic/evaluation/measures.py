"""What is measured of a set of sounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clipsonic.errors import DataError
from clipsonic.evaluation.bank import Bank
from clipsonic.evaluation.classifier import Classifier, divergences, left_one_out, mean_by_label
from clipsonic.evaluation.copies import Copies
from clipsonic.evaluation.frechet import Reference, bootstrap_distance, distance_at_infinity
from clipsonic.evaluation.judge import NEIGHBOURS, Embed, Judge, Judged, bootstrap_mean, embed_sounds
from clipsonic.evaluation.report import Interval
from clipsonic.evaluation.scores import ClapScorer, ClipScorer
from clipsonic.evaluation.sets import Sounds

METRICS = ("fad", "clap", "clip", "kl", "accuracy", "judge", "copies", "diversity", "condition")
OFFLINE = tuple(name for name in METRICS if name != "clap")

Array = NDArray[np.float64]


@dataclass(kw_only=True)
class Measured:
    """What was found of one set of sounds.

    Attributes:
        intervals: Every metric's value with its interval.
        things: For metrics that are means over things, the value of each.
        left_out: What could not be measured, a line each.
        details: What the numbers rest on, such as the rank of a covariance.
    """

    intervals: dict[str, Interval] = field(default_factory=dict)
    things: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, metric: str, values: Sequence[float] | Array, labels: Sequence[str]) -> None:
        """Average one value a sound within things, then over things; nan is no value."""
        array, own = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=object)
        there = np.isfinite(array)
        by_thing = {str(label): float(array[there & (own == label)].mean()) for label in sorted(set(own[there]))}
        if by_thing:
            self.things[metric] = by_thing
            self.intervals[metric] = bootstrap_mean(list(by_thing.values()), int(there.sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class FadReference:
    """What Fréchet distances are taken to.

    Attributes:
        embed: The embedding.
        reference: The training sounds of the evaluated things.
        own: Whether the embedding is the one that the judge uses too.
    """

    embed: Embed
    reference: Reference
    own: bool


class Measures:
    """Measures sets of sounds; what needs the held-out sounds learns them from `set_real`."""

    def __init__(
        self,
        bank: Bank,
        embed: Embed,
        metrics: Sequence[str],
        fad: FadReference | None = None,
        clip: ClipScorer | None = None,
        clap: ClapScorer | None = None,
    ) -> None:
        """Prepare what the metrics need.

        Args:
            bank: aiSFX embeddings of training sounds.
            embed: The aiSFX embedding.
            metrics: Those of `METRICS` to take.
            fad: For the metric "fad".
            clip: For "clip".
            clap: For "clap".

        Raises:
            DataError: The bank is too small.
        """
        self._embed, self._metrics = embed, frozenset(metrics)
        self._fad, self._clip, self._clap = fad, clip, clap
        self.judge: Judge = bank.judge(embed)
        self.classifier = Classifier(bank) if self._metrics & {"kl", "accuracy"} else None
        self.copies = Copies(self.judge, bank)
        self._real: dict[str, Array] = {}

    def measure(self, sounds: Sounds, *, real: bool = False) -> Measured:
        """Measure a set.

        Args:
            sounds: At least one.
            real: Whether these are the held-out sounds that the others' KL is taken to.
        """
        embeddings = embed_sounds(self._embed, sounds.waveforms, sounds.sample_rate)
        found = self._recognise(sounds, embeddings, real)
        if "copies" in self._metrics:
            nearest = self.copies.nearest(embeddings)
            found.add("nearest", nearest, sounds.labels)
            found.add("copies", (nearest > self.copies.take_similarity).astype(np.float64), sounds.labels)
        if "diversity" in self._metrics:
            spread = self.copies.spread(embeddings, sounds.labels)
            found.add("diversity", list(spread.values()), list(spread))
        self._distance(found, embeddings, sounds)
        return found

    def chance(self, sounds: Sounds, shown: Mapping[str, str]) -> Measured:
        """Measure a set as if its sounds had been asked to be of other things.

        Args:
            sounds: Some model's answers.
            shown: For each thing the one it is mistaken for; no thing for itself. The judge tries all others.
        """
        embeddings = embed_sounds(self._embed, sounds.waveforms, sounds.sample_rate)
        labels = [shown[label] for label in sounds.labels]
        found = self._recognise(replace(sounds, labels=labels, prompts=[], pictures=[]), embeddings, real=False)
        if "judge" in self._metrics:
            found.intervals |= self._judged(sounds, embeddings).by_chance()
        return found

    def _judged(self, sounds: Sounds, embeddings: Tensor) -> Judged:
        return Judged(labels=np.asarray(sounds.labels, dtype=object), neighbours=self.judge.neighbours(embeddings))

    def _recognise(self, sounds: Sounds, embeddings: Tensor, real: bool) -> Measured:
        """Measure whether sounds are of what they should be of."""
        found = Measured()
        if "judge" in self._metrics:
            judged = self._judged(sounds, embeddings)
            for metric in NEIGHBOURS:
                found.add(metric, judged.hits(metric).astype(np.float64), sounds.labels)
        self._classify(found, embeddings, sounds.labels, real)
        self._score(found, sounds)
        return found

    def _classify(self, found: Measured, embeddings: Tensor, labels: Sequence[str], real: bool) -> None:
        if self.classifier is None:
            return
        probabilities = self.classifier.probabilities(embeddings)
        if "accuracy" in self._metrics:
            found.add("accuracy", self.classifier.hits(probabilities, labels), labels)
        if "kl" in self._metrics:
            if real:
                self._real = mean_by_label(probabilities, labels)
            found.add("kl", left_one_out(probabilities, labels) if real else self._kl(probabilities, labels), labels)

    def _kl(self, probabilities: Array, labels: Sequence[str]) -> Array:
        return divergences(self._real, probabilities, labels)

    def _score(self, found: Measured, sounds: Sounds) -> None:
        if self._clip is not None:
            for metric, values in self._clip.scores(sounds).items():
                found.add(metric, values, sounds.labels)
        if self._clap is not None:
            found.add("clap", self._clap.scores(sounds), sounds.labels)

    def _distance(self, found: Measured, embeddings: Tensor, sounds: Sounds) -> None:
        if self._fad is None:
            return
        if not self._fad.own:
            embeddings = embed_sounds(self._fad.embed, sounds.waveforms, sounds.sample_rate)
        values = embeddings.numpy().astype(np.float64)
        try:
            found.intervals["fad"] = bootstrap_distance(self._fad.reference, values, sounds.labels)
            found.intervals["fad_inf"], fit = distance_at_infinity(self._fad.reference, values)
        except DataError as error:
            found.left_out.append(f"fad: {error}")
            return
        rank, size = rank_of(values), values.shape[1]
        seconds = sum(map(len, sounds.waveforms)) / sounds.sample_rate
        found.details["fad"] = {"n": len(values), "seconds": round(seconds, 1), "rank": rank, "dimensions": size}
        found.details["fad"]["fad_inf R²"] = round(fit, 3)
        if rank < size:
            found.left_out.append(
                f"fad: {len(values)} sounds give a covariance of rank {rank} of {size}: the distance is too "
                f"large; compare only rows of like n, or take more than {size} sounds"
            )


def rank_of(values: Array) -> int:
    """Return the rank of the covariance of embeddings, shape (sounds, dim)."""
    return int(np.linalg.matrix_rank(values - values.mean(0)))
