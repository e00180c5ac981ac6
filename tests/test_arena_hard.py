"""Arena-Hard scores equal the published ones, and the fits equal those of statsmodels."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import warm_commands
from hypothesis import given, settings
from hypothesis import strategies as st

from radpo.benchmarks.answers import Answered, ModelAnswers, load_model_answers
from radpo.benchmarks.arena_hard import (
    Battles,
    bradley_terry,
    load_battles,
    load_judgments,
    score,
    scores,
)
from radpo.benchmarks.arena_style import (
    load_answer_folder,
    markdown_counts,
    style_features,
)
from radpo.core.errors import DataError


def published(real_data) -> pd.DataFrame:
    return pd.read_csv(real_data / "arena_hard_v0.1" / "arena_hard_leaderboard_20240731.csv").set_index("model")


@pytest.fixture(scope="module")
def battles(real_data) -> Battles:
    return load_battles(real_data / "arena_hard_v0.1" / "battles.jsonl.gz")


def test_scores_and_intervals_equal_the_published_ones(real_data, battles):
    found, rows = score(battles, rounds=400), published(real_data)
    for model, shown in (("gpt-4-0613", 37.9), ("gpt-3.5-turbo-0125", 23.34)):
        assert round(found[model].score, 2) == shown
        # The published ends are percentiles of 100 resamples and so lie within a percentage point of their own rerun.
        assert found[model].ci_low == pytest.approx(rows.loc[model, "rating_q025"], abs=0.8)
        assert found[model].ci_high == pytest.approx(rows.loc[model, "rating_q975"], abs=0.8)
    assert list(found) == sorted(found, key=lambda name: -found[name].score)


def test_a_score_against_one_baseline_is_the_share_of_games_won_ties_half(battles):
    shares = battles.frame.groupby("model").apply(
        lambda part: np.average(part["score"], weights=part["weight"]), include_groups=False
    )
    for model, of in score(battles, rounds=10).items():
        assert of.score == pytest.approx(100 * shares[model], abs=1e-4)


def test_bootstrap_interval_equals_the_closed_form_of_a_share():
    frame = pd.DataFrame(
        [{"question_id": str(n), "model": "m", "game": 1, "score": float(n % 4 == 0), "weight": 1} for n in range(400)]
    )
    (of,) = score(Battles(frame, "base", "v0.1", {}), rounds=2000).values()
    half = 1.96 * 100 * np.sqrt(0.25 * 0.75 / 400)
    assert of.score == pytest.approx(25.0, abs=1e-6)
    assert (of.ci_low, of.ci_high) == (pytest.approx(25 - half, abs=0.4), pytest.approx(25 + half, abs=0.4))
    (ninety,) = score(Battles(frame, "base", "v2.0", {}), rounds=2000).values()
    assert ninety.ci_high - ninety.ci_low < 0.9 * (of.ci_high - of.ci_low)


def test_bradley_terry_equals_statsmodels_with_and_without_style():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    design = np.hstack([np.eye(3)[rng.integers(0, 3, 300)], rng.normal(size=(300, 2))])
    outcome = rng.choice([0.0, 0.5, 1.0], size=300)
    counts = rng.integers(1, 4, 300).astype(float)
    direct = sm.GLM(outcome, design, family=sm.families.Binomial(), freq_weights=counts).fit(tol=1e-12)
    assert bradley_terry(design, outcome, counts) == pytest.approx(direct.params, abs=1e-5)


def test_without_style_the_regression_is_the_share_of_games_won(battles):
    codes, names = pd.factorize(battles.frame["model"])
    fitted = bradley_terry(
        np.eye(len(names))[codes], battles.frame["score"].to_numpy(), battles.frame["weight"].to_numpy(dtype=float)
    )
    found = score(battles, rounds=10)
    for name, log_odds in zip(names, fitted, strict=True):
        assert found[name].score == pytest.approx(100 / (1 + np.exp(-log_odds)), abs=1e-4)


def test_a_model_that_never_won_scores_nothing():
    frame = pd.DataFrame([{"question_id": "1", "model": "m", "game": 1, "score": 0.0, "weight": 1}] * 5)
    (of,) = score(Battles(frame, "base", "v0.1", {}), rounds=10).values()
    assert (of.score, of.ci_low, of.ci_high) == (0.0, 0.0, 0.0)


def judged(tmp_path, rows, name="m.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def games(first, second):
    return [{"score": first}, {"score": second}]


def test_v01_verdicts_swap_with_the_order_and_strong_ones_count_three_times(tmp_path):
    rows = [
        {"question_id": "1", "model": "m", "games": games("A>>B", "B>A")},
        {"question_id": "2", "model": "m", "games": games("B>A", "A=B")},
        {"question_id": "3", "model": "m", "games": games("None", "A<B")},
    ]
    found = load_judgments([judged(tmp_path, rows)])
    assert found.baseline == "gpt-4-0314"
    assert found.frame[["game", "score", "weight"]].values.tolist() == [[1, 0, 3], [2, 0, 1], [1, 1, 1], [2, 0.5, 1]]
    assert found.unparsed == {"m": 2}
    (of,) = score(found, rounds=10).values()
    assert of.score == pytest.approx(100 * 1.5 / 6, abs=1e-4)
    assert (of.n_battles, of.n_unparsed) == (6, 2)


def test_v2_leaves_out_both_games_and_takes_labels_the_other_way_round(tmp_path):
    rows = [
        {"uid": "1", "category": "hard_prompt", "model": "m", "games": games("A<<B", "A>B")},
        {"uid": "2", "category": "hard_prompt", "model": "m", "games": games(None, "A>B")},
        {"uid": "3", "category": "creative_writing", "model": "m", "games": games("A>B", "A>B")},
    ]
    path = judged(tmp_path, rows)
    with pytest.raises(DataError, match="2 categories"):
        load_judgments([path])
    found = load_judgments([path], category="hard_prompt")
    assert (found.baseline, found.version) == ("o3-mini-2025-01-31", "v2.0")
    assert found.frame[["game", "score", "weight"]].values.tolist() == [[1, 1, 3], [2, 1, 1]]
    assert found.unparsed == {"m": 2}
    assert load_judgments([path], category="creative_writing").baseline == "gemini-2.0-flash-001"


def test_a_judgment_that_is_there_twice_counts_once_and_two_that_differ_are_refused(tmp_path):
    row = {"question_id": "1", "model": "m", "judge": "j", "games": games("A>>B", "B>A")}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [row, row, {**row, "model": "n"}])))
    (tmp_path / "b.jsonl").write_text(json.dumps(row))
    once = load_judgments([tmp_path / "b.jsonl"]).frame
    both = load_judgments([tmp_path]).frame
    pd.testing.assert_frame_equal(both[both["model"] == "m"].reset_index(drop=True), once)
    assert len(both) == 2 * len(once)
    (tmp_path / "b.jsonl").write_text(json.dumps({**row, "judge": "another"}))
    assert len(load_judgments([tmp_path]).frame) == 3 * len(once)
    (tmp_path / "b.jsonl").write_text(json.dumps({**row, "games": games("A>B", "B>A")}))
    with pytest.raises(DataError, match=r"b.jsonl.*question '1' of m is judged again, and not as in .*a.jsonl"):
        load_judgments([tmp_path])


def test_released_partial_judgments_give_what_their_labels_say(real_data):
    folder = real_data / "arena_hard_v0.1" / "model_judgment_partial"
    found = load_judgments([folder])
    counted = score(found, rounds=10)
    assert {of.n_unparsed for of in counted.values()} == {19}
    model = "Llama-3-Base-8B-TR_KTO-Alpha_0.6-UltraFeedback"
    # Counted by hand from the labels' table: (baseline's label first, model's second) -> games.
    assert counted[model].n_battles == 569


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": "1", "games": games("A>B", "A>B")}, "needs question_id"),
        ({"question_id": "1", "model": "m", "games": [{"score": "A>B"}]}, "a list of two"),
        ({"question_id": "1", "model": "m", "games": games("?", "?")}, "holds a verdict"),
    ],
)
def test_bad_judgments_are_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        load_judgments([judged(tmp_path, [row])])


def test_bad_battles_are_named(tmp_path):
    good = {"question_id": "1", "model_a": "a", "model_b": "b", "winner": "model_a"}
    with pytest.raises(DataError, match="winner 'c' is none of"):
        load_battles(judged(tmp_path, [{**good, "winner": "c"}]))
    with pytest.raises(DataError, match="say which is the baseline"):
        load_battles(judged(tmp_path, [good]))
    assert load_battles(judged(tmp_path, [good]), "b").frame["score"].tolist() == [1.0]
    with pytest.raises(DataError, match="is not in every battle"):
        load_battles(judged(tmp_path, [good]), "c")


def test_style_control_finds_a_model_even_that_only_wins_by_length():
    rng = np.random.default_rng(1)
    rows, ours, theirs = [], {}, {}
    for number in range(600):
        here, there = int(rng.integers(200, 900)), int(rng.integers(50, 700))
        chance = 1 / (1 + np.exp(-4 * (here - there) / (here + there)))
        rows.append(
            {"question_id": str(number), "model": "m", "game": 1, "score": float(rng.random() < chance), "weight": 1}
        )
        ours[str(number)], theirs[str(number)] = Answered(("x",), here), Answered(("y",), there)
    found = Battles(pd.DataFrame(rows), "base", "v0.1", {})
    answers = {"m": ModelAnswers("m", ours), "base": ModelAnswers("base", theirs)}
    features, note = style_features(found.frame, found.baseline, answers)
    assert "tokens" in note
    (plain,), (controlled,) = score(found, rounds=10).values(), score(found, rounds=60, style=features).values()
    assert plain.score > 60
    # Standardised features put "no difference" at the average game; the model's own edge there is what length gave it.
    raw = (np.array([a.tokens for a in ours.values()]) - [a.tokens for a in theirs.values()]) / (
        np.array([a.tokens for a in ours.values()]) + [a.tokens for a in theirs.values()]
    )
    assert features[:, 0] == pytest.approx((raw - raw.mean()) / raw.std())
    assert features[:, 1:] == pytest.approx(0)
    assert controlled.score == pytest.approx(100 / (1 + np.exp(-4 * raw.mean())), abs=6)


def test_style_is_measured_on_all_formats_of_answers(real_data, tmp_path):
    answers = load_answer_folder(real_data / "arena_hard_v0.1" / "model_answer")
    assert {len(of.by_question) for of in answers.values()} == {500}
    tokens = {name: next(iter(of.by_question.values())).tokens is not None for name, of in answers.items()}
    assert tokens.pop("Llama-3-Base-8B-DPO-UltraFeedback")
    assert not any(tokens.values())
    v2 = {"uid": "u", "model": "m", "messages": [{"content": {"answer": "text"}}], "metadata": {"token_len": 7}}
    assert load_model_answers(judged(tmp_path, [v2])).by_question["u"] == Answered(("text",), 7)
    ours = load_model_answers(judged(tmp_path, [{"question_id": "q", "turns": ["text"]}], "mine.jsonl"))
    assert (ours.model, ours.by_question["q"].turns) == ("mine", ("text",))
    with pytest.raises(DataError, match="line 1: an answer needs"):
        load_model_answers(judged(tmp_path, [{"uid": "u"}]))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="#*-+1. \n\t`_ab", max_size=80))
def test_markdown_is_counted_as_the_releases_regular_expressions_count_it(text):
    plain = re.sub(r"```([^`]*)```", "", text)
    headers = sum(len(re.findall(rf"^#{{{level}}}\s", plain, re.MULTILINE)) for level in range(1, 7))
    lists = len(re.findall(r"^\s*\d+\.\s", plain, re.MULTILINE)) + len(re.findall(r"^\s*[-*+]\s", plain, re.MULTILINE))
    bold = len(re.findall(r"\*\*[^*\n]+\*\*", plain)) + len(re.findall(r"__[^_\n]+__", plain))
    assert markdown_counts(text) == (headers, lists, bold)


def test_scores_are_results_and_examples(battles):
    found = score(battles, rounds=50)
    shown = scores(battles, found, "gpt-4-0613")
    (result,) = shown.results
    assert (result.metric, result.primary, round(result.value, 1)) == ("score", True, 37.9)
    assert result.stderr == pytest.approx(1.2, abs=0.3)
    assert len(shown.examples) == battles.frame.query("model == 'gpt-4-0613'")["question_id"].nunique()
    assert "95% bootstrap interval" in shown.notes[0]


def test_the_command_prints_the_benchmarks_own_names(real_data):
    file = str(real_data / "arena_hard_v0.1" / "battles.jsonl.gz")
    command = ["-m", "radpo", "eval", "arena-hard", "--battles", file, "--rounds", "20", "--json"]
    one = json.loads(warm_commands.run([*command, "--only", "gpt-4-0613"]).stdout)
    assert {"score", "ci_low", "ci_high", "n_battles", "n_unparsed", "baseline", "confidence"} <= one.keys()
    assert round(one["score"], 1) == 37.9
    wrong = warm_commands.run([*command, "--only", "gpt-9"])
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "gpt-3.5-turbo-0125" in wrong.stderr
