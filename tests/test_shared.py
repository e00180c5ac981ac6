"""The shared store when its file system fails, loses answers, cuts and delays, and machines die."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cheap_stages import Watcher, most_holders, run_inline, stage
from faulty_fs import KINDS, READS, WRITES, Fault, FaultyFileSystem, Plan, plan
from fsspec.implementations.memory import MemoryFileSystem

from radpo.core.errors import ConfigError, ServiceError
from radpo.engine import leases, remote, shared
from radpo.engine.carry import export_stages, import_stages
from radpo.engine.execute import execute
from radpo.engine.gc import collect, damaged, entries
from radpo.engine.graph import Stage, in_order
from radpo.engine.leases import Leases
from radpo.engine.schedule import StageError
from radpo.engine.shared import SharedStore
from radpo.engine.store import BusyError, Store, StoreFullError

Machine = Callable[[str], SharedStore]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(shared, "LIST_SECONDS", 0.0)


@pytest.fixture(params=["memory", "file"])
def faults(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plan]:
    made = plan("test", target=request.param)
    yield made
    if request.param == "memory":
        made.target.store.clear()


@pytest.fixture
def machine(tmp_path: Path, faults: Plan) -> Machine:
    """The store as a machine of that name sees it."""
    return lambda name: SharedStore(tmp_path / name, f"faulty://test{tmp_path}/url")


def graph() -> list[Stage]:
    base = stage("base", "a")
    return in_order([stage("join", "j", a=stage("left", "l", base=base), b=stage("right", "r", base=base))])


def once(store: SharedStore, stages: list[Stage]) -> tuple[Watcher, list[str]]:
    with store.using(one.key for one in stages):
        return run_inline(store, *stages), [(store.open(one) / "text").read_text() for one in stages]


def there(faults: Plan, machine: Machine, folder: str = "stages") -> list[str]:
    kept, faults.faults = faults.faults, []
    share, faults.share = faults.share, 0.0
    found = machine("onlooker").remote.names(folder)
    faults.faults, faults.share = kept, share
    return found


def test_with_a_fifth_of_all_operations_failing_two_machines_end_as_if_none_had(faults: Plan, machine: Machine) -> None:
    stages = graph()
    faults.share = 0.2
    for name in ("one", "two"):
        for _ in range(30):  # a run that a service's failure ends is given again
            with suppress(ServiceError, StageError):
                watcher, texts = once(machine(name), stages)
                break
        assert texts[-1] == "alarj"
        assert len(watcher.computed) <= 4
    assert watcher.computed == [], "the second computes nothing"
    assert faults.met > 10
    faults.share = 0.0
    assert damaged(machine("three")) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_one_fault_in_any_operation_changes_nothing(faults: Plan, machine: Machine, kind: str) -> None:
    for operation in (*READS, *WRITES):
        one = stage(f"{kind} {operation}", operation)
        faults.faults = [Fault(kind, (operation,), after=after) for after in (0, 1, 3)]
        store = machine(f"{kind}-{operation}")
        with store.using([one.key]):
            assert run_inline(store, one).computed == [one.name]
        assert (machine("reader").open(one) / "text").read_text() == operation
    assert there(faults, machine, "leases") == there(faults, machine, "users") == []


def test_a_stage_that_could_not_be_sent_is_sent_by_the_same_command_and_not_computed_again(
    faults: Plan, machine: Machine
) -> None:
    one = stage("one", "a")
    faults.faults = [Fault("cut", ("put_file",), times=100)]
    with pytest.raises(StageError, match=r"the stage is whole in .* the same command sends it") as failure:
        run_inline(machine("here"), one)
    assert failure.value.exit_status == 3
    assert not machine("here").has(one), "what is not up does not count as shared"
    assert not machine("there").has(one)
    faults.faults = []
    watcher = run_inline(machine("here"), one)
    assert (watcher.computed, watcher.kept) == ([], ["one"])
    assert run_inline(machine("there"), one).computed == []


def test_a_damaged_copy_here_is_fetched_again_and_no_disk_is_blamed(faults: Plan, machine: Machine) -> None:
    base, top = stage("base", "a"), stage("top", "b", base=stage("base", "a"))
    here, other = machine("here"), machine("there")
    run_inline(here, base)
    other.open(base)
    for store in (here, other):
        (store.folder(base) / "text").write_text("x")
    assert damaged(other) == {}
    (other.folder(base) / "text").write_text("x")
    assert collect(other, None, dry_run=False) == []
    watcher = run_inline(other, top)
    assert (watcher.damaged, watcher.computed) == ([], ["top"])
    assert (here.open(top) / "text").read_text() == "ab"
    assert (here.open(base) / "text").read_text() == "a"


@pytest.mark.parametrize("kind", ["short", "flip", "cut"])
def test_what_is_damaged_on_its_way_is_not_damaged_there(faults: Plan, machine: Machine, kind: str) -> None:
    one = stage("one", "a")
    run_inline(machine("here"), one)
    faults.faults = [Fault(kind, ("get_file",), times=1)]
    assert (machine("there").open(one) / "text").read_text() == "a"
    faults.faults = [Fault(kind, ("get_file",), times=100)]
    with pytest.raises(ServiceError, match=r"arrives with another content|bytes of .* arrived|injected"):
        machine("third").open(one)
    faults.faults = []
    assert (machine("third").open(one) / "text").read_text() == "a"


def test_a_stage_that_is_damaged_or_lacks_its_archive_there_is_computed_again(faults: Plan, machine: Machine) -> None:
    for hurt in ("damaged", "missing"):
        base = stage("base", hurt)
        run_inline(machine("here"), base)
        (name,) = [name for name in there(faults, machine) if base.key in name and name.endswith(".tar")]
        if hurt == "damaged":
            content = bytearray(machine("x").remote.read(f"stages/{name}"))
            content[600] ^= 1
            machine("x").remote.write(f"stages/{name}", bytes(content))
        else:
            machine("x").remote.delete(f"stages/{name}")
        watcher = run_inline(machine(f"there {hurt}"), stage("top", "b", base=base))
        assert (watcher.damaged, watcher.computed) == (["base"], ["base", "top"])


def test_errors_of_the_service_are_never_taken_for_absence(faults: Plan, machine: Machine) -> None:
    one = stage("one", "a")
    run_inline(machine("here"), one)
    for operation in ("ls", "cat_file"):
        shared._listed.clear()
        faults.faults = [Fault("fail", (operation,), times=10**6)]
        for ask in (
            lambda: machine("there").has(one),
            lambda: machine("there").finished(),
            lambda: run_inline(machine("there"), one),
            lambda: collect(machine("there"), [], dry_run=False),
        ):
            with pytest.raises(ServiceError, match=f"503 injected before {operation}"):
                ask()
    faults.faults = []
    assert machine("there").has(one)


def test_what_killed_senders_left_is_nothing_to_runs_and_goes_with_the_garbage(
    faults: Plan, machine: Machine, tmp_path: Path
) -> None:
    whole, torn, half = stage("whole", 1), stage("torn", 2), stage("half", 3)
    run_inline(machine("here"), whole, torn)
    far = machine("far").remote
    far.write(f"stages/{torn.key}.json", far.read(f"stages/{torn.key}.json")[:40])  # killed in the middle of a mark
    far.write(f"stages/{half.key}-{'0' * 64}.tar", b"half an archive")
    far.write(f"leases/{half.key}.00000001", b'{"hos')
    far.write("users/dead.json", b'{"owner": "o", "ke')
    shared._listed.clear()  # as in another process
    store = machine("there")
    assert not store.has(torn)
    assert {entry.name for entry in entries(store)} == {"whole"}
    with pytest.raises(BusyError, match=r"dead.json is being written"):
        collect(store, None, dry_run=False)
    make_old(faults, tmp_path, "users/")
    make_old(faults, tmp_path, "leases/")
    found = collect(store, None, dry_run=True)
    assert {item.path.name[:32] for item in found} == {torn.key, half.key}
    collect(store, None, dry_run=False)
    assert sorted(name[:32] for name in there(faults, machine)) == [whole.key, whole.key]
    assert there(faults, machine, "leases") == there(faults, machine, "users") == []
    assert run_inline(store, whole, torn, half).computed == ["torn", "half"]


def make_old(faults: Plan, folder: Path, within: str) -> None:
    """Let the files with this in their names have been written an hour ago, by the service's clock."""
    if isinstance(faults.target, MemoryFileSystem):
        for name, file in faults.target.store.items():
            if within in name:
                file.modified -= timedelta(hours=1)
    else:
        for path in (folder / "url").rglob("*"):
            if within in path.as_posix():
                os.utime(path, (path.stat().st_mtime - 3600,) * 2)


def test_leases_go_by_the_services_clock_and_by_no_machines_own(
    faults: Plan, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other, one = machine("here"), machine("there"), stage("one", "a")
    for wrong in (0.0, 2e9):
        with here.lock(one.key):
            monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
            assert execute(one, other, {}, lambda done, total: None).status == "busy"
            assert other.is_busy(one.key)
            monkeypatch.undo()
            monkeypatch.setattr(remote, "WAIT_SECONDS", 0.0)
            monkeypatch.setattr(shared, "LIST_SECONDS", 0.0)
        assert not other.is_busy(one.key)


def test_a_lease_outlives_failed_heartbeats_and_ends_with_its_process(
    faults: Plan, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    here, other, one = machine("here"), machine("there"), stage("one", "a")
    with here.lock(one.key):
        faults.faults = [Fault("fail", ("pipe_file",), within=f"leases/{one.key}", times=remote.TRIES + 1)]
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            with pytest.raises(BusyError), other.lock(one.key):
                pass
            time.sleep(0.1)
        assert faults.faults[0].times == 0, "a heartbeat failed for good"


def test_a_dead_lease_is_taken_over_by_one_of_many(faults: Plan, machine: Machine, tmp_path: Path) -> None:
    one = stage("one", "a")
    taken = 0
    for round_ in range(10):
        far = machine("x").remote
        far.write(f"leases/{one.key}.0000000{round_ % 3 + 1}", b'{"host": "dead"}')
        make_old(faults, tmp_path, f"leases/{one.key}")
        most = most_holders(lambda number: Leases(machine("x").remote, f"machine {number}"), one.key, 0.05)
        assert most <= 1
        taken += most
        with Leases(far, "later").held(one.key):
            assert len(there(faults, machine, "leases")) == 1
        assert there(faults, machine, "leases") == []
    assert taken >= 8, "where two meet, both may give way, but not often"


def test_a_lease_that_this_machines_dead_process_left_is_taken_over_at_once(faults: Plan, machine: Machine) -> None:
    here, one = machine("here"), stage("one", "a")
    place, _ = here._leases()._take(one.key)
    assert run_inline(here, one).computed == ["one"]
    assert place.removeprefix("leases/") not in there(faults, machine, "leases")


@pytest.mark.filterwarnings("ignore:.*waits for `radpo store gc`")
def test_garbage_is_collected_beside_runs_of_other_machines_and_nothing_that_they_use(
    faults: Plan, machine: Machine, tmp_path: Path
) -> None:
    here, other, old, kept = machine("here"), machine("there"), stage("old", 1), stage("kept", 2)
    run_inline(here, old, kept)
    with here.using([kept.key]):
        assert [item.why for item in collect(other, [], dry_run=False)] == ["needed by none: old"]
        assert other.finished() == [kept.key]
        assert run_inline(other, stage("top", "t", base=kept)).computed == ["top"]
    far = machine("killed")
    user = far.using([kept.key])
    user.__enter__()
    assert kept.key not in {item.path.name for item in collect(other, [], dry_run=False)}
    make_old(faults, tmp_path, "users/")
    assert "needed by none: kept" in [item.why for item in collect(other, [], dry_run=False)]
    user.__exit__(None, None, None)
    waited = []

    def come() -> None:
        with here.using([kept.key]):
            waited.append("in")

    with other.collecting():
        thread = threading.Thread(target=come)
        thread.start()
        time.sleep(0.3)
        assert waited == [], "no user comes in while garbage is collected"
    thread.join()
    assert waited == ["in"]
    assert there(faults, machine, "users") == there(faults, machine, "leases") == []


def test_imports_into_a_shared_store_and_exports_from_it_are_whole(
    faults: Plan, machine: Machine, tmp_path: Path
) -> None:
    stages = graph()
    run_inline(Store(tmp_path / "local"), *stages)
    keys = [one.key for one in stages]
    export_stages(Store(tmp_path / "local"), keys, tmp_path / "x.tar")
    assert import_stages(machine("here"), tmp_path / "x.tar") == (4, 0)
    assert run_inline(machine("there"), *stages).computed == []
    assert export_stages(machine("third"), keys, tmp_path / "y.tar") == 4
    assert import_stages(Store(tmp_path / "other"), tmp_path / "y.tar") == (4, 0)


def test_a_url_that_cannot_be_written_is_one_message_before_any_work(
    faults: Plan, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, trace = stage("one", "a"), tmp_path / "trace"
    run_inline(machine("here"), one)

    def denied(*args: Any, **options: Any) -> None:
        raise PermissionError("Access Denied")

    for operation in ("pipe_file", "put_file", "rm_file"):
        monkeypatch.setattr(FaultyFileSystem, operation, denied)
    reader = machine("reader")
    with reader.using([one.key]):
        assert run_inline(reader, one).kept == ["one"]
        with pytest.raises(ConfigError, match=r"Access Denied, and lacks 1 of the stages, such as two; .*--store"):
            run_inline(reader, stage("two", "b", hints={"trace": str(trace)}, base=one))
    assert not trace.exists()


def test_a_full_disk_here_is_not_the_services_failure(
    faults: Plan, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stage("one", "a")
    run_inline(machine("here"), one)

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FaultyFileSystem, "get_file", full)
    with pytest.raises(StoreFullError, match="the disk is full"):
        machine("there").open(one)
