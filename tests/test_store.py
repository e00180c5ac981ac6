"""The store: damage is found, named and mended; what is carried, cleaned and shared stays right."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cheap_stages import COUNT, FILL, Watcher, run_inline, stage
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError
from radpo.engine.carry import export_stages, import_stages
from radpo.engine.execute import execute
from radpo.engine.gc import collect, entries
from radpo.engine.graph import Function, Stage
from radpo.engine.schedule import StageError
from radpo.engine.shared import SharedStore, open_store
from radpo.engine.store import BusyError, Store

FLIPPED = "it counts as whole although a bit of it was flipped"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


def files(store: Store, one: Stage) -> list[Path]:
    return sorted(path for path in store.folder(one).rglob("*") if path.is_file())


@settings(max_examples=60, deadline=None)
@given(which=st.integers(0, 2), bit=st.integers(0, 10**6))
def test_any_flipped_bit_is_found_and_the_stage_is_computed_again(
    tmp_path_factory: pytest.TempPathFactory, which: int, bit: int
) -> None:
    store, base = Store(tmp_path_factory.mktemp("store")), stage("base", "some text")
    run_inline(store, base)
    path = files(store, base)[which]
    before = path.read_bytes()
    flip(path, bit)
    same = path.name == "files.json" and json.loads(before) == _json(path.read_bytes())
    assert store.has(base) is same, FLIPPED
    watcher = run_inline(store, base)
    assert watcher.damaged == watcher.computed == ([] if same else ["base"])
    assert (store.folder(base) / "text").read_text() == "some text"


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_damage_that_leaves_no_trace_in_a_files_times_is_found_before_it_is_read(tmp_path: Path) -> None:
    long = "abc" * 2**19
    store, base = Store(tmp_path), stage("base", long)
    run_inline(store, base)
    seen = tmp_path / "seen" / f"{base.key}.json"
    flip(store.folder(base) / "text", 3)
    assert not store.has(base)
    lies = {
        path.relative_to(store.folder(base)).as_posix(): [
            path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.stat().st_ino
        ]
        for path in [store.folder(base) / "text"]
    }  # fmt: skip
    seen.parent.mkdir(exist_ok=True)
    seen.write_text(json.dumps(lies))  # as where a disk forgets a bit and no one wrote
    assert store.has(base)
    watcher = run_inline(store, stage("top", "d", base=base))
    assert watcher.damaged == ["base"]
    assert watcher.computed == ["base", "top"]
    assert (store.folder(stage("top", "d", base=base)) / "text").read_text() == long + "d"


def test_a_disk_that_hurts_every_time_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, base = Store(tmp_path), stage("base", "a")
    sound = Store.damage

    def forgets(self: Store, key: str, *, full: bool = False) -> str | None:
        return "text does not have its checksum" if full and key == base.key else sound(self, key, full=full)

    monkeypatch.setattr(Store, "damage", forgets)
    with pytest.raises(StageError, match=r"base failed: its folder in the store was damaged 3 times .* check the disk"):
        run_inline(store, stage("top", "b", base=base))


def test_files_and_folders_that_a_killed_process_left_are_removed_under_both_their_names(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "garbage-1").mkdir()
    (tmp_path / "waste-2.tar").write_text("half a copy")
    assert [item.path.name for item in collect(store, None, dry_run=True)] == ["garbage-1", "waste-2.tar"]
    collect(store, None, dry_run=False)
    assert list(tmp_path.glob("*-*")) == []


def test_nothing_but_what_was_hurt_is_done_again(tmp_path: Path) -> None:
    base, other = stage("base", "a"), stage("other", "b")
    tops = [stage(f"top {n}", n, base=base, other=other) for n in range(3)]
    store = Store(tmp_path)
    run_inline(store, *tops)
    (store.folder(other) / "text").unlink()
    (store.folder(tops[1]) / "stranger").touch()
    watcher = run_inline(store, *tops)
    assert watcher.damaged == watcher.computed == ["other", "top 1"]


def test_a_record_that_tells_of_another_stage_is_damage(tmp_path: Path) -> None:
    store, one, two = Store(tmp_path), stage("one", 1), stage("two", 2)
    run_inline(store, one, two)
    store.remove(one.key)
    store.folder(two).rename(store.folder(one))
    assert "another stage" in (store.damage(one.key) or "")


def test_a_stage_that_another_process_computes_is_not_computed_here(tmp_path: Path) -> None:
    store, one = Store(tmp_path), stage("one", 1)
    with store.lock(one.key):
        assert execute(one, store, {}, lambda done, total: None).status == "busy"
        assert store.is_busy(one.key)
        with pytest.raises(BusyError), store.lock(one.key):
            pass
    assert not store.is_busy(one.key)
    assert execute(one, store, {}, lambda done, total: None).status == "computed"
    assert execute(one, store, {}, lambda done, total: None).status == "kept"


def test_export_and_import_carry_stages_whole(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    top = stage("top", "b", base=stage("base", "a"))
    run_inline(here, top)
    assert export_stages(here, here.finished(), tmp_path / "carried.tar.gz") == 2
    assert import_stages(there, tmp_path / "carried.tar.gz") == (2, 0)
    assert import_stages(there, tmp_path / "carried.tar.gz") == (0, 2)
    watcher = run_inline(there, top)
    assert watcher.computed == []
    assert (there.folder(top) / "text").read_text() == "ab"


def test_a_damaged_stage_is_not_exported(tmp_path: Path) -> None:
    store, base = Store(tmp_path / "store"), stage("base", "a")
    run_inline(store, base)
    flip(store.folder(base) / "text", 0)
    with pytest.raises(DataError, match=f"{base.key} is damaged .text does not have its checksum"):
        export_stages(store, [base.key], tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("../outside", "file", "no file of a stage"),
        ("0" * 32 + "/../../outside", "file", "outside the destination"),
        ("0" * 32 + "/link", "link", "no file of a stage"),
        ("0" * 32 + "/text", "file", "cannot be read"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, name: str, kind: str, told: str) -> None:
    with tarfile.open(tmp_path / "hostile.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member, io.BytesIO(b""))
    store = Store(tmp_path / "store")
    with pytest.raises(DataError, match=told):
        import_stages(store, tmp_path / "hostile.tar")
    assert not (tmp_path / "outside").exists()
    assert store.finished() == []
    assert list(store.root.glob("garbage-*")) == []


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, bomb = Store(tmp_path / "store"), tmp_path / "bomb.tar.gz"
    with tarfile.open(bomb, "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("0" * 32 + "/text")
        member.size = 72 * 2**20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert bomb.stat().st_size < 2**19
    with pytest.raises(DataError, match=r"bomb.tar.gz: has 0.\d MiB and unpacks to more than \d+.\d MiB.*--max-gib"):
        import_stages(store, bomb, 10 * 2**20)
    monkeypatch.setattr("radpo.engine.carry.FLOOR_BYTES", 0)
    with pytest.raises(DataError, match=r"unpacks to more than \d+.\d MiB"):
        import_stages(store, bomb)
    with pytest.raises(DataError, match=r"files.json or stage.json cannot be read"):
        import_stages(store, bomb, 2**28)
    assert store.finished() == list((store.root / "users").iterdir()) == []


def test_headers_that_announce_what_no_archive_holds_are_refused(tmp_path: Path) -> None:
    for number, (kind, size) in enumerate([(tarfile.REGTYPE, 2**60), (tarfile.XHDTYPE, 2**34)]):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            member = tarfile.TarInfo("0" * 32 + "/text")
            member.type, member.size = kind, size
            archive.addfile(member)
        with pytest.raises(DataError, match=r"unpacks to more than|cannot be read"):
            import_stages(Store(tmp_path / "store"), tmp_path / f"{number}.tar")


def test_a_carried_stage_with_another_content_is_refused(tmp_path: Path) -> None:
    here, there, base = Store(tmp_path / "here"), Store(tmp_path / "there"), stage("base", "a")
    run_inline(here, base)
    (here.folder(base) / "text").write_text("b")
    with tarfile.open(tmp_path / "forged.tar", "w") as archive:
        archive.add(here.folder(base), arcname=base.key)
    with pytest.raises(DataError, match="text does not have its checksum"):
        import_stages(there, tmp_path / "forged.tar")
    assert there.finished() == []


def test_gc_takes_what_nobody_needs_and_leaves_what_is_being_computed(tmp_path: Path) -> None:
    store, kept, old, torn, busy = Store(tmp_path), stage("kept", 1), stage("old", 2), stage("torn", 3), stage("b", 4)
    run_inline(store, kept, old, torn)
    flip(store.folder(torn) / "text", 1)
    for one in (busy, stage("interrupted", 5)):
        (tmp_path / "partial" / one.key).mkdir(parents=True)
    with store.lock(busy.key):
        found = collect(store, [kept], dry_run=True)
        assert len(store.finished()) == 3
        gone = collect(store, [kept], dry_run=False)
    assert [item.path for item in gone][:3] == [item.path for item in found][:3]
    assert store.finished() == [kept.key]
    assert [path.name for path in (tmp_path / "partial").iterdir()] == [busy.key]
    assert [path.stem for path in (tmp_path / "logs").iterdir()] == [kept.key]
    assert run_inline(store, kept).computed == []


def test_the_store_commands_say_what_is_there(tmp_path: Path) -> None:
    store, good, bad = Store(tmp_path / "store"), stage("good", "g"), stage("bad", "b")
    run_inline(store, good, bad)

    def call(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["store", *words, "--store", str(store.root)], catch_exceptions=False)
        return done.exit_code, done.stdout

    assert call("verify") == (0, "2 stages, 0 damaged\n")
    flip(store.folder(bad) / "text", 5)
    status, said = call("verify", "--json")
    assert status == 2
    assert json.loads(said) == {"stages": 2, "damaged": {bad.key: "text does not have its checksum"}}
    assert {entry["name"] for entry in json.loads(call("list", "--json")[1])} == {"good", "bad"}
    assert call("gc")[1].endswith("2 removed, 0.0 MiB\n")  # the stage and its log
    assert [entry.name for entry in entries(store)] == ["good"]
    assert call("export", str(tmp_path / "x.tar"))[0] == 0
    assert "0 stages imported, 1 were there" in call("import", str(tmp_path / "x.tar"))[1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a file system in memory cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path: Path, small_disk: Path) -> None:
    store = Store(small_disk / "store")
    big = Stage("big", "fill", FILL, {"mib": 3}, {"base": stage("base", "a")})
    hog = small_disk / "hog"
    hog.write_bytes(os.urandom(2 * 2**20))
    watcher = Watcher()
    with pytest.raises(StageError, match=r"big failed: .*the disk is full .*make room.*the same command") as failure:
        run_inline(store, big)
    assert failure.value.exit_status == 2
    assert not store.folder(big).exists()
    assert list((store.root / "partial").glob("*")) == []
    hog.unlink()
    watcher = run_inline(store, big)
    assert (watcher.kept, watcher.computed) == (["base"], ["big"])


def test_a_failure_that_hides_its_number_is_seen_to_be_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    def writes_through_another_language(task: object) -> None:
        try:
            while True:
                with (small_disk / "hog").open("ab") as stream:
                    stream.write(bytes(2**16))
        except OSError:
            raise RuntimeError("I/O error") from None

    rough = Stage("rough", "rough", Function(writes_through_another_language, 1), {})
    with pytest.raises(StageError, match="the disk is full"):
        run_inline(Store(small_disk / "store"), rough)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_links_in_a_store_lead_nothing_outside_it_to_its_end(tmp_path: Path) -> None:
    store, one, two = Store(tmp_path / "store"), stage("one", 1), Stage("two", "count", COUNT, {"to": 2})
    run_inline(store, one)
    outside = tmp_path / "outside"
    (outside / "deeper").mkdir(parents=True)
    (outside / "precious").write_text("mine")
    (outside / "deeper" / "precious").write_text("mine, too")
    before = snapshot(outside)
    store.folder(one).rename(tmp_path / "moved")
    store.folder(one).symlink_to(tmp_path / "moved")
    for place in ("partial", "stages"):
        (store.root / place).mkdir(exist_ok=True)
        (store.root / place / ("f" * 32)).symlink_to(outside)
    (store.partial(two)).mkdir()
    (store.partial(two) / "work").symlink_to(outside)
    (store.root / "garbage-1").symlink_to(outside)
    assert "it is a link" in (store.damage(one.key) or "")
    watcher = run_inline(store, one, two)
    assert sorted(watcher.computed) == ["one", "two"]
    assert not store.folder(one).is_symlink()
    collect(store, [], dry_run=False)
    assert store.finished() == []
    assert snapshot(outside) == before
    assert (tmp_path / "moved" / "text").read_text() == "1"


@pytest.mark.parametrize("name", ["stages", "partial", "logs", "users"])
def test_a_folder_of_the_store_that_is_a_link_is_refused(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (outside / ("f" * 32)).mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(outside)
    for words in (["gc"], ["list"]):
        with pytest.raises(ConfigError, match=f"{name}: is a link to .*outside.*move all of it there"):
            CliRunner().invoke(app, ["store", *words, "--store", str(tmp_path / "store")], catch_exceptions=False)
    assert list(outside.iterdir()) == [outside / ("f" * 32)]


def test_a_stage_that_writes_a_link_fails_at_once(tmp_path: Path) -> None:
    linking = Stage("links", "link", Function(lambda task: (task.out / "text").symlink_to("/etc/passwd"), 1), {})
    with pytest.raises(StageError, match="text is a link; a stage's function writes files"):
        run_inline(Store(tmp_path), linking)


def test_a_store_on_two_file_systems_is_one_message_before_any_work(tmp_path: Path, small_disk: Path) -> None:
    store, trace = Store(tmp_path / "store"), tmp_path / "trace"
    (store.root / "stages").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(small_disk), str(store.root / "stages")], check=True)
    try:
        with pytest.raises(ConfigError, match=r"its folders are not on one file system .*partial.* --store"):
            run_inline(store, stage("one", 1, hints={"trace": str(trace)}))
    finally:
        subprocess.run(["umount", "-l", str(store.root / "stages")], check=True)
    assert not trace.exists()


def test_a_read_only_store_serves_what_it_has_and_is_one_message_for_what_it_lacks(
    tmp_path: Path, small_disk: Path
) -> None:
    store, one, trace = Store(small_disk / "store"), stage("one", 1), tmp_path / "trace"
    run_inline(store, one)
    export_stages(store, [one.key], tmp_path / "x.tar")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with store.using([one.key]):
            assert run_inline(store, one).kept == ["one"]
        with pytest.raises(ConfigError, match=r"cannot be written .*lacks 1 of the stages, such as two; .*--store"):
            run_inline(store, stage("two", 2, hints={"trace": str(trace)}, base=one))
        for writes in (lambda: collect(store, [], dry_run=False), lambda: import_stages(store, tmp_path / "x.tar")):
            with pytest.raises(ConfigError, match=r"store: cannot be written .*; give a store"):
                writes()
        assert export_stages(store, [one.key], tmp_path / "y.tar") == 1
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert not trace.exists()


def test_a_folder_that_cannot_be_renamed_is_removed_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = Store(tmp_path), stage("one", 1)
    run_inline(store, one)
    rename = Path.rename

    def other_device(self: Path, target: Path) -> Path:
        if self == store.folder(one):  # as in a lower layer of a container's image
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", other_device)
    store.remove(one.key)
    assert not store.folder(one).exists()


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path}/shared"


def elsewhere(url: str, folder: Path) -> SharedStore:
    """The same store from a machine that has no copies."""
    return SharedStore(folder, url)


def test_a_stage_that_one_machine_computed_another_reads_from_the_url(tmp_path: Path, url: str) -> None:
    here, there = open_store(url), elsewhere(url, tmp_path / "there")
    base = stage("base", "a")
    assert run_inline(here, base).computed == ["base"]
    assert there.finished() == [base.key]
    assert there.record(base.key)["name"] == "base"
    watcher = run_inline(there, stage("top", "b", base=base))
    assert (watcher.kept, watcher.computed) == (["base"], ["top"])
    assert (there.folder(stage("top", "b", base=base)) / "text").read_text() == "ab"
    assert len(here.finished()) == 2


def test_a_stage_that_the_url_hurts_is_computed_again(tmp_path: Path, url: str) -> None:
    base, top = stage("base", "a"), stage("top", "b", base=stage("base", "a"))
    run_inline(open_store(url), base)
    flip(next((tmp_path / "shared" / "stages").glob(f"{base.key}*.tar")), 9000)
    watcher = run_inline(elsewhere(url, tmp_path / "there"), top)
    assert watcher.damaged == ["base"]
    assert watcher.computed == ["base", "top"]
    assert run_inline(elsewhere(url, tmp_path / "third"), top).computed == []


def test_a_lease_keeps_other_machines_off_and_runs_out(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, base = open_store(url), elsewhere(url, tmp_path / "there"), stage("base", "a")
    with here.lock(base.key):
        assert execute(base, there, {}, lambda done, total: None).status == "busy"
        monkeypatch.setattr("radpo.engine.leases.LEASE_SECONDS", 0.0)  # as if its owner had died long ago
        assert execute(base, there, {}, lambda done, total: None).status == "computed"


def test_a_url_that_nothing_opens_is_one_message() -> None:
    with pytest.raises(ConfigError, match=r"--store nowhere://x: .*nowhere"):
        open_store("nowhere://x")
