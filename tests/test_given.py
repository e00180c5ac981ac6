"""Variants that are scored as they are: a trained checkpoint, a model behind an endpoint, a file of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from factories import scored_pairs, write_model
from fault_server import FaultServer, Http
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.preferences.goals import goal_aware_template
from radpo.preferences.writing import write_preferences


def write_questions(folder: Path) -> None:
    rows = [{"question_id": f"q{n}", "category": "c", "turns": [f"Say {n}", "Again"][: 1 + n % 2]} for n in range(4)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"question_id": row["question_id"], "turns": [f"{t}!" for t in row["turns"]]} for row in rows]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))


def write_checkpoint(folder: Path, best: float = 8) -> Path:
    """A model whose template asks for a goal."""
    from transformers import AutoTokenizer

    write_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = goal_aware_template(tokenizer.chat_template, best, "system")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    write_questions(tmp_path)
    judge = {"kind": "openai", "model": "judge", "base_url": "http://127.0.0.1:9/v1"}
    return {
        "name": "given",
        "baseline": "file",
        "variants": {"file": {"answers": "answers.jsonl"}},
        "benchmarks": {
            "mt-bench": {
                "questions": {"path": "questions.jsonl"}, "judge": judge, "sampling": {"max_new_tokens": 4},
            }
        },
    }  # fmt: skip


def write(folder: Path, document: dict[str, Any]) -> Path:
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document))
    return folder / "matrix.yaml"


def test_a_matrix_compares_a_checkpoint_an_endpoint_and_a_file_of_answers(tmp_path, document):
    def answer(body):
        text = body["messages"][-1]["content"]
        if body["model"] == "judge":
            return "Rating: [[9]]" if "said by the endpoint" in text else "Rating: [[3]]"
        return Http(400, {"error": {"message": "not this one"}}) if "Say 2" in str(body) else "said by the endpoint"

    write_checkpoint(tmp_path / "mine")
    with FaultServer(answer) as server:
        document["benchmarks"]["mt-bench"]["judge"]["base_url"] = server.url
        document["variants"] |= {
            "mine": {"checkpoint": str(tmp_path / "mine")},
            "theirs": {"endpoint": {"model": "student", "base_url": server.url, "max_unanswered": 0.5}},
        }
        matrix = write(tmp_path, document)
        done = CliRunner().invoke(app, ["run", str(matrix), "--out", str(tmp_path / "run")], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        asked = len(server.asked)
        again = CliRunner().invoke(app, ["run", str(matrix), "--out", str(tmp_path / "run")], catch_exceptions=False)
        assert "nothing to do" in again.stderr
        assert len(server.asked) == asked
        # Without a version the same name may stand for another model in another run directory.
        CliRunner().invoke(app, ["run", str(matrix), "--out", str(tmp_path / "two")], catch_exceptions=False)
        students = sum(body["model"] == "student" for body in server.asked[asked:])
        assert students == sum(body["model"] == "student" for body in server.asked[:asked])
    results = pd.read_parquet(tmp_path / "run" / "results.parquet")
    scores = results[(results["metric"] == "score") & (results["subset"] == "all")].set_index("variant")
    assert scores["value"].to_dict() == {"file": 3.0, "mine": 3.0, "theirs": 9.0}
    assert scores["n"].to_dict() == {"file": 6, "mine": 6, "theirs": 5}
    examples = pd.read_parquet(tmp_path / "run" / "examples.parquet")
    assert set(examples[examples["variant"] == "file"]["output"]) == {f"Say {n}!" for n in range(4)} | {"Again!"}
    goals = {json.loads(detail).get("goal") for detail in examples[examples["variant"] == "mine"]["detail"]}
    assert goals == {8.0}, "a checkpoint's goal is its chat template's"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["variants"]["theirs"]["endpoint"]["model"] == "student"
    assert manifest["variants"]["mine"]["fingerprint"].startswith("folder:")
    assert any("1 of 4 questions have no answer and are left out: q2 (HTTP 400" in note for note in manifest["notes"])
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_goal_of_a_variant_is_asked_for_and_makes_another_stage(tmp_path, document):
    write_checkpoint(tmp_path / "mine")
    document["variants"] |= {
        "mine": {"checkpoint": str(tmp_path / "mine")},
        "at-3": {"extends": "mine", "goal": 3},
        "plain": {"extends": "mine", "goal": "none"},
    }
    cells = {cell.variant: cell for cell in expand(load_matrix(write(tmp_path, document))).cells}
    asked = {name: cell.benchmarks["mt-bench"].inputs["answers"].settings for name, cell in cells.items()}
    assert [asked[name].get("goal", "default") for name in ("mine", "at-3", "plain")] == ["default", 3.0, None]
    told = {name: cell.benchmarks["mt-bench"].settings["goal"] for name, cell in cells.items()}
    assert told == {"file": None, "mine": 8.0, "at-3": 3.0, "plain": None}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"answers": "nowhere.jsonl"}, r"matrix.yaml:\d+: variants.it.answers: .*nowhere.jsonl does not exist"),
        ({"endpoint": {"modle": "x"}}, r"variants.it.endpoint.modle: no such key; .*did you mean 'model'"),
        ({"endpoint": {"model": "x", "base_url": "http://me:secret@h/v1"}}, r"base_url: must hold no user, password"),
        ({"answers": "answers.jsonl", "endpoint": {"model": "m"}}, r"this is endpoint and answers"),
        ({"checkpoint": "mine", "training": {"beta": 0.1}}, r"training: is for variants that are trained"),
        ({"checkpoint": "mine", "method": "dpo"}, r"method: is for variants that are trained"),
        ({"goal": "best", "answers": "answers.jsonl"}, r"variants.it.goal"),
        ({"method": "dpo"}, r"matrix.yaml:\d+: model: missing"),
    ],
)  # fmt: skip
def test_a_wrong_variant_is_named_with_its_place(tmp_path, document, variant, message):
    document["variants"]["it"] = variant
    with pytest.raises(ConfigError, match=message) as raised:
        load_matrix(write(tmp_path, document))
    assert "secret" not in str(raised.value)


def test_training_needs_scored_pairs_and_says_so(tmp_path, document):
    document |= {"model": str(write_model(tmp_path / "model"))}
    document["variants"]["dpo"] = None
    with pytest.raises(ConfigError, match=r"data.train: missing: variant 'dpo' is trained on scored pairs"):
        load_matrix(write(tmp_path, document))


def test_what_measures_weights_names_a_variant_without_any(tmp_path, document):
    write_preferences(scored_pairs([(9, 3), (7, 6)]), tmp_path / "pairs.jsonl")
    document |= {"model": str(write_model(tmp_path / "model")), "data": {"heldout": {"path": "pairs.jsonl"}}}
    document["benchmarks"]["unlearning"] = {}
    with pytest.raises(
        ConfigError, match=r"variants.file: is a file of answers, and likelihood needs weights; .*benchmark: unlearning"
    ):
        expand(load_matrix(write(tmp_path, document)))
    document["exclude"] = [{"variant": "file", "benchmark": "unlearning"}]
    write_checkpoint(tmp_path / "mine")
    document["variants"]["mine"] = {"checkpoint": str(tmp_path / "mine")}
    cells = {cell.variant: cell for cell in expand(load_matrix(write(tmp_path, document))).cells}
    assert "unlearning" not in cells["file"].benchmarks
    measured = cells["mine"].benchmarks["unlearning"].inputs
    assert Path(measured["policy"].settings["model"].location) == tmp_path / "mine"
    assert Path(measured["reference"].settings["model"].location) == tmp_path / "model"
    del document["model"]
    with pytest.raises(ConfigError, match=r"model: missing: likelihood reads the model that training starts from"):
        expand(load_matrix(write(tmp_path, document)))


def test_the_schema_has_what_a_variant_may_be():
    from radpo.matrix.schema import matrix_schema

    variant = matrix_schema()["$defs"]["VariantSettings"]["properties"]
    assert {"checkpoint", "endpoint", "answers", "goal"} <= variant.keys()
    assert "trained checkpoint" in variant["checkpoint"]["description"]


def test_a_plan_counts_what_an_endpoint_is_asked(tmp_path, document):
    from radpo import api

    endpoint = {"model": "student", "price_in": 1.0, "price_out": 10.0}
    document["variants"]["theirs"] = {"endpoint": endpoint}
    planned = api.plan(write(tmp_path, document), tmp_path / "run").to_json()
    (asked,) = (stage for stage in planned["stages"] if stage["name"].startswith("endpoint-answers"))
    assert asked["judge_calls"] == 6
    assert asked["judge_dollars"] > 6 * 4 * 10 / 1e6


def test_reasoning_in_given_answers_and_in_a_given_baseline_is_cut_and_noted(tmp_path, document):
    thought = "<think>hidden thought</think>"
    rows = [{"question_id": f"q{n}", "turns": [f"Say {n}"]} for n in range(3)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("answers", "baseline"):
        given = [{"question_id": row["question_id"], "turns": [f"{thought}{name} says"]} for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    (tmp_path / "judge.yaml").write_text(
        "system_prompt: Judge.\nregex_pattern: \\[\\[([AB<>=]+)\\]\\]\n"
        "prompt_template: ['{question_1}{answer_1}{answer_2}']\n"
    )
    with FaultServer(lambda body: "[[A=B]]") as server:
        judge = {"kind": "openai", "model": "judge", "base_url": server.url, "arena_config": "judge.yaml"}
        section = {"questions": {"path": "questions.jsonl"}, "baseline_outputs": "baseline.jsonl", "judge": judge}
        document["benchmarks"] = {"arena-hard": {**section, "resamples": 20}}
        matrix = write(tmp_path, document)
        done = CliRunner().invoke(app, ["run", str(matrix), "--out", str(tmp_path / "run")], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert server.asked
        assert not any("hidden thought" in str(body) for body in server.asked)
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["notes"]
    for whose in ("", "the baseline: "):
        assert any(note.startswith(f"arena-hard: {whose}3 of 3 answers began with reasoning") for note in notes)
