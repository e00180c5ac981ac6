"""`radpo store gc` beside runs, imports and exports removes only what nobody uses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cheap_stages import run_inline, stage
from gc_rounds import collecting, export_rounds, graph, import_rounds, run_rounds

from radpo.engine.carry import export_stages, import_stages
from radpo.engine.gc import collect
from radpo.engine.store import BusyError, Store


@pytest.mark.parametrize("rounds", [run_rounds, import_rounds, export_rounds])
def test_garbage_is_collected_beside_others_and_nothing_that_they_use(tmp_path: Path, rounds: object) -> None:
    """The short form of benchmarks/faults/gc.py."""
    store = Store(tmp_path / "store")
    with collecting(store.root, threading.Thread, threading.Event()):
        rounds(store, 5)  # type: ignore[operator]
    collect(store, [], dry_run=False)
    assert store.finished() == []
    left = [path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()]
    assert all(name.startswith("locks/") for name in left), left


def test_what_a_living_user_names_stays_and_what_a_dead_one_left_goes(tmp_path: Path) -> None:
    store, kept, old = Store(tmp_path), stage("kept", 1), stage("old", 2)
    run_inline(store, kept, old)
    code = (
        "import sys; from pathlib import Path; from radpo.engine.users import registered\n"
        "with registered(Path(sys.argv[1]), [sys.argv[2]]) as folder:\n"
        "    (folder / 'half').write_text('an archive')\n    print('in', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path), kept.key]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "in\n"
        assert [item.path.name for item in collect(store, [], dry_run=True)] == [old.key]
        collect(store, [], dry_run=False)
        assert store.finished() == [kept.key]
        user.kill()
    garbage = collect(store, [], dry_run=False)
    assert garbage[0].why == "of a process that was killed"
    assert store.finished() == []
    assert list((tmp_path / "users").iterdir()) == []


def test_what_was_begun_of_a_needed_stage_stays_with_the_answers_that_were_paid_for(tmp_path: Path) -> None:
    store, needed, other = Store(tmp_path), stage("needed", 1), stage("other", 2)
    for one in (needed, other):
        store.partial(one).mkdir(parents=True)
    collect(store, [needed], dry_run=False)
    assert [path.name for path in (tmp_path / "partial").iterdir()] == [needed.key]


def test_a_damaged_stage_that_was_computed_again_meanwhile_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = Store(tmp_path), stage("one", 1)
    run_inline(store, one)
    (store.folder(one) / "text").write_text("2")
    looked = []
    sound = Store.lock

    def repaired_first(self: Store, key: str, *, wait: bool = False) -> object:
        if not looked:
            looked.append(key)
            run_inline(store, one)
        return sound(self, key, wait=wait)

    monkeypatch.setattr(Store, "lock", repaired_first)
    assert collect(store, None, dry_run=False) == []
    assert store.has(one)


def test_an_import_names_the_stages_that_other_runs_are_computing_and_takes_the_rest(tmp_path: Path) -> None:
    here, there, stages = Store(tmp_path / "here"), Store(tmp_path / "there"), graph(0)
    run_inline(here, *stages)
    export_stages(here, here.finished(), tmp_path / "x.tar")
    with there.lock(stages[0].key), pytest.raises(BusyError, match=f"6 stages imported.* 1 not taken.*{stages[0].key}"):
        import_stages(there, tmp_path / "x.tar")
    assert len(there.finished()) == 6
    assert import_stages(there, tmp_path / "x.tar") == (1, 6)


def test_an_import_with_one_wrong_stage_takes_none(tmp_path: Path) -> None:
    from radpo.core.errors import DataError

    here, there, stages = Store(tmp_path / "here"), Store(tmp_path / "there"), graph(0)
    run_inline(here, *stages)
    last = max(here.finished())
    record = json.loads((here.root / "stages" / last / "stage.json").read_text())
    del record["seconds"]
    forge(here, last, record)
    with pytest.raises(DataError, match=f"{last}: stage.json is no stage's record .seconds: Field required"):
        import_stages(there, tmp_path / "forged.tar")
    assert there.finished() == []
    assert here.damage(last) == "stage.json is no stage's record (seconds: Field required)", (
        "as earlier imports left it"
    )


def forge(store: Store, key: str, record: object) -> None:
    """Give a stage another record, with right checksums, and export it beside the others."""
    import tarfile

    from radpo.core.files import checksums

    folder = store.root / "stages" / key
    (folder / "stage.json").write_text(json.dumps(record))
    (folder / "files.json").write_text(json.dumps(checksums(folder, frozenset({"files.json"}))))
    with tarfile.open(store.root.with_name("forged.tar"), "w") as archive:
        for stage_folder in (store.root / "stages").iterdir():
            archive.add(stage_folder, arcname=stage_folder.name)
