"""The Fréchet audio distance (Kilgour et al., arXiv 1812.08466) between two sets of embeddings, and its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from clipsonic.errors import DataError
from clipsonic.evaluation.report import Interval

LEAST_SOUNDS = 10
"""Fewer give no covariance worth the name: the distance is refused."""
INFINITY_POINTS = 25
RESAMPLES = 200
SEED = 0
RANK_TOLERANCE = 1e-10
"""Eigenvalues below this share of the largest are rounding errors."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
    """A normal distribution in embedding space.

    Attributes:
        mean: float64, shape (dim,).
        covariance: float64, shape (dim, dim).
        count: How many sounds it was fitted to.
    """

    mean: Array
    covariance: Array
    count: int

    @classmethod
    def fit(cls, embeddings: Array) -> Gaussian:
        """Fit mean and unbiased covariance.

        Args:
            embeddings: Shape (sounds, dim).

        Raises:
            DataError: There are fewer than two sounds, or a value is not finite.
        """
        values = np.asarray(embeddings, dtype=np.float64)
        if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
            raise DataError(
                f"embeddings of shape {values.shape} came; allowed: finite, (sounds, dim), 2 sounds or more"
            )
        return cls(mean=values.mean(0), covariance=np.atleast_2d(np.cov(values, rowvar=False)), count=len(values))

    @property
    def rank(self) -> int:
        """The numerical rank of the covariance; below its size the distance is biased upwards and says little."""
        values = np.linalg.eigvalsh(self.covariance)
        return int((values > RANK_TOLERANCE * max(values[-1], 0)).sum()) if values[-1] > 0 else 0

    def root(self) -> Array:
        """Return the symmetric square root of the covariance, shape (dim, dim)."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


class Reference:
    """The set that others are compared with; its square root is taken once."""

    def __init__(self, embeddings: Array) -> None:
        """Fit the reference.

        Args:
            embeddings: Shape (sounds, dim).

        Raises:
            DataError: There are fewer than two sounds, or a value is not finite.
        """
        self.gaussian = Gaussian.fit(embeddings)
        self._root = self.gaussian.root()

    def distance(self, embeddings: Array) -> float:
        """Return |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), the squared 2-Wasserstein distance of the two Gaussians.

        The eigenvalues of C1 C2 are those of the positive semi-definite C1^½ C2 C1^½; with fewer sounds than
        dimensions they are those of the smaller Gram matrix.

        Args:
            embeddings: Shape (sounds, dim).

        Raises:
            DataError: There are fewer than two sounds, another dimension, or a value that is not finite.
        """
        values = np.asarray(embeddings, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self._root) or len(values) < 2 or not np.isfinite(values).all():
            raise DataError(f"embeddings of shape {values.shape} came; allowed: finite, (2 or more, {len(self._root)})")
        centred = (values - values.mean(0)) / np.sqrt(len(values) - 1)
        factor = centred @ self._root
        gram = factor @ factor.T if len(factor) <= factor.shape[1] else factor.T @ factor
        overlap = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0)).sum()
        shift = ((values.mean(0) - self.gaussian.mean) ** 2).sum()
        return float(max(0.0, shift + np.trace(self.gaussian.covariance) + (centred**2).sum() - 2 * overlap))


def frechet_distance(first: Array, second: Array) -> float:
    """Return the Fréchet distance between two sets of embeddings, shape (sounds, dim) each."""
    return Reference(first).distance(second)


def bootstrap_distance(reference: Reference, embeddings: Array, groups: Sequence[str]) -> Interval:
    """Return the distance with the spread of its bootstrap over groups.

    Repeats in a resample push the distance up, so the draws are moved until their mean is the measured value.

    Args:
        reference: What to compare with.
        embeddings: Shape (sounds, dim).
        groups: The thing each sound is of; whole things are drawn.

    Raises:
        DataError: There are fewer than `LEAST_SOUNDS` sounds.
    """
    _check_count(embeddings)
    value = reference.distance(embeddings)
    members = [np.flatnonzero(np.asarray(groups, dtype=object) == name) for name in sorted(set(groups))]
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if len(rows) > 1:
            draws.append(reference.distance(embeddings[rows]))
    low, high = np.percentile(draws, [2.5, 97.5]) - np.mean(draws)
    return Interval(value=value, low=max(0.0, value + float(low)), high=value + float(high), n=len(embeddings))


def distance_at_infinity(reference: Reference, embeddings: Array) -> tuple[Interval, float]:
    """Extrapolate the distance to infinitely many sounds (Gui et al., arXiv 2311.01616).

    The distance of `INFINITY_POINTS` subsets, drawn without replacement, is fitted by a line in 1/n.

    Args:
        reference: What to compare with.
        embeddings: Shape (sounds, dim).

    Returns:
        The intercept with the 95 % interval of the fit, which may lie below zero, and the fit's R².

    Raises:
        DataError: There are fewer than `LEAST_SOUNDS` sounds.
    """
    _check_count(embeddings)
    rng = np.random.default_rng(SEED)
    count = len(embeddings)
    sizes = np.unique(np.linspace(max(5, count // 5), count, INFINITY_POINTS).astype(int))
    distances = [reference.distance(embeddings[rng.permutation(count)[:size]]) for size in sizes]
    fit = stats.linregress(1 / sizes, distances)
    width = float(stats.t.ppf(0.975, max(1, len(sizes) - 2)) * fit.intercept_stderr)
    value = float(fit.intercept)
    return Interval(value=value, low=value - width, high=value + width, n=count), float(fit.rvalue**2)


def _check_count(embeddings: Array) -> None:
    if len(embeddings) < LEAST_SOUNDS:
        raise DataError(f"there are {len(embeddings)} sounds; a Fréchet distance needs at least {LEAST_SOUNDS}")
