"""Servers of models that radpo starts: shared, waited for, ended in every case, on GPUs of their own; their keys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from cheap_stages import ASK, GPU, InlinePool, Watcher
from factories import write_model
from pydantic import ValidationError

from radpo.clients.endpoint import Endpoint
from radpo.clients.serving import KINDS, NEUTRAL, TAKEN
from radpo.core.errors import ConfigError, RadpoError
from radpo.core.results import read_figures
from radpo.core.served import SERVERS, Server
from radpo.engine.graph import Function, Stage
from radpo.engine.local import LocalPool
from radpo.engine.schedule import StageError, run_stages
from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix

STAND_IN = Path(__file__).with_name("model_server.py")
CONTRACTS = json.loads(Path(__file__).with_name("server_arguments.json").read_text())


def server(notes: Path, *how: str, gpus: int = 1, seconds: float = 60.0) -> Server:
    words = (sys.executable, "-S", "-E", str(STAND_IN), "{port}", str(notes), *how)
    return Server(words, gpus, seconds)


def asking(name: str, *servers: Server, function: Function = ASK, **inputs: Stage) -> Stage:
    return Stage(name, "ask", function, {"name": name}, inputs, {SERVERS: [asdict(one) for one in servers]})


def starts(notes: Path) -> list[list[str]]:
    """Of each start the server's process, its child's, and its GPUs."""
    return [line.split() for line in notes.read_text().splitlines()]


def are_gone(notes: Path) -> bool:
    """Whether all processes of all servers are gone within ten seconds."""
    deadline = time.monotonic() + 10
    processes = [int(number) for line in starts(notes) for number in line[:2]]
    while any(map(is_alive, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_stages_that_ask_the_same_share_a_server_that_ends_with_the_last(tmp_path: Path) -> None:
    store, notes, meet = Store(tmp_path / "store"), tmp_path / "notes", tmp_path / "meet"
    meet.mkdir()
    one, gone_before = server(notes), []

    class Look(Watcher):
        def begins(self, stage: Stage) -> None:
            if stage.name == "after":
                gone_before.append(are_gone(notes))

    asked = [Stage(f"{n}", "ask", ASK, {"n": n}, {}, {SERVERS: [asdict(one)], "meet": str(meet)}) for n in range(2)]
    after = Stage("after", "see", GPU, {}, {f"i{n}": stage for n, stage in enumerate(asked)})
    run_stages([after], store, LocalPool(store, 2, ()), Look())
    assert len(starts(notes)) == 1, "at the same time, from two processes"
    answers = {json.loads((store.folder(stage) / "text").read_text())["process"] for stage in asked}
    assert answers == {int(starts(notes)[0][0])}
    assert gone_before == [True]
    assert "answers after" in store.log(asked[0]).read_text()
    assert not any((store.root / "servers").iterdir())


def test_a_server_has_gpus_of_its_own_and_leaves_them_to_who_needs_them_while_nobody_asks(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    one = server(notes, gpus=2)
    first = asking("first", one)
    large = Stage("large", "see", GPU, {}, {"a": first}, {"resources": {"gpus": 3}})
    last = asking("last", one, a=large)
    run_stages([last], store, LocalPool(store, 1, ("0", "1", "2")), Watcher())
    assert [line[2] for line in starts(notes)] == ["0,1", "0,1"], "it was started again"
    assert json.loads((store.folder(large) / "seen.json").read_text())["gpus"] == "0,1,2"
    assert are_gone(notes)
    with pytest.raises(ConfigError, match="4 are asked for, and this machine has 3"):
        run_stages([asking("much", server(notes, gpus=4))], store, LocalPool(store, 1, ("0", "1", "2")), Watcher())


def test_where_the_executor_starts_none_a_stage_has_a_server_of_its_own(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    one = server(notes)
    run_stages([asking("a", one), asking("b", one)], store, InlinePool(store), Watcher())
    assert len(starts(notes)) == 2
    assert are_gone(notes)


def test_a_server_that_dies_or_is_deaf_fails_its_stage_with_the_end_of_its_log(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    stages = [
        asking("dies", server(notes, "die")),
        asking("deaf", server(notes, "deaf", seconds=1.0)),
        asking("absent", Server(("no-such-program", "{port}"), 0, 9.0)),
    ]
    with pytest.raises(StageError) as failure:
        run_stages(stages, store, InlinePool(store), Watcher(), keep_going=True)
    said = str(failure.value)
    assert "ended with status 1 before it answered; the end of its log, " in said
    assert "    RuntimeError: CUDA out of memory" in said
    assert "does not answer after 1 s; give it more by start_seconds; the end of its log" in said
    assert "no-such-program {port}: cannot be started (No such file or directory)" in said
    assert failure.value.exit_status == 3
    assert are_gone(notes)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_the_run(tmp_path: Path, number: int) -> None:
    """Neither it nor its child, whether the run is killed or interrupted from the terminal."""
    notes = tmp_path / "notes"
    code = (
        f"import sys; sys.path.insert(0, {str(STAND_IN.parent)!r})\n"
        "from test_served import *\nfrom cheap_stages import stage, WRITE\n"
        f"store, one = Store(Path({str(tmp_path / 'store')!r})), server(Path({str(notes)!r}))\n"
        "slow = Stage('slow', 'write', WRITE, {'text': 1}, {}, {'sleep': 60, SERVERS: [asdict(one)]})\n"
        "if __name__ == '__main__': run_stages([slow], store, LocalPool(store, 1, ()), Watcher())\n"
    )
    (tmp_path / "script.py").write_text(code)
    run = subprocess.Popen([sys.executable, tmp_path / "script.py"], stderr=subprocess.DEVNULL, start_new_session=True)
    log = tmp_path / "store" / "logs"
    while not log.exists() or not any("answers after" in path.read_text() for path in log.iterdir()):
        assert run.poll() is None
        time.sleep(0.05)
    (run.kill if number == signal.SIGKILL else lambda: os.killpg(run.pid, number))()
    run.wait(30)
    assert len(starts(notes)) == 1
    assert are_gone(notes)


# What a matrix file says


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_model(folder / "policy")
    (folder / "questions.jsonl").write_text('{"question_id": "a", "category": "c", "turns": ["Say five."]}\n')
    return folder


def write_matrix(place: Path, endpoint: dict[str, Any], judge: Any) -> Path:
    document = {
        "name": "served", "variants": {"base": {"endpoint": endpoint}},
        "benchmarks": {"mt-bench": {"questions": {"path": "questions.jsonl"}, "judge": judge}},
    }  # fmt: skip
    (place / "matrix.yaml").write_text(yaml.safe_dump(document))
    return place / "matrix.yaml"


def command(place: Path, *more: str) -> list[str]:
    return [sys.executable, "-S", "-E", str(STAND_IN), "{port}", str(place / "notes"), "{model}", *more]


def test_a_matrix_asks_a_served_policy_and_a_served_judge(place: Path, tmp_path: Path) -> None:
    judge = {"kind": "openai", "model": "grader", "command": [*command(place)[:-1], "judge"]}
    matrix = write_matrix(place, {"model": "policy", "command": command(place)}, judge)
    plan = expand(load_matrix(matrix))
    store = Store(tmp_path / "store")
    run_stages(plan.stages, store, InlinePool(store), Watcher())
    (answers,) = [one for one in plan.stages if one.function_name == "endpoint-answers"]
    assert json.loads((store.folder(answers) / "answers.jsonl").read_text().splitlines()[0])["turns"] == [
        "[[7]] policy"
    ]
    (score,) = [one for one in plan.stages if one.function_name == "mt-bench"]
    assert read_figures(store.folder(score))["score"] == 7.0
    assert len(starts(place / "notes")) == 2
    assert are_gone(place / "notes")


def keys(matrix: Path) -> dict[str, str]:
    return {stage.function_name: stage.key for stage in expand(load_matrix(matrix)).stages}


def test_what_is_served_is_in_the_key_and_where_it_listens_and_lies_is_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radpo.clients.serving._version", lambda interpreter, package: "1.0")

    def of(where: Path, judge: Any = "verifier", **changes: Any) -> str:
        endpoint = {"model": "policy", "serve": "vllm", "args": ["--dtype", "float32"], **changes}
        return keys(write_matrix(where, endpoint, judge))["mt-bench"]

    usual = of(place)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "questions.jsonl").write_bytes((place / "questions.jsonl").read_bytes())
    write_model(moved / "policy")
    same = {
        "the model elsewhere": of(moved),
        "memory": of(place, args=["--dtype=float32", "--gpu-memory-utilization", 0.5]),
        "patience": of(place, start_seconds=5),
        "another environment": of(place, python=sys.executable),
    }
    assert same == dict.fromkeys(same, usual)
    config = moved / "policy" / "generation_config.json"
    config.write_text(config.read_text().replace("{", '{"top_k": 3,', 1))
    others = {
        "other weights": of(moved),
        "arguments": of(place, args=["--dtype", "bfloat16"]),
        "parallel": of(place, args=["--dtype", "float32", "-tp", 2]),
        "program": of(place, serve="sglang"),
        "judge": of(place, judge={"kind": "openai", "model": "policy", "serve": "vllm"}),
        "judge's arguments": of(place, judge={"kind": "openai", "model": "policy", "serve": "vllm", "args": "-tp 2"}),
    }
    monkeypatch.setattr("radpo.clients.serving._version", lambda interpreter, package: "1.1")
    others["version"] = of(place)
    assert len({usual, *others.values()}) == len(others) + 1, others


def test_a_served_endpoint_says_what_is_wrong_with_it() -> None:
    def said(**settings: Any) -> str:
        with pytest.raises(ValidationError) as failure:
            Endpoint(model="m", **settings)
        return str(failure.value)

    assert "give one of them" in said(serve="vllm", command="serve {port}")
    assert "must have {port}" in said(command="serve")
    assert "radpo starts this one" in said(serve="vllm", base_url="http://127.0.0.1:8000/v1")
    assert "--port is radpo's own to give" in said(serve="vllm", args=["--port=1"])
    assert "give serve, or command" in said(args=["-tp", "2"])
    assert Endpoint(model="m", serve="vllm", max_cost=1.0).has_prices, "asking it costs nothing"
    with pytest.raises(RadpoError, match="runs only while a stage of a matrix that needs it does"):
        _ = Endpoint(model="m", serve="vllm").address


def test_before_a_run_it_is_said_that_a_program_is_not_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from radpo.matrix.preflight import Faults, ask_plan

    judge = {"kind": "openai", "model": "grader", "command": "no-such-program {port}"}
    plan = expand(load_matrix(write_matrix(place, {"model": "policy", "serve": "sglang"}, judge)))
    faults = Faults()
    ask_plan(faults, plan, plan.stages, None)
    first, second = faults.found
    assert first == "benchmarks.mt-bench.judge: command: there is no no-such-program to be executed"
    assert f"serve sglang: {sys.executable} has no package sglang; make an environment" in second
    with pytest.raises(ConfigError, match="python: there is no interpreter /nowhere/python"):
        Endpoint(model="m", serve="vllm", python="/nowhere/python").check_command()


def test_gpus_follow_from_the_arguments_for_parallelism() -> None:
    def gpus(**settings: Any) -> int:
        return Endpoint(model="m", **settings).server().gpus

    assert gpus(serve="vllm") == 1
    assert gpus(serve="vllm", args=["--tensor-parallel-size", 4]) == 4
    assert gpus(serve="vllm", args="-tp=2 --pipeline_parallel_size 3") == 6
    assert gpus(serve="sglang", args="--tp 2 --dp-size 2") == 4
    assert gpus(serve="vllm", gpus=0) == 0
    assert gpus(command="serve {port}") == 1


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_the_arguments_that_radpo_gives_and_reads_are_the_programs_own(name: str) -> None:
    """As their sources have them, which server_arguments.json names: neither is installed beside radpo."""
    known, kind = set(CONTRACTS[name]["arguments"]), KINDS[name]
    assert CONTRACTS[name]["module"] in kind.call
    assert {word for word in kind.options("MODEL", "NAME") if word.startswith("-")} <= known
    for names in kind.parallel:
        assert len(known.intersection(names)) == 2, "its name, and the short one"
    both = {word for other in CONTRACTS.values() for word in other["arguments"]}
    assert both >= TAKEN | NEUTRAL, "none that no program has"
