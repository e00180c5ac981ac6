"""Stages, keys and the schedule, on stages that take no model, in this process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cheap_stages import WRITE, stage, write_text
from cheap_stages import run_inline as run

from radpo.engine.graph import Function, Stage, Task, in_order
from radpo.engine.schedule import StageError
from radpo.engine.sources import Source, identified
from radpo.engine.store import Store


def test_inputs_are_computed_first_and_a_shared_stage_once(tmp_path: Path) -> None:
    base = stage("base", "a")
    left, right = stage("left", "b", base=base), stage("right", "c", base=stage("base again", "a"))
    watcher = run(Store(tmp_path), left, right)
    assert sorted(watcher.computed[1:]) == ["left", "right"]
    assert watcher.computed[0] == "base"
    assert (Store(tmp_path).folder(right) / "text").read_text() == "ac"


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    top = stage("top", "b", base=stage("base", "a"))
    run(Store(tmp_path), top)
    assert run(Store(tmp_path), top).computed == []


def test_a_changed_setting_redoes_only_what_depends_on_it(tmp_path: Path) -> None:
    base, other = stage("base", "a"), stage("other", "o")
    run(Store(tmp_path), stage("top", "b", base=base, other=other))
    changed = stage("top", "b", base=base, other=stage("other", "changed"))
    assert run(Store(tmp_path), changed).computed == ["other", "top"]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (stage("another name", 1), True),
        (Stage("name", "write", WRITE, {"text": 1}, hints={"save_every": 3}), True),
        (stage("name", 2), False),
        (stage("name", 1, function=Function(write_text, version=2)), False),
        (stage("name", 1, function=Function(write_text, version=1, packages=("numpy",))), False),
        (stage("name", 1, base=stage("base", 1)), False),
        (Stage("name", "other function", WRITE, {"text": 1}), False),
    ],
)
def test_a_key_follows_what_can_change_the_result_and_nothing_else(other: Stage, same: bool) -> None:
    assert (stage("name", 1).key == other.key) is same


def test_a_source_counts_by_content_and_not_by_place() -> None:
    here, there = Source("/a/file", "sha256:1"), Source("/b/file", "sha256:1")
    assert stage("s", here).key == stage("s", there).key
    assert stage("s", here).key != stage("s", Source("/a/file", "sha256:2")).key


def test_a_stage_that_fails_leaves_nothing_under_its_key_and_can_be_run_again(tmp_path: Path) -> None:
    fail = [True]

    def sometimes(task: Task) -> None:
        assert not list(task.out.iterdir()), "a stage that cannot resume starts from an empty folder"
        (task.out / "text").write_text("half")
        if fail[0]:
            raise RuntimeError("killed")

    flaky = stage("flaky", "x", function=Function(sometimes, version=1))
    store = Store(tmp_path)
    with pytest.raises(StageError, match="killed"):
        run(store, flaky)
    assert not store.has(flaky)
    assert not store.folder(flaky).exists()
    fail[0] = False
    assert run(store, flaky).computed == ["flaky"]


def test_a_resumable_stage_finds_what_its_interrupted_try_left(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def resumes(task: Task) -> None:
        tries.append([path.name for path in task.out.rglob("*")])
        (task.out / "work").mkdir(exist_ok=True)
        (task.out / "work" / "step").write_text("1")
        (task.out / "other").write_text("half")
        if len(tries) == 1:
            raise RuntimeError("killed")

    long = stage("long", "x", function=Function(resumes, version=1, resumable=True))
    with pytest.raises(StageError, match="killed"):
        run(Store(tmp_path), long)
    run(Store(tmp_path), long)
    assert sorted(tries[1]) == ["step", "work"], "only the folder `work` outlives a try"
    assert not (Store(tmp_path).folder(long) / "work").exists()


@pytest.mark.parametrize("hurt", ["shorten", "delete"])
def test_a_damaged_stage_is_computed_again(tmp_path: Path, hurt: str) -> None:
    base = stage("base", "abc")
    store = Store(tmp_path)
    run(store, base)
    file = store.folder(base) / "text"
    if hurt == "shorten":
        file.write_text("ab")
    else:
        file.unlink()
    assert run(store, base).computed == ["base"]
    assert file.read_text() == "abc"


def test_a_finished_stage_notes_what_it_was_and_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "secret-place").mkdir()
    (tmp_path / "secret-place" / "file").write_text("content")
    source = identified(str(tmp_path / "secret-place" / "file"))
    noted = Stage("noted", "write", Function(lambda task: (task.out / "t").write_text("x"), 1), {"text": source})  # type: ignore[arg-type, return-value]
    store = Store(tmp_path)
    run(store, noted)
    record = json.loads((store.folder(noted) / "stage.json").read_text())
    files = json.loads((store.folder(noted) / "files.json").read_text())
    assert record["settings"] == {"text": {"content": source.identity}}
    assert "secret-place" not in json.dumps(record)
    assert set(files) == {"t", "stage.json"}
    assert files["t"]["bytes"] == 1


def test_in_order_puts_every_input_before_what_needs_it() -> None:
    a = stage("a", 1)
    b = stage("b", 2, a=a)
    c = stage("c", 3, a=a, b=b)
    assert [s.name for s in in_order([c, b])] == ["a", "b", "c"]


def test_a_stage_finds_its_environment_and_leaves_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def look(task: Task) -> None:
        seen.append(os.environ.get("OF_THE_STAGE"))
        (task.out / "text").write_text("")

    function = Function(look, version=1)
    one = Stage("one", "look", function, {"environment": {"OF_THE_STAGE": "1"}})
    other = Stage("other", "look", function, {"environment": {"OF_THE_STAGE": "2"}})
    assert one.key != other.key
    run(Store(tmp_path), one, other)
    assert sorted(map(str, seen)) == ["1", "2"]
    assert "OF_THE_STAGE" not in os.environ
    monkeypatch.setenv("OF_THE_STAGE", "mine")
    run(Store(tmp_path / "again"), one)
    assert os.environ["OF_THE_STAGE"] == "mine"
