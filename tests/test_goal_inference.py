"""The goal read backwards: Bayes' rule on a policy that is known exactly, and on a model's own log-likelihoods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import scored_pairs, write_model

from radpo.benchmarks.goal_inference import posterior, summarise
from radpo.models.heldout import write_heldout
from radpo.models.likelihood import TokenizedResponse, log_likelihoods, tokenize_pair
from radpo.models.loading import load_model, load_tokenizer
from radpo.preferences.goals import condition, goal_wording
from radpo.theory.bandit import log_softmax
from radpo.theory.raters import rating_chances

GOALS = np.arange(1.0, 11.0)


def known_policy(beta: float, prompts: int = 40, responses: int = 6) -> pd.DataFrame:
    """Held-out responses of a policy that maximises -(g - score)^2 within beta KL of its reference, in closed form."""
    rng = np.random.default_rng(0)
    rows = []
    for prompt in range(prompts):
        score, reference = rng.uniform(1, 10, responses), log_softmax(rng.normal(size=(1, responses)))[0]
        logps = log_softmax(reference - (GOALS[:, None] - score[None, :]) ** 2 / beta)
        chosen, rejected = rng.choice(responses, 2, replace=False)
        for side, place in (("chosen", chosen), ("rejected", rejected)):
            known = {
                "pair_id": f"p{prompt}", "prompt_id": f"x{prompt}", "response": side, "score": score[place],
                "tokens": 3, "all_scores": tuple(score), "reference": tuple(reference),
            }  # fmt: skip
            rows += [{**known, "goal": f"{goal:g}", "logp": logps[number, place]} for number, goal in enumerate(GOALS)]
    return pd.DataFrame(rows)


def test_the_posterior_is_bayes_rule_on_a_policy_known_exactly() -> None:
    beta = 2.0
    frame = known_policy(beta)
    for _, part in frame.groupby(["pair_id", "response"]):
        first = part.iloc[0]
        # p(g, y) = p(g) p(y | g), summed over nothing else: counted out by probabilities
        weights = []
        for goal in GOALS:
            unnormalised = np.exp(np.array(first.reference) - (goal - np.array(first.all_scores)) ** 2 / beta)
            here = np.exp(first.reference[first.all_scores.index(first.score)] - (goal - first.score) ** 2 / beta)
            weights.append(0.1 * here / unnormalised.sum())
        exact = np.array(weights) / sum(weights)
        np.testing.assert_allclose(posterior(part["logp"].to_numpy()[None, :])[0], exact, rtol=1e-9)


def test_on_a_bandit_with_a_noisy_rater_the_posterior_is_that_of_drawing_goals_and_responses() -> None:
    # Asked for g, a policy that conditions rightly gives y with p(y | rated g); goals are drawn alike, then responses.
    scores, reference = np.array([2.0, 5.2, 7.9, 9.6]), np.array([0.4, 0.3, 0.2, 0.1])
    chances = rating_chances(scores, 1.5)  # (responses, goals): p(g | y)
    policy = reference[:, None] * chances
    policy /= policy.sum(axis=0)
    rng = np.random.default_rng(0)
    goals = rng.integers(0, 10, 200_000)
    drawn = (rng.random(len(goals))[:, None] > policy.cumsum(axis=0).T[goals, :-1]).sum(axis=1)
    counted = np.array([np.bincount(goals[drawn == place], minlength=10) for place in range(4)])
    found = posterior(np.log(policy))
    np.testing.assert_allclose(counted / counted.sum(axis=1, keepdims=True), found, atol=0.01)
    assert (np.diff(found @ GOALS) > 0.5).all(), "better responses speak for higher goals"


def test_a_policy_that_reads_its_goal_knows_what_a_response_is_worth() -> None:
    sure, unsure = (
        {(r.subset, r.metric): r for r in summarise(known_policy(beta), resamples=200).results} for beta in (0.5, 50.0)
    )
    assert sure["all", "rank_correlation"].value > 0.9
    assert sure["all", "accuracy"].value > 0.9
    assert sure["all", "error"].value < unsure["all", "error"].value
    assert sure["all", "surprise"].value < unsure["all", "surprise"].value < np.log(10) + 0.05
    assert (sure["all", "rank_correlation"].n, sure["all", "accuracy"].n) == (80, 40)
    steps = [sure[f"score {score}", "inferred_goal"].value for score in (2, 5, 9)]
    assert steps == sorted(steps)
    assert sure["all", "rank_correlation"].primary


def test_a_policy_that_does_not_read_its_goal_is_at_chance() -> None:
    frame = known_policy(2.0)
    frame["logp"] = frame.groupby(["pair_id", "response"])["logp"].transform("first")
    scores = summarise(frame, resamples=50)
    found = {r.metric: r.value for r in scores.results if r.subset == "all"}
    assert found == {
        "error": pytest.approx(float(np.abs(frame.drop_duplicates(["pair_id", "response"])["score"] - 5.5).mean())),
        "surprise": pytest.approx(np.log(10)),
        "accuracy": 0.5,
    }
    assert any("rank_correlation is left out" in note for note in scores.notes)
    assert any("surprise of 2.30 nats" in note for note in scores.notes)


def test_every_response_is_measured_under_every_goal(tmp_path: Path) -> None:
    folder, pairs = write_model(tmp_path / "model"), scored_pairs([(9, 3), (7, 6)])
    out = write_heldout(
        folder, pairs.to_batches(), tmp_path / "out.parquet", total=2, scale=(1, 10), max_length=400,
        precision="float32", goals=[1, 5, 10],
    )  # fmt: skip
    frame = pd.read_parquet(out)
    assert len(frame) == 2 * 2 * 3
    model, tokenizer = load_model(folder), load_tokenizer(folder, with_goal=False)
    row, goal = pairs.to_pylist()[1], 5
    prompt = condition(row["prompt"], goal, "system", goal_wording((1, 10)))
    tokens = tokenize_pair(tokenizer, prompt, row["chosen"], row["rejected"])
    (direct,) = log_likelihoods(model, [TokenizedResponse(tokens.prompt_ids, tokens.rejected_ids)])
    found = frame[(frame.pair_id == "p1") & (frame.response == "rejected") & (frame.goal == "5")]
    assert found["logp"].item() == pytest.approx(direct.logp, abs=1e-4)
    assert found["score"].item() == 6
