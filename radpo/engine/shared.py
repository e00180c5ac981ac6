"""Stores that machines share through an fsspec URL: a local store keeps copies, the URL has every finished stage.

stages/KEY-SHA256.tar   the stage's folder; the name has the archive's checksum, so that two senders never mix
stages/KEY.json         names that file, its size and checksum, and has the stage's record; created last and once, so a
                        stage is there when this is there and whole
leases/                 who is computing what (`radpo.engine.leases`)
users/ID.json, ID.beat  which stages a run, an import or an export uses; the second is written anew as long as it lives

A store on a file system that all machines mount needs none of this: it is a `Store`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tarfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radpo.core.cache import cache_folder
from radpo.core.errors import ConfigError, DataError, ServiceError
from radpo.core.files import replace_file, sha256
from radpo.core.warn import warn_once
from radpo.engine.carry import check_unpacked, unpack
from radpo.engine.graph import Stage, key_of
from radpo.engine.leases import LEASE_SECONDS, Leases, beating
from radpo.engine.record import record_fault
from radpo.engine.remote import ReadOnlyError, Remote
from radpo.engine.store import BusyError, Leftover, Store, is_key, lacking
from radpo.engine.users import Users

LIST_SECONDS = 1.0
"""How old a listing of the URL, or what is known of a lease, may be."""
FETCHES = 3
COLLECTION = "collection"
"""The lease that is held while garbage is collected."""

Mark = dict[str, Any]

_listed: dict[str, tuple[float, dict[str, Mark]]] = {}
_held: dict[tuple[str, str], tuple[float, bool]] = {}


def open_store(place: str) -> Store:
    """The store at a folder's path or an fsspec URL (`s3://bucket/store`), whose credentials are fsspec's own affair.

    Raises:
        ConfigError: nothing can open such a URL here, or the folder is none that a store may have.
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


class DamagedError(ServiceError):
    """A stage at the URL is not as it was sent there. It was taken away, so that it will be computed again."""


@dataclass(frozen=True)
class SharedStore(Store):
    """A store at a URL; `root` holds copies of what this machine computed or read."""

    url: str

    @property
    def place(self) -> str:
        """The URL."""
        return self.url

    @property
    def here(self) -> Store:
        """The copies on this machine alone."""
        return Store(self.root)

    @property
    def remote(self) -> Remote:
        """What is at the URL."""
        return Remote(self.url)

    def has(self, stage: Stage) -> bool:
        """Whether the stage is finished at the URL: what only this machine has does not count as shared."""
        return stage.key in self._there()

    def ensure_shared(self, stage: Stage) -> bool:
        """As `has`, once a stage that only this machine has whole was sent. To be called under the lock."""
        if self.has(stage):
            return True
        if not self.is_whole(stage.key):
            return False
        self._send(stage.key)
        return True

    def open(self, stage: Stage) -> Path:
        """The folder of a finished stage, fetched first where it is not here, or not whole.

        Raises:
            DamagedError: the URL's copy is damaged.
        """
        if not self.is_whole(stage.key) and (what := self.supply(stage.key)):
            raise DamagedError(f"{stage.name}: {what}; the same command computes it again")
        return self.folder(stage)

    def supply(self, key: str) -> str | None:
        """Have a finished stage in this machine's folder, with all checksums computed; else what is wrong with it.

        A copy that is damaged here is fetched again.
        """
        what = self.here.supply(key)
        if what is None or self._find(key) is None:
            return what
        with self.here.lock(key, wait=True):  # of several processes one fetches
            return None if self.here.supply(key) is None else self._fetch(key)

    def damage(self, key: str, *, full: bool = False) -> str | None:
        """What is wrong with a finished stage: a damaged copy here is nothing that cannot be fetched again."""
        if full:
            return self.supply(key)
        what = self.here.damage(key)
        return None if what is None or key in self._there() else what

    def is_whole(self, key: str) -> bool:
        """Whether this machine has a finished stage whole."""
        return self.here.is_whole(key)

    def record(self, key: str) -> dict[str, Any]:
        """What was noted when a stage was finished."""
        if (mark := self._find(key)) is not None:
            record: dict[str, Any] = mark["record"]
            return record
        return self.here.record(key)

    def size(self, key: str) -> int:
        """Bytes of a finished stage, packed where only the URL has it."""
        mark = self._there().get(key)
        return self.here.size(key) if mark is None or (self.root / "stages" / key).is_dir() else int(mark["bytes"])

    def finished(self) -> list[str]:
        """The keys of all finished stages, here and at the URL."""
        return sorted({*self.here.finished(), *self._there()})

    def put(self, folder: Path, key: str) -> None:
        """As a local store's, then sent to the URL."""
        self.here.put(folder, key)
        self._send(key)

    def remove(self, key: str) -> None:
        """Delete a finished stage here and at the URL."""
        self.here.remove(key)
        self._remove_there(key)

    def check_writable(self, missing: Sequence[Stage]) -> None:
        """As a local store's, of the URL as well."""
        self.here.check_writable(missing)
        try:
            self.remote.check_writable()
        except ReadOnlyError as error:
            raise ConfigError(f"{error}{lacking(missing)}; give a store that can be written with --store") from error

    @contextmanager
    def lock(self, key: str, *, wait: bool = False) -> Iterator[None]:
        """Held while a stage is computed, by this machine's processes among each other and against other machines'.

        Raises:
            BusyError: another process holds it.
        """
        with self.here.lock(key, wait=wait), self._leases().held(key):
            self._look_again()  # what was finished a moment ago must be seen
            yield

    def is_busy(self, key: str) -> bool:
        """Whether some process, here or on another machine, is computing the stage now."""
        try:
            with self.here.lock(key):
                when, held = _held.get((self.url, key), (0.0, True))
                if time.monotonic() - when > LIST_SECONDS:
                    held = self._leases().is_held(key)
                    _held[self.url, key] = (time.monotonic(), held)
                return held
        except BusyError:
            return True

    @contextmanager
    def using(self, keys: Iterable[str]) -> Iterator[Path]:
        """As a local store's, against a collection that another machine begins as well."""
        wanted = sorted(set(keys))
        with self.here.using(wanted) as folder:
            name, content = f"users/{folder.name}", json.dumps({"owner": self._owner(), "keys": wanted}).encode()
            try:
                self.remote.write(f"{name}.json", content)
                self.remote.write(f"{name}.beat", b"{}")
            except ReadOnlyError:  # such a one can compute nothing, and says so if it has to
                yield folder
                return
            with beating(self.remote, f"{name}.beat", b"{}"):
                try:
                    while self._leases().is_held(COLLECTION):
                        warn_once(f"{self.url}: waits for `radpo store gc` on another machine")
                        time.sleep(LIST_SECONDS)
                    self._look_again()
                    yield folder
                finally:
                    with suppress(ServiceError):
                        self.remote.delete(f"{name}.json")

    @contextmanager
    def collecting(self) -> Iterator[Users]:
        """As a local store's, on all machines."""
        with self.here.collecting() as local, self._leases().held(COLLECTION):
            self._look_again()
            yield replace(local, keys=local.keys | self._users_elsewhere(local))

    def leftovers(self) -> list[Leftover]:
        """What killed senders left at the URL: archives that nothing names, and torn marks."""
        self._leases().remove_dead()
        _listed.pop(self.url, None)
        parts = {name for key, mark in self._there().items() for name in (f"{key}.json", mark["file"])}
        return [
            Leftover(f"stages/{name}", name[:32], self.remote.size(f"stages/{name}"))
            for name in self.remote.names("stages")
            if name not in parts and is_key(name[:32])
        ]

    def remove_leftover(self, leftover: Leftover) -> None:
        """Delete one of them, unless it has become part of a stage. To be called under the lock."""
        mark = self._mark(leftover.key)
        if mark is None or leftover.name not in (f"stages/{leftover.key}.json", f"stages/{mark['file']}"):
            self.remote.delete(leftover.name)

    def _users_elsewhere(self, local: Users) -> frozenset[str]:
        """The stages that living processes of other machines use; what dead ones noted is deleted."""
        keys: set[str] = set()
        for user in {name.partition(".")[0] for name in self.remote.names("users")}:
            try:
                document = self._user(user)
                if document.get("owner") == self._owner():
                    folder = self.root / "users" / user
                    alive = folder.is_dir() and folder not in local.left_behind
                else:
                    alive = self._age(user) < LEASE_SECONDS
            except FileNotFoundError:  # it has just left
                continue
            if alive:
                keys.update(document["keys"])
            else:
                self.remote.delete(f"users/{user}.json")
                self.remote.delete(f"users/{user}.beat")
        return frozenset(keys)

    def _user(self, user: str) -> dict[str, Any]:
        """What a user noted; empty where it died in the middle of that."""
        for _ in range(FETCHES):
            with suppress(ValueError):
                document: dict[str, Any] = json.loads(self.remote.read(f"users/{user}.json"))
                return document
            time.sleep(LIST_SECONDS)
        if self._age(user) < LEASE_SECONDS:
            raise BusyError(f"{self.url}: users/{user}.json is being written; collect garbage a little later")
        return {}

    def _age(self, user: str) -> float:
        try:
            return self.remote.age(f"users/{user}.beat")
        except FileNotFoundError:
            return self.remote.age(f"users/{user}.json")

    def _there(self) -> dict[str, Mark]:
        """The stages at the URL by their keys: those whose marks are whole."""
        when, marks = _listed.get(self.url, (0.0, {}))
        if not when or time.monotonic() - when > LIST_SECONDS:
            names = {name for name in self.remote.names("stages") if name.endswith(".json") and is_key(name[:-5])}
            marks = {key: mark for key, mark in marks.items() if f"{key}.json" in names}
            new = self.remote.read_many(f"stages/{name}" for name in sorted(names) if name[:-5] not in marks)
            for name, content in new.items():
                if (mark := _read_mark(Path(name).stem, content)) is not None:
                    marks[Path(name).stem] = mark
            _listed[self.url] = (time.monotonic(), marks)
        return marks

    def _find(self, key: str) -> Mark | None:
        """A stage's mark; another machine may have put it there since the URL was listed."""
        if key not in self._there():
            self._look_again()
        return self._there().get(key)

    def _look_again(self) -> None:
        """Forget which stages there are, but not what is known of each."""
        _listed[self.url] = (0.0, _listed.get(self.url, (0.0, {}))[1])

    def _mark(self, key: str) -> Mark | None:
        """A stage's mark as it is now; None where there is none, or it is torn."""
        try:
            return _read_mark(key, self.remote.read(f"stages/{key}.json"))
        except FileNotFoundError:
            return None

    def _send(self, key: str) -> None:
        """Copy a stage to the URL.

        Raises:
            ServiceError: it did not arrive; the message says that it is here.
        """
        folder = self.root / "stages" / key
        with self.here.using(()) as scratch, self.translate_disk_full():
            file = scratch / "stage.tar"
            with tarfile.open(file, "w") as archive:
                archive.add(folder, arcname=key)
            checksum = sha256(file)
            name = f"{key}-{checksum}.tar"
            mark = {"file": name, "bytes": file.stat().st_size, "sha256": checksum, "record": self.here.record(key)}
            content = json.dumps(mark).encode()
            try:
                self.remote.upload(file, f"stages/{name}")
                try:
                    self.remote.create(f"stages/{key}.json", content)
                except FileExistsError:
                    other = self._mark(key)
                    if other is None:  # torn by a kill
                        self.remote.write(f"stages/{key}.json", content)
                    elif other["file"] != name:  # another machine was first
                        self.remote.delete(f"stages/{name}")
            except ServiceError as error:
                raise ServiceError(
                    f"{error}; the stage is whole in {folder}, and the same command sends it without computing it again"
                ) from error
        self._look_again()

    def _fetch(self, key: str) -> str | None:
        """Copy a stage from the URL; what is damaged there, and not on its way, is taken away and told."""
        arrived: Counter[str | None] = Counter()
        with self.here.using(()) as scratch, self.translate_disk_full():
            file, unpacked = scratch / "stage.tar", scratch / "unpacked"
            for _ in range(FETCHES):
                if (mark := self._mark(key)) is None:
                    _listed.pop(self.url, None)
                    return f"it is gone from {self.url}"
                found = self._download(mark, file)
                if found == mark["sha256"]:
                    try:
                        unpack(file, unpacked, mark["bytes"])
                        check_unpacked(file, unpacked / key)
                    except DataError as error:
                        self._remove_there(key)
                        return f"{self.url}/stages/{mark['file']}: {error}"
                    self.here.put(unpacked / key, key)
                    return None
                arrived[found] += 1
                if arrived[found] > 1:
                    self._remove_there(key)
                    what = "is missing" if found is None else "does not have its checksum"
                    return f"{self.url}/stages/{mark['file']} {what}"
        raise ServiceError(f"{self.url}: stage {key} arrives with another content each time")

    def _download(self, mark: Mark, file: Path) -> str | None:
        """The checksum of what came; None where there is nothing."""
        try:
            self.remote.download(f"stages/{mark['file']}", file)
        except FileNotFoundError:
            return None
        return sha256(file)

    def _remove_there(self, key: str) -> None:
        mark = self._mark(key)
        self.remote.delete(f"stages/{key}.json")
        if mark is not None:
            self.remote.delete(f"stages/{mark['file']}")
        _listed.pop(self.url, None)

    def _leases(self) -> Leases:
        return Leases(self.remote, self._owner())

    def _owner(self) -> str:
        """This machine's name, with that of the folder here, whose locks its processes share."""
        file = self.root / "machine.txt"
        if not file.is_file():
            with self.here.lock("machine", wait=True):
                if not file.is_file():
                    replace_file(file, lambda partial: partial.write_text(uuid.uuid4().hex, encoding="utf-8"))
        return f"{platform.node()}/{file.read_text(encoding='utf-8')}"


def _read_mark(key: str, content: bytes) -> Mark | None:
    """What a mark says; None where it is torn, or no mark of the stage."""
    try:
        mark: Mark = json.loads(content)
        mark.setdefault("file", f"{key}.tar")  # as earlier releases called it
        whole = (
            re.fullmatch(rf"{key}(-[0-9a-f]{{64}})?\.tar", mark["file"])
            and re.fullmatch(r"[0-9a-f]{64}", mark["sha256"])
            and isinstance(mark["bytes"], int)
            and record_fault(mark["record"]) is None
            and key_of(mark["record"]) == key
        )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return mark if whole else None
