"""Sources are watched while a stage reads them: what changes is not stored, also where it is changed back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from radpo.core.progress import no_progress
from radpo.engine import sources
from radpo.engine.execute import Outcome, execute
from radpo.engine.graph import WORK, Function, Stage, Task
from radpo.engine.sources import SourceChangedError, identified, watched
from radpo.engine.store import Store


def write(path: Path, text: str, *, times: os.stat_result | None = None) -> Path:
    """A file's text; with times, as a restored file has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if times is not None:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return path


def age(folder: Path) -> None:
    """Let the clock of the file system pass on, so that states are relied on without hashing again."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path)
    sources.time.sleep(2 * sources.CLOCK_NS / 1e9)


def attempt(tmp_path: Path, location: Path, during: Callable[[], object], **how: bool) -> tuple[Outcome, Store, Stage]:
    def work(task: Task) -> None:
        during()
        (task.out / "result").write_text("of what was there then")

    one = Stage("reads", "read", Function(work, 1, **how), {"of": {"deep": [identified(str(location))]}})  # type: ignore[arg-type]
    store = Store(tmp_path / "store")
    return execute(one, store, {}, no_progress), store, one


def restore_in_place(path: Path) -> None:
    times = path.stat()
    write(path, "other!")
    write(path, "before", times=times)


def restore_by_rename(path: Path) -> None:
    aside = path.rename(path.with_name("aside"))
    write(path, "other!")
    path.unlink()
    aside.rename(path)


def restore_a_copy(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    write(path, "other!")
    path.with_name("copy").replace(path)


@pytest.mark.parametrize("aged", [True, False], ids=["known by its state", "hashed again"])
@pytest.mark.parametrize("restore", [restore_in_place, restore_by_rename, restore_a_copy, Path.unlink, Path.touch])
def test_a_file_that_changes_while_it_is_read_is_not_stored_even_if_it_is_changed_back(
    tmp_path: Path, restore: Callable[[Path], None], aged: bool
) -> None:
    path = write(tmp_path / "data" / "pairs.jsonl", "before")
    if aged:
        age(path.parent)
    outcome, store, stage = attempt(tmp_path, path, lambda: restore(path))
    assert outcome.status == "failed"
    assert outcome.message.startswith(f"{path}: changed while reads read it; reads is not stored: leave")
    assert "\n" not in outcome.message
    assert not store.has(stage)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write(folder / "inner" / "a", "x", times=(folder / "inner" / "a").stat()),
        lambda folder: write(folder / "inner" / "new", "x").unlink(),
        lambda folder: (folder / "inner" / "a").chmod(0o600),
        lambda folder: ((folder / "link").unlink(), (folder / "link").symlink_to("inner/a")),
    ],
    ids=["a file", "a file that comes and goes", "its mode", "where a link leads to"],
)
def test_any_change_in_a_folder_counts(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = write(tmp_path / "folder" / "inner" / "a", "a").parents[1]
    (folder / "link").symlink_to("inner/a")
    age(folder)
    outcome, store, stage = attempt(tmp_path, folder, lambda: change(folder))
    assert (outcome.status, store.has(stage)) == ("failed", False)
    assert outcome.message.startswith(f"{folder}: changed while reads read it (at {folder}")


def test_reading_hidden_files_and_links_that_stay_are_no_change(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder" / "a", "a").parent
    write(folder / ".git" / "FETCH_HEAD", "1")
    (tmp_path / "by-link").symlink_to(folder)
    age(tmp_path)

    def during() -> None:
        (folder / "a").read_text()
        write(folder / ".git" / "FETCH_HEAD", "2")

    outcome, store, stage = attempt(tmp_path, tmp_path / "by-link", during)
    assert (outcome.status, store.has(stage)) == ("computed", True)


def test_a_link_that_leads_elsewhere_for_a_while_is_a_change(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name / "pairs.jsonl", "same")
    link = tmp_path / "current"
    link.symlink_to("one")

    def during() -> None:
        for target in ("two", "one"):
            link.unlink()
            link.symlink_to(target)

    outcome, _, _ = attempt(tmp_path, link / "pairs.jsonl", during)
    assert outcome.status == "failed"


def test_what_changed_before_a_stage_began_is_told_before_any_work(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", "before")
    source = identified(str(path))
    write(path, "after!")
    told = r"pairs.jsonl: has changed since this run took its checksum, before reads read it; reads is not stored"
    with pytest.raises(SourceChangedError, match=told), watched([source], "reads"):
        raise AssertionError("no work is done")
    path.unlink()
    with pytest.raises(SourceChangedError, match=r"pairs.jsonl: cannot be read any more"), watched([source], "reads"):
        pass
    write(path, "before")
    with watched([source], "reads"):
        pass  # touched, and yet what it was


def test_a_source_whose_state_is_known_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "data" / "pairs.jsonl", "before")
    age(path.parent)
    source = identified(str(path))
    hashed: list[Path] = []
    monkeypatch.setattr(sources, "sha256", lambda path: hashed.append(path) or "00")
    with watched([source], "reads"):
        pass
    assert not hashed
    os.utime(path)
    with pytest.raises(SourceChangedError), watched([source], "reads"):
        pass
    assert hashed == [path], "touched, so looked at again"
    hashed.clear()
    monkeypatch.setattr(sources, "HAS_CHANGE_TIMES", False)
    with pytest.raises(SourceChangedError), watched([source], "reads"):
        pass
    assert hashed, "without change times nothing is known by its state"


def test_work_of_a_try_whose_source_was_touched_is_not_resumed_from(tmp_path: Path) -> None:
    path = write(tmp_path / "data" / "pairs.jsonl", "before")
    source = identified(str(path))
    seen: list[list[str]] = []

    def work(task: Task) -> None:
        seen.append(sorted(found.name for found in (task.out / WORK).iterdir() if found.name[0] != "."))
        (task.out / WORK / "half").write_text("made of what was there")
        (task.out / WORK / "replies.sqlite").write_text("by request")
        if len(seen) < 4:
            raise KeyError("interrupted")
        (task.out / "result").write_text("whole")

    function = Function(work, 1, resumable=True, lasting=("replies.sqlite*",))
    one, store = Stage("reads", "read", function, {"of": source}), Store(tmp_path / "store")
    for number in range(4):
        if number == 2:
            restore_in_place(path)
        execute(one, store, {}, no_progress)
    assert seen == [[], ["half", "replies.sqlite"], ["replies.sqlite"], ["half", "replies.sqlite"]]
    assert store.record(one.key)["resumed"] is True
