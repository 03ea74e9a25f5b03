"""The statistics against SciPy, statsmodels and worked examples, and against panels whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.multitest import multipletests

from clipsonic.listening.ratings import Rating
from clipsonic.listening.screening import screen
from clipsonic.listening.statistics import (
    agreement,
    bootstrap,
    by_prompt,
    frame,
    holm,
    krippendorff_alpha,
    mean_opinion,
    means,
    paired_tests,
    preferences,
)


def acr(listener: object, item: object, system: str, value: float, scale: str = "fidelity", **values: object) -> Rating:
    stimulus = f"p{item}.{system}.s0"
    return Rating(
        **{
            "listener": f"l{listener}",
            "item": f"p{item}",
            "stimulus": stimulus,
            "system": system,
            "scale": scale,
            "value": value,
        }
        | values
    )


def panel(rng: np.random.Generator, listeners: int, items: int, truth: dict[str, float], bias: float) -> np.ndarray:
    """Draw whole ratings 1–5 whose expectation is exactly known, shape (systems, listeners, items)."""
    lean = rng.normal(0, bias, listeners)[None, :, None]
    level = np.array(list(truth.values()))[:, None, None] + lean
    noise = rng.normal(0, 0.4, (len(truth), listeners, items))
    exact = level + noise
    floor = np.floor(exact)
    return floor + (rng.random(exact.shape) < exact - floor)  # rounded at random, so that the mean stays


def test_one_rating_each_gives_the_plain_t_interval() -> None:
    values = [4, 5, 3, 4, 2, 5, 4, 1]
    mean = mean_opinion(values, [f"l{n}" for n in range(8)])
    low, high = stats.t.interval(0.95, 7, loc=np.mean(values), scale=stats.sem(values))
    assert (mean.low, mean.high) == pytest.approx((low, high))
    assert (mean.mos, mean.n, mean.listeners) == (3.5, 8, 8)
    assert mean.sd == pytest.approx(np.std(values, ddof=1))


def test_a_balanced_panel_gives_the_t_interval_of_listener_means() -> None:
    values = np.random.default_rng(0).integers(1, 6, (9, 7)).astype(float)
    mean = mean_opinion(values.ravel(), np.repeat([f"l{n}" for n in range(9)], 7))
    own = values.mean(axis=1)
    assert (mean.low, mean.high) == pytest.approx(stats.ttest_1samp(own, 0).confidence_interval())


def test_an_unbalanced_panel_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(1)
    owner = rng.integers(0, 6, 60)
    values = rng.integers(1, 6, 60).astype(float)
    fit = OLS(values, np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": owner, "df_correction": True}, use_t=True
    )
    mean = mean_opinion(values, owner.astype(str))
    assert (mean.low, mean.high) == pytest.approx(tuple(fit.conf_int()[0]))


def test_one_listener_has_no_interval() -> None:
    mean = mean_opinion([3, 4], ["a", "a"])
    assert (mean.low, mean.high, mean.n, mean.listeners) == (None, None, 2, 1)
    assert mean_opinion([3], ["a"]).sd is None


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_the_true_mos_lies_within_its_interval_as_often_as_promised(bias: float) -> None:
    rng, truth, hits, runs = np.random.default_rng(7), 3.2, 0, 600
    owner = np.repeat(np.arange(16).astype(str), 8)
    for _ in range(runs):
        mean = mean_opinion(panel(rng, 16, 8, {"zs": truth}, bias).ravel(), owner)
        hits += mean.low <= truth <= mean.high
    assert stats.binomtest(hits, runs, 0.95).pvalue > 0.001, hits / runs


def test_an_interval_that_took_ratings_for_independent_would_be_caught() -> None:
    rng, hits = np.random.default_rng(7), 0
    for _ in range(600):
        values = panel(rng, 16, 8, {"zs": 3.2}, 0.5).ravel()
        mean = mean_opinion(values, np.arange(values.size).astype(str))
        hits += mean.low <= 3.2 <= mean.high
    assert stats.binomtest(hits, 600, 0.95).pvalue < 1e-6


def test_the_bootstrap_covers_new_listeners_and_new_prompts() -> None:
    rng, hits, runs = np.random.default_rng(3), 0, 200
    owner, asked = np.repeat(np.arange(20), 20), np.tile(np.arange(20), 20)
    for _ in range(runs):
        lean, ease = rng.normal(0, 0.4, 20), rng.normal(0, 0.4, 20)
        values = 3 + lean[owner] + ease[asked] + rng.normal(0, 0.7, 400)
        low, high = bootstrap(values, owner, asked, draws=400)
        hits += low <= 3 <= high
    # A percentile interval over twenty of each is a little short or long of 95 %.
    assert 0.90 <= hits / runs <= 0.99


def table_of(values: np.ndarray, systems: list[str], scale: str = "fidelity") -> list[Rating]:
    return [
        acr(listener, item, system, float(np.clip(values[s, listener, item], 1, 5)), scale)
        for s, system in enumerate(systems)
        for listener in range(values.shape[1])
        for item in range(values.shape[2])
    ]


def test_paired_tests_agree_with_scipy_and_holm_with_statsmodels() -> None:
    values = panel(np.random.default_rng(2), 12, 5, {"zs": 2.4, "pd": 2.9, "iq": 3.4}, 0.4).clip(1, 5)
    found = paired_tests(frame(table_of(values, ["zs", "pd", "iq"])))
    own = dict(zip(["zs", "pd", "iq"], values.mean(axis=2), strict=True))
    assert len(found) == 6
    for test in found:
        assert (test.unit, test.n) == ("listener", 12)
        if test.kind == "t":
            expected = stats.ttest_rel(own[test.a], own[test.b])
            assert (test.low, test.high) == pytest.approx(expected.confidence_interval())
        else:
            expected = stats.wilcoxon(np.round(own[test.a] - own[test.b], 9), method="asymptotic", correction=True)
        assert (test.statistic, test.p) == pytest.approx((expected.statistic, expected.pvalue))
        assert test.difference == pytest.approx(float(np.mean(own[test.a] - own[test.b])))
    for kind in ("t", "wilcoxon"):
        of_kind = [test for test in found if test.kind == kind]
        assert [t.p_holm for t in of_kind] == pytest.approx(multipletests([t.p for t in of_kind], method="holm")[1])


def test_few_pairs_without_ties_are_tested_exactly() -> None:
    ratings = [acr(n, i, "zs", 1) for n in range(5) for i in range(5)]
    ratings += [acr(n, i, "pd", 2 if i <= n else 1) for n in range(5) for i in range(5)]
    test = next(t for t in paired_tests(frame(ratings)) if t.kind == "wilcoxon")
    assert test.p == pytest.approx(2 / 2**5)  # all five of different sizes point the same way


def test_holm_on_a_worked_example() -> None:
    ratings = table_of(np.array([[[3.0]], [[4.0]]]), ["a", "b"])
    one = paired_tests(frame(ratings))[0]
    tests = [type(one)(**one.to_dict() | {"p": p, "p_holm": None}) for p in (0.01, 0.04, 0.03, 0.005, None)]
    assert [t.p_holm for t in holm(tests)] == pytest.approx([0.03, 0.06, 0.06, 0.02, None])


def test_only_what_both_systems_were_rated_on_is_compared() -> None:
    ratings = [acr(n, 1, "zs", 2) for n in range(4)] + [acr(n, 1, "pd", 2 + n % 2) for n in range(4)]
    ratings += [acr(n, 2, "zs", 5) for n in range(4)]  # nobody heard pd on this item
    test = next(t for t in paired_tests(frame(ratings)) if t.kind == "t")
    assert test.difference == pytest.approx(-0.5)


def test_few_listeners_are_compared_by_item_and_equal_systems_have_no_p() -> None:
    ratings = [acr(n, i, s, 3) for n in range(2) for i in range(5) for s in ("zs", "pd")]
    found = paired_tests(frame(ratings))
    assert {(t.unit, t.n, t.difference, t.p, t.p_holm) for t in found} == {("item", 5, 0.0, None, None)}


def test_alpha_on_krippendorffs_own_example() -> None:
    text = """1 2 3 3 2 1 4 1 2 . . .
              1 2 3 3 2 2 4 1 2 5 . 3
              . 3 3 3 2 3 4 2 2 5 1 .
              1 2 3 3 2 4 4 1 2 5 1 ."""
    table = np.array([[np.nan if v == "." else float(v) for v in line.split()] for line in text.splitlines()])
    assert krippendorff_alpha(table) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(np.array([[1.0, 2, 3], [1, 2, 3]])) == pytest.approx(1)
    assert krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2]])) is None
    assert krippendorff_alpha(np.full((3, 3), 4.0)) is None
    noise = np.random.default_rng(0).integers(1, 6, (20, 400)).astype(float)
    assert krippendorff_alpha(noise) == pytest.approx(0, abs=0.02)


def vote(listener: int, a: str, b: str, value: float) -> Rating:
    return acr(listener, 1, a, value, "preference", design="preference", other=f"p1.{b}.s0", other_system=b)


def test_preferences_agree_with_the_binomial_test_whichever_was_played_first() -> None:
    votes = [vote(n, "zs", "pd", 0) for n in range(10)] + [vote(n, "pd", "zs", 1) for n in range(5)]
    votes += [vote(n, "pd", "zs", 0) for n in range(3)] + [vote(0, "zs", "pd", 0.5)] * 4
    (test,) = preferences(frame(votes))
    expected = stats.binomtest(15, 18)
    assert (test.a, test.b, test.n, test.p) == ("pd", "zs", 18, pytest.approx(expected.pvalue))
    assert test.difference == pytest.approx(15 / 18 - 0.5)
    assert test.low + 0.5 == pytest.approx(expected.proportion_ci(method="wilson").low)
    (none,) = preferences(frame([vote(0, "zs", "pd", 0.5)]))
    assert (none.n, none.p) == (0, None)


def test_means_keep_scales_apart_and_leave_out_checks() -> None:
    values = panel(np.random.default_rng(4), 6, 4, {"zs": 2.5, "pd": 3.5}, 0.2).clip(1, 5)
    ratings = table_of(values, ["zs", "pd"]) + table_of(6 - values, ["zs", "pd"], "relevance")
    ratings += [acr(0, 9, "trap", 1, purpose="trap", low=4, high=4)]
    found = means(frame(ratings))
    assert set(found) == {"zs", "pd"}
    assert found["zs"]["fidelity"].mos == pytest.approx(values[0].mean())
    assert found["zs"]["relevance"].mos == pytest.approx(6 - values[0].mean())
    assert found["pd"]["fidelity"].boot_low < found["pd"]["fidelity"].mos < found["pd"]["fidelity"].boot_high
    rows = by_prompt(frame(ratings))
    assert len(rows) == 4 * 2 * 2
    assert rows[0]["mos"] == pytest.approx(values[0, :, 0].mean())
    assert set(agreement(frame(ratings))) == {"fidelity", "relevance"}


def check(
    listener: int, kind: str, value: int, low: int, high: int, number: int = 0, scale: str = "fidelity"
) -> Rating:
    return acr(listener, f"{kind}{number}", kind, value, scale, purpose=kind, low=low, high=high, trial=number)


def test_listeners_are_screened_by_their_checks_and_told_why() -> None:
    ratings = [acr(n, 1, "zs", 3) for n in range(4)]
    ratings += [check(0, "trap", 4, 4, 4), check(0, "gold", 2, 1, 2)]
    ratings += [check(1, "trap", 3, 4, 4), check(1, "gold", 1, 1, 2)]
    ratings += [check(2, "gold", 5, 1, 2, n) for n in range(1)] + [check(2, "gold", 1, 1, 2, n) for n in range(1, 4)]
    ratings += [check(3, "trap", 4, 4, 4), check(3, "trap", 1, 4, 4, scale="relevance")]
    kept, screened = screen(ratings)
    assert [rating.listener for rating in kept] == ["l0", "l2"]
    assert [(s.listener, s.reason) for s in screened] == [
        ("l1", "failed 1 trap of 2 checks of attention"),
        ("l3", "failed 1 trap of 1 checks of attention"),
    ]


def test_mushra_listeners_who_miss_the_hidden_reference_are_out() -> None:
    def mushra(listener: int, misses: int) -> list[Rating]:
        marks = [80] * misses + [90] * (20 - misses)
        return [acr(listener, n, "real", mark, "quality", design="mushra") for n, mark in enumerate(marks)]

    ratings = [*mushra(0, 3), *mushra(1, 4)]  # 15 % is allowed, 20 % is not
    references = frozenset(rating.stimulus for rating in ratings)
    kept, screened = screen(ratings, references)
    assert {rating.listener for rating in kept} == {"l0"}
    assert screened[0].reason == "rated the hidden reference below 90 in 4 of 20 trials"
    assert screen(ratings)[1] == []
