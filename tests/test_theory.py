"""The tabular bandit is solved exactly, and keeps to what the paper's theory says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from radpo.theory.bandit import augmented, converged, plain, policy, random_bandit, sample_wins, sigmoid
from radpo.theory.rates import QUANTITIES, exponent, gaps, near_best, rates, unlearning


@pytest.fixture(scope="module")
def bandit():
    return random_bandit(3, 5, np.random.default_rng(4))


def test_converged_implicit_rewards_are_statsmodels_logistic_regression():
    # Bradley-Terry by maximum likelihood is a logistic regression on differences of indicators, the first response's
    # reward held at 0; scores near each other, so that the optimum lies inside the bound.
    rng = np.random.default_rng(0)
    reward = np.array([[0.0, 0.7, 1.5, -0.4]])
    counts = np.triu(np.full((4, 4), 400), 1)[None]
    first = rng.binomial(counts, sigmoid(reward[:, :, None] - reward[:, None, :]))
    wins = first + np.swapaxes(counts - first, 1, 2)
    design, won = [], []
    for a in range(4):
        for b in range(4):
            row = np.eye(4)[a] - np.eye(4)[b]
            design += [row[1:]] * int(wins[0, a, b])
            won += [1] * int(wins[0, a, b])
            design += [-row[1:]] * int(wins[0, a, b])
            won += [0] * int(wins[0, a, b])
    fit = sm.Logit(np.array(won), np.array(design)).fit(disp=False, tol=1e-12)
    ours = converged(wins, bound=20.0)[0]
    assert ours[1:] - ours[0] == pytest.approx(fit.params, abs=1e-5)


def test_suboptimality_is_beta_times_kl_to_the_best_policy(bandit):
    rng, beta = np.random.default_rng(0), 0.7
    for tables, bound in ((plain, 9.0), (augmented, 81.0)):
        task = tables(bandit)
        found = converged(sample_wins(bandit, task, 2000, "bradley-terry", rng), bound)
        ours, best = policy(bandit, task, found, beta), policy(bandit, task, task.reward, beta)
        asked = np.isnan(task.goal) | (task.goal == 10)
        kl = (np.exp(ours) * (ours - best)).sum(axis=1)[asked]
        expected = beta * float(bandit.prompts[task.prompt][asked] @ kl)
        assert gaps(bandit, task, found, beta)["suboptimality"] == pytest.approx(expected, rel=1e-6)
        assert gaps(bandit, task, task.reward, beta) == {"suboptimality": 0.0, "score_error": 0.0}


def test_augmentation_counts_every_pair_under_both_scores(bandit):
    drawn = {}
    for tables in (plain, augmented):
        task = tables(bandit)
        drawn[tables] = sample_wins(bandit, task, 5000, "scores", np.random.default_rng(1))
    assert drawn[plain].sum() == 5000
    assert drawn[augmented].sum() == 10_000
    task = augmented(bandit)
    for table, wins in enumerate(drawn[augmented]):
        winner = int(np.flatnonzero(bandit.score[task.prompt[table]] == task.goal[table])[0])
        others = np.delete(wins, winner, axis=0)
        assert others.sum() == 0, "asked for a response's score, by scores that response alone is preferred"
        assert wins[winner].sum() > 0
    plain_wins = drawn[plain]
    assert (plain_wins[bandit.score[:, :, None] <= bandit.score[:, None, :]] == 0).all()


def test_a_response_in_no_pair_is_neither_raised_nor_lowered(bandit):
    task = augmented(bandit)
    wins = np.zeros((len(task.goal), 5, 5))
    assert converged(wins, 81.0) == pytest.approx(40.5)


def test_large_samples_find_the_reward(bandit):
    task = plain(bandit)
    found = converged(sample_wins(bandit, task, 50_000_000, "bradley-terry", np.random.default_rng(2)), 9.0)
    gap = found - found[:, :1]
    assert gap == pytest.approx(bandit.score - bandit.score[:, :1], abs=0.15)


def test_suboptimality_falls_no_slower_than_the_theorem_says():
    frame = rates(sizes=(1_000, 10_000, 100_000), replicates=10, seed=1)
    for method in ("dpo", "ra-dpo"):
        for quantity in QUANTITIES:
            fitted = exponent(frame, method, quantity, rng=np.random.default_rng(0))
            assert fitted.high >= 0.5, f"{method} {quantity}: {fitted}"
        assert exponent(frame, method, "suboptimality", rng=np.random.default_rng(0)).low > 0.5


def test_the_fitted_exponent_is_that_of_a_power_law():
    places = [(size, replicate) for size in (1_000, 5_000, 10_000) for replicate in range(4)]
    exact = pd.DataFrame(places, columns=["pairs", "replicate"]).assign(method="dpo")
    exact["suboptimality"] = 3.0 * exact.pairs**-0.5
    fitted = exponent(exact, "dpo", "suboptimality", rng=np.random.default_rng(0))
    assert (fitted.value, fitted.low, fitted.high) == pytest.approx((0.5, 0.5, 0.5))


def test_dpo_unlearns_the_near_best_and_the_conditioned_policy_keeps_it():
    frame = unlearning(labels="bradley-terry", betas=(0.125,), replicates=5)
    change = frame.groupby(["method", "goal"]).delta_logp.agg(["min", "max"])
    assert change.loc[("dpo", "none"), "max"] < -1.0
    assert change.loc[("ra-dpo", "own"), "min"] > 0.0


@pytest.mark.parametrize("beta", [0.125, 0.5, 2.0])
def test_with_the_true_rewards_the_conditioned_policy_never_lowers_the_near_best_more(bandit, beta):
    # Closed form: asked for 10, 9 lies one below the best under either reward, and all else lies further below.
    plain_task, task = plain(bandit), augmented(bandit)
    everything = np.full(len(plain_task.goal), True)
    dpo = near_best(bandit, plain_task, plain_task.reward, beta, everything)
    best = near_best(bandit, task, task.reward, beta, task.goal == 10)
    own = near_best(bandit, task, task.reward, beta, task.goal == 9)
    assert own["delta_logp"] > best["delta_logp"] >= dpo["delta_logp"]
    assert dpo["margin_near"] == best["margin_near"] == 1.0


def test_labels_by_score_stretch_near_equal_pairs():
    # Two responses a point apart end at the class's bound: the margin no longer knows the gap (the overfitting claim).
    frame = unlearning(labels="scores", betas=(1.0,), replicates=3).query("method == 'dpo'")
    drawn = unlearning(labels="bradley-terry", betas=(1.0,), replicates=3).query("method == 'dpo'")
    assert (frame.margin_wide > 8.99).all()
    assert frame.margin_near.mean() > 1.3
    assert drawn.margin_near.mean() == pytest.approx(1.0, abs=0.1)
