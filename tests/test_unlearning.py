"""The unlearning figures are the means they say they are, over the pairs they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from radpo.benchmarks.unlearning import summarise
from radpo.core.errors import DataError

GOALS = ("none", "best", "chosen", "rejected")


def likelihoods(pairs: list[dict]) -> pd.DataFrame:
    """Rows for pairs given as score_chosen, score_rejected and, as {(response, goal): nats}, the changes in log p."""
    rows = [
        {
            "pair_id": f"p{number}",
            "response": response,
            "goal": goal,
            "score": pair[f"score_{response}"],
            "tokens": 5,
            "logp_policy": -20.0 + pair.get("delta", {}).get((response, goal), 0.0),
            "logp_reference": -20.0,
        }
        for number, pair in enumerate(pairs)
        for response in ("chosen", "rejected")
        for goal in GOALS
    ]
    return pd.DataFrame(rows)


def random_pairs(n: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "score_chosen": float(rng.integers(4, 11)),
            "score_rejected": float(rng.integers(1, 9)),
            "delta": {(r, g): float(rng.normal(0, 3)) for r in ("chosen", "rejected") for g in GOALS},
        }
        for _ in range(n)
    ]


def value(scores, subset: str, metric: str):
    (found,) = [r for r in scores.results if (r.subset, r.metric) == (subset, metric)]
    return found


PAIRS = [
    {"score_chosen": 9.0, "score_rejected": 8.0, "delta": {("rejected", "none"): -3.0, ("chosen", "none"): -1.0}},
    {"score_chosen": 8.0, "score_rejected": 6.0, "delta": {("rejected", "none"): -0.5, ("chosen", "none"): -2.0}},
    {"score_chosen": 4.0, "score_rejected": 2.0, "delta": {("rejected", "none"): -7.0, ("chosen", "none"): 3.0}},
]


def test_high_scored_rejected_are_kept_apart_from_low():
    scores = summarise(likelihoods(PAIRS))
    high = value(scores, "none", "delta_logp_rejected_high")
    assert (high.value, high.n, high.primary, high.higher_is_better) == (-1.75, 2, True, True)
    assert high.stderr == pytest.approx(np.std([-3.0, -0.5], ddof=1) / math.sqrt(2))
    assert value(scores, "none", "delta_logp_rejected_low").value == -7.0
    assert value(scores, "none", "share_high_rejected_lost_1nat").value == 0.5
    assert value(scores, "none", "delta_logp_chosen").value == 0.0
    assert value(scores, "none", "delta_logp_chosen_low").value == 3.0
    assert value(scores, "none", "delta_logp_chosen_high").value == -1.5
    assert value(scores, "none", "preference_accuracy").value == pytest.approx(2 / 3)


def test_the_threshold_belongs_to_the_high():
    assert value(summarise(likelihoods(PAIRS), high_score=6.0), "none", "delta_logp_rejected_high").n == 2
    assert value(summarise(likelihoods(PAIRS), high_score=6.5), "none", "delta_logp_rejected_high").n == 1


def test_own_asks_each_response_for_its_own_score():
    pairs = [
        {
            "score_chosen": 9.0,
            "score_rejected": 8.0,
            "delta": {("rejected", "rejected"): -4.0, ("rejected", "chosen"): 50.0, ("chosen", "chosen"): 2.0},
        },
        {"score_chosen": 9.0, "score_rejected": 8.0},
    ]
    scores = summarise(likelihoods(pairs))
    assert value(scores, "own", "delta_logp_rejected_high").value == -2.0
    assert value(scores, "own", "delta_logp_chosen").value == 1.0
    assert value(scores, "none", "delta_logp_rejected_high").value == 0.0


def test_own_accuracy_is_over_both_relabeled_pairs():
    # Asked for 9 the chosen gains, asked for 3 the rejected gains: a policy that follows goals is right both times.
    follows = {("chosen", "chosen"): 2.0, ("rejected", "chosen"): -2.0, ("rejected", "rejected"): 1.0}
    ignores = {("chosen", goal): 2.0 for goal in GOALS}
    pair = {"score_chosen": 9.0, "score_rejected": 3.0}
    scores = summarise(likelihoods([{**pair, "delta": follows}, {**pair, "delta": follows}]))
    assert (value(scores, "own", "preference_accuracy").value, value(scores, "own", "preference_accuracy").n) == (
        1.0,
        4,
    )
    scores = summarise(likelihoods([{**pair, "delta": ignores}, {**pair, "delta": ignores}]))
    assert value(scores, "own", "preference_accuracy").value == 0.5
    assert value(scores, "none", "preference_accuracy").value == 1.0


def test_tied_pairs_have_no_own_accuracy():
    tied = {"score_chosen": 7.0, "score_rejected": 7.0}
    scores = summarise(likelihoods([tied, {"score_chosen": 9.0, "score_rejected": 7.0}]))
    assert value(scores, "own", "preference_accuracy").n == 2
    scores = summarise(likelihoods([tied]))
    assert not [r for r in scores.results if (r.subset, r.metric) == ("own", "preference_accuracy")]
    assert any("every pair is tied" in note for note in scores.notes)


def test_the_reference_itself_has_lost_nothing():
    scores = summarise(likelihoods([{k: v for k, v in pair.items() if k != "delta"} for pair in PAIRS]))
    for result in scores.results:
        assert result.value == (0.5 if result.metric == "preference_accuracy" else 0.0)


def test_groups_without_a_pair_are_named_not_filled():
    scores = summarise(likelihoods([PAIRS[2]]))
    assert not [r for r in scores.results if r.metric == "delta_logp_rejected_high"]
    left_out = "delta_logp_rejected_high is left out, because no rejected response scored at or above 5."
    assert f"unlearning, goal none: {left_out}" in scores.notes
    assert all(math.isfinite(r.value) for r in scores.results)
    assert value(scores, "none", "delta_logp_chosen").stderr is None


def test_score_bins_add_up_to_the_whole():
    frame = likelihoods(random_pairs(60))
    scores = summarise(frame)
    bins = [r for r in scores.results if r.subset.startswith("own/[") and r.metric == "delta_logp_rejected"]
    rows = frame[(frame.response == "rejected") & (frame.goal == "rejected")]
    expected = (rows.logp_policy - rows.logp_reference).sum()
    assert sum(r.value * r.n for r in bins) == pytest.approx(expected)
    assert {r.subset for r in bins} == {f"own/[{s:g},{s + 1:g})" for s in rows.score.unique()}


def test_every_primary_figure_is_the_mean_of_its_examples():
    scores = summarise(likelihoods(random_pairs(40)))
    for result in (r for r in scores.results if r.primary):
        values = [e.value for e in scores.examples if (e.subset, e.metric) == (result.subset, result.metric)]
        assert (np.mean(values), len(values)) == (pytest.approx(result.value), result.n)
    assert all(json.loads(e.detail)["tokens"] == 5 for e in scores.examples)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.drop(columns="score"), "lack the column.* score"),
        (lambda f: f[f.goal != "best"], "asked with goal best"),
        (lambda f: f.iloc[1:], "chosen responses asked with goal none"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "two rows for chosen asked with goal none"),
        (lambda f: f.assign(logp_policy=f.logp_policy.where(f.index != 3)), "pair 'p0' hold a number that is not"),
    ],
)
def test_what_is_missing_is_named(spoil, message):
    with pytest.raises(DataError, match=message):
        summarise(spoil(likelihoods(PAIRS)))


def test_per_token_divides_each_change_by_its_tokens():
    frame = likelihoods(PAIRS)
    frame["tokens"] = np.where(frame.pair_id == "p0", 10, 4)
    scores = summarise(frame)
    high = value(scores, "none", "delta_logp_per_token_rejected_high")
    assert high.value == pytest.approx((-3.0 / 10 - 0.5 / 4) / 2)
    assert value(scores, "none", "delta_logp_per_token_chosen").value == pytest.approx((-0.1 - 0.5 + 0.75) / 3)


def test_slopes_are_scipys_and_statsmodels():
    import statsmodels.api as sm
    from scipy import stats

    pairs = random_pairs(80)
    frame = likelihoods(pairs)
    rng = np.random.default_rng(1)
    lengths = dict(zip(frame.pair_id.unique(), rng.integers(5, 60, 80), strict=True))
    frame["tokens"] = frame.pair_id.map(lengths)
    scores = summarise(frame)
    rejected = np.array([p["score_rejected"] for p in pairs])
    gap = np.array([p["score_chosen"] for p in pairs]) - rejected
    change = np.array([p["delta"]["rejected", "best"] for p in pairs])
    margin = np.array([p["delta"]["chosen", "best"] for p in pairs]) - change
    assert value(scores, "best", "rejected_delta_per_score").value == pytest.approx(
        stats.linregress(rejected, change).slope
    )
    line = stats.linregress(gap, margin)
    assert value(scores, "best", "margin_per_score_gap").value == pytest.approx(line.slope)
    assert value(scores, "best", "margin_at_equal_scores").value == pytest.approx(line.intercept)
    design = sm.add_constant(np.column_stack([rejected, list(lengths.values())]))
    fit = sm.OLS(change, design).fit(cov_type="HC1")
    given = value(scores, "best", "rejected_delta_per_score_given_tokens")
    assert (given.value, given.stderr) == pytest.approx((fit.params[1], fit.bse[1]))
    assert value(scores, "best", "rejected_delta_per_token_of_length").value == pytest.approx(fit.params[2])


def test_a_length_that_never_varies_is_no_covariate_and_that_is_said():
    scores = summarise(likelihoods(random_pairs(20)))  # all of 5 tokens
    assert not [r for r in scores.results if r.metric.endswith("given_tokens")]
    assert any("rejected_delta_per_score_given_tokens" in note for note in scores.notes)


def test_pairs_of_one_prompt_are_one_cluster():
    frame = likelihoods(random_pairs(40))
    alone = value(summarise(frame), "none", "delta_logp_chosen")
    doubled = pd.concat([frame, frame.assign(pair_id=frame.pair_id + "again")])
    shared = value(summarise(doubled.assign(prompt_id=doubled.pair_id.str.removesuffix("again"))), "none", alone.metric)
    assert (shared.value, shared.stderr, shared.n) == pytest.approx((alone.value, alone.stderr, 80))


def test_responses_cut_to_length_are_counted():
    frame = likelihoods(PAIRS).assign(cut=0)
    assert not [n for n in summarise(frame).notes if "cut" in n]
    frame.loc[(frame.pair_id == "p1") & (frame.response == "chosen"), "cut"] = 3
    assert "unlearning: 1 of 6 responses were cut to the greatest length." in summarise(frame).notes


def test_where_no_prompt_leaves_room_for_a_response_max_length_is_named() -> None:
    rows = [
        {"pair_id": "a", "response": response, "goal": goal, "score": 5.0, "tokens": 0, "cut": 9, "logp_policy": 0.0,
         "logp_reference": 0.0}
        for response in ("chosen", "rejected") for goal in ("none", "best", "chosen", "rejected")
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"1 of 1 held-out pairs were left out: .*None is left: raise max_length"):
        summarise(pd.DataFrame(rows))
