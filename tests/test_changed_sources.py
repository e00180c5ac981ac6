"""Every kind of source, changed while a stage reads it and restored with its times: nothing is stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from source_world import COMMITS, KINDS, Kind, World, changed, edit_json, move_branch, source_world, stage_of

from radpo.core.errors import ModelError
from radpo.core.progress import no_progress
from radpo.engine.execute import execute
from radpo.engine.graph import Stage, Task
from radpo.engine.sources import sources_in
from radpo.engine.store import Store
from radpo.judges.base import CompareRequest
from radpo.judges.reward_model import RewardModelJudge, RewardModelSettings
from radpo.models.loading import model_fingerprint, pinned_model, resolve_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with source_world(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture(scope="module")
def stages(world: World) -> dict[str, Stage]:
    return world.stages()


def test_no_kind_of_source_that_changes_during_a_run_and_is_restored_leaves_a_result(
    world: World, stages: dict[str, Stage], tmp_path: Path
) -> None:
    store, missed = Store(tmp_path / "store"), []
    for name, kind in KINDS.items():
        # Code may have been imported before a stage begins, so that what was touched since a plan is refused at once.
        real = stage_of(world.stages() if kind.file.startswith("site") else stages, kind)

        def read(task: Task, kind: Kind = kind) -> None:
            with changed(world, kind):
                (task.out / "result").write_text("of another content than the key's")

        stage = replace(real, function=replace(real.function, run=read), inputs={})
        outcome = execute(stage, store, {}, no_progress)
        if outcome.status != "failed" or store.has(stage) or "is not stored" not in outcome.message:
            missed.append((name, outcome))
        assert any(
            outcome.message.startswith(f"{source.location}: changed while") for source in sources_in(real.settings)
        )
    assert missed == []
    assert len(KINDS) >= 20
    assert store.finished() == []


def test_after_it_is_restored_the_same_stage_is_computed(world: World, tmp_path: Path) -> None:
    real = stage_of(world.stages(), KINDS["questions"])
    stage = replace(real, function=replace(real.function, run=lambda task: (task.out / "result").touch()), inputs={})
    assert execute(stage, Store(tmp_path), {}, no_progress).status == "computed"


def test_a_branch_of_the_hub_that_moves_meanwhile_is_read_where_it_was(world: World, stages: dict[str, Stage]) -> None:
    stage = stage_of(stages, KINDS["a model of the Hub"])
    (model,) = (source for source in sources_in(stage.settings) if source.location == "org/tiny")
    assert model.read_from == f"org/tiny@{COMMITS[0]}"
    move_branch(world, COMMITS[1])
    try:
        assert resolve_model("org/tiny").name == COMMITS[1]
        assert resolve_model(model.read_from).name == COMMITS[0]
        assert stage_of(world.stages(), KINDS["a model of the Hub"]).key != stage.key, (
            "the next run reads what is there"
        )
    finally:
        move_branch(world, COMMITS[0])


def test_a_local_folder_does_not_pass_for_a_commit_of_the_hub(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots" / COMMITS[0]
    folder.parent.mkdir()
    shutil.copytree(world.snapshot, folder)
    assert model_fingerprint(str(folder)) == model_fingerprint("org/tiny"), "known by content, wherever it is"
    assert pinned_model(str(folder)) == ""
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert model_fingerprint(str(folder)) != model_fingerprint("org/tiny")


def test_a_model_that_transformers_would_read_from_elsewhere_is_refused(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(world.folder / "model", folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config.json\), with which transformers reads"):
        model_fingerprint(str(folder))


def test_code_of_a_model_that_is_in_another_repository_is_refused(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "reward"
    shutil.copytree(world.folder / "reward", folder)
    edit_json(folder / "config.json", auto_map={"AutoModel": "someone/else--modeling.Model"})
    judge = RewardModelJudge(RewardModelSettings(model=str(folder), trust_remote_code=True))
    with pytest.raises(ModelError, match=r"config.json, auto_map: its code is in another repository \(someone/else\)"):
        judge.compare([CompareRequest([{"role": "user", "content": "Why?"}], "a", "b")])
