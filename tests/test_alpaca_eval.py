"""AlpacaEval figures equal the official leaderboard's, and judged answers become alpaca-eval's annotations."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
from factories import ALPACA_MODELS, alpaca_leaderboard_row

from radpo.benchmarks.alpaca_eval import annotate, load_annotations, scores, win_rate
from radpo.benchmarks.answers import load_answers
from radpo.core.errors import DataError
from radpo.judges.base import Grade
from radpo.preferences.questions import Question


@dataclass(frozen=True)
class LengthJudge:
    """Grades a response by its number of words; an empty one it cannot grade."""

    name: str = "words"

    def grade(self, requests, progress=None):
        return [Grade(float(len(r.response.split())) or None, f"asked {r.prompt[-1]['content']}") for r in requests]


def questions(n: int = 4) -> list[Question]:
    return [Question(f"q{i}", "ab"[i % 2], (f"Instruction {i}",), (({"kind": "k", "n": i},),)) for i in range(n)]


def answers(*texts: str) -> dict[str, tuple[str, ...]]:
    return {f"q{i}": (text,) for i, text in enumerate(texts)}


def annotated(model=("a b", "a", "a b", "a b c"), base=("a", "a b", "x y", "a")):
    return annotate(questions(), answers(*model), answers(*base), LengthJudge(), generator="dpo", baseline="base")


@pytest.mark.parametrize("model", ALPACA_MODELS)
def test_figures_equal_the_official_leaderboard(real_data, model):
    row = alpaca_leaderboard_row(real_data, model)
    found = win_rate(load_annotations(real_data / "alpaca_eval2" / "annotations" / f"{model}.jsonl.gz"))
    for name in ("win_rate", "standard_error", "discrete_win_rate", "n_total"):
        assert getattr(found, name) == pytest.approx(row[name], abs=1e-6)
    # Where instructions are missing the leaderboard took the length over all outputs, the missing ones too.
    assert found.avg_length == pytest.approx(row["avg_length"], abs=0 if found.n_total == 805 else 2)


def test_outputs_and_lengths_give_the_same(real_data):
    folder = real_data / "alpaca_eval2"
    lengths = load_annotations(folder / "annotations" / "NullModel.jsonl.gz")
    texts = lengths.drop(columns=["len_1", "len_2"]).assign(
        output_1=["b" * n for n in lengths["len_1"]], output_2=["m" * n for n in lengths["len_2"]]
    )
    assert win_rate(texts, folder / "reconstructed") == win_rate(lengths, folder / "reconstructed")


def test_the_higher_grade_wins_and_equal_grades_draw():
    frame = annotated()
    assert frame["preference"].tolist() == [2.0, 1.0, 1.5, 2.0]
    assert (frame["generator_1"][0], frame["output_1"][0]) == ("base", "a")
    assert (frame["generator_2"][0], frame["output_2"][0]) == ("dpo", "a b")
    assert frame["annotator"].unique().tolist() == ["words"]
    found = win_rate(frame)
    assert (found.win_rate, found.discrete_win_rate, found.n_total) == (62.5, 62.5, 4)
    assert found.standard_error == pytest.approx(100 * 0.4787135538781691 / 2)


def test_judge_gets_the_constraints_of_the_question():
    seen = []

    class Watching(LengthJudge):
        def grade(self, requests, progress=None):
            seen.extend(requests)
            return super().grade(requests)

    texts = answers("a", "a", "a", "a")
    annotate(questions(), texts, texts, Watching(), generator="dpo", baseline="base")
    assert [list(r.reference["constraints"]) for r in seen[4:]] == [[{"kind": "k", "n": i}] for i in range(4)]
    assert list(seen[0].prompt) == [{"role": "user", "content": "Instruction 0"}]


def test_ungraded_answers_are_left_out_and_counted():
    given = scores(annotated(model=("a b", "", "a b", "a b c")))
    whole = next(r for r in given.results if r.primary)
    assert (whole.metric, whole.n, len(given.examples)) == ("win_rate", 3, 3)
    assert any("1 of 4 comparisons have no verdict" in note for note in given.notes)
    with pytest.raises(DataError, match="no annotation holds a preference"):
        win_rate(annotated(model=("", "", "", "")))


def test_scores_have_categories_and_examples():
    given = scores(annotated(), goal=10.0)
    by_category = {r.subset: r.value for r in given.results if r.metric == "win_rate"}
    assert by_category == {"all": 62.5, "a": 75.0, "b": 50.0}
    example = given.examples[0]
    assert (example.example_id, example.value, example.metric) == ("q0", 2.0, "preference")
    assert (example.prompt, example.output, example.baseline_output) == ("Instruction 0", "a b", "a")
    detail = json.loads(example.detail)
    assert (detail["goal"], detail["score_1"], detail["score_2"]) == (10.0, 1.0, 2.0)
    whole = next(r for r in given.results if r.primary)
    assert 100 * (math.fsum(e.value for e in given.examples) / 4 - 1) == whole.value


def test_annotations_survive_the_trip_through_a_file(tmp_path):
    frame = annotated(model=("a b", "", "a b", "a b c"))
    path = tmp_path / "annotations.json"
    frame.to_json(path, orient="records", force_ascii=False)
    assert win_rate(load_annotations(path)) == win_rate(frame)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"instruction": "x", "preference": 3}', "line 2: preference 3"),
        ('{"instruction": "x", "preference": "2"}', "line 2: preference '2' is no number"),
        ('{"instruction": "x"}', "line 2: an annotation needs"),
        ('{"instruction": "x", "preference": NaN}', "line 2: preference nan"),
        ('{"instruction": "x", "preference": 2, "index": "3"}', "line 2, index: '3' is not a whole number"),
        ('{"instruction": "x", "preference": 2, "output_2": [1]}', "line 2, output_2: .* is not a text"),
        ('{"instruction": "x", "preference": 2, "generator_2": "other"}', "generator_2 holds 2 models"),
        ("[1]", "line 2: expected a JSON object"),
        ("{", "line 2: no JSON"),
    ],
)
def test_bad_annotations_are_named(tmp_path, line, message):
    path = tmp_path / "annotations.jsonl"
    path.write_text('{"instruction": "x", "preference": 1.5, "generator_2": "m"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        load_annotations(path)


def test_answers_must_fit_the_questions(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [{"question_id": f"q{i}", "turns": ["text"]} for i in range(4)]

    def load(*given: dict) -> dict:
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        return load_answers(path, questions())

    assert load(*rows, {"question_id": "else", "turns": ["text"]}) == answers(*["text"] * 4)
    with pytest.raises(DataError, match=r"2 of 4 questions lack an answer.*'q1', 'q3'"):
        load(rows[0], rows[2], {"question_id": "q3", "turns": []})
    with pytest.raises(DataError, match="line 2: question 'q0' is answered a second time"):
        load(rows[0], rows[0])
    with pytest.raises(DataError, match="line 1: an answer needs"):
        load({"question_id": "q0", "turns": "text"})
    with pytest.raises(DataError, match="no such file"):
        load_answers(tmp_path / "none.jsonl", questions())
