"""`radpo run` with a judge behind an endpoint: interrupted, beside another run, and with replies of no use."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import warm_commands
import yaml
from cheap_stages import run_inline
from factories import scored_pairs, write_model
from fault_server import FaultServer, Http
from typer.testing import CliRunner

from radpo import load_run
from radpo.cli.main import app
from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix

NULL = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": None}}
UNUSABLE = {
    "Say 3.": Http(400, {"error": {"message": "not this one"}}),
    "Say 5.": NULL,
    "Say 7.": {**NULL, "message": {"content": None, "tool_calls": [None]}},
}


def question_of(body) -> str:
    return re.search(r"Say \d+\.", body["messages"][-1]["content"])[0]


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    """A function that writes the matrix file for a server."""
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "model")
    pq.write_table(scored_pairs([(8, 3), (9, 4)]), tmp_path / "pairs.parquet")

    def write(server: FaultServer, questions: int) -> Path:
        rows = [{"question_id": f"q{n}", "turns": [f"Say {n}."]} for n in range(questions)]
        (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        judge = {"kind": "openai", "model": "j", "base_url": server.url, "concurrency": 4, "attempts": 2}
        document = {
            "name": "judged", "model": str(tmp_path / "model"), "variants": {"base": None},
            "data": {"train": {"path": "pairs.parquet"}, "heldout": {"path": "pairs.parquet"}},
            "benchmarks": {
                "mt-bench": {
                    "questions": {"path": "questions.jsonl"}, "judge": judge, "sampling": {"max_new_tokens": 4},
                }
            },
        }  # fmt: skip
        (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(document))
        return tmp_path / "matrix.yaml"

    return write


def words(matrix: Path, name: str) -> list[str]:
    return [
        "run",
        str(matrix),
        "--out",
        str(matrix.parent / name / "run"),
        "--store",
        str(matrix.parent / name / "store"),
    ]


def start(matrix: Path, name: str, radpo: Sequence[str] = (sys.executable, "-m", "radpo")) -> subprocess.Popen:
    command = [*radpo, *words(matrix, name)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ})


def answered(matrix: Path, *names: str) -> None:
    """Have the answers in these runs' stores, so that processes of their own load no model to get to the judge."""
    (answers,) = [one for one in expand(load_matrix(matrix)).stages if one.function_name == "generate"]
    for name in names:
        run_inline(Store(matrix.parent / name / "store"), answers)


def here(matrix: Path, name: str) -> None:
    done = CliRunner().invoke(app, words(matrix, name), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def ended(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def test_an_interrupted_run_keeps_what_was_on_its_way_and_pays_for_nothing_twice(matrix):
    with FaultServer(lambda body: "[[5]]", delay=0.5) as server:
        path = matrix(server, 30)
        answered(path, "one")
        process, deadline = start(path, "one"), time.monotonic() + 200
        while len(server.asked) < 9:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        status, output = ended(process)
        assert status == 130, output
        before = len(server.asked)
        assert before < 30
        here(path, "one")
        assert len(server.asked) == 30
        assert set(server.delivered.values()) == {1}


def test_two_runs_that_ask_the_same_at_once_pay_once(matrix):
    with FaultServer(lambda body: "[[5]]", delay=0.2) as server:
        path = matrix(server, 24)
        answered(path, "one", "two")
        with warm_commands.program(path.parent / "radpo", "-m", "radpo"):
            both = [start(path, name, [str(path.parent / "radpo")]) for name in ("one", "two")]
            for process in both:
                status, output = ended(process)
                assert status == 0, output
        assert len(server.asked) == 24


def test_replies_of_no_use_end_neither_the_run_nor_one_after_it_and_are_in_its_record(matrix):
    with FaultServer(lambda body: UNUSABLE.get(question_of(body), "Rating: [[5]]")) as server:
        path = matrix(server, 60)
        for name in ("one", "two"):  # the second store finds the answers that there are in the cache of replies
            here(path, name)
            run = load_run(path.parent / name / "run")
            (row,) = run.results[run.results["primary"]].to_dict("records")
            assert (row["value"], row["n"]) == (5.0, 57)
            notes = " ".join(run.manifest["notes"])
            assert "3 of 60 requests have no answer" in notes
            assert "'Say 5.' (the reply has no text (finish_reason length))" in notes
            assert "HTTP 400" in notes
            assert "3 of 60 judgments could not be parsed and are left out: q3 turn 1 (HTTP 400" in notes
            assert "q7 turn 1 (the reply has no text (finish_reason length))" in notes
        billed = [question_of(body) for body in server.asked if question_of(body) != "Say 3."]
        assert len(billed) == len(set(billed))
