"""The shared store on a real S3-compatible server, moto's, through s3fs: conditional writes, takeover, outages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cheap_stages import most_holders, run_inline, stage

from radpo.core.errors import ConfigError, ServiceError
from radpo.engine import leases, remote, shared
from radpo.engine.gc import collect, damaged
from radpo.engine.leases import Leases
from radpo.engine.shared import SharedStore, open_store
from radpo.engine.store import BusyError

fsspec = pytest.importorskip("fsspec")
s3fs = pytest.importorskip("s3fs", reason="needs s3fs (the extra `dev`)")
moto_server = pytest.importorskip("moto.server", reason="needs moto[server] (the extra `dev`), an S3-compatible server")

BUCKET = "bucket"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = moto_server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RADPO_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(shared, "LIST_SECONDS", 0.0)
    s3fs.S3FileSystem.clear_instance_cache()
    file_system = s3fs.S3FileSystem(use_listings_cache=False)
    with suppress(FileExistsError):
        file_system.mkdir(BUCKET)
    yield file_system
    if file_system.find(BUCKET):
        file_system.rm(file_system.find(BUCKET))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def machine(s3: Any, tmp_path: Path) -> Callable[[str], SharedStore]:
    return lambda name: SharedStore(tmp_path / name, f"s3://{BUCKET}/a/store")


def test_s3fs_is_of_the_release_of_fsspec() -> None:
    assert s3fs.__version__ == fsspec.__version__, "they are released together, and depend on each other's internals"


def test_a_stage_that_one_machine_computed_another_reads_from_s3(machine: Any, s3: Any) -> None:
    here, there, base = machine("here"), machine("there"), stage("base", "a")
    top = stage("top", "b", base=base)
    with here.using([base.key]):
        assert run_inline(here, base).computed == ["base"]
    (there.root / "stages" / base.key).mkdir(parents=True)  # a copy that is damaged
    watcher = run_inline(there, top)
    assert (watcher.damaged, watcher.kept, watcher.computed) == ([], ["base"], ["top"])
    assert damaged(machine("third")) == {}
    names = sorted(name.removeprefix(f"{BUCKET}/a/store/") for name in s3.find(BUCKET))
    assert [name.split("/")[0] for name in names] == ["stages"] * 4, names
    # A stage of which a bit is another at the server is computed again.
    archive = next(name for name in s3.find(BUCKET) if base.key in name and name.endswith(".tar"))
    content = bytearray(s3.cat_file(archive))
    content[700] ^= 4
    s3.pipe_file(archive, bytes(content))
    watcher = run_inline(machine("fourth"), stage("other", "c", base=base))
    assert (watcher.damaged, watcher.computed) == (["base"], ["base", "other"])


def test_one_of_many_creates_a_file_and_takes_a_lease(machine: Any, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.5)
    far = machine("x").remote
    far.create("leases/one", b"1" * 50)
    far.create("leases/one", b"1" * 50)  # its own: an answer may have been lost
    with pytest.raises(FileExistsError):
        far.create("leases/one", b"2" * 50)
    far.delete("leases/one")
    for round_ in range(2):  # free at first, then a dead process's
        if round_:
            far.write("leases/work.00000004", b'{"host": "dead"}')
            with pytest.raises(BusyError, match="dead is at work on work"), Leases(far, "early").held("work"):
                pass
            time.sleep(4.0)
        assert most_holders(lambda number: Leases(far, f"machine {number}"), "work", 0.5) <= 1
        assert far.names("leases") == []


def test_garbage_of_another_machine_is_collected_on_s3_and_what_it_uses_is_not(machine: Any, s3: Any) -> None:
    here, there, old, kept = machine("here"), machine("there"), stage("old", 1), stage("kept", 2)
    run_inline(here, old, kept)
    there.remote.write(f"stages/{'1' * 32}-{'0' * 64}.tar", b"half of one")
    with here.using([kept.key]):
        assert sorted(item.why for item in collect(there, [], dry_run=False)) == [
            "needed by none: old", "of a stage that was not sent whole",
        ]  # fmt: skip
        assert there.finished() == [kept.key]
    collect(there, [], dry_run=False)
    assert s3.find(BUCKET) == []


def test_a_bucket_that_is_not_there_is_one_message_and_none_is_made(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s3://absent/store: there is no such bucket.*lacks 1 of the stages"):
        run_inline(open_store("s3://absent/store"), stage("one", 1, hints={"trace": str(tmp_path / "trace")}))
    assert not (tmp_path / "trace").exists()
    assert [name for name in s3.ls("") if "absent" in name] == []


def test_a_server_that_is_down_is_a_failed_service_and_not_an_empty_store(
    s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(remote, "TRIES", 2)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with pytest.raises(ServiceError, match=r"s3://bucket/a/store: .*127\.0\.0\.1:9") as failure:
        SharedStore(tmp_path / "x", f"s3://{BUCKET}/a/store").finished()
    assert failure.value.exit_status == 3
