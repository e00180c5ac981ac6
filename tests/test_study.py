"""The testbed: its scores are the verifier's, its verdicts follow their rule, and all of it runs as a command."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import DataError
from radpo.judges.base import GradeRequest
from radpo.judges.verifier import Verifier
from radpo.models.loading import load_tokenizer
from radpo.preferences.goals import condition, goal_text
from radpo.preferences.preferences import Reading, load_preferences
from radpo.preferences.questions import load_questions
from radpo.report.svg import Point, Series, chart
from radpo.stats.estimates import Estimate, mean

STUDY = Path(__file__).parents[1] / "benchmarks" / "study"
sys.path.insert(0, str(STUDY))

import claims  # noqa: E402
import pretrain  # noqa: E402
import study  # noqa: E402
import task  # noqa: E402
import testbed  # noqa: E402
from verdicts import Experiment, Figure, judge, near_equal_shares, values, verdict  # noqa: E402

seeds = st.integers(0, 2**32)


def verified(words: tuple[str, ...], response: tuple[str, ...]) -> float | None:
    request = GradeRequest(
        [{"role": "user", "content": task.prompt_text(words)}],
        " ".join(response),
        {"constraints": task.constraints(words)},
    )
    return Verifier().grade([request])[0].score


@given(seeds, st.integers(1, task.BEST))
def test_a_response_scores_what_was_wanted_by_the_formula_and_by_the_verifier(seed: int, wanted: int) -> None:
    chance = random.Random(seed)
    words = task.draw_words(chance)
    response = task.draw_response(words, wanted, chance)
    assert len(words) == len(set(words)) == len(response) == task.ASKED
    assert task.score(words, response) == wanted
    assert verified(words, response) == pytest.approx(wanted, abs=1e-9)


@given(seeds)
def test_what_the_untrained_speaker_says_scores_what_the_verifier_gives(seed: int) -> None:
    chance = random.Random(seed)
    words = task.draw_words(chance)
    said = task.speak(words, chance)
    assert verified(words, said) == pytest.approx(task.score(words, said), abs=1e-9)


@given(seeds, st.sampled_from([0.0, 1.0, 4.0]), st.integers(3, task.BEST))
def test_a_rater_prefers_what_it_scores_higher_and_noise_leaves_the_texts_alone(
    seed: int, noise: float, best: int
) -> None:
    exact = task.draw_pairs(5, str(seed), best=best)
    noisy = task.draw_pairs(5, str(seed), best=best, noise=noise)
    for pair in noisy:
        assert task.BEST >= pair.scores[0] > pair.scores[1] >= 1
    for pair in exact:
        assert [task.score(pair.words, response) for response in pair.responses] == list(pair.scores)
        assert pair.scores[0] <= best
    rated = {pair.words: set(pair.responses) for pair in noisy}
    assert all(rated[pair.words] == set(pair.responses) for pair in exact if pair.words in rated)
    if noise == 0:
        assert noisy == exact


def test_noise_turns_preferences_round_as_often_as_the_normal_distribution_says() -> None:
    from scipy.stats import norm

    chance, words = random.Random(0), tuple(task.WORDS[: task.ASKED])
    pair = task.Pair(words, (("a",), ("b",)), (6, 5))
    rated = [task.rated(pair, 1.0, chance) for _ in range(20_000)]
    turned = sum(found is not None and found.responses[0] == ("b",) for found in rated) / len(rated)
    # The difference of two rounded scores is below 0: sum over whole scores of P(second = k) P(first < k).
    inside = [norm.cdf(k + 0.5, 5) - norm.cdf(k - 0.5, 5) for k in range(-4, 16)]
    expected = sum(p * norm.cdf(k - 0.5, 6) for k, p in zip(range(-4, 16), inside, strict=True))
    assert turned == pytest.approx(expected, abs=0.01)


def test_pairs_and_questions_are_files_that_radpo_reads(tmp_path: Path) -> None:
    pairs = task.draw_pairs(20, "some")
    task.write_pairs(pairs, tmp_path / "pairs.jsonl")
    task.write_questions(3, "others", tmp_path / "questions.jsonl")
    read = load_preferences(tmp_path / "pairs.jsonl", Reading((1, 10))).table.to_pylist()
    assert [(row["score_chosen"], row["score_rejected"]) for row in read] == [pair.scores for pair in pairs]
    assert [row["chosen"].split() for row in read] == [list(pair.responses[0]) for pair in pairs]
    questions = load_questions(tmp_path / "questions.jsonl")
    assert [len(question.constraints[0]) for question in questions] == [task.ASKED] * 3


@settings(max_examples=25)
@given(seeds, st.one_of(st.integers(1, 10), st.floats(1, 10).map(lambda goal: round(goal, 2))))
def test_the_tokenizer_knows_every_word_and_gives_texts_back(seed: int, goal: float) -> None:
    tokenizer = TOKENIZER
    chance = random.Random(seed)
    words = task.draw_words(chance)
    messages = condition([{"role": "user", "content": task.prompt_text(words)}], goal, "system")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert "<unk>" not in tokens
    said = task.speak(words, chance)
    assert tokenizer.decode(tokenizer(" ".join(said))["input_ids"]) == " ".join(said)
    whole = goal_text(goal).rsplit(" ", 1)[0]
    assert tokens[:2] == ["<system>", whole], "the paper's sentence is one token"
    assert "".join(tokens[2 : tokens.index("<user>")]) == goal_text(goal).rsplit(" ", 1)[1]


TOKENIZER = pretrain.make_tokenizer()


def test_pretraining_shows_goals_that_say_nothing_of_the_answer() -> None:
    chance = random.Random(0)
    drawn = [pretrain.draw_conversation(chance) for _ in range(4000)]
    goals, scores = [], []
    for messages, answer in drawn:
        said = messages[-1]["content"]
        if messages[0]["role"] == "system" and said.startswith("Say these words"):
            goals.append(int(messages[0]["content"].rsplit(" ", 1)[1].rstrip(".")))
            scores.append(task.score(said.removeprefix("Say these words: ").split(), answer.split()))
    from scipy.stats import spearmanr

    assert len(goals) > 1000
    assert abs(spearmanr(goals, scores).statistic) < 3 / len(goals) ** 0.5
    assert set(scores) >= set(range(1, 9)), "the untrained speaker answers with every quality but the best"


# --- verdicts


def estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value, None, low, high, 5, 5)


@pytest.mark.parametrize(
    ("value", "low", "high", "told"),
    [
        (1.0, 0.8, 1.2, "supported"),
        (0.6, 0.1, 1.1, "supported"),  # reaches the smallest that matters, above 0
        (0.6, -0.1, 1.3, "unclear at this scale"),  # may be nothing
        (0.2, 0.1, 0.3, "not supported"),  # there, but too small to matter
        (0.4, 0.1, 0.7, "unclear at this scale"),  # there, and may or may not matter
        (-1.0, -1.2, -0.8, "not supported"),
        (0.0, -0.4, 0.4, "not supported"),
        (0.0, -0.6, 0.6, "unclear at this scale"),
        (1.0, None, None, "unclear at this scale"),
    ],
)
def test_the_verdict_follows_from_interval_and_smallest_effect(
    value: float, low: float | None, high: float | None, told: str
) -> None:
    assert verdict(estimate(value, low, high), 0.5, seeds=5) == told
    assert verdict(estimate(value, low, high), 0.5, seeds=4) == "unclear at this scale", "too few seeds"


@given(st.floats(-5, 5), st.floats(0.01, 3), st.floats(0.01, 2))
def test_no_interval_is_both_supported_and_excluded_and_worse_is_never_better(
    value: float, width: float, smallest: float
) -> None:
    order = ["not supported", "unclear at this scale", "supported"]
    here = order.index(verdict(estimate(value, value - width, value + width), smallest, 5))
    above = order.index(verdict(estimate(value + 1, value + 1 - width, value + 1 + width), smallest, 5))
    assert above >= here


OURS = Figure("main", "ra-dpo", "calibration", "goal 10", "score")
THEIRS = Figure("main", "dpo", "calibration", "goal none", "score")


def results(**by_variant: list[float]) -> pd.DataFrame:
    rows = []
    for variant, found in by_variant.items():
        figure = OURS if variant == "ra_dpo" else THEIRS
        rows += [{**vars(figure), "seed": seed, "value": value} for seed, value in enumerate(found)]
    return pd.DataFrame(rows)


def test_effects_are_paired_by_seed_with_students_interval() -> None:
    from scipy import stats

    ours, theirs = [5.0, 6.0, 7.5, 8.0, 9.0], [4.0, 5.5, 6.0, 7.0, 7.5]
    frame = results(ra_dpo=ours, dpo=theirs).sample(frac=1, random_state=0)
    asked = [Experiment("c", "w", OURS, THEIRS, 0.5, "points", decides=True), Experiment("c", "v", OURS, 7.0, 0.5, "p")]
    table = judge(asked, frame)
    theirs_to_say = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert table.loc[0, "effect"] == pytest.approx(1.1)
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([theirs_to_say.low, theirs_to_say.high])
    assert table.loc[0, "verdict"] == "supported"
    assert table.loc[1, "effect"] == pytest.approx(0.1)
    against_seven = stats.ttest_1samp(ours, 7.0).confidence_interval(0.95)
    assert table.loc[1, ["low", "high"]].tolist() == pytest.approx([against_seven.low - 7, against_seven.high - 7])
    assert table["seeds"].tolist() == [5, 5]


def test_deciding_rows_are_adjusted_for_their_number_and_others_are_not() -> None:
    from scipy import stats

    from radpo.stats.estimates import holm

    ours, theirs = [5.0, 6.0, 7.5, 8.0, 9.0], [4.0, 5.5, 6.0, 7.0, 8.8]
    frame = results(ra_dpo=ours, dpo=theirs)
    clear = Experiment("c", "w", OURS, THEIRS, 0.5, "points", decides=True)
    also = [Experiment(f"d{n}", "v", OURS, 7.0 + n, 0.5, "points", decides=True) for n in range(5)]
    aside = Experiment("c", "u", OURS, THEIRS, 0.5, "points")
    table = judge([clear, aside, *also], frame)
    alone = [stats.ttest_rel(ours, theirs).pvalue, *(stats.ttest_1samp(ours, 7.0 + n).pvalue for n in range(5))]
    deciding = table[table["decides"]]
    assert deciding["p"].tolist() == pytest.approx(alone)
    assert deciding["p_holm"].tolist() == pytest.approx(holm(alone))
    assert table["p_holm"].isna().tolist() == [False, True, *[False] * 5]
    assert table["verdict"].tolist()[:2] == ["unclear at this scale", "supported"], (
        "one of six is not what one alone is"
    )


def test_effects_of_runs_that_share_a_model_are_over_models() -> None:
    frame = results(ra_dpo=[5.0, 5.1, 7.0, 7.1], dpo=[4.0, 4.2, 4.0, 4.3])
    crossed = frame.assign(seed_model=frame["seed"] // 2, seed_data=frame["seed"] % 2, seed_order=0)
    asked = [Experiment("c", "w", OURS, THEIRS, 0.5, "points")]
    alone, shared = judge(asked, frame), judge(asked, crossed)
    assert alone["effect"].tolist() == pytest.approx(shared["effect"].tolist())
    assert shared.loc[0, "high"] - shared.loc[0, "low"] > 3 * (alone.loc[0, "high"] - alone.loc[0, "low"])
    with pytest.raises(DataError, match="combinations of seed_model, seed_data lack"):
        judge(asked, crossed[crossed["seed"] != 3])


def test_a_missing_figure_or_seed_stops_the_table() -> None:
    asked = [Experiment("c", "w", OURS, THEIRS, 0.5, "points")]
    with pytest.raises(DataError, match="main/dpo: calibration score, goal none: not among the results"):
        judge(asked, results(ra_dpo=[1.0, 2.0]))
    with pytest.raises(DataError, match="same seeds"):
        judge(asked, results(ra_dpo=[1.0, 2.0], dpo=[1.0]))
    twice = pd.concat([results(dpo=[1.0])] * 2)
    with pytest.raises(DataError, match="more than once"):
        values(twice, THEIRS)


def likelihoods(per_point: float, constant: float) -> pd.DataFrame:
    """Pairs whose margin is constant + per_point * gap, for both goals."""
    rows: list[dict[str, Any]] = []
    for pair, (high, low) in enumerate([(5, 4), (9, 8), (9, 3), (10, 2)]):
        for goal in ("none", "best", "chosen", "rejected"):
            for response, score in (("chosen", high), ("rejected", low)):
                change = constant + per_point * (high - low) if response == "chosen" else 0.0
                rows.append(
                    {
                        "variant": "dpo", "seed": 0, "pair_id": f"p{pair}", "response": response, "goal": goal,
                        "score": float(score), "tokens": 10, "logp_policy": change - 20.0, "logp_reference": -20.0,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("per_point", "constant", "share"),
    [(1.0, 0.0, 1 / 7), (0.0, 2.0, 1.0), (1.0, 3.0, 4 / 10)],  # near pairs are 1 apart, wide ones 6 and 8
)
def test_near_equal_share_is_the_gaps_ratio_for_rewards_and_one_for_pairs_driven_apart_alike(
    per_point: float, constant: float, share: float
) -> None:
    found = near_equal_shares(likelihoods(per_point, constant))
    assert found["value"].tolist() == pytest.approx([share, share])
    assert found["subset"].tolist() == ["none", "best"]
    assert near_equal_shares(likelihoods(0.0, 0.0)).empty, "the model as it is has no margins"


def test_every_claim_has_one_experiment_that_decides_it() -> None:
    deciding = [experiment.claim for experiment in claims.EXPERIMENTS if experiment.decides]
    assert len(deciding) == len(set(deciding)) == 8
    assert {experiment.claim for experiment in claims.EXPERIMENTS} == set(deciding)
    assert all(experiment.smallest > 0 for experiment in claims.EXPERIMENTS)


def test_experiments_are_of_runs_and_variants_that_the_matrices_have() -> None:
    import yaml

    has = {
        name: set(yaml.safe_load((STUDY / f"{name}.yaml").read_text())["variants"]) for name in ("main", "companion")
    }
    for run, variant in {side for experiment in claims.EXPERIMENTS for side in experiment.takes}:
        assert run == "main" or run in testbed.COMPANIONS
        assert variant in has["main" if run == "main" else "companion"]


# --- the whole of it


def test_a_chart_shows_every_point_and_escapes_names() -> None:
    import xml.etree.ElementTree as ElementTree

    drawn = chart(
        [
            Series("a<b", "#123456", (Point(1, 2, 1.5, 2.5), Point(3, 4)), line=True),
            Series("hollow", "#654321", (Point(2, 0, None, None, 1, 3),), hollow=True),
        ],
        title="t", x="x", y="y", zero=True, diagonal=True,
    )  # fmt: skip
    tree = ElementTree.fromstring(drawn)
    space = {"s": "http://www.w3.org/2000/svg"}
    assert len(tree.findall(".//s:circle", space)) == 3 + 2, "three points, two names"
    assert "a<b" in "".join(tree.itertext())


def test_a_tuned_point_is_tuned_on_prompts_that_are_not_reported(tmp_path: Path) -> None:
    from factories import write_model

    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix

    write_model(tmp_path / "model")
    testbed.make_inputs(tmp_path, replace(testbed.TOY, companions=("noise-1",), tuned=("noise-1",)))
    assert testbed.write_matrices(tmp_path, replace(testbed.TOY, tuned=("noise-1",))) == ["main", "tuned-noise-1"]
    plan = expand(load_matrix(tmp_path / "tuned-noise-1.yaml"))  # which refuses prompts that are in both
    assert plan.tuning is not None
    assert {len(trials) for trials in plan.tuning.trials.values()} == {3}


def run_here(command: list[str], *, cwd: Path, **options: Any) -> None:
    """A command of radpo's in this process, whose workers load nothing anew."""
    assert command[:3] == [sys.executable, "-m", "radpo"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        done = CliRunner().invoke(app, command[3:], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_whole_study_runs_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = subprocess.run([sys.executable, str(STUDY / "study.py"), "--help"], capture_output=True, text=True)
    assert "--toy" in asked.stdout, asked.stderr
    words = ["--toy", "--jobs", "1", "--out", str(tmp_path)]
    words += ["--earlier", str(STUDY.parents[1] / "reports" / "study" / "claims.csv")]
    monkeypatch.setattr(sys, "argv", ["study.py", *words])
    monkeypatch.setattr(testbed, "subprocess", SimpleNamespace(run=run_here))
    study.main()
    kept = tmp_path / "study"
    assert {path.name for path in kept.iterdir()} == {
        "claims.csv", "results.parquet", "study.html", "report.html", "manifest.json", "matrix.yaml", "map.html",
        "map-cells.parquet", "map-predictions.csv", "map-repeat.csv", "claims-again.csv",
    }  # fmt: skip
    table = pd.read_csv(kept / "claims.csv")
    assert set(table["verdict"]) == {"unclear at this scale"}, "one seed decides nothing"
    frame = pd.read_parquet(kept / "results.parquet")
    assert set(frame[frame["run"] == "main"]["variant"]) == {
        "base", "dpo", "ra-dpo",
    }  # fmt: skip
    assert set(frame["run"]) == {"main", "map", "map-again"}
    predictions = pd.read_csv(kept / "map-predictions.csv")
    assert predictions.groupby("name")["run"].agg(list).map(set).map(len).eq(2).all(), "decided by other draws, too"
    scores = frame[(frame["benchmark"] == "calibration") & (frame["metric"] == "score")]["value"]
    assert scores.between(1, 10).all()
    page = (kept / "study.html").read_text()
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert json.loads((kept / "manifest.json").read_text())["seeds"] == [0]
    assert load_tokenizer(tmp_path / "model").chat_template == pretrain.TEMPLATE


def test_seed_means_are_what_the_page_says() -> None:
    from page import spoken

    found = mean([1.0, 2.0, 3.0])
    assert spoken(found) == "2.00 [-0.48, 4.48]"


@pytest.mark.parametrize(
    ("name", "last"),
    [("smollm2", "calibration"), ("smollm2-gpu", "calibration"), ("real", "academic"), ("real-gpu", "goal-inference")],
)
def test_the_matrices_of_the_real_model_expand_to_plans(name: str, last: str, bundled_model: str) -> None:
    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix

    plan = expand(load_matrix(STUDY.parent / "study" / f"{name}.yaml"))
    assert plan.matrix.model == bundled_model
    assert len(plan.cells) == len(plan.matrix.variants) * len(plan.matrix.seeds)
    assert {stage.name.partition("/")[0] for stage in plan.stages} >= {"train", "unlearning", last}
