"""The statistics agree with scipy, statsmodels and closed forms, and keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from radpo.core.errors import DataError
from radpo.core.metrics import Metric, extreme_interval, with_extreme_intervals
from radpo.stats.estimates import (
    bootstrap,
    holm,
    mean,
    minimum_detectable_effect,
    paired_bootstrap,
    rank_correlation,
    sample_size,
    weighted_mean,
    weighted_ranks,
    weighted_slope,
)
from radpo.stats.permutation import shuffle_test, sign_flip_test

NUMBERS = st.lists(st.floats(-100, 100, allow_nan=False), min_size=2, max_size=30)


def sample(n: int, seed: int = 0, shift: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 2.0, n)


def test_interval_of_the_mean_is_scipys():
    values = sample(37)
    estimate = mean(values, confidence=0.9)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert estimate.stderr == pytest.approx(stats.sem(values))
    normal = mean(values, interval="normal")
    assert (normal.low, normal.high) == pytest.approx(stats.norm.interval(0.95, values.mean(), stats.sem(values)))


def test_clustered_standard_error_is_statsmodels_cr1():
    statsmodels = pytest.importorskip("statsmodels.api")
    values, clusters = sample(60), np.repeat(np.arange(15), 4)
    values = values + np.repeat(sample(15, seed=1), 4)
    fit = statsmodels.OLS(values, np.ones((60, 1))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert mean(values, clusters=clusters).stderr == pytest.approx(float(fit.bse[0]))


def test_two_equal_values_a_cluster_count_as_one():
    values = sample(25)
    doubled = mean(np.repeat(values, 2), clusters=np.repeat(np.arange(25), 2))
    single = mean(values)
    assert (doubled.stderr, doubled.low) == pytest.approx((single.stderr, single.low))
    assert (doubled.n, doubled.clusters) == (50, 25)


@given(NUMBERS)
@settings(max_examples=50, deadline=None)
def test_clusters_of_one_change_nothing(values):
    plain, clustered = mean(values), mean(values, clusters=[f"id-{i}" for i in range(len(values))])
    assert clustered.stderr == pytest.approx(plain.stderr)
    assert plain.low <= plain.value <= plain.high


def test_one_value_has_no_standard_error():
    assert mean([3.0]).stderr is None
    assert mean([1.0, 3.0], clusters=["a", "a"]).stderr is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_and_nan_are_refused(values):
    with pytest.raises(DataError):
        mean(values)


def test_too_few_labels_are_refused():
    with pytest.raises(DataError, match="2 cluster labels for 3 values"):
        mean([1.0, 2.0, 3.0], clusters=["a", "b"])


def test_bootstrap_interval_agrees_with_the_t_interval_on_normal_data():
    values = sample(400)
    boot, exact = paired_bootstrap(values, rng=np.random.default_rng(0)), mean(values)
    assert boot.stderr == pytest.approx(exact.stderr, rel=0.05)
    assert (boot.low, boot.high) == pytest.approx((exact.low, exact.high), abs=0.03)


def test_bootstrap_of_clusters_is_as_wide_as_the_clustered_interval():
    effects = np.repeat(sample(80, seed=1), 5)
    values, clusters = effects + sample(400, seed=2), np.repeat(np.arange(80), 5)
    boot = paired_bootstrap(values, clusters=clusters, rng=np.random.default_rng(0))
    assert boot.stderr == pytest.approx(mean(values, clusters=clusters).stderr, rel=0.08)
    assert boot.stderr > 1.5 * paired_bootstrap(values, rng=np.random.default_rng(0)).stderr


@pytest.mark.parametrize("draw", ["normal", "skewed", "clustered"])
def test_bootstrap_covers_the_truth_as_often_as_it_says(draw):
    """93-97% of 1,500 samples; the simulation's own standard error is 0.6 points."""
    hits, rounds = 0, 1500
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        clusters, truth = None, 0.3
        if draw == "normal":
            values = rng.normal(truth, 2.0, 25)
        elif draw == "skewed":  # as changes of log p are: a gamma of skewness 1
            values = rng.gamma(4.0, 0.5, 100) - 2.0 + truth
        else:
            clusters = np.repeat(np.arange(40), rng.integers(1, 5, 40))
            values = rng.normal(truth, 1.0, 40)[clusters] + rng.normal(0, 1.0, len(clusters))
        estimate = paired_bootstrap(values, clusters=clusters, resamples=600, rng=rng)
        hits += estimate.low <= truth <= estimate.high
    assert 0.93 <= hits / rounds <= 0.97


def test_expanded_percentiles_are_scipys_percentiles_at_the_confidence_that_hesterberg_gives():
    values, n = sample(12), 12
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    scipys = stats.bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * tail, method="percentile", n_resamples=40_000,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    ours = paired_bootstrap(values, resamples=40_000, rng=np.random.default_rng(0))
    assert (ours.low, ours.high) == pytest.approx(scipys.confidence_interval, abs=0.06)
    assert ours.stderr == pytest.approx(scipys.standard_error * np.sqrt(n / (n - 1)), rel=0.02)


@given(NUMBERS, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_bootstrap_of_the_mean_is_the_paired_bootstrap(values, random):
    clusters = [random.randint(0, 5) for _ in values]
    x = np.asarray(values)
    general = bootstrap(
        lambda w: weighted_mean(w, x), len(x), clusters=clusters, resamples=300, rng=np.random.default_rng(0)
    )
    special = paired_bootstrap(x, clusters=clusters, resamples=300, rng=np.random.default_rng(0))
    assert general.value == pytest.approx(special.value)
    assert (general.low is None) == (special.low is None)
    if general.low is not None:
        assert (general.low, general.high) == pytest.approx((special.low, special.high), abs=1e-9)


def test_bootstrap_of_a_slope_is_scipys():
    x = sample(80)
    y = 0.5 * x + sample(80, seed=1)
    ours = bootstrap(lambda w: weighted_slope(w, x, y), 80, rng=np.random.default_rng(0))
    scipys = stats.bootstrap(
        (x, y), lambda a, b: stats.linregress(a, b).slope, paired=True, vectorized=False, method="percentile",
        n_resamples=3000, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert ours.value == pytest.approx(stats.linregress(x, y).slope)
    assert ours.stderr == pytest.approx(scipys.standard_error, rel=0.06)
    assert (ours.low, ours.high) == pytest.approx(scipys.confidence_interval, abs=0.05)


def test_a_figure_that_the_rows_do_not_determine_is_refused():
    x = np.ones(5)
    with pytest.raises(DataError, match="nothing to compute"):
        bootstrap(lambda w: weighted_slope(w, x, x), 5, rng=np.random.default_rng(0))


def test_rank_correlation_is_spearmans_with_scipys_interval():
    x = np.round(sample(60), 1)
    y = np.round(0.6 * x + sample(60, seed=2), 1)
    ours = rank_correlation(x, y, rng=np.random.default_rng(0))
    scipys = stats.bootstrap(
        (x, y), lambda a, b: stats.spearmanr(a, b).statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=2000, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert ours.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert ours.stderr == pytest.approx(scipys.standard_error, rel=0.08)
    with pytest.raises(DataError):
        rank_correlation(x, np.ones(60), rng=np.random.default_rng(0))


def test_ranks_of_draws_are_scipys_of_what_was_drawn():
    rng = np.random.default_rng(3)
    for values in (rng.normal(size=12), rng.integers(0, 4, size=12).astype(float)):
        weights = rng.integers(0, 4, size=(50, 12))
        for drawn, ranks in zip(weights, weighted_ranks(weights.astype(float), values), strict=True):
            assert np.array_equal(np.repeat(ranks, drawn), stats.rankdata(np.repeat(values, drawn)))


def test_same_generator_state_same_interval():
    first, second = (paired_bootstrap(sample(50), rng=np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_resamples_in_many_blocks_are_all_drawn(monkeypatch):
    monkeypatch.setattr("radpo.stats.estimates._BLOCK", 100)
    estimate = paired_bootstrap(sample(50), resamples=999, rng=np.random.default_rng(0))
    assert estimate.stderr == pytest.approx(mean(sample(50)).stderr, rel=0.15)


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_sign_flip_is_exact_on_few_pairs(alternative):
    values = sample(10, shift=0.9)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
    )
    p = sign_flip_test(values, alternative=alternative, rng=np.random.default_rng(0))
    assert p == pytest.approx(expected.pvalue)


def test_sign_flip_on_many_pairs_agrees_with_the_t_test():
    values = sample(300, shift=0.25)
    p = sign_flip_test(values, rng=np.random.default_rng(0), resamples=20_000)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_sign_flip_p_values_are_uniform_under_the_null():
    p_values = [
        sign_flip_test(sample(25, seed=seed, shift=0), resamples=400, rng=np.random.default_rng(seed))
        for seed in range(300)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("test", ["paired", "paired clusters", "two samples"])
def test_permutation_tests_call_chance_a_difference_in_one_of_twenty(test):
    """4-6% of 3,000 null samples at 5%; the simulation's own standard error is 0.4 points."""
    rejected, rounds = 0, 3000
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        if test == "paired":
            p = sign_flip_test(rng.standard_t(3, 30), resamples=999, rng=rng)
        elif test == "paired clusters":
            clusters = np.repeat(np.arange(20), rng.integers(1, 4, 20))
            values = rng.normal(0, 2, 20)[clusters] + rng.normal(0, 1, len(clusters))
            p = sign_flip_test(values, clusters=clusters, resamples=999, rng=rng)
        else:
            p = shuffle_test(rng.exponential(1, 24), np.arange(24) < 9, resamples=499, rng=rng)
        rejected += p <= 0.05
    assert 0.04 <= rejected / rounds <= 0.06


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_shuffle_test_is_scipys(alternative):
    values, treated = sample(10), np.array([1, 0, 0, 1, 0, 1, 0, 0, 1, 0], dtype=bool)
    scipys = stats.permutation_test(
        (values[treated], values[~treated]), lambda a, b: a.mean() - b.mean(), alternative=alternative,
        n_resamples=np.inf, vectorized=False,
    )  # fmt: skip
    exact = shuffle_test(values, treated, alternative=alternative, rng=np.random.default_rng(0))
    # scipy's two-sided p-value is twice the smaller tail; ours counts differences at least as large in size.
    if alternative == "two-sided":
        draws = scipys.null_distribution
        expected = np.mean(np.abs(draws) >= abs(scipys.statistic) - 1e-12)
    else:
        expected = scipys.pvalue
    assert exact == pytest.approx(expected)
    drawn = shuffle_test(values, treated, alternative=alternative, resamples=150, rng=np.random.default_rng(0))
    assert drawn == pytest.approx(exact, abs=0.12)


def test_shuffle_test_moves_clusters_whole():
    values, treated, clusters = (
        np.repeat([1.0, 2.0, 3.0, 4.0], 9),
        np.repeat([0, 0, 1, 1], 9),
        np.repeat([0, 1, 2, 3], 9),
    )
    p = shuffle_test(values, treated, clusters=clusters, alternative="greater", rng=np.random.default_rng(0))
    assert p == pytest.approx(1 / 6)
    with pytest.raises(DataError, match="one of the two samples"):
        shuffle_test(values, np.arange(36) % 2, clusters=clusters, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="empty"):
        shuffle_test(values, np.ones(36), rng=np.random.default_rng(0))


def test_sign_flip_flips_clusters_whole():
    # Twenty copies of three differences are three independent facts: the least p-value of all eight flips is 1/8.
    values, clusters = np.tile([1.0, 2.0, 3.0], 20), np.tile(["a", "b", "c"], 20)
    assert sign_flip_test(values, clusters=clusters, alternative="greater", rng=np.random.default_rng(0)) == 1 / 8
    assert sign_flip_test(values, alternative="greater", rng=np.random.default_rng(0)) < 0.001


def test_no_difference_gives_a_p_value_of_one():
    assert sign_flip_test(np.zeros(100), rng=np.random.default_rng(0)) == 1.0


@given(NUMBERS)
@settings(max_examples=50, deadline=None)
def test_sign_flip_mirrors(values):
    less = sign_flip_test(values, alternative="less", resamples=200, rng=np.random.default_rng(0))
    greater = sign_flip_test(np.negative(values), alternative="greater", resamples=200, rng=np.random.default_rng(0))
    assert less == greater


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = [0.04, 0.001, 0.03, 0.8, 0.03]
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1].tolist())


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers_and_never_passes_bonferroni(p_values):
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1.0, p * len(p_values)) + 1e-12


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(DataError, match="between 0 and 1"):
        holm([0.1, 1.2])


def test_minimum_detectable_effect_has_the_power_it_says():
    effect = minimum_detectable_effect(0.5, alpha=0.05, power=0.8)
    assert effect == pytest.approx((1.959964 + 0.841621) * 0.5, abs=1e-5)
    z = np.random.default_rng(0).normal(effect / 0.5, 1, 40_000)
    assert np.mean(np.abs(z) > 1.959964) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("sd", "effect", "alpha", "power"), [(1.0, 0.2, 0.05, 0.8), (3.0, -0.5, 0.01, 0.9)])
def test_sample_size_is_statsmodels(sd, effect, alpha, power):
    from statsmodels.stats.power import NormalIndPower

    n = NormalIndPower().solve_power(abs(effect) / sd, alpha=alpha, power=power, ratio=0, alternative="two-sided")
    assert sample_size(sd, effect, alpha=alpha, power=power) == int(np.ceil(n))
    assert minimum_detectable_effect(sd / np.sqrt(n), alpha=alpha, power=power) == pytest.approx(abs(effect), rel=1e-4)


def test_no_sample_shows_no_effect():
    with pytest.raises(DataError, match="effect of 0"):
        sample_size(1.0, 0.0)


@pytest.mark.parametrize(("unit", "top"), [("share", 1.0), ("%", 100.0)])
def test_a_share_of_nothing_or_all_has_wilsons_interval(unit, top):
    metric = Metric("acc", "accuracy", unit)
    for right in (0, 20):
        low, high = proportion_confint(right, 20, method="wilson")
        assert extreme_interval(metric, top * right / 20, 20) == pytest.approx((top * low, top * high))
    assert extreme_interval(metric, top / 2, 20) is None
    assert extreme_interval(Metric("score", "score", bounds=(0, 1)), 1.0, 20) is None
    document = {"a/b/acc": {"value": top, "stderr": None, "n": 20}, "all/acc": {"value": top, "stderr": 1.0, "n": 20}}
    found = with_extreme_intervals([metric], {**document, "notes": []})
    assert (set(found["a/b/acc"]) - {"value", "stderr", "n"}, found["all/acc"]) == (
        {"low", "high"},
        document["all/acc"],
    )


def test_a_benchmarks_own_document_has_an_interval_where_all_examples_came_out_alike() -> None:
    metric = Metric("win_rate", "win rate", "%")
    found = with_extreme_intervals([metric], {"win_rate": 100.0, "standard_error": 0.0, "n_total": 20, "notes": []})
    assert (found["win_rate_ci_low"], found["win_rate_ci_high"]) == (pytest.approx(83.887, abs=1e-3), 100.0)
    assert "win_rate_ci_low" not in with_extreme_intervals([metric], {"win_rate": 99.0, "n_total": 20})


def test_flips_of_many_clusters_drawn_by_bytes_tell_what_flips_drawn_one_by_one_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from radpo.stats import permutation

    rng = np.random.default_rng(5)
    sums, sizes = rng.normal(0.3, 1, (61, 2)), rng.integers(1, 4, 61).astype(float)
    drawn = {}
    for many in (10**9, 10):
        monkeypatch.setattr(permutation, "MANY", many)
        drawn[many] = permutation.sign_flips(sums, sizes, resamples=40_000, rng=np.random.default_rng(0))
    for one, other in zip(*drawn.values(), strict=True):
        assert one.interval() == pytest.approx(other.interval(), abs=0.01)
        assert one.less(0.1) == pytest.approx(other.less(0.1), abs=0.012)
        assert float(np.mean(one.means)) == pytest.approx(float(np.mean(other.means)), abs=0.003)
        assert float(np.std(one.means)) == pytest.approx(float(np.std(other.means)), rel=0.02)
