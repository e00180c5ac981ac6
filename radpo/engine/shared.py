"""Stores that machines share through an fsspec URL: a local store keeps copies, the URL has every finished stage.

stages/KEY.tar     the stage's folder
stages/KEY.json    its size, checksum and record; written last, so a stage is there when this is
leases/KEY         who is computing it, written anew while the work goes on

A store on a file system that all machines mount needs none of this: it is a `Store`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radpo.core.cache import cache_folder
from radpo.core.errors import ConfigError, RadpoError, ServiceError
from radpo.core.files import sha256
from radpo.engine.graph import Stage
from radpo.engine.store import BusyError, Store, is_key

BEAT_SECONDS = 20.0
LEASE_SECONDS = 120.0
"""A lease that was not written anew for so long is a dead process's. Should its owner live all the same, the stage is
computed twice, with the same result."""
LIST_SECONDS = 1.0
"""How old a listing of the URL may be."""

_listed: dict[str, tuple[float, frozenset[str]]] = {}


def open_store(place: str) -> Store:
    """The store at a folder's path or an fsspec URL (`s3://bucket/store`), whose credentials are fsspec's own affair.

    Raises:
        ConfigError: nothing can open such a URL here.
    """
    if "://" not in place:
        store = Store(Path(place))
        store.check_layout()
        return store
    import fsspec

    try:
        fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"--store {place}: {error}") from error
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    return SharedStore(cache_folder() / "stores" / name, place)


@dataclass(frozen=True)
class SharedStore(Store):
    """A store at a URL; `root` holds copies of what this machine computed or read."""

    url: str

    def has(self, stage: Stage) -> bool:
        """Whether the stage is finished, here or at the URL."""
        return super().has(stage) or stage.key in self._there()

    def open(self, stage: Stage) -> Path:
        """The folder of a finished stage, fetched first where only the URL has it whole."""
        if not super().has(stage) and stage.key in self._there():
            self._fetch(stage.key)
        return self.folder(stage)

    def record(self, key: str) -> dict[str, Any]:
        """What was noted when a stage was finished."""
        if (self.root / "stages" / key).is_dir():
            return super().record(key)
        record: dict[str, Any] = self._mark(key)["record"]
        return record

    def finished(self) -> list[str]:
        """The keys of all finished stages, here and at the URL."""
        return sorted({*super().finished(), *self._there()})

    def remove(self, key: str) -> None:
        """Delete a finished stage here and at the URL."""
        super().remove(key)
        with self._service() as (fs, path):
            for name in (f"{path}/stages/{key}.json", f"{path}/stages/{key}.tar"):
                if fs.exists(name):
                    fs.rm(name)
        _listed.pop(self.url, None)

    def damage(self, key: str, *, full: bool = False) -> str | None:
        """What is wrong with a finished stage; with `full`, one that only the URL has is fetched and checked."""
        if not (self.root / "stages" / key).is_dir() and key in self._there():
            if not full:
                return None
            try:
                self._fetch(key)
            except DamagedError as error:
                return str(error)
        return super().damage(key, full=full)

    def produce(self, stage: Stage, write: Callable[[Path], dict[str, Any]]) -> None:
        """As a local store's, then copied to the URL."""
        super().produce(stage, write)
        self._push(stage.key)

    @contextmanager
    def lock(self, key: str, *, wait: bool = False) -> Iterator[None]:
        """Held while a stage is computed, by this machine's processes among each other and against other machines'.

        Raises:
            BusyError: another process holds it.
        """
        with super().lock(key, wait=wait):
            lease = f"leases/{key}"
            self._take(lease)
            ended = threading.Event()
            beat = threading.Thread(target=self._beat, args=(lease, ended), daemon=True)
            beat.start()
            _listed.pop(self.url, None)  # what was finished a moment ago must be seen
            try:
                yield
            finally:
                ended.set()
                beat.join()
                self._give_up(lease)

    def _take(self, lease: str) -> None:
        with self._service() as (fs, path):
            fs.makedirs(f"{path}/leases", exist_ok=True)
            try:
                fs.pipe_file(f"{path}/{lease}", _lease(), mode="create")
                return
            except FileExistsError:
                pass
            try:
                held = json.loads(fs.cat_file(f"{path}/{lease}"))
            except (FileNotFoundError, ValueError):
                held = {"time": 0}
            if time.time() - held["time"] < LEASE_SECONDS:
                raise BusyError(f"{self.url}: {held['host']} is computing {lease.split('/')[1]}")
            fs.pipe_file(f"{path}/{lease}", _lease())

    def _give_up(self, lease: str) -> None:
        with self._service() as (fs, path), suppress(FileNotFoundError, ValueError):
            held = json.loads(fs.cat_file(f"{path}/{lease}"))
            if (held["host"], held["process"]) == (platform.node(), os.getpid()):
                fs.rm(f"{path}/{lease}")

    def _beat(self, lease: str, ended: threading.Event) -> None:
        while not ended.wait(BEAT_SECONDS):
            with self._service() as (fs, path):
                fs.pipe_file(f"{path}/{lease}", _lease())

    def _there(self) -> frozenset[str]:
        """The keys of the stages at the URL."""
        when, keys = _listed.get(self.url, (0.0, frozenset()))
        if time.monotonic() - when > LIST_SECONDS or not when:
            with self._service() as (fs, path):
                fs.invalidate_cache()
                found = fs.ls(f"{path}/stages", detail=False) if fs.exists(f"{path}/stages") else []
            names = [str(name).rsplit("/", 1)[-1] for name in found]
            keys = frozenset(name[:-5] for name in names if name.endswith(".json") and is_key(name[:-5]))
            _listed[self.url] = (time.monotonic(), keys)
        return keys

    def _mark(self, key: str) -> dict[str, Any]:
        with self._service() as (fs, path):
            mark: dict[str, Any] = json.loads(fs.cat_file(f"{path}/stages/{key}.json"))
        return mark

    def _push(self, key: str) -> None:
        with tempfile.NamedTemporaryFile(dir=self.root, prefix="garbage-") as file, self.translate_disk_full():
            with tarfile.open(file.name, "w") as archive:
                archive.add(self.root / "stages" / key, arcname=key)
            mark = {
                "bytes": Path(file.name).stat().st_size,
                "sha256": sha256(Path(file.name)),
                "record": super().record(key),
            }
            with self._service() as (fs, path):
                fs.makedirs(f"{path}/stages", exist_ok=True)
                fs.put_file(file.name, f"{path}/stages/{key}.tar")
                fs.pipe_file(f"{path}/stages/{key}.json", json.dumps(mark).encode())
        _listed.pop(self.url, None)

    def _fetch(self, key: str) -> None:
        """Copy a stage from the URL; one that does not arrive as it was sent is taken away there."""
        from radpo.engine.carry import import_stages

        self.root.mkdir(parents=True, exist_ok=True)
        mark, local = self._mark(key), Store(self.root)
        with (
            tempfile.NamedTemporaryFile(dir=self.root, prefix="garbage-", suffix=".tar") as file,
            self.translate_disk_full(),
        ):
            with self._service() as (fs, path):
                fs.get_file(f"{path}/stages/{key}.tar", file.name)
            if sha256(Path(file.name)) != mark["sha256"]:
                self.remove(key)
                raise DamagedError(f"{self.url}/stages/{key}.tar does not have its checksum")
            import_stages(local, Path(file.name))

    @contextmanager
    def _service(self) -> Iterator[tuple[Any, str]]:
        """The file system behind the URL and the path in it; what fails there is the service's failure."""
        import fsspec

        try:
            yield fsspec.core.url_to_fs(self.url)
        except (RadpoError, FileExistsError):
            raise
        except Exception as error:
            raise ServiceError(f"{self.url}: {type(error).__name__}: {error}") from error


class DamagedError(ServiceError):
    """A stage did not come from the URL as it was sent there."""


def _lease() -> bytes:
    return json.dumps({"host": platform.node(), "process": os.getpid(), "time": time.time()}).encode()
