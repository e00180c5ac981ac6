"""Questions and answers are read in the benchmarks' own formats, and bad files named."""

from __future__ import annotations

import gzip
import json

import pytest

from radpo.benchmarks.questions import load_benchmark_questions, load_outputs
from radpo.core.errors import DataError
from radpo.preferences.questions import Question


def written(path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)
    return path


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("a.json", [{"instruction": "Do", "dataset": "d", "output": "x"}], Question("0", "d", ("Do",), ((),))),
        ("b.jsonl.gz", [{"index": 7, "instruction": "Do"}], Question("7", "", ("Do",), ((),))),
        ("c.jsonl", [{"uid": "u", "category": "c", "prompt": "P"}], Question("u", "c", ("P",), ((),))),
        (
            "d.jsonl.gz",
            [{"question_id": 81, "category": "math", "turns": ["A", "B"]}],
            Question("81", "math", ("A", "B"), ((), ())),
        ),
        (
            "e.jsonl",
            [{"question_id": "q", "turns": ["A"], "constraints": [[{"kind": "number"}]]}],
            Question("q", "", ("A",), (({"kind": "number"},),)),
        ),
    ],
)
def test_questions_of_every_benchmark_are_read(tmp_path, name, rows, expected):
    assert load_benchmark_questions(written(tmp_path / name, rows)) == [expected]


def test_the_benchmarks_own_files_are_whole(real_data):
    alpaca = load_benchmark_questions(real_data / "alpaca_eval2" / "instructions_and_baseline.jsonl.gz")
    arena = load_benchmark_questions(real_data / "arena_hard_v0.1" / "question.jsonl")
    mt = load_benchmark_questions(real_data / "mt_bench" / "question.jsonl")
    assert (len(alpaca), len(arena), len(mt)) == (805, 500, 80)
    assert {len(question.turns) for question in mt} == {2}
    name, outputs = load_outputs(real_data / "alpaca_eval2" / "instructions_and_baseline.jsonl.gz", alpaca)
    assert (name, len(outputs)) == ("gpt4_1106_preview", 805)
    name, outputs = load_outputs(real_data / "arena_hard_v0.1" / "model_answer" / "gpt-4-0314.jsonl.gz", arena)
    assert (name, len(outputs)) == ("gpt-4-0314", 500)
    name, outputs = load_outputs(real_data / "mt_bench" / "model_answer" / "claude-v1.jsonl.gz", mt)
    assert (name, {len(turns) for turns in outputs.values()}) == ("claude-v1", {2})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no questions"),
        ([{"instruction": "Do"}, {"text": "x"}], "line 2: a question needs"),
        ([{"uid": "u", "prompt": "P"}, {"uid": "u", "prompt": "Q"}], "used twice"),
    ],
)
def test_bad_questions_are_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        load_benchmark_questions(written(tmp_path / "q.jsonl", rows))


def test_answers_are_found_by_instruction_or_id_and_missing_ones_named(tmp_path):
    questions = [Question("0", "", ("Do",), ((),)), Question("1", "", ("Say",), ((),))]
    rows = [{"instruction": text, "output": text.upper(), "generator": "g"} for text in ("Say", "Do")]
    assert load_outputs(written(tmp_path / "o.json", rows), questions) == ("g", {"0": ("DO",), "1": ("SAY",)})
    with pytest.raises(DataError, match="1 of 2 questions lack an answer"):
        load_outputs(written(tmp_path / "o.json", rows[:1]), questions)
    rows = [{"question_id": n, "turns": [f"t{n}"]} for n in (0, 1)]
    assert load_outputs(written(tmp_path / "mine.jsonl", rows), questions) == ("mine", {"0": ("t0",), "1": ("t1",)})
    with pytest.raises(DataError, match="line 1: an answer needs question_id and choices"):
        load_outputs(written(tmp_path / "c.jsonl", [{"question_id": 0, "choices": []}]), questions)
    with pytest.raises(DataError, match="holds no answers"):
        load_outputs(written(tmp_path / "n.jsonl", []), questions)
