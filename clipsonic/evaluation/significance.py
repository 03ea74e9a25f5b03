"""Whether one row is better than another, and how much of a gap a third closes; paired over things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 10_000
SEED = 0
PAIRS = (
    ("iq", "pd"),
    ("pd", "zs"),
    ("zs", "unconditional"),
    ("mp", "pd"),
    ("mq", "iq"),
    ("oracle", "iq"),
    ("oracle", "mp"),
)
"""Each first one should be better than its second: the paper's order, the picture memory's, and an oracle's."""

ByThing = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of means over things.

    Attributes:
        value: Mean difference.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        p: Two-sided p-value of the sign-flip permutation test.
        things: How many things both rows have.
    """

    value: float
    low: float
    high: float
    p: float
    things: int


def paired_difference(first: ByThing, second: ByThing) -> Difference | None:
    """Compare two rows on the things that both have; None with fewer than two."""
    shared = sorted(first.keys() & second.keys())
    if len(shared) < 2:
        return None
    values = np.array([first[thing] - second[thing] for thing in shared])
    rng = np.random.default_rng(SEED)
    draws = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    flips = (rng.choice((-1.0, 1.0), (RESAMPLES, len(values))) * values).mean(1)
    extreme = (np.abs(flips) >= abs(values.mean()) - 1e-12).sum()
    low, high = np.percentile(draws, [2.5, 97.5])
    return Difference(
        value=float(values.mean()),
        low=float(low),
        high=float(high),
        p=float((extreme + 1) / (RESAMPLES + 1)),
        things=len(shared),
    )


def gap_closed(worst: ByThing, between: ByThing, best: ByThing) -> Difference | None:
    """Return the share of the gap from `worst` to `best` that `between` closes: (between - worst) / (best - worst).

    Returns:
        The share with its paired bootstrap interval; `p` is the share of resamples in which there was no gap, so that
        a large one says that the share means nothing. None where there is no gap or fewer than two shared things.
    """
    shared = sorted(worst.keys() & between.keys() & best.keys())
    if len(shared) < 2:
        return None
    closed = np.array([between[thing] - worst[thing] for thing in shared])
    gap = np.array([best[thing] - worst[thing] for thing in shared])
    if abs(gap.mean()) < 1e-9:
        return None
    rows = np.random.default_rng(SEED).integers(0, len(shared), (RESAMPLES, len(shared)))
    gaps = gap[rows].mean(1)
    there = np.sign(gaps) == np.sign(gap.mean())
    low, high = np.percentile(closed[rows].mean(1)[there] / gaps[there], [2.5, 97.5])
    return Difference(
        value=float(closed.mean() / gap.mean()),
        low=float(low),
        high=float(high),
        p=float(1 - there.mean()),
        things=len(shared),
    )


def compare(things: Mapping[str, Mapping[str, ByThing]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the paper's comparisons for every metric: metric → "iq − pd" … "gap closed by pd" → `Difference`.

    Args:
        things: For each row and metric the value of every thing.
    """
    results: dict[str, dict[str, dict[str, float]]] = {}
    for metric in dict.fromkeys(metric for row in things.values() for metric in row):
        rows = {name: row[metric] for name, row in things.items() if metric in row}
        found = {
            f"{first} − {second}": paired_difference(rows[first], rows[second])
            for first, second in PAIRS
            if first in rows and second in rows
        }
        if {"zs", "pd", "iq"} <= rows.keys():
            found["gap closed by pd"] = gap_closed(rows["zs"], rows["pd"], rows["iq"])
        if kept := {name: asdict(value) for name, value in found.items() if value is not None}:
            results[metric] = kept
    return results
