"""`precision: auto` is settled before keys are made: measured on CPUs, kept for the machine, pinned by a variable."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from factories import scored_pairs, write_model
from test_regress import changed, write_run
from typer.testing import CliRunner

from radpo import api
from radpo.cli.main import app
from radpo.core.errors import ConfigError
from radpo.engine.graph import Stage
from radpo.gate.compare import compare
from radpo.matrix.expand import Plan, expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.manifest import resolved
from radpo.models import precision
from radpo.models.loading import load_model, torch_dtype
from radpo.models.precision import VARIABLE, arithmetic, settle
from radpo.preferences.writing import write_preferences


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A CPU with bfloat16 and an empty cache; speeds are as the list's one entry says."""
    faster = ["bfloat16"]
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "bf16_supported", lambda: True)
    monkeypatch.setattr(
        precision, "_speed", lambda torch, autocast: 200.0 if autocast == (faster[0] == "bfloat16") else 100.0
    )
    return faster


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_auto_is_what_a_measurement_shows_to_be_faster_once_for_a_machine(unpinned, tmp_path, faster):
    unpinned[0] = faster
    assert settle("auto") == faster
    assert torch_dtype("auto") is getattr(torch, faster)
    ours = (100, 200) if faster == "bfloat16" else (200, 100)
    assert f"float32 {ours[0]}, bfloat16 {ours[1]} GFLOP/s a core" in arithmetic().reason
    unpinned[0] = "float32" if faster == "bfloat16" else "bfloat16"
    assert settle("auto") == faster, "what was measured is kept"
    (machine,) = json.loads((tmp_path / "cache" / precision.FILE).read_text())
    assert torch.__version__ in machine
    (tmp_path / "cache" / precision.FILE).write_text("{torn")
    assert settle("auto") == unpinned[0], "a damaged file is measured anew"


def test_a_cpu_without_bfloat16_is_not_measured(unpinned, monkeypatch):
    monkeypatch.setattr(precision, "bf16_supported", lambda: False)
    assert str(arithmetic()) == "float32 (the CPU has no bfloat16)"


def test_bfloat16_has_to_be_clearly_faster(unpinned, monkeypatch):
    monkeypatch.setattr(precision, "_speed", lambda torch, autocast: 105.0 if autocast else 100.0)
    assert settle("auto") == "float32"


def test_the_measurement_is_one_of_this_machine():
    if torch.cuda.is_available():
        pytest.skip("a GPU computes here")
    threads = torch.get_num_threads()
    full, half = (precision._speed(torch, autocast) for autocast in (False, True))
    assert full > 0.1
    assert half > 0.01
    assert torch.get_num_threads() == threads


def test_a_variable_pins_it(monkeypatch):
    monkeypatch.setenv(VARIABLE, "bfloat16")
    assert settle("auto") == "bfloat16"
    assert settle("float32") == "float32"
    monkeypatch.setenv(VARIABLE, "half")
    with pytest.raises(ConfigError, match="RADPO_PRECISION=half: give float32 or bfloat16"):
        settle("auto")


def test_doctor_prints_what_auto_is_and_why(unpinned):
    shown = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["precision auto"] == (
        "bfloat16 (measured here, a layer forward and backward: float32 100, bfloat16 200 GFLOP/s a core)"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    write_model(folder / "model")
    write_preferences(scored_pairs([(9, 3), (7, 6), (10, 1)]), folder / "pairs.jsonl")
    row = {"question_id": "q", "category": "a", "turns": ["Say five.", "And more."]}
    (folder / "questions.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def write_matrix(place: Path, **more: Any) -> Path:
    sampling = {"max_new_tokens": 7}
    document = {
        "name": "small",
        "model": str(place / "model"),
        "variants": {"base": None, "dpo": None, "ira": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}},
        "training": {"batch_size": 2, "per_device_train_batch_size": 2},
        "benchmarks": {
            "unlearning": {},
            "mt-bench": {
                "questions": {"path": "questions.jsonl"}, "sampling": sampling,
                "judge": {"kind": "reward-model", "model": str(place / "model"), "raw_range": [-1, 1]},
            },
        },
        **more,
    }  # fmt: skip
    path = place / "matrix.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def precisions(value: Any) -> list[str]:
    """All that is said of precision in settings, however deep."""
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in ([inner] if key == "precision" else precisions(inner))]
    return [text for inner in value for text in precisions(inner)] if isinstance(value, list) else []


def keys(plan: Plan) -> dict[str, str]:
    return {stage.name: stage.key for stage in plan.stages}


def said(stages: list[Stage]) -> set[str]:
    return {text for stage in stages for text in precisions(dict(stage.settings))}


@pytest.mark.parametrize("machine", ["float32", "bfloat16"])
def test_no_key_holds_auto_and_machines_of_one_arithmetic_share_a_store(place, monkeypatch, machine):
    monkeypatch.setenv(VARIABLE, machine)
    matrix = write_matrix(place)
    plan = expand(load_matrix(matrix))
    assert said(plan.stages) == {machine}
    asking = {stage.function_name for stage in plan.stages if precisions(dict(stage.settings))}
    assert asking == {"train", "reference", "implicit", "likelihood", "generate", "mt-bench"}
    stated = write_matrix(place, training={"batch_size": 2, "per_device_train_batch_size": 2, "precision": machine})
    assert keys(expand(load_matrix(stated))) == keys(plan)
    monkeypatch.setenv(VARIABLE, "float32" if machine == "bfloat16" else "bfloat16")
    other = keys(expand(load_matrix(write_matrix(place))))
    assert {name.partition("/")[0] for name, key in keys(plan).items() if other[name] != key} >= asking


def test_a_plan_for_a_gpu_is_one_in_bfloat16(place):
    gpu = api.plan(write_matrix(place), place / "run", machine="h100-sxm").estimate
    assert said([item.stage for item in gpu.stages]) == {"bfloat16"}


def test_the_resolved_matrix_says_what_auto_was(place, monkeypatch):
    monkeypatch.setenv(VARIABLE, "bfloat16")
    document = resolved(expand(load_matrix(write_matrix(place))))
    assert document["training"]["precision"] == "bfloat16"
    assert "auto" not in precisions(document)


def test_what_is_stated_is_not_measured(place, unpinned, monkeypatch):
    def fail(*arguments: Any) -> float:
        raise AssertionError("nothing asks for a measurement")

    monkeypatch.setattr(precision, "_speed", fail)
    path = write_matrix(place, training={"batch_size": 2, "per_device_train_batch_size": 2, "precision": "float32"})
    document = yaml.safe_load(path.read_text())
    for part in ("sampling", "judge"):
        document["benchmarks"]["mt-bench"][part]["precision"] = "float32"
    path.write_text(yaml.safe_dump(document))
    assert said(expand(load_matrix(path)).stages) == {"float32"}


def test_the_gate_is_told_that_two_runs_differ_in_it(tmp_path):
    a = write_run(tmp_path / "a", matrix=changed("benchmarks/alpaca-eval/sampling/precision", "float32"))
    b = write_run(tmp_path / "b", matrix=changed("benchmarks/alpaca-eval/sampling/precision", "bfloat16"))
    verdict = compare(a, b)
    assert verdict.status == "pass"
    assert verdict.notes == (
        "benchmarks.alpaca-eval.sampling.precision is float32 in one run and bfloat16 in the other: answers and "
        "log-likelihoods differ by rounding.",
    )
    assert compare(a, a).notes == ()


def test_models_are_loaded_in_it(place, monkeypatch):
    monkeypatch.setenv(VARIABLE, "bfloat16")
    assert load_model(place / "model", "auto").dtype is torch.bfloat16


@pytest.mark.parametrize(("executor", "warned"), [("ray", True), ("local", False)])
def test_a_run_on_another_executor_is_warned_that_auto_is_of_this_machine(
    place, tmp_path, monkeypatch, executor, warned
):
    def stop(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    expected = SimpleNamespace(seconds_by_key=dict, notes_by_key=dict)
    chosen = SimpleNamespace(executor=SimpleNamespace(name=executor))
    asked = SimpleNamespace(missing=[], expected=expected, executor=chosen)
    monkeypatch.setattr("radpo.core.warn._WARNED", set())
    monkeypatch.setattr(api, "_prepared", lambda *arguments: asked)
    monkeypatch.setattr("radpo.matrix.run.run_matrix", stop)  # all that matters here is done
    told = r"precision auto: float32 \(RADPO_PRECISION says so\), which is of this machine; where the executor ray"
    monkeypatch.setenv(VARIABLE, "float32")
    matrix = write_matrix(place)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(KeyboardInterrupt):
            api.run(matrix, tmp_path / "run", executor=executor)
    assert any(re.match(told, str(one.message)) for one in found) == warned
