"""Before the first stage: everything that is lacking, in one list, and each typical mistake said at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import scored_pairs, write_model
from fault_server import FaultServer, Http
from typer.testing import CliRunner

from radpo import api
from radpo.cli.main import app
from radpo.clients import probe
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError, RadpoError, ServiceError
from radpo.matrix.preflight import NotReadyError
from radpo.preferences.writing import write_preferences

JUDGED = {"questions": {"path": "questions.jsonl"}, "sampling": {"max_new_tokens": 3}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preflight")
    write_model(folder / "model")
    write_preferences(scored_pairs([(9.0, 3.0), (7.0, 6.0), (10.0, 1.0), (5.0, 4.0)]), folder / "pairs.jsonl")
    (folder / "questions.jsonl").write_text('{"question_id": "a", "category": "c", "turns": ["Say five."]}\n')
    return folder


@pytest.fixture(autouse=True)
def _nobody_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_answered", {})
    monkeypatch.delenv("NO_KEY", raising=False)


def matrix(place: Path, changes: Mapping[str, Any]) -> str:
    """The text of a matrix file that is right, but for these changes of its top keys."""
    document = {
        "name": "mistakes", "model": "model", "variants": {"base": None, "dpo": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}},
        "training": {"batch_size": 4, "per_device_train_batch_size": 2, "max_length": 400},
        "benchmarks": {"unlearning": {}},
    }  # fmt: skip
    document["model"] = str(place / "model")
    return yaml.safe_dump({**document, **changes}, sort_keys=False)


def judge(**settings: Any) -> dict[str, Any]:
    return {"benchmarks": {"mt-bench": {**JUDGED, "judge": {"kind": "openai", "model": "m", **settings}}}}


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def mistakes(place: Path) -> dict[str, tuple[str, list[str], str, int]]:
    """Typical mistakes: the matrix file, words of the command, what is said, the exit status."""
    data = {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}}
    port = closed_port()
    here = ["--out", str(place / "run"), "--store", str(place / "store")]
    (place / "taken").write_text("a file", encoding="utf-8")
    return {
        "a typo in a benchmark": (
            matrix(place, {"benchmarks": {"unlerning": {}}}), here,
            r"m.yaml:\d+: benchmarks.unlerning: no such key.*did you mean 'unlearning'", 2,
        ),
        "a missing file": (
            matrix(place, {"data": {**data, "train": {"path": "no.jsonl"}}}), here,
            r"m.yaml:\d+: data.train.path: .*no.jsonl does not exist", 2,
        ),
        "a wrong model, offline": (
            matrix(place, {"model": "organisation/no-such-model"}), here, r"organisation/no-such-model", 2,
        ),
        "no GPU": (
            matrix(place, {"resources": {"train": {"gpus": 8}}}), here,
            r"m.yaml:\d+: resources.train.gpus: 8 are asked for, and this machine has \d", 2,
        ),
        "a bad indentation": (
            matrix(place, {}).replace("  heldout:", " heldout:"), here, r"m.yaml:\d+: cannot be read as YAML", 2,
        ),
        "an unknown variant": (
            matrix(place, {"variants": {"base": None, "ra-dop": None}}), here,
            r"m.yaml:\d+: variants.ra-dop.*no such variant.*did you mean 'ra-dpo'", 2,
        ),
        "a wrong scale": (
            matrix(place, {"data": {**data, "scale": [1, 5]}}), here,
            r"pairs.jsonl, line 1, column score_chosen: .*9 is not on the scale 1-5", 2,
        ),
        "an output that cannot be written": (
            matrix(place, {}), ["--out", "/proc/no/run", "--store", str(place / "store")],
            r"/proc/no/run: cannot be written.*--out", 2,
        ),
        "a store that cannot be written": (
            matrix(place, {}), ["--out", str(place / "run"), "--store", "/proc/no/store"],
            r"/proc/no/store: cannot be written.*--store", 2,
        ),
        "a file in the store's place": (
            matrix(place, {}), ["--out", str(place / "run"), "--store", str(place / "taken")],
            r"taken: is a file, and .*taken cannot be a folder there; give another with --store", 2,
        ),
        "no key": (
            matrix(place, judge(api_key_env="NO_KEY")), here,
            r"m.yaml:\d+: benchmarks.mt-bench.judge: https://api.openai.com/v1 needs a key: set .* NO_KEY", 2,
        ),
        "a closed port": (
            matrix(place, judge(base_url=f"http://127.0.0.1:{port}/v1")), here,
            rf"m.yaml:\d+: benchmarks.mt-bench.judge: http://127.0.0.1:{port}/v1: .*cannot be reached", 3,
        ),
        "a setting of TRL's that is none here": (
            matrix(place, {"training": {"ref_model_mixup_alpha": 0.6}}), here,
            r"m.yaml:\d+: training.ref_model_mixup_alpha: no such key", 2,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("command", ["run", "plan --check"])
def test_typical_mistakes_are_said_within_seconds_and_before_any_stage(
    place: Path, mistakes: dict[str, tuple[str, list[str], str, int]], command: str
) -> None:
    assert len(mistakes) == 13
    file = place / "m.yaml"
    for what, (text, words, said, status) in mistakes.items():
        file.write_text(text, encoding="utf-8")
        start = time.perf_counter()
        with pytest.raises(RadpoError, match=said) as told:
            CliRunner().invoke(app, [*command.split(), str(file), *words], catch_exceptions=False)
        assert told.value.exit_status == status, what
        assert time.perf_counter() - start < 20, what
        assert len(str(told.value).splitlines()) == 1, f"{what}: {told.value}"
    assert not list((place / "store").glob("stages/*")), "nothing was computed"
    assert not (place / "run" / "manifest.json").exists()


def test_a_model_is_not_converted_while_something_else_is_lacking(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path))
    monkeypatch.setattr("radpo.models.loading._convert_gguf", lambda *words: pytest.fail("converted"))
    changes = {"model": "smollm2-135m-instruct", "resources": {"train": {"gpus": 8}}}
    file = place / "gguf.yaml"
    text = matrix(place, changes).replace(f"model: {place / 'model'}", "model: smollm2-135m-instruct")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(NotReadyError, match="8 are asked for"):
        api.check(file, tmp_path / "run")


def test_everything_that_is_lacking_is_in_one_list(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"train": {"path": "no.jsonl"}, "heldout": {"path": "pairs.jsonl"}}
    port = closed_port()
    judged = judge(api_key_env="NO_KEY")["benchmarks"]
    endpoint = {"model": "m", "base_url": f"http://127.0.0.1:{port}/v1"}
    variants = {"base": None, "dpo": None, "there": {"endpoint": endpoint}, "far": {"checkpoint": "organisation/none"}}
    file = place / "all.yaml"
    file.write_text(matrix(place, {"data": data, "benchmarks": judged, "variants": variants}), encoding="utf-8")
    with pytest.raises(NotReadyError) as told:
        api.check(file, "/proc/no/run", store="/proc/no/store")
    faults = "\n".join(told.value.faults)
    for part in ("no.jsonl does not exist", "NO_KEY", f"{port}/v1", "organisation/none", "/proc/no/run", "no/store"):
        assert faults.count(part) == 1, f"{part}\n{faults}"
    assert told.value.exit_status == 2, "some of it is not a service's failure"
    assert str(told.value).startswith("6 things are to be fixed before the first stage can run:\n")
    done = CliRunner().invoke(app, ["plan", str(file), "--check", "--json", "--store", "/proc/no/store"])
    assert len(json.loads(done.stdout)["faults"]) == 5


def test_a_run_that_lacks_nothing_says_so_and_asks_each_judge_once(place: Path, tmp_path: Path) -> None:
    with FaultServer(lambda body: "Rating: [[7]]") as server:
        section = {**JUDGED, "judge": {"kind": "openai", "model": "m", "base_url": server.url}}
        again = {"questions": section["questions"], "judge": section["judge"], "max_new_tokens": 3}
        file = tmp_path / "m.yaml"
        text = matrix(place, {"benchmarks": {"mt-bench": section, "calibration": again}, "variants": {"base": None}})
        file.write_text(text.replace("questions.jsonl", str(place / "questions.jsonl")).replace(
            "pairs.jsonl", str(place / "pairs.jsonl")), encoding="utf-8")  # fmt: skip
        words = ["--out", str(tmp_path / "run"), "--store", str(tmp_path / "store")]
        checked = CliRunner().invoke(app, ["plan", "--check", str(file), *words], catch_exceptions=False)
        assert checked.stdout.startswith("ready: ")
        assert not server.asked, "nothing but the tiny request"
        assert [body["max_tokens"] for body in server.probes] == [16], "two benchmarks, one judge"
        assert not (tmp_path / "run").exists()
        api.run(file, tmp_path / "run", store=str(tmp_path / "store"))
        asked = len(server.asked)
        assert asked > 0
    api.run(file, tmp_path / "run", store=str(tmp_path / "store"))  # the server is gone, and nobody needs it


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Http(401, {"error": {"message": "no such key"}}), "HTTP 401.*is OPENAI_API_KEY set to the right key"),
        (Http(404, {"error": {"message": "no model m"}}), "HTTP 404.*no model m"),
        (Http(503, {"error": {"message": "loading"}}), "HTTP 503"),
    ],
)
def test_an_endpoint_that_refuses_is_said_with_what_it_says(
    answer: Http, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fault_server.QUESTION", "another")  # so that the server answers probes as anything else
    with FaultServer(lambda body: answer) as server, pytest.raises(ServiceError, match=said):
        probe.probe(Endpoint(model="m", base_url=server.url))


def test_an_endpoint_that_thinks_longer_than_the_tiny_answer_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fault_server.QUESTION", "another")
    cut = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": None}}
    with FaultServer(lambda body: cut) as server:
        probe.probe(Endpoint(model="m", base_url=server.url))
        assert len(server.asked) <= 2


def test_a_plug_ins_own_ready_joins_the_list(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from radpo.benchmarks.registry import benchmarks

    own = {**benchmarks(), "unlearning": replace(benchmarks()["unlearning"], ready=lambda settings: "no scales here")}
    monkeypatch.setattr("radpo.matrix.preflight.benchmarks", lambda: own)
    file = place / "own.yaml"
    file.write_text(matrix(place, {"resources": {"train": {"gpus": 8}}}), encoding="utf-8")
    with pytest.raises(ConfigError) as told:
        api.check(file, tmp_path / "run")
    assert [fault.split(": ", 1)[1] for fault in told.value.faults][-1] == "benchmarks.unlearning: no scales here"
    assert len(told.value.faults) == 2


def test_a_disk_without_room_is_said_beforehand(tmp_path: Path) -> None:
    from radpo.core.files import check_room

    check_room(tmp_path, 0.0, "--store")
    with pytest.raises(ConfigError, match=r"at least \d+\.\d GiB are needed, and its disk has .* GiB free; make room"):
        check_room(tmp_path / "no" / "store", 1e18, "--store")
