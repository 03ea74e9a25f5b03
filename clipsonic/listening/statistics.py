"""What ratings say: means with intervals, tests between systems, agreement.

Listeners differ: some are mild, some severe, so two ratings by one listener are not two independent facts. Intervals of
means are therefore t intervals whose standard error is clustered by listener (with one rating each it is the plain t
interval), tests compare the means of each listener, and the bootstrap draws listeners and prompts anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsonic.listening.ratings import Rating

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
BOOTSTRAPS = 2000


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean opinion score.

    Attributes:
        mos: The mean of all ratings.
        low: Lower end of the 95 % t interval; None if it needs more ratings.
        high: Upper end.
        n: Number of ratings.
        listeners: Number of listeners who gave them.
        sd: Standard deviation of the ratings; None for a single one.
        boot_low: Lower end of the 95 % bootstrap interval over listeners and prompts; None if not computed.
        boot_high: Upper end.
    """

    mos: float
    low: float | None
    high: float | None
    n: int
    listeners: int
    sd: float | None
    boot_low: float | None = None
    boot_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems compared on one scale.

    Attributes:
        scale: Such as "fidelity".
        a: A system.
        b: Another.
        kind: "wilcoxon" or "t" (paired, over the means of each unit), or "binomial" (preference).
        unit: What the pairs are: "listener", or "item" if there are too few listeners; "rating" for a preference.
        n: Number of pairs.
        difference: Mean of a − b; for a preference, how often a was preferred, less one half.
        low: Lower end of the difference's 95 % interval (t; Wilson for a preference), or None.
        high: Upper end.
        statistic: The test's.
        p: Two-sided; None if it cannot be computed.
        p_holm: Corrected for all tests of the same kind and scale.
    """

    scale: str
    a: str
    b: str
    kind: str
    unit: str
    n: int
    difference: float
    low: float | None
    high: float | None
    statistic: float | None
    p: float | None
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return asdict(self)


def frame(ratings: Iterable[Rating]) -> pd.DataFrame:
    """Return the ratings that count, one a row, with the columns of `Rating`."""
    import pandas as pd

    from clipsonic.listening.ratings import RATING_COLUMNS

    rows = [rating.to_dict() for rating in ratings if rating.purpose == "rating"]
    return pd.DataFrame(rows, columns=list(RATING_COLUMNS))


def mean_opinion(values: Sequence[float] | np.ndarray, listeners: Sequence[str] | np.ndarray) -> Mean:
    """Average ratings, with a t interval that knows that each listener's ratings hang together.

    The standard error is the cluster-robust one of a regression on a constant (Liang & Zeger 1986, with the factor
    L/(L−1)), the t distribution has L−1 degrees of freedom for L listeners.

    Args:
        values: Ratings, shape (n,).
        listeners: Who gave each.
    """
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    names, owner = np.unique(np.asarray(listeners, dtype=object).astype(str), return_inverse=True)
    mos, count = float(x.mean()), len(names)
    low = high = None
    if count > 1:
        sums = np.bincount(owner, weights=x - mos)
        error = math.sqrt(count / (count - 1) * float(np.sum(sums**2))) / len(x)
        reach = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * error
        low, high = mos - reach, mos + reach
    sd = float(x.std(ddof=1)) if len(x) > 1 else None
    return Mean(mos=mos, low=low, high=high, n=len(x), listeners=count, sd=sd)


def bootstrap(
    values: np.ndarray, listeners: np.ndarray, items: np.ndarray, *, seed: int = 0, draws: int = BOOTSTRAPS
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a mean when listeners and prompts are both drawn anew.

    Args:
        values: Ratings, shape (n,).
        listeners: Who gave each, shape (n,).
        items: Of which item each is, shape (n,).
        seed: Of the draws.
        draws: Number of resamples.
    """
    generator = np.random.default_rng(seed)
    who, owner = np.unique(listeners.astype(str), return_inverse=True)
    what, asked = np.unique(items.astype(str), return_inverse=True)
    sums, counts = np.zeros((len(who), len(what))), np.zeros((len(who), len(what)))
    np.add.at(sums, (owner, asked), values)
    np.add.at(counts, (owner, asked), 1)
    by_listener = generator.multinomial(len(who), np.full(len(who), 1 / len(who)), draws)
    by_item = generator.multinomial(len(what), np.full(len(what), 1 / len(what)), draws)
    totals = np.einsum("dl,li,di->d", by_listener, counts, by_item, optimize=True)
    means = np.einsum("dl,li,di->d", by_listener, sums, by_item, optimize=True)[totals > 0] / totals[totals > 0]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def means(data: pd.DataFrame) -> dict[str, dict[str, Mean]]:
    """Return the mean opinion of every system on every scale; preferences have none."""
    out: dict[str, dict[str, Mean]] = {}
    for (system, scale), group in data[data.design != "preference"].groupby(["system", "scale"], sort=False):
        mean = mean_opinion(group.value.to_numpy(), group.listener.to_numpy())
        values = group.value.to_numpy(dtype=np.float64)
        low, high = bootstrap(values, group.listener.to_numpy(), group["item"].to_numpy())
        whole = Mean(**asdict(mean) | {"boot_low": low, "boot_high": high})
        out.setdefault(str(system), {})[str(scale)] = whole
    return out


def by_prompt(data: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row for every item, system and scale: the mean opinion with its interval."""
    rows = []
    scored = data[data.design != "preference"]
    for (item, system, scale), group in scored.groupby(["item", "system", "scale"], sort=False):
        mean = mean_opinion(group.value.to_numpy(), group.listener.to_numpy())
        kept = {k: v for k, v in asdict(mean).items() if not k.startswith("boot")}
        rows.append({"item": item, "system": system, "scale": scale} | kept)
    return rows


def paired_tests(data: pd.DataFrame) -> list[Comparison]:
    """Compare every pair of systems on every scale, by Wilcoxon's signed ranks and by the paired t test.

    Pairs are the means that one listener gave to the two systems over the items where both were rated; with fewer
    than three such listeners, the means of one item. Wilcoxon's p is exact for up to 50 pairs without ties, else that
    of the normal approximation with continuity correction.
    """
    found = []
    scored = data[data.design != "preference"]
    for scale, group in scored.groupby("scale", sort=False):
        cells = group.pivot_table(index=["listener", "item"], columns="system", values="value", sort=False)
        tests = [test for a, b in combinations(cells.columns, 2) for test in _pair(str(scale), a, b, cells[[a, b]])]
        for kind in ("wilcoxon", "t"):
            found += holm([test for test in tests if test.kind == kind])
    return found


def _pair(scale: str, a: str, b: str, cells: pd.DataFrame) -> list[Comparison]:
    from scipy.stats import ttest_1samp, wilcoxon

    both = cells.dropna()
    unit = "listener" if len(both.groupby("listener")) > 2 else "item"
    pairs = both.groupby(unit).mean()
    difference = (pairs[a] - pairs[b]).to_numpy()
    if not len(difference):
        return []
    mean = float(difference.mean())
    low = high = statistic = p = ranks = p_ranks = None
    if len(difference) > 1 and np.ptp(difference) > 1e-12:
        test = ttest_1samp(difference, 0.0)
        statistic, p = float(test.statistic), float(test.pvalue)
        low, high = (float(end) for end in test.confidence_interval(CONFIDENCE))
    if np.abs(difference).max() > 1e-12:
        # Rounded, for means such as 3.1 − 2.9 and 3.3 − 3.1 must tie.
        rounded = np.round(difference, 9)
        exact = len(np.unique(np.abs(rounded[rounded != 0]))) == len(rounded)
        # SciPy's own choice for few pairs with ties draws thousands of permutations: seconds a pair of systems.
        signed = wilcoxon(rounded, method="auto") if exact else wilcoxon(rounded, method="asymptotic", correction=True)
        ranks, p_ranks = float(signed.statistic), float(signed.pvalue)
    same: dict[str, Any] = {"scale": scale, "a": a, "b": b, "unit": unit, "n": len(difference), "difference": mean}
    return [
        Comparison(kind="wilcoxon", statistic=ranks, p=p_ranks, low=low, high=high, **same),
        Comparison(kind="t", statistic=statistic, p=p, low=low, high=high, **same),
    ]


def preferences(data: pd.DataFrame) -> list[Comparison]:
    """Test every pair of systems that listeners chose between: is either preferred more often than the other?

    An exact binomial test; answers for neither are left out, as in a sign test.
    """
    from scipy.stats import binomtest

    found = []
    chosen = data[data.design == "preference"]
    for scale, group in chosen.groupby("scale", sort=False):
        counts: dict[tuple[str, str], list[int]] = {}
        values = group.value.to_numpy(dtype=np.float64)
        for system, other, value in zip(group.system, group.other_system, values, strict=True):
            a, b = sorted((str(system), str(other)))
            first = float(value) if str(system) == a else 1 - float(value)
            count = counts.setdefault((a, b), [0, 0])
            if first != 0.5:
                count[int(first < 0.5)] += 1
        tests = []
        for (a, b), (wins, losses) in counts.items():
            n = wins + losses
            test = binomtest(wins, n) if n else None
            span = test.proportion_ci(CONFIDENCE, "wilson") if test else None
            tests.append(
                Comparison(
                    scale=str(scale),
                    a=a,
                    b=b,
                    kind="binomial",
                    unit="rating",
                    n=n,
                    difference=wins / n - 0.5 if n else 0.0,
                    low=float(span.low) - 0.5 if span else None,
                    high=float(span.high) - 0.5 if span else None,
                    statistic=float(wins) if n else None,
                    p=float(test.pvalue) if test else None,
                )
            )
        found += holm(tests)
    return found


def holm(tests: list[Comparison]) -> list[Comparison]:
    """Correct p values for their number (Holm 1979); tests without one stay without."""
    from statsmodels.stats.multitest import multipletests

    known = [test.p for test in tests if test.p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else [])
    return [
        test if test.p is None else Comparison(**asdict(test) | {"p_holm": float(next(corrected))}) for test in tests
    ]


def krippendorff_alpha(table: np.ndarray) -> float | None:
    """Measure how far raters agree beyond chance (Krippendorff 2011, interval data).

    Args:
        table: Ratings, float, shape (raters, units); NaN where there is none.

    Returns:
        1 for perfect agreement, 0 for chance; None if no unit has two ratings, or all ratings are the same.
    """
    table = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    known = ~np.isnan(table)
    filled, counts = np.where(known, table, 0.0), known.sum(axis=0)
    if not counts.size:
        return None
    # Sums of squared differences over all ordered pairs: 2 (n Σx² − (Σx)²).
    within = 2 * (counts * (filled**2).sum(axis=0) - filled.sum(axis=0) ** 2)
    total = counts.sum()
    expected = 2 * (total * (filled**2).sum() - filled.sum() ** 2) / (total * (total - 1))
    observed = float(np.sum(within / (counts - 1))) / total
    return float(1 - observed / expected) if expected > 1e-12 else None


def agreement(data: pd.DataFrame) -> dict[str, float | None]:
    """Return Krippendorff's alpha of each scale; the units are the sounds."""
    scored = data[data.design != "preference"]
    out = {}
    for scale, group in scored.groupby("scale", sort=False):
        table = group.pivot_table(index="listener", columns="stimulus", values="value")
        out[str(scale)] = krippendorff_alpha(table.to_numpy(dtype=np.float64))
    return out
