"""The gate's decision: its promises on simulated runs, its numbers against scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower, normal_sample_size_one_tail

from radpo.gate.gate import Finding, Sample, decide, detectable

SIMULATIONS = 500
ALPHA = 0.05
METRICS = 3
PROMPTS = 60
# A gate that fails with probability 0.05 does so more than 37 times in 500 with a chance of 1 in 100; one that fails
# with probability 0.95 does so fewer than 463 times with a chance of 1 in 100.
AT_MOST = int(stats.binom.ppf(0.99, SIMULATIONS, ALPHA))
AT_LEAST = int(stats.binom.ppf(0.01, SIMULATIONS, 0.95))

Draw = Callable[[np.random.Generator], np.ndarray]


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 1, PROMPTS)


def verdicts(rng: np.random.Generator) -> np.ndarray:
    """Differences of win, draw and loss: -1, -1/2, 0, 1/2, 1, mostly 0."""
    return (rng.choice(3, PROMPTS, p=[0.3, 0.2, 0.5]) - rng.choice(3, PROMPTS, p=[0.3, 0.2, 0.5])) / 2.0


def two_turns(rng: np.random.Generator) -> np.ndarray:
    """Pairs that share a prompt, most of whose change is the prompt's."""
    return np.repeat(rng.normal(0, 1, PROMPTS // 2), 2) + rng.normal(0, 0.3, PROMPTS)


def sample(draw: Draw, rng: np.random.Generator, shift: float = 0.0, margin: float = 0.0) -> Sample:
    clusters = np.arange(PROMPTS) // (2 if draw is two_turns else 1)
    return Sample(draw(rng) + shift, clusters, margin)


def fails(samples: list[Sample], seed: int) -> bool:
    found = decide(samples, alpha=ALPHA, resamples=499, seed=seed)
    return any(finding.outcome == "regression" for finding in found)


def stated(draw: Draw, margin: float) -> float:
    """The detectable drop that the gate states, by the median of simulated runs without a change."""
    rng = np.random.default_rng(7)
    of = [detectable(sample(draw, rng, margin=margin), ALPHA, METRICS) for _ in range(200)]
    return float(np.median([value for value in of if value is not None]))


@pytest.mark.parametrize("draw", [normal, verdicts, two_turns])
def test_without_a_true_change_at_most_one_gate_in_twenty_fails(draw: Draw) -> None:
    rng = np.random.default_rng(0)
    alarms = sum(fails([sample(draw, rng) for _ in range(METRICS)], seed) for seed in range(SIMULATIONS))
    assert alarms <= AT_MOST, "500 simulations; the tolerance is the binomial one, 1 in 100"
    assert alarms >= stats.binom.ppf(0.001, SIMULATIONS, ALPHA), "nor is it a gate that never fails"


def test_where_two_metrics_truly_rose_the_third_still_keeps_the_level() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(fails([sample(normal, rng, shift) for shift in (0.0, 0.8, 0.8)], seed) for seed in range(SIMULATIONS))
    assert alarms <= AT_MOST


@pytest.mark.parametrize(("draw", "margin"), [(normal, 0.0), (verdicts, 0.0), (two_turns, 0.0), (normal, 1.5)])
def test_a_true_drop_of_twice_the_stated_effect_nearly_always_fails(draw: Draw, margin: float) -> None:
    rng, drop = np.random.default_rng(2), 2 * stated(draw, margin)
    found = sum(
        fails([sample(draw, rng, -drop, margin), *(sample(draw, rng, 0.0, margin) for _ in range(METRICS - 1))], seed)
        for seed in range(SIMULATIONS)
    )
    assert found >= AT_LEAST


@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_the_stated_drop_itself_fails_four_times_in_five(margin: float) -> None:
    """A margin of 1.5 is far above what 60 prompts can tell, so there the acquittal decides what is detectable."""
    rng, drop = np.random.default_rng(3), stated(normal, margin)
    found = sum(
        fails([sample(normal, rng, -drop, margin), *(sample(normal, rng) for _ in range(METRICS - 1))], seed)
        for seed in range(SIMULATIONS)
    )
    assert found >= stats.binom.ppf(0.01, SIMULATIONS, 0.8)
    assert found <= stats.binom.ppf(0.999, SIMULATIONS, 0.88), "Holm's last step gives little more than was stated"


def test_a_drop_of_the_margin_is_acquitted_at_most_one_time_in_twenty() -> None:
    rng = np.random.default_rng(4)
    passed = sum(not fails([sample(normal, rng, -1.0, 1.0)], seed) for seed in range(SIMULATIONS))
    assert passed <= AT_MOST


def test_a_small_drop_that_is_shown_to_be_small_passes() -> None:
    gains = np.random.default_rng(0).normal(-0.1, 0.1, 200)
    clusters = np.arange(200)
    assert decide([Sample(gains, clusters, 0.0)], alpha=ALPHA, resamples=999)[0].outcome == "regression"
    (found,) = decide([Sample(gains, clusters, 0.5)], alpha=ALPHA, resamples=999)
    assert (found.outcome, found.p_worse) == ("no difference", 0.001), "the drop is there all the same"


MIRROR = {"regression": "improvement", "improvement": "regression"}


@given(
    st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=12), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.5, 3.0]),
)
@settings(max_examples=150, deadline=None)
def test_swapped_runs_give_the_mirrored_outcome(metrics: list[list[int]], margin: float) -> None:
    samples = [Sample(np.array(gains, float), np.arange(len(gains)), margin) for gains in metrics]
    swapped = [Sample(-one.gains, one.clusters, margin) for one in samples]
    for ours, theirs in zip(decide(samples, alpha=0.2, resamples=200), decide(swapped, alpha=0.2, resamples=200)):  # noqa: B905
        assert theirs.outcome == MIRROR.get(ours.outcome, ours.outcome)
        assert (theirs.p_worse, theirs.p_better) == (ours.p_better, ours.p_worse)
        assert (theirs.detectable, theirs.needed) == (ours.detectable, ours.needed)


def test_runs_of_the_same_values_pass_however_small_and_weigh_on_no_other_metric() -> None:
    same = Sample(np.zeros(3), np.arange(3), 0.01)
    gains = np.array([-1.0, -2, -3, -4, -5])
    (alone,) = decide([Sample(gains, np.arange(5), 0.0)], alpha=ALPHA, resamples=999)
    beside = decide([same, Sample(gains, np.arange(5), 0.0), same], alpha=ALPHA, resamples=999)
    assert beside[0] == beside[2] == Finding("no difference", 1.0, 1.0, None, None)
    assert beside[1] == alone
    assert alone.p_worse == 1 / 2**5


def test_p_values_are_scipys_permutation_tests_after_statsmodels_holm() -> None:
    rng = np.random.default_rng(5)
    metrics = [rng.normal(shift, 1, 10) for shift in (-1.0, -0.3, 0.4)]
    found = decide([Sample(gains, np.arange(10), 0.0) for gains in metrics], alpha=ALPHA, resamples=2000)
    for attribute, alternative in (("p_worse", "less"), ("p_better", "greater")):
        p = [
            stats.permutation_test(
                (gains,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
            ).pvalue
            for gains in metrics
        ]
        expected = multipletests(p, alpha=ALPHA, method="holm")[1]
        assert [getattr(one, attribute) for one in found] == pytest.approx(expected)


@pytest.mark.parametrize("metrics", [1, 4])
def test_the_detectable_drop_and_the_prompts_needed_are_statsmodels(metrics: int) -> None:
    """Of the normal test, which the sign flips come to with many prompts, and a little worse with few."""
    gains = np.random.default_rng(6).normal(0, 2, 20_000)
    sd, one_sided = gains.std(ddof=1), {"alpha": ALPHA / metrics, "power": 0.8}
    # One group of n: half the variance of two groups of n each, which is ratio 0 in statsmodels.
    effect = NormalIndPower(ddof=0).solve_power(nobs1=20_000, ratio=0, alternative="larger", **one_sided)
    assert detectable(Sample(gains, np.arange(20_000), 0.0), ALPHA, metrics) == pytest.approx(effect * sd, rel=1e-3)

    few = gains[:50]
    family = [Sample(few, np.arange(50), 0.3), *(Sample(np.ones(50), np.arange(50), 0.0) for _ in range(metrics - 1))]
    finding = decide(family, alpha=ALPHA, resamples=999)[0]
    needed = normal_sample_size_one_tail(0.3, 0.8, ALPHA / metrics, few.std(ddof=1))
    assert finding.outcome == "too few examples"
    assert finding.needed is not None
    assert needed <= finding.needed <= needed + 8


def test_so_many_prompts_as_were_said_to_be_needed_are_enough() -> None:
    gains = np.random.default_rng(9).normal(0, 2, 50)
    (short,) = decide([Sample(gains, np.arange(50), 0.5)], alpha=ALPHA, resamples=999)
    assert short.needed is not None
    for prompts, enough in ((short.needed, True), (short.needed - 2, False)):
        like = np.resize([1.0, -1.0], prompts)
        like *= gains.std(ddof=1) / like.std(ddof=1)
        (found,) = decide([Sample(like, np.arange(prompts), 0.5)], alpha=ALPHA, resamples=999)
        assert (found.outcome == "no difference") is enough


def test_seeds_of_a_prompt_are_one_fact_in_the_detectable_drop_too() -> None:
    gains = np.random.default_rng(8).normal(0, 1, 30)
    once = detectable(Sample(gains, np.arange(30), 0.0), ALPHA, 1)
    ten_times = detectable(Sample(np.repeat(gains, 10), np.repeat(np.arange(30), 10), 0.0), ALPHA, 1)
    assert ten_times == pytest.approx(once)


def test_too_few_prompts_for_any_drop_are_said_to_be() -> None:
    (found,) = decide([Sample(np.array([-5.0, -6, -7, -8]), np.arange(4), 1.0)], alpha=ALPHA, resamples=999)
    assert (found.outcome, found.detectable) == ("too few examples", None)
    assert found.needed is not None
    assert 2.0**-found.needed <= ALPHA < 2.0**-4
