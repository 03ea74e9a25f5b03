"""The Fréchet distance against closed forms and an independent implementation; its limit; and paired comparisons."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from clipsonic.errors import DataError
from clipsonic.evaluation.frechet import (
    Gaussian,
    Reference,
    bootstrap_distance,
    distance_at_infinity,
    frechet_distance,
)
from clipsonic.evaluation.significance import compare, gap_closed, paired_difference


def independent(first: np.ndarray, second: np.ndarray) -> float:
    """As the published toolkits write it: scipy's general matrix square root of the product."""
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(0) - second.mean(0)
    return float(shift @ shift + np.trace(one + two - 2 * sqrtm(one @ two).real))


@pytest.mark.parametrize(("counts", "dim"), [((300, 200), 24), ((60, 40), 8), ((500, 30), 24)])
def test_it_agrees_with_an_independent_implementation(counts, dim):
    rng = np.random.default_rng(dim)
    mixing = rng.standard_normal((dim, dim))
    first, second = rng.standard_normal((counts[0], dim)) @ mixing, 0.5 + 2 * rng.standard_normal((counts[1], dim))
    assert frechet_distance(first, second) == pytest.approx(independent(first, second), abs=1e-6, rel=1e-6)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9)


def exactly_diagonal(deviations: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Two points on either side of the mean along every axis: a set whose covariance is diagonal."""
    steps = np.diag(deviations) * np.sqrt((2 * len(deviations) - 1) / 2)
    return mean + np.concatenate((steps, -steps))


def test_diagonal_gaussians_have_a_closed_form():
    first, second = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
    shift = np.array([1.0, -2.0, 0.0])
    expected = (shift**2).sum() + ((first - second) ** 2).sum()
    measured = frechet_distance(exactly_diagonal(first, np.zeros(3)), exactly_diagonal(second, shift))
    assert measured == pytest.approx(expected, abs=1e-9)


def test_a_set_is_at_no_distance_from_itself_even_with_fewer_sounds_than_dimensions():
    values = np.random.default_rng(0).standard_normal((12, 40))
    assert frechet_distance(values, values) == pytest.approx(0, abs=1e-6)
    assert Gaussian.fit(values).rank == 11
    assert Gaussian.fit(np.ones((4, 3))).rank == 0


def test_the_limit_takes_away_what_few_sounds_add():
    rng = np.random.default_rng(1)
    reference, values = Reference(rng.standard_normal((20000, 16))), rng.standard_normal((200, 16))
    limit, fit = distance_at_infinity(reference, values)
    assert abs(limit.value) < reference.distance(values) / 2
    assert fit > 0.8
    assert limit.low < limit.value < limit.high


def test_intervals_hold_the_value_and_too_few_sounds_are_refused():
    rng = np.random.default_rng(2)
    reference, values = Reference(rng.standard_normal((100, 4))), 1 + rng.standard_normal((40, 4))
    interval = bootstrap_distance(reference, values, [f"thing {n % 8}" for n in range(40)])
    assert interval.low < interval.value < interval.high
    assert interval.n == 40
    for measure in (
        lambda v: bootstrap_distance(reference, v, ["a"] * len(v)),
        lambda v: distance_at_infinity(reference, v),
    ):
        with pytest.raises(DataError, match="at least 10"):
            measure(values[:9])
    for wrong in (values[:, :3], np.full((10, 4), np.nan), values[:1]):
        with pytest.raises(DataError, match="shape"):
            reference.distance(wrong)


def by_thing(values: np.ndarray) -> dict[str, float]:
    return {f"thing {n}": float(v) for n, v in enumerate(values)}


def test_paired_differences_see_what_means_hide():
    rng = np.random.default_rng(3)
    difficulty = rng.uniform(0, 1, 30)
    better, worse = by_thing(difficulty + 0.05 + 0.01 * rng.standard_normal(30)), by_thing(difficulty)
    clear = paired_difference(better, worse)
    assert clear is not None
    assert clear.p < 0.001
    assert 0.04 < clear.low < clear.value < clear.high < 0.06
    none = paired_difference(by_thing(rng.standard_normal(30)), by_thing(rng.standard_normal(30)))
    assert none is not None
    assert none.low < 0 < none.high
    assert none.p > 0.05
    assert paired_difference({"a": 1.0}, {"a": 2.0, "b": 1.0}) is None


def test_the_share_of_the_gap_that_is_closed():
    worst = np.random.default_rng(4).uniform(0, 0.2, 20)
    rows = {"zs": by_thing(worst), "pd": by_thing(worst + 0.3), "iq": by_thing(worst + 0.5)}
    share = gap_closed(rows["zs"], rows["pd"], rows["iq"])
    assert share is not None
    assert (share.value, share.p) == (pytest.approx(0.6), 0.0)
    assert gap_closed(rows["zs"], rows["pd"], rows["zs"]) is None
    found = compare({name: {"top5": row} for name, row in rows.items()})
    assert set(found["top5"]) == {"iq − pd", "pd − zs", "gap closed by pd"}
