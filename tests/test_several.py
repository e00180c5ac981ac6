"""Training of a stage on several processes, the model split over them: the policy of one, errors in their own words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import warm_commands
import yaml
from cheap_stages import run_inline
from factories import scored_pairs, write_model

from radpo.core.errors import ConfigError, ServiceError
from radpo.engine.distributed import _described, _failure, _task, launch_distributed, worker_main
from radpo.engine.graph import Function, Stage, Task
from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.training_stages import FUNCTIONS
from radpo.preferences.writing import write_preferences


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_model(folder / "model")
    scores = [(9.0, 3.0), (7.0, 6.0), (10.0, 1.0), (6.0, 5.5), (9.0, 2.0), (8.0, 1.0), (7.0, 3.0), (5.0, 4.0)]
    write_preferences(scored_pairs(scores), folder / "pairs.jsonl")
    document = {
        "name": "several",
        "model": str(folder / "model"),
        "variants": {"ra-dpo": None},
        "baseline": "ra-dpo",
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl", "limit": 4}},
        "training": {
            "batch_size": 4, "per_device_train_batch_size": 1, "learning_rate": 1e-3, "beta": 0.3,
            "precision": "float32",
        },
        "resources": {"train": {"gpus": 2}},
        "benchmarks": {"unlearning": {}},
    }  # fmt: skip
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document))
    return folder


def train_stage(place: Path) -> tuple[Stage, Store]:
    (train,) = [one for one in expand(load_matrix(place / "matrix.yaml")).stages if one.function_name == "train"]
    return train, Store(place / "store")


def task_of(stage: Stage, store: Store, out: Path, progress: Any = lambda done, total: None) -> Task:
    out.mkdir()
    return Task(stage, {name: store.folder(needed) for name, needed in stage.inputs.items()}, out, progress)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


# accelerate splits models over GPUs only; PyTorch does so over CPUs as well. So the processes are told that what
# they have are several GPUs' worth of processes, and note each module that is split.
PRETEND = """
import os

if "LOCAL_RANK" in os.environ:
    import accelerate.state
    import torch.distributed.fsdp
    from accelerate.utils import DistributedType

    begin, split = accelerate.state.PartialState.__init__, torch.distributed.fsdp.fully_shard

    def pretend(self, *args, **options):
        begin(self, *args, **options)
        if self.__dict__.get("distributed_type") == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    def note(module, *args, **options):
        with open(os.environ["RADPO_SPLIT_MODULES"], "a") as stream:
            stream.write(type(module).__name__ + "\\n")
        return split(module, *args, **options)

    accelerate.state.PartialState.__init__ = pretend
    torch.distributed.fsdp.fully_shard = note
"""


def test_a_model_split_over_two_processes_trains_to_the_policy_of_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PRETEND)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[1]}")
    monkeypatch.setenv("RADPO_SPLIT_MODULES", str(tmp_path / "split"))
    train, store = train_stage(place)
    run_inline(store, train)  # in this process, as there is no GPU
    steps: list[tuple[int, int]] = []
    monkeypatch.setenv("PYTHON_EXEC", str(tmp_path / "python"))  # what torchrun starts its processes with
    with warm_commands.program(tmp_path / "python"):
        launch_distributed(task_of(train, store, tmp_path / "two", lambda *done: steps.append(done)), 2)
    split = (tmp_path / "split").read_text().split()
    assert split.count("LlamaDecoderLayer") == 2 * 2, "every layer, in both processes"
    assert "LlamaForCausalLM" in split
    assert steps == [(step, 4) for step in range(1, 5)]
    one, two = store.folder(train), tmp_path / "two"
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()} - {"stage.json", "files.json"}
    ours, theirs, base = (weights(folder) for folder in (two / "policy", one / "policy", place / "model"))
    assert ours.keys() == theirs.keys()
    apart = sum(float((ours[name] - theirs[name]).square().sum()) for name in ours) ** 0.5
    moved = sum(float((base[name] - theirs[name]).square().sum()) for name in ours) ** 0.5
    assert moved > 1e-2
    assert apart < 1e-3 * moved
    for file in ("tokenizer_config.json", "chat_template.jinja"):
        assert (two / "policy" / file).read_text() == (one / "policy" / file).read_text()
    held = [json.loads((folder / "heldout.json").read_text()) for folder in (one, two)]
    assert held[0]["n"] == held[1]["n"]
    assert held[0]["metrics"].keys() == held[1]["metrics"].keys()
    assert held[0]["metrics"]["loss"] == pytest.approx(held[1]["metrics"]["loss"], rel=1e-3)
    losses = [pd.read_parquet(folder / "training.parquet").query("metric == 'loss'")["value"] for folder in (one, two)]
    assert losses[0].tolist() == pytest.approx(losses[1].tolist(), rel=1e-3)


def out_of_reach(task: Task) -> None:
    raise ServiceError("the Hub is not to be reached")


def test_what_a_person_can_mend_comes_back_in_its_own_words(place: Path, tmp_path: Path) -> None:
    train, store = train_stage(place)
    train = replace(train, function=Function(out_of_reach, 1))
    (tmp_path / "task.json").write_text(json.dumps(_described(task_of(train, store, tmp_path / "out"))))
    assert [worker_main(tmp_path, first) for first in (True, False)] == [1, 1]
    told = _failure(tmp_path / "error.json", 1, 2)
    assert (str(told), told.exit_status) == ("the Hub is not to be reached", 3)
    untold = _failure(tmp_path / "nothing", -6, 2)
    assert str(untold) == "one of 2 processes failed, and torchrun ended with status -6"


def test_fewer_gpus_than_are_asked_for_are_said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    train, store = train_stage(place)
    with pytest.raises(
        ConfigError, match=r"resources.train.gpus: 2 are asked for, and the stage sees 1; .*--executor ray"
    ):
        FUNCTIONS["train"].run(task_of(train, store, tmp_path / "out"))


def test_a_task_goes_through_its_file_unchanged(place: Path, tmp_path: Path) -> None:
    train, store = train_stage(place)
    task = task_of(train, store, tmp_path / "out")
    again = _task(json.loads(json.dumps(_described(task))), first=False)
    assert (again.inputs, again.out, again.stage.name) == (task.inputs, task.out, train.name)
    assert again.stage.function == train.function
    assert replace(train, inputs={}).key == again.stage.key, "the same settings, sources and all"
    assert again.stage.hints == train.hints
