"""MT-Bench figures equal FastChat's on published judgments, and both turns are graded as FastChat grades them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest

from radpo.benchmarks.mt_bench import Judgment, grade, load_judgments, score, scores
from radpo.core.errors import DataError
from radpo.judges.base import Grade
from radpo.preferences.questions import Question
from radpo.stats.estimates import mean


@dataclass(frozen=True)
class WordJudge:
    """Grades a response by its number of words; an empty one it cannot grade."""

    name: str = "words"

    def grade(self, requests, progress=None):
        return [Grade(float(len(r.response.split())) or None, json.dumps(list(r.prompt))) for r in requests]


def questions() -> list[Question]:
    constraints = (({"kind": "k", "turn": 1},), ({"kind": "k", "turn": 2},))
    return [Question(f"q{i}", "ab"[i % 2], (f"First {i}", f"Then {i}"), constraints) for i in range(3)]


ANSWERS = {"q0": ("a b", "a b c d"), "q1": ("a", "a b c"), "q2": ("a b c", "")}


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("claude-3-opus-20240229", 8.675),
        ("claude-3-5-sonnet-20240620", 9.206),
        ("llama2_chat_7b", 6.191),
        ("mistral-orpo-capybara", 6.819),
    ],
)
def test_score_equals_the_published_one(real_data, model, published):
    folder = real_data / "mt_bench"
    judgments = load_judgments(folder / "model_judgment" / f"gpt-4_single.{model}.jsonl.gz", folder / "question.jsonl")
    found = score(judgments)
    assert round(found.score, 3) == published
    assert found.score == pytest.approx((found.first_turn + found.second_turn) / 2)
    assert set(found.by_category) == {
        "writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities",
    }  # fmt: skip


def test_unparsed_judgments_are_left_out_and_repeated_ones_count(real_data):
    path = real_data / "mt_bench" / "model_judgment" / "gpt-4_single.mistral-orpo.jsonl.gz"
    judgments = load_judgments(path)
    found, given = score(judgments), scores(judgments)
    assert (found.n, found.n_unparsed) == (319, 1)
    kept = [j.score for j in judgments if j.score != -1]
    assert found.score == pytest.approx(sum(kept) / 319)
    assert len({e.example_id for e in given.examples}) == 319
    assert "1 of 320 judgments could not be parsed" in given.notes[0]


def test_second_turn_is_graded_with_the_conversation_so_far():
    judgments = grade(questions(), ANSWERS, WordJudge())
    assert [(j.question_id, j.turn, j.score) for j in judgments[:2]] == [("q0", 1, 2.0), ("q0", 2, 4.0)]
    assert [m["content"] for m in json.loads(judgments[0].reason)] == ["First 0"]
    assert [(m["role"], m["content"]) for m in json.loads(judgments[1].reason)] == [
        ("user", "First 0"), ("assistant", "a b"), ("user", "Then 0"),
    ]  # fmt: skip


def test_each_turn_has_its_own_constraints():
    seen = []

    class Watching(WordJudge):
        def grade(self, requests, progress=None):
            seen.extend(requests)
            return super().grade(requests)

    grade(questions(), ANSWERS, Watching())
    assert [r.reference["constraints"][0]["turn"] for r in seen] == [1, 2] * 3


def test_an_ungraded_turn_scores_minus_one_and_is_left_out():
    judgments = grade(questions(), ANSWERS, WordJudge())
    assert judgments[-1].score == -1
    found = score(judgments)
    assert (found.score, found.first_turn, found.second_turn) == (pytest.approx(13 / 5), 2.0, 3.5)
    assert (found.n, found.n_unparsed) == (5, 1)
    assert found.by_category == {"a": 3.0, "b": 2.0}


def test_nothing_parsed_is_an_error():
    with pytest.raises(DataError, match="none of 1 judgments"):
        score([Judgment("q0", "a", 1, -1.0, "")])


def test_standard_error_counts_a_question_once():
    judgments = [Judgment(f"q{i}", "a", turn, float(1 + i), "") for i in range(9) for turn in (1, 2)]
    (whole,) = [r for r in scores(judgments).results if r.primary]
    assert (whole.metric, whole.value, whole.n) == ("score", 5.0, 18)
    assert whole.stderr == pytest.approx(mean([1.0 + i for i in range(9)]).stderr)
    assert whole.stderr > 1.3 * math.sqrt(sum((j.score - 5) ** 2 for j in judgments) / 17 / 18)


def test_examples_show_turn_question_and_answer():
    asked = questions()
    given = scores(grade(asked, ANSWERS, WordJudge()), questions=asked, answers=ANSWERS, goal=10.0)
    example = given.examples[1]
    assert (example.example_id, example.subset, example.value) == ("q0/turn-2", "a", 4.0)
    assert (example.prompt, example.output) == ("Then 0", "a b c d")
    detail = json.loads(example.detail)
    assert (detail["goal"], detail["turn"], detail["question_id"]) == (10.0, 2, "q0")
    assert {r.subset: r.value for r in given.results if r.metric == "score"} == {"all": 2.6, "a": 3.0, "b": 2.0}


def test_missing_answers_are_named():
    with pytest.raises(DataError, match=r"1 of 3 questions lack.*'q1'"):
        grade(questions(), {**ANSWERS, "q1": ("only one",)}, WordJudge())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": 81, "turn": 3, "score": 5}, "line 2: a judgment needs"),
        ({"question_id": 81, "turn": 1, "score": "5"}, "line 2: a judgment needs"),
        ({"question_id": 81, "turn": 1, "score": 50}, "line 2: score 50"),
        ({"question_id": 81, "turn": 1, "score": 5, "model": "other"}, "judgments of 2 models"),
    ],
)
def test_bad_judgments_are_named(tmp_path, row, message):
    path = tmp_path / "judgments.jsonl"
    good = {"question_id": 81, "turn": 1, "score": 5, "model": "m"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        load_judgments(path)
