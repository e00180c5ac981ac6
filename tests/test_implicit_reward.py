"""Accuracy, calibration and agreement of the implicit reward against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from test_contrasts import run

from radpo.benchmarks.implicit_reward import agreement, calibration_error, margins, summarise
from radpo.core.errors import DataError


def value(scores, subset: str, metric: str):
    (found,) = [r for r in scores.results if (r.subset, r.metric) == (subset, metric)]
    return found


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    frame = run({"dpo": 0.0}, pairs=120)
    frame["logp_policy"] += 0.3 * frame.score
    return frame.drop(columns=["variant", "seed"])


def test_the_better_response_is_the_one_that_scores_higher(frame):
    found = margins(frame.assign(variant="dpo", seed=0))
    wide = frame[frame.goal == "none"].assign(change=lambda f: f.logp_policy - f.logp_reference)
    wide = wide.pivot(index="pair_id", columns="response", values=["change", "score"])
    gap = wide["score", "chosen"] - wide["score", "rejected"]
    margin = np.sign(gap) * (wide["change", "chosen"] - wide["change", "rejected"])
    ours = found[found.goal == "none"].set_index("pair_id")
    assert ours.margin.to_dict() == pytest.approx(margin[gap != 0].to_dict())
    assert (ours.gap > 0).all()
    accuracy = value(summarise(frame, beta=0.1, resamples=50), "none", "accuracy")
    assert accuracy.value == pytest.approx((margin[gap != 0] > 0).mean())
    bins = [r for r in summarise(frame, beta=0.1, resamples=50).results if r.subset.startswith("none/gap")]
    assert sum(r.n for r in bins) == accuracy.n
    assert sum(r.n * r.value for r in bins) == pytest.approx(accuracy.n * accuracy.value)


def test_calibration_error_is_scikit_learns_curve_summed_up():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 500)
    right = (rng.uniform(size=500) < confidence**2).astype(float)
    # scikit-learn's bins are of equal width between 0 and 1: ten of ours, stretched.
    stretched = 2 * confidence - 1
    true, _ = calibration_curve(right, stretched, n_bins=10)
    place = np.minimum((stretched * 10).astype(int), 9)
    sizes = np.bincount(place, minlength=10)
    sure = np.bincount(place, weights=confidence, minlength=10) / sizes
    expected = float((sizes / 500 * np.abs(true - sure)).sum())
    assert calibration_error(confidence, right, np.ones((1, 500)))[0] == pytest.approx(expected)


def test_a_calibrated_model_has_little_error_and_an_over_sure_one_much():
    rng = np.random.default_rng(1)
    margin = rng.normal(0, 20, 20_000)
    right = (rng.uniform(size=20_000) < 1 / (1 + np.exp(-0.1 * np.abs(margin)))).astype(float)
    for beta, low, high in ((0.1, 0.0, 0.02), (1.0, 0.1, 0.5)):
        sure = 1 / (1 + np.exp(-beta * np.abs(margin)))
        assert low <= calibration_error(sure, right, np.ones((1, 20_000)))[0] <= high


def test_correlations_are_scipys_and_beta_changes_only_how_sure_it_is(frame):
    scores, sharper = summarise(frame, beta=0.1, resamples=50), summarise(frame, beta=1.0, resamples=50)
    rows = frame[frame.goal == "best"]
    expected = stats.spearmanr(rows.logp_policy - rows.logp_reference, rows.score).statistic
    assert value(scores, "best", "score_correlation").value == pytest.approx(expected)
    for metric in ("accuracy", "score_correlation", "margin_gap_correlation"):
        assert value(scores, "best", metric).value == value(sharper, "best", metric).value
    assert value(sharper, "best", "confidence").value > value(scores, "best", "confidence").value


def test_ties_are_left_out_and_counted(frame):
    tied = frame.assign(score=5.0)
    with pytest.raises(DataError, match="every pair is tied"):
        summarise(tied, beta=0.1)
    one = frame.copy()
    one.loc[one.pair_id == "p0", "score"] = 5.0
    ties = int(
        (frame.pivot_table(index="pair_id", columns="response", values="score").diff(axis=1).iloc[:, 1] == 0).sum()
    )
    note = summarise(one, beta=0.1, resamples=50).notes[0]
    assert note.startswith(f"implicit-reward: {ties + 1} pairs of equal score")


def test_agreement_with_another_variant():
    likelihoods = run({"dpo": 0.0, "same": 0.0, "turned": 0.0}, pairs=60, noise=0.0)
    turned = likelihoods.variant == "turned"
    change = likelihoods.logp_policy - likelihoods.logp_reference
    likelihoods.loc[turned, "logp_policy"] = likelihoods.logp_reference - change
    found = agreement(likelihoods, "dpo", resamples=200).set_index(["variant", "goal", "metric"]).value
    assert found["same", "none", "same_preference"] == 1.0
    assert found["same", "none", "accuracy_difference"] == 0.0
    assert found["turned", "none", "same_preference"] == 0.0
    assert found["turned", "none", "margin_correlation"] == pytest.approx(-1.0)
    accuracy = (margins(likelihoods).query("variant == 'dpo' and goal == 'none'").margin > 0).mean()
    assert found["turned", "none", "accuracy_difference"] == pytest.approx(1 - 2 * accuracy)
