"""Displacement, calibration, reward against KL, and style, against scipy, scikit-learn and counting by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer
from test_contrasts import run

from radpo.benchmarks import calibration, displacement, reward_kl, style
from radpo.core.errors import DataError
from radpo.core.results import results_frame


def value(scores, subset: str, metric: str):
    (found,) = [r for r in scores.results if (r.subset, r.metric) == (subset, metric)]
    return found


# Displacement


def displaced() -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = run({"dpo": -3.0}, pairs=50).drop(columns=["variant", "seed"])
    rng = np.random.default_rng(3)
    chosen = frame[(frame.response == "chosen") & (frame.goal == "none")].set_index("pair_id")
    change = chosen.logp_policy - chosen.logp_reference
    ches = -change + rng.normal(0, 2, 50)
    return frame, pd.DataFrame(
        {"pair_id": change.index, "ches": ches.to_numpy(), "ches_normalised": rng.normal(size=50)}
    )


def test_ches_correlation_is_scipys_and_shares_are_counted():
    frame, ches = displaced()
    scores = displacement.summarise(frame, ches, resamples=200)
    wide = frame[frame.goal == "none"].assign(change=lambda f: f.logp_policy - f.logp_reference)
    wide = wide.pivot(index="pair_id", columns="response", values="change").loc[ches.pair_id]
    found = value(scores, "all", "ches_correlation")
    assert found.value == pytest.approx(stats.spearmanr(ches.ches, wide.chosen).statistic)
    assert found.value < -0.5
    assert found.stderr == pytest.approx((1 - found.value**2) / np.sqrt(50), rel=0.6)
    assert value(scores, "all", "share_both_lost").value == ((wide.chosen < 0) & (wide.rejected < 0)).mean()
    assert value(scores, "all", "delta_logp_chosen").value == pytest.approx(wide.chosen.mean())


def test_a_pair_without_its_ches_is_named():
    frame, ches = displaced()
    with pytest.raises(DataError, match=r"pair 'p\d+' has no CHES score"):
        displacement.summarise(frame, ches[1:])


# Calibration


def asked(slope: float, prompts: int = 30, goals=range(1, 13), noise: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    easy = rng.normal(0, 1, prompts)
    rows = [
        (f"q{p}", float(g), 5 + slope * (min(g, 10) - 5) + easy[p] + rng.normal(0, noise))
        for p in range(prompts)
        for g in goals
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "goal", "score"])


def test_calibration_figures_are_scipys():
    frame = asked(0.5)
    scores = calibration.summarise(frame, best_seen=10, resamples=300)
    assert value(scores, "all", "rank_correlation").value == pytest.approx(
        stats.spearmanr(frame.goal, frame.score).statistic
    )
    assert value(scores, "all", "slope").value == pytest.approx(stats.linregress(frame.goal, frame.score).slope)
    means = frame.groupby("goal").score.mean()
    assert value(scores, "all", "monotone_share").value == pytest.approx((np.diff(means) > 0).mean())
    assert value(scores, "all", "calibration_error").value == pytest.approx((means - means.index).abs()[:10].mean())
    assert value(scores, "goal 7", "score").value == pytest.approx(means[7])


def test_extrapolation_is_the_gain_beyond_the_best_seen():
    flat = value(calibration.summarise(asked(0.8), best_seen=10, resamples=500), "all", "extrapolation")
    assert abs(flat.value) < 2.5 * flat.stderr
    frame = asked(0.8)
    frame.loc[frame.goal > 10, "score"] += 3
    gained = value(calibration.summarise(frame, best_seen=10, resamples=500), "all", "extrapolation")
    per_prompt = (
        frame[frame.goal > 10].groupby("prompt_id").score.mean() - frame[frame.goal == 10].set_index("prompt_id").score
    )
    assert gained.value == pytest.approx(per_prompt.mean())
    assert gained.stderr == pytest.approx(per_prompt.sem(), rel=0.15)
    none = calibration.summarise(asked(0.8, goals=range(1, 6)), best_seen=10, resamples=50)
    assert any("no extrapolation" in note for note in none.notes)


def test_samples_without_a_goal_stand_apart_and_unscored_ones_are_counted():
    frame = asked(0.5)
    plain = frame[frame.goal == 3].assign(goal=np.nan, score=2.0)
    frame.loc[0, "score"] = np.nan
    scores = calibration.summarise(pd.concat([frame, plain]), best_seen=10, resamples=50)
    assert value(scores, "goal none", "score").value == 2.0
    assert "calibration: 1 of 390 samples have no score." in scores.notes
    with pytest.raises(DataError, match="takes two or more"):
        calibration.summarise(plain, best_seen=10)


def test_a_policy_that_always_scores_the_same_has_no_rank_correlation():
    scores = calibration.summarise(asked(0.5).assign(score=4.0), best_seen=10, resamples=50)
    assert value(scores, "all", "slope").value == 0.0
    assert value(scores, "all", "monotone_share").value == 0.0
    assert any("same score" in note for note in scores.notes)


def test_controllability_recovers_what_moves_what():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"prompt_id": np.repeat(np.arange(100), 4)})
    for name in ("honesty", "helpfulness"):
        frame[f"goal_{name}"] = rng.integers(1, 6, 400).astype(float)
    frame["score_honesty"] = 0.8 * frame.goal_honesty + rng.normal(0, 0.5, 400)
    frame["score_helpfulness"] = 0.3 * frame.goal_honesty + 0.5 * frame.goal_helpfulness + rng.normal(0, 0.5, 400)
    found = calibration.controllability(frame).set_index(["attribute", "asked"])
    for key, truth in {
        ("honesty", "honesty"): 0.8, ("honesty", "helpfulness"): 0.0,
        ("helpfulness", "honesty"): 0.3, ("helpfulness", "helpfulness"): 0.5,
    }.items():  # fmt: skip
        assert abs(found.slope[key] - truth) < 3.5 * found.stderr[key]
    with pytest.raises(DataError, match="goal_ATTRIBUTE"):
        calibration.controllability(frame[["prompt_id"]])


# Reward against KL


def drawn(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 40, n)
    policy = -rng.gamma(2, 1, n) * tokens
    return pd.DataFrame(
        {
            "prompt_id": [f"q{k // 3}" for k in range(n)], "sample": [k % 3 for k in range(n)], "text": "x",
            "tokens": tokens, "ended": tokens < 30, "logp_policy": policy,
            "logp_reference": policy - rng.normal(1, 2, n), "score": rng.integers(1, 11, n).astype(float),
        }
    )  # fmt: skip


def test_kl_entropy_and_score_are_means_and_ratios_over_samples():
    frame = drawn()
    scores = reward_kl.summarise(frame, resamples=3000)
    ratio = frame.logp_policy - frame.logp_reference
    assert value(scores, "all", "kl").value == pytest.approx(ratio.mean())
    assert value(scores, "all", "kl_per_token").value == pytest.approx(ratio.sum() / frame.tokens.sum())
    per_token = value(scores, "all", "entropy_per_token")
    assert per_token.value == pytest.approx(-frame.logp_policy.sum() / frame.tokens.sum())
    # The delta method for a ratio of means, clustered by prompt.
    rest = (-frame.logp_policy - per_token.value * frame.tokens).groupby(frame.prompt_id).sum()
    delta = np.sqrt(len(rest) / (len(rest) - 1) * (rest**2).sum()) / frame.tokens.sum()
    assert per_token.stderr == pytest.approx(delta, rel=0.1)
    shares = [r for r in scores.results if r.metric == "share_scored"]
    assert sum(r.value for r in shares) == pytest.approx(1.0)
    assert value(scores, "score [9,10]", "share_scored").value == pytest.approx((frame.score >= 9).mean())
    cut = int((~frame.ended).sum())
    assert f"reward-kl: {cut} of 60 samples were cut before they ended; so are KL and entropy." in scores.notes
    assert len(scores.examples) == 60


def test_samples_without_a_score_are_said():
    frame = drawn()
    frame.loc[:3, "score"] = np.nan
    scores = reward_kl.summarise(frame, resamples=50)
    assert value(scores, "all", "score").n == 56
    assert "reward-kl: 4 of 60 samples have no score." in scores.notes
    with pytest.raises(DataError, match="lack score"):
        reward_kl.summarise(frame.drop(columns="score"))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_frontier_is_what_no_other_point_beats(places):
    points = pd.DataFrame(places, columns=["kl", "score"]).astype(float)
    found = reward_kl.frontier(points)
    for row in found.itertuples():
        beaten = (
            (points.kl <= row.kl) & (points.score >= row.score) & ((points.kl < row.kl) | (points.score > row.score))
        )
        if row.on_frontier:
            assert not beaten.any()
        else:
            assert beaten.any() or ((points.kl == row.kl) & (points.score == row.score)).sum() > 1


def test_points_pair_kl_and_score_of_a_variant_with_its_beta():
    place = {"model": "m", "benchmark": "reward-kl", "subset": "all", "stderr": 0.1, "n": 5, "higher_is_better": None,
             "primary": False}  # fmt: skip
    rows = [
        {**place, "variant": v, "seed": 0, "metric": m, "value": x}
        for v, kl, score in (("base", 0.0, 5.0), ("b01", 3.0, 7.0))
        for m, x in (("kl", kl), ("score", score))
    ]
    found = reward_kl.points(results_frame(rows), {"b01": 0.1}).set_index("variant")
    assert (found.kl["b01"], found.score["b01"], found.beta["b01"]) == (3.0, 7.0, 0.1)
    assert np.isnan(found.beta["base"])
    with pytest.raises(DataError, match="reward-kl"):
        reward_kl.points(results_frame(rows[:1]), {})


# Style

TEXTS = [
    "The cat sat on the mat, the cat sat on the mat.",
    "I'm sorry, but I can't help with that.",
    "Yes",
    "",
    "one two three four five",
]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_n_is_scikit_learns_count_of_ngrams(n):
    texts = [text for text in TEXTS if text]
    counts = CountVectorizer(ngram_range=(n, n), token_pattern=r"\w+(?:['’-]\w+)*").fit_transform(texts)
    assert style.distinct(texts, n) == pytest.approx(counts.shape[1] / counts.sum())


def test_repetition_is_the_share_of_ngrams_seen_before():
    words = ["a", "b", "c", "d", "a", "b", "c", "d"]
    assert style.repetition(words, 4) == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert style.repetition(list("abcdefg"), 4) == 0
    assert np.isnan(style.repetition(["a"], 4))


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I’m sorry, but no.", True),
        ("As an AI language model, I have no taste.", True),
        ("Sure! I cannot wait to tell you.", True),  # a known false alarm of prefixes
        ("Here is a poem about being sorry." + " word" * 40 + " I cannot", False),
        ("", False),
    ],
)
def test_refusals_begin_as_refusals_do(text, refuses):
    assert style.refuses(text) is refuses


def test_style_is_compared_prompt_by_prompt_and_wins_by_length():
    frame = pd.DataFrame(
        {
            "prompt_id": list("abcd"),
            "output": ["one two", "one two three four", "I cannot do that", "w " * 30],
            "baseline_output": ["one two", "one", "yes I can", "w " * 10],
            "win": [0.5, 1.0, 0.0, 1.0],
        }
    )
    scores = style.summarise(frame, resamples=200)
    assert value(scores, "all", "words_difference").value == np.mean([0, 3, 1, 20])
    assert value(scores, "all", "refusal_rate_difference").value == 0.25
    assert value(scores, "length [0.8,1.25)", "win_rate").value == 50
    assert value(scores, "length [2,inf)", "win_rate").value == 100
    assert value(scores, "length [1.25,2)", "win_rate").value == 0
    assert scores.notes == ("style: repetition_4 leaves out 1 of 4 answers, which have fewer than four words.",)
    with pytest.raises(DataError, match="no answers"):
        style.summarise(frame[:0])


def test_preferences_of_alpaca_eval_are_wins():
    examples = pd.DataFrame(
        {
            "benchmark": ["alpaca-eval", "mt-bench"], "metric": ["preference", "score"], "example_id": ["1", "2"],
            "output": ["a", "b"], "baseline_output": ["c", None], "value": [1.5, 7.0],
        }
    )  # fmt: skip
    assert style.from_examples(examples).to_dict("records") == [
        {"prompt_id": "1", "output": "a", "baseline_output": "c", "win": 0.5}
    ]


def test_calibration_compares_goal_and_score_on_the_datas_own_scale() -> None:
    """A judge's 1 to 10 on a scale of 0 to 4: who gives exactly what is asked for makes no error."""
    frame = pd.DataFrame(
        [
            {"prompt_id": f"p{prompt}", "goal": float(goal), "score": 1 + 9 * min(goal, 4) / 4, "tokens": 3}
            for prompt in range(12)
            for goal in (0, 1, 2, 3, 4, 6)
        ]
    )
    scores = calibration.summarise(frame, best_seen=4.0, scale=(0.0, 4.0), resamples=50)
    assert value(scores, "all", "calibration_error").value == pytest.approx(0, abs=1e-12)
    assert value(scores, "goal 3", "score").value == pytest.approx(3)
    assert "calibration: the judge's scores of 1-10 were moved to the goals' scale of 0-4." in scores.notes
    assert calibration.usual_goals((0.0, 4.0)) == (0, 1, 2, 3, 4, 6)
    assert calibration.usual_goals((1.0, 10.0)) == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
