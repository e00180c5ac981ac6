"""The statistics agree with scipy, statsmodels and closed forms, and keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from radpo.analysis.statistics import holm, mean, minimum_detectable_effect, paired_bootstrap, sign_flip_test
from radpo.errors import DataError

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


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        estimate = paired_bootstrap(sample(60, seed=seed), resamples=500, rng=np.random.default_rng(seed))
        hits += estimate.low <= 0.3 <= estimate.high
    assert 0.89 <= hits / 200 <= 0.985  # binomial(200, 0.95), three standard deviations and the percentile's bias


def test_same_generator_state_same_interval():
    first, second = (paired_bootstrap(sample(50), rng=np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_resamples_in_many_blocks_are_all_drawn(monkeypatch):
    monkeypatch.setattr("radpo.analysis.statistics._BLOCK", 100)
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
