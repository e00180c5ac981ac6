"""Questions and answers are read in the benchmarks' own formats, and bad files named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from radpo.benchmarks.answers import load_outputs
from radpo.benchmarks.questions import load_benchmark_questions
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


BOM = "\ufeff"


def test_a_byte_order_mark_is_no_part_of_any_file(tmp_path):
    from radpo.benchmarks.alpaca_eval import load_annotations
    from radpo.benchmarks.mt_bench import load_judgments
    from radpo.preferences.onpolicy import read_samples

    def marked(name, text):
        (tmp_path / name).write_text(BOM + text, encoding="utf-8")
        return tmp_path / name

    annotation = {"instruction": "Do", "preference": 2.0, "output_1": "a", "output_2": "b"}
    assert load_annotations(marked("a.json", json.dumps([annotation])))["preference"].tolist() == [2.0]
    assert load_annotations(marked("a.jsonl", json.dumps(annotation)))["preference"].tolist() == [2.0]
    question = {"question_id": "q", "turns": ["Do"]}
    asked = load_benchmark_questions(marked("q.jsonl", json.dumps(question) + "\n"))
    assert asked == load_benchmark_questions(marked("q.json", json.dumps([question])))
    answer = json.dumps({"question_id": "q", "turns": ["x"]}) + "\n"
    assert load_outputs(marked("o.jsonl", answer), asked)[1] == {"q": ("x",)}
    two = load_benchmark_questions(marked("q2.json", json.dumps([question, {**question, "question_id": "r"}])))
    behind = answer + BOM + answer.replace('"q"', '"r"')  # two files with marks, one behind the other
    assert load_outputs(marked("o2.jsonl", behind), two)[1] == {"q": ("x",), "r": ("x",)}
    judgment = json.dumps({"question_id": 1, "turn": 1, "score": 5, "model": "m"})
    assert load_judgments(marked("j.jsonl", judgment))[0].score == 5
    assert [row["response"] for row in read_samples(marked("s.jsonl", '{"response": "r"}\n'), ("response",))] == ["r"]
    compressed = tmp_path / "z.jsonl.gz"
    compressed.write_bytes(gzip.compress((BOM + answer).encode()))
    assert load_outputs(compressed, asked)[1] == {"q": ("x",)}


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "a.json",
            [{"instruction": "Do", "output": text} for text in "xy"],
            "element 1: question 'Do' is answered a",
        ),
        (
            "b.jsonl",
            [{"question_id": "0", "choices": [{"turns": [t]}]} for t in "xy"],
            "line 2: question '0' is",
        ),
        (
            "c.jsonl",
            [{"uid": "0", "messages": [{"content": t}]} for t in "xy"],
            "line 2: question '0' is",
        ),
        (
            "d.jsonl",
            [{"question_id": "0", "turns": [t]} for t in "xy"],
            "line 2: question '0' is answered a second time",
        ),
        (
            "e.json",
            [{"instruction": f"Do{n}", "output": "x", "generator": f"m{n}"} for n in range(2)],
            "element 1: answers of m1 after those of m0; give one model a file",
        ),
        (
            "f.json",
            [{"instruction": "Do", "output": None}],
            "element 0: an answer needs instruction and output",
        ),
        ("g.jsonl", [{"question_id": "0", "choices": [{"turns": [None]}]}], "line 1: question '0': a turn is no text"),
    ],
)
def test_of_two_answers_to_one_question_none_wins_silently(tmp_path, name, rows, message):
    question = Question("0", "", ("Do",), ((),))
    with pytest.raises(DataError, match=message):
        load_outputs(written(tmp_path / name, rows), [question])


def test_reference_answers_are_given_once(tmp_path):
    from radpo.benchmarks.mt_bench import load_references

    rows = [{"question_id": 1, "choices": [{"turns": [text]}]} for text in "xy"]
    with pytest.raises(DataError, match="line 2: question '1' is answered a second time"):
        load_references(written(tmp_path / "r.jsonl", rows))


def test_a_question_id_that_is_used_twice_is_named(tmp_path):
    rows = [{"uid": "u7", "prompt": "P"}] * 2
    with pytest.raises(DataError, match="line 2: a question_id is used twice: 'u7'"):
        load_benchmark_questions(written(tmp_path / "q.jsonl", rows))


def test_a_model_and_a_baseline_of_one_name_are_refused_by_every_benchmark():
    from radpo.benchmarks.alpaca_eval import annotate
    from radpo.benchmarks.arena_hard import judge_games
    from radpo.judges.verifier import Verifier

    asked, answers = [Question("0", "", ("Do",), ((),))], {"0": ("x",)}
    with pytest.raises(DataError, match="alpaca-eval: the baseline's answers are called same, as the model's are"):
        annotate(asked, answers, answers, Verifier(), generator="same", baseline="same")
    with pytest.raises(DataError, match="arena-hard: the baseline's answers are called same, as the model's are"):
        judge_games(asked, answers, answers, Verifier(), model="same", baseline="same")


def test_judgments_without_a_verdict_show_what_the_judge_said(tmp_path):
    from radpo.benchmarks import alpaca_eval, arena_hard, mt_bench, mt_bench_pairs

    single = [mt_bench.Judgment("q7", "", 1, mt_bench.UNPARSED, "I cannot\nrate this.")]
    with pytest.raises(DataError, match=r"the judge said: q7 turn 1 \(I cannot rate this\.\)"):
        mt_bench.score(single)
    pair = [mt_bench_pairs.PairJudgment("q7", 2, "a", "b", "error", "error", ("Both fine.", "Neither."))]
    with pytest.raises(DataError, match=r"the judge said: q7 turn 2 \(Both fine\.; Neither\.\)"):
        mt_bench_pairs.score_pairs(pair)
    games = [{"score": None, "judgment": "Hm."}] * 2
    row = {"question_id": "q7", "model": "m", "games": games}
    with pytest.raises(DataError, match=r"none of 1 judgments holds a verdict; the judge said: q7 \(Hm\.; Hm\.\)"):
        arena_hard.load_judgments([written(tmp_path / "j.jsonl", [row])], "base")
    annotation = {"instruction": "Do", "preference": None, "question_id": "q7", "reason": "No."}
    with pytest.raises(DataError, match=r"so there is no win rate; the judge said: q7 \(No\.\)"):
        alpaca_eval.win_rate(alpaca_eval.load_annotations(written(tmp_path / "a.json", [annotation])))


def test_one_model_of_a_file_of_judgments_of_many_is_chosen_by_only(tmp_path, capsys):
    from radpo.benchmarks.mt_bench import load_judgments
    from radpo.cli.main import app

    rows = [{"question_id": n, "turn": 1, "score": n, "model": f"m{n % 2}"} for n in range(1, 7)]
    path = written(tmp_path / "j.jsonl", rows)
    with pytest.raises(DataError, match=r"judgments of 2 models \(m0, m1\); choose one with --only"):
        load_judgments(path)
    with pytest.raises(DataError, match="no judgments of m2; there are m0, m1"):
        load_judgments(path, only="m2")
    with pytest.raises(SystemExit):
        app(["eval", "mt-bench", "--judgments", str(path), "--only", "m1", "--json"])
    assert json.loads(capsys.readouterr().out)["score"] == 3.0
    pairs = [
        {"question_id": 1, "turn": 1, "model_1": "a", "model_2": "b", "g1_winner": "model_1", "g2_winner": "model_1"},
        {"question_id": 1, "turn": 1, "model_1": "c", "model_2": "b", "g1_winner": "model_2", "g2_winner": "model_2"},
    ]
    with pytest.raises(SystemExit):
        app(["eval", "mt-bench", "--judgments", str(written(tmp_path / "p.jsonl", pairs)), "--only", "a", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert list(shown["models"]) == ["a"]
    assert shown["models"]["a"]["win"] == 1


def test_questions_judged_without_the_reference_answer_they_should_have_are_counted(tmp_path, real_data):
    from fault_server import FaultServer

    from radpo.benchmarks.mt_bench import grade, load_references
    from radpo.judges.openai import OpenAIJudge, OpenAISettings
    from radpo.judges.record import judge_notes

    folder = real_data / "mt_bench"
    asked = load_benchmark_questions(folder / "question.jsonl")
    answers = {question.question_id: ("x", "y") for question in asked}
    with FaultServer(lambda body: "[[5]]") as server:
        settings = OpenAISettings(model="j", base_url=server.url, prompts=folder)
        without = OpenAIJudge(settings, tmp_path / "c.sqlite")
        grade(asked, answers, without)
        beside = OpenAIJudge(settings, tmp_path / "c.sqlite")
        grade(asked, answers, beside, references=load_references(folder / "reference_answer"))
    (note,) = judge_notes(without, "mt-bench")
    assert note.startswith(
        "mt-bench: 60 of 160 requests are about math, reasoning or coding and have no reference answer"
    )
    assert judge_notes(beside, "mt-bench") == ()


QUIET = """
import json, logging, sys
from pathlib import Path
from radpo.benchmarks.alpaca_eval import load_annotations, win_rate
win_rate(load_annotations(Path(sys.argv[1])))
from radpo.judges.annotator import annotate_pairs
from radpo.judges.base import CompareRequest
from radpo.clients.chat import Chat
from radpo.clients.endpoint import Endpoint
chat = Chat(Endpoint(model="m", base_url=sys.argv[2]), Path(sys.argv[1]).with_name("c.sqlite"))
annotate_pairs(chat, "alpaca_eval_gpt4", [CompareRequest([{"role": "user", "content": "Q"}], "a", "b")])
logging.getLogger("another").info("not to be seen")
logging.info("not to be seen")
assert logging.getLogger().level == logging.WARNING and logging.getLogger().manager.disable == 0
"""


def test_alpaca_evals_own_lines_are_not_printed_and_the_root_logger_is_as_it_was(tmp_path):
    import subprocess
    import sys

    from fault_server import FaultServer

    rows = [{"instruction": f"Do {n}", "preference": 1.0 + n % 2, "output_1": "a", "output_2": "b"} for n in range(4)]
    path = written(tmp_path / "a.json", rows)
    with FaultServer(lambda body: "cannot be parsed") as server:
        command = [sys.executable, "-c", QUIET, str(path), server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "root" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "not to be seen" not in done.stderr


def test_git_says_nothing_where_there_is_no_repository(tmp_path, monkeypatch, capfd):
    from lm_eval import evaluator
    from lm_eval.loggers.utils import get_git_commit_hash

    from radpo.models.lm_eval import ask_git_quietly

    monkeypatch.setattr(evaluator, "get_git_commit_hash", get_git_commit_hash)
    monkeypatch.chdir(tmp_path)
    evaluator.get_git_commit_hash()
    assert "not a git repository" in capfd.readouterr().err  # what lm-eval prints of its own accord
    ask_git_quietly()
    assert evaluator.get_git_commit_hash() is None
    assert capfd.readouterr().err == ""


def test_notes_on_what_is_left_out_name_the_questions_and_what_the_judge_said(tmp_path):
    from radpo.benchmarks import arena_hard, mt_bench, mt_bench_pairs

    single = [mt_bench.Judgment("q1", "", 1, 5.0, ""), mt_bench.Judgment("q7", "", 1, mt_bench.UNPARSED, "No.")]
    assert mt_bench.scores(single).notes == (
        "mt-bench: 1 of 2 judgments could not be parsed and are left out: q7 turn 1 (No.).",
    )
    fine = mt_bench_pairs.PairJudgment("q1", 1, "a", "b", "model_1", "model_1")
    odd = mt_bench_pairs.PairJudgment("q7", 2, "a", "b", "model_1", "error", ("[[A]]", "Hm."))
    assert mt_bench_pairs.scores([fine, odd], "a").notes[0].endswith("and are left out: q7 turn 2 ([[A]]; Hm.).")
    rows = [
        {
            "question_id": name,
            "model": "m",
            "games": [{"score": one, "judgment": "J"}, {"score": "B>A", "judgment": "K"}],
        }
        for name, one in (("q1", "A>B"), ("q7", None))
    ]
    battles = arena_hard.load_judgments([written(tmp_path / "j.jsonl", rows)], "base")
    notes = arena_hard.scores(battles, arena_hard.score(battles, rounds=20), "m").notes
    assert "arena-hard: 1 games of m have no verdict that counts and are left out: q7 (J; K)." in notes


def test_of_two_files_rows_or_prompts_of_one_name_none_wins_silently(tmp_path, real_data):
    from radpo.benchmarks.arena_style import load_answer_folder
    from radpo.benchmarks.length_control import from_weights
    from radpo.judges.fastchat import load_prompts

    (tmp_path / "answers").mkdir()
    for name, text in (("a.jsonl", "x"), ("b.jsonl.gz", "y")):
        written(tmp_path / "answers" / name, [{"question_id": "0", "model_id": "m", "choices": [{"turns": [text]}]}])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: another file of the folder holds answers of m, too"):
        load_answer_folder(tmp_path / "answers")
    prompt = {"name": "single-v1", "system_prompt": "S", "prompt_template": "T", "output_format": "[[rating]]"}
    with pytest.raises(DataError, match="line 2: a second prompt 'single-v1'"):
        load_prompts(written(tmp_path / "judge_prompts.jsonl", [prompt, {**prompt, "system_prompt": "other"}]))
    weights = tmp_path / "weights.csv"
    official = (real_data / "alpaca_eval2" / "length_controlled_v1_glm_weights.csv").read_text()
    (row,) = (line for line in official.splitlines() if line.startswith("alpaca-7b,"))
    weights.write_text(f"{official.rstrip()}\n{row}\n")
    with pytest.raises(DataError, match="several weights of 'alpaca-7b'"):
        from_weights(weights, "alpaca-7b", "gpt4_1106_preview", real_data / "alpaca_eval2" / "reconstructed")


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "json.gz"])
def test_questions_keep_their_constraints_whatever_kind_of_file_holds_them(tmp_path: Path, ending: str) -> None:
    row = {"question_id": "a", "turns": ["Say five."], "constraints": [[{"kind": "max_words", "n": 1}]]}
    text = json.dumps([row]) if ending.startswith("json.") or ending == "json" else f"{json.dumps(row)}\n"
    path = tmp_path / f"questions.{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    (question,) = load_benchmark_questions(path)
    assert question.constraints == (({"kind": "max_words", "n": 1},),)
