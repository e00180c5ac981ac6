"""The store: finished stages' folders under their keys. A folder under its key is whole, or absent, or found damaged.

stages/KEY/        a finished stage: its files, `stage.json` (what it was) and `files.json` (sizes and checksums)
partial/KEY/       what an unfinished or interrupted stage has written so far
locks/KEY.lock     held while a stage is computed, so that two runs on one store compute it once
users/             who uses which stages now (`radpo.engine.users`)
logs/KEY.log       what the stage printed, try after try
seen/KEY.json      the state of the large files when their checksums were last found right

Whenever a stage is looked for, its files' checksums are computed, but for large files that have the size, times and
inode number of the last time that theirs were right. What a stage is about to read is checked in full.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from radpo.core.errors import ConfigError, RadpoError
from radpo.core.files import (
    FileChecksum,
    checksums,
    existing,
    files_in,
    is_full,
    move_into_place,
    replace_json,
    verify_checksums,
)
from radpo.engine.graph import WORK, Stage, described, key_of
from radpo.engine.record import record_fault
from radpo.engine.users import UNWRITABLE, USERS, Users, file_lock, gate, registered, users

FOLDERS = ("stages", "partial", "locks", "logs", "seen", USERS)
RECORD = "stage.json"
FILES = "files.json"
LARGE_BYTES = 2**20
CLOCK_NS = 20_000_000
"""File systems take a file's times from a clock that stands still for up to about 10 ms."""


class StoreFullError(RadpoError):
    """The disk that holds the store is full."""


class BusyError(RadpoError):
    """Another run is computing the stage."""


@dataclass(frozen=True)
class Leftover:
    """A part of a stage that never became one, outside the store's own folder, by its name there."""

    name: str
    key: str
    bytes: int


@dataclass(frozen=True)
class Store:
    """A folder of finished stages."""

    root: Path

    @property
    def place(self) -> str:
        """What opens it again, from any working folder."""
        return str(self.root.absolute())

    def folder(self, stage: Stage) -> Path:
        """Where the finished stage is, or will be."""
        return self.root / "stages" / stage.key

    def open(self, stage: Stage) -> Path:
        """The folder of a finished stage, to read from."""
        return self.folder(stage)

    def log(self, stage: Stage) -> Path:
        """Where the stage's output goes."""
        return self.root / "logs" / f"{stage.key}.log"

    def has(self, stage: Stage) -> bool:
        """Whether the stage is finished and whole."""
        return self.is_whole(stage.key)

    def is_whole(self, key: str) -> bool:
        """Whether a finished stage is in this folder, and whole."""
        return (self.root / "stages" / key).is_dir() and self.damage(key) is None

    def ensure_shared(self, stage: Stage) -> bool:
        """As `has`; a shared store first sends what only this machine has of the stage. To be called under the lock."""
        return self.has(stage)

    def supply(self, key: str) -> str | None:
        """Have a finished stage in this folder, with all checksums computed; returns what is wrong where it is not."""
        return self.damage(key, full=True)

    def size(self, key: str) -> int:
        """Bytes of a finished stage, as far as they are there."""
        return size_of(self.root / "stages" / key)

    def damage(self, key: str, *, full: bool = False) -> str | None:
        """What is wrong with a finished stage's folder, in words; None where it is whole.

        Args:
            full: compute every checksum, also of files whose state is what it was when they were last found right.
        """
        folder = self.root / "stages" / key
        if folder.is_symlink():
            return "it is a link, and a store has its stages in itself"
        if not folder.is_dir():
            return "it is not there"
        try:
            recorded: dict[str, FileChecksum] = json.loads((folder / FILES).read_text(encoding="utf-8"))
            there = files_in(folder)
            seen, state = self._seen(key), _file_state(there)
            trusted = frozenset(name for name in state if not full and seen.get(name) == state[name])
            found = verify_checksums(folder, recorded, leave_out=frozenset({FILES}), trusted=trusted, there=there)
            if found is None and RECORD not in recorded:
                found = f"{FILES} does not name {RECORD}"
            record = None if found else self.record(key)
            if record is not None and key_of(record) != key:
                found = f"{RECORD} belongs to another stage than its key"
            if found is None and (fault := record_fault(record)):
                found = f"{RECORD} is no stage's record ({fault})"
        except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            found, seen, state = f"{FILES} or {RECORD} cannot be read ({type(error).__name__})", {"?": None}, {}
        self._note_seen(key, seen, state if found is None else {})
        return found

    def record(self, key: str) -> dict[str, Any]:
        """What was noted when a stage was finished: what it was, seconds, peak memory, date."""
        path = self.root / "stages" / key / RECORD
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def finished(self) -> list[str]:
        """The keys of all finished stages, whole or damaged."""
        folder = self.root / "stages"
        return sorted(path.name for path in folder.iterdir() if is_key(path.name)) if folder.is_dir() else []

    @contextmanager
    def lock(self, key: str, *, wait: bool = False) -> Iterator[None]:
        """Held while a stage is computed; let go by the system when the process that holds it dies.

        Args:
            wait: until whoever holds it lets go.

        Raises:
            BusyError: another process holds it.
        """
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(folder / f"{key}.lock")
        try:
            lock.acquire(blocking=wait, timeout=-1)
        except Timeout:
            raise BusyError(f"{self.root}: another run is computing {key}") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def using(self, keys: Iterable[str]) -> Iterator[Path]:
        """Keep `gc` from removing stages, be they there or yet to come; to be entered before they are looked for.

        Yields:
            A folder, maybe yet to be made, for what will be put in its place; it goes at the end.
        """
        with self.translate_disk_full(), registered(self.root, keys) as folder:
            yield folder

    @contextmanager
    def collecting(self) -> Iterator[Users]:
        """Held while garbage is collected: no user comes meanwhile. Yields those who came before."""
        with gate(self.root):
            yield users(self.root)

    def leftovers(self) -> list[Leftover]:
        """What killed processes left elsewhere, as far as the store is elsewhere."""
        return []

    def remove_leftover(self, leftover: Leftover) -> None:
        """Delete one of them, unless it has become part of a stage. To be called under the lock."""

    def is_busy(self, key: str) -> bool:
        """Whether some process is computing the stage now."""
        try:
            with self.lock(key):
                return False
        except BusyError:
            return True

    def partial(self, stage: Stage) -> Path:
        """The folder in which the stage is written, before it is under its key."""
        return self.root / "partial" / stage.key

    def produce(self, stage: Stage, write: Callable[[Path], dict[str, Any]]) -> None:
        """Have `write` fill a folder, then move it under the stage's key in one step. To be called under the lock.

        Args:
            write: fills the folder it is given and returns what is to be noted about the work.

        Raises:
            StoreFullError: the disk is full; what was written is gone, but for what a resumable stage resumes from.
        """
        partial = self.partial(stage)
        try:
            with self.translate_disk_full():
                _clear(partial, keep_work=stage.function.resumable)
                partial.mkdir(parents=True, exist_ok=True)
                notes = write(partial)
                shutil.rmtree(partial / WORK, ignore_errors=True)
                self._commit(stage, partial, notes)
        except BaseException:
            with suppress(OSError):
                _clear(partial, keep_work=stage.function.resumable)
            raise

    def _commit(self, stage: Stage, partial: Path, notes: dict[str, Any]) -> None:
        final = self.folder(stage)
        record = {"name": stage.name, **stage.identity(), **notes}
        if link := next((path for path in partial.rglob("*") if path.is_symlink()), None):
            raise RadpoError(f"{stage.name}: {link.relative_to(partial)} is a link; a stage's function writes files")
        (partial / RECORD).write_text(json.dumps(record, indent=1, default=described), encoding="utf-8")
        (partial / FILES).write_text(json.dumps(checksums(partial), indent=1), encoding="utf-8")
        self.put(partial, stage.key)
        self._note_seen(stage.key, {}, _file_state(files_in(final)))

    def put(self, folder: Path, key: str) -> None:
        """Move a whole stage's folder, located in the store, under its key. To be called under the lock."""
        final = self.root / "stages" / key
        final.parent.mkdir(parents=True, exist_ok=True)
        Store.remove(self, key)  # damaged, else it would not be put there again
        move_into_place(folder, final)

    def remove(self, key: str) -> None:
        """Delete a finished stage, first moving it out of its key's place, so that no half of it can be read."""
        folder, garbage = self.root / "stages" / key, self.root / f"garbage-{uuid.uuid4().hex}"
        try:
            folder.rename(garbage)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EXDEV:  # a folder of a container image's lower layer cannot be renamed
                raise
            (folder / FILES).unlink(missing_ok=True)  # from here on it does not count as whole
            garbage = folder
        delete(garbage)
        (self.root / "seen" / f"{key}.json").unlink(missing_ok=True)

    def check_layout(self) -> None:
        """Refuse a store that reaches outside itself, where what is removed in it might be another's.

        Raises:
            ConfigError: one of its folders is a link or a file.
        """
        for name in FOLDERS:
            path = self.root / name
            if path.is_symlink():
                raise ConfigError(
                    f"{path}: is a link to {path.readlink()}; a store is one folder on one file system: move all of it "
                    "there, and give it with --store"
                )
            if path.exists() and not path.is_dir():
                raise ConfigError(f"{path}: is a file where a store has a folder; give another store with --store")

    def check_writable(self, missing: Sequence[Stage]) -> None:
        """Find out before any work whether its results could be put in their place.

        Args:
            missing: the stages that are to be computed, as far as there are any.

        Raises:
            ConfigError: the store cannot be written, or is not on one file system.
        """
        name = f"garbage-{uuid.uuid4().hex}"
        partial, final = self.root / "partial" / name, self.root / "stages" / name
        try:
            with self.translate_disk_full():
                for folder in (partial, final.parent):
                    folder.mkdir(parents=True, exist_ok=True)
                partial.rename(final)
                final.rename(self.root / name)
                delete(self.root / name)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise ConfigError(
                    f"{self.root}: its folders are not on one file system ({error.filename} cannot be moved to "
                    f"{error.filename2}), so that no finished stage could be put in its place; give another store with "
                    "--store"
                ) from error
            if error.errno in UNWRITABLE:
                raise ConfigError(
                    f"{self.root}: cannot be written ({error.strerror}){lacking(missing)}; give a store that can be "
                    "written with --store"
                ) from error
            raise

    @contextmanager
    def translate_disk_full(self) -> Iterator[None]:
        """Turn any failure of a full disk into one clear error."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            yield
        except Exception as error:
            if isinstance(error, RadpoError) or not is_full(error, existing(self.root)):
                raise
            free = shutil.disk_usage(existing(self.root)).free
            raise StoreFullError(
                f"{self.root}: the disk is full ({free / 2**20:.1f} MiB free); make room (`radpo store gc` "
                "removes what no matrix needs), then give the same command again: it resumes from here"
            ) from error

    def _seen(self, key: str) -> dict[str, Any]:
        try:
            seen = json.loads((self.root / "seen" / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return seen if isinstance(seen, dict) else {}

    def _note_seen(self, key: str, seen: dict[str, Any], state: dict[str, list[int]]) -> None:
        """Note the state of large files, unless a change that comes at once would leave their times as they are."""
        if seen == state or any(time.time_ns() - changed < CLOCK_NS for _, _, changed, _ in state.values()):
            return
        folder = self.root / "seen"
        with suppress(OSError):  # only saves time; a store that cannot be written is read all the same
            folder.mkdir(exist_ok=True)
            replace_json(folder / f"{key}.json", state)


def lacking(missing: Sequence[Stage]) -> str:
    """What a store lacks, as the end of a message."""
    return f", and lacks {len(missing)} of the stages, such as {missing[0].name}" if missing else ""


def is_key(name: str) -> bool:
    """Whether a name is a stage's key."""
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None


def _file_state(files: Mapping[str, Path]) -> dict[str, list[int]]:
    """Size, times and inode number of the large ones of files. Whoever writes to a file changes at least its times."""
    stats = {name: path.stat() for name, path in files.items()}
    return {
        name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        for name, stat in stats.items()
        if stat.st_size > LARGE_BYTES
    }


def size_of(path: Path) -> int:
    """Bytes of a file or of a folder's files, as far as they are there; a link has none."""
    if path.is_symlink():
        return 0
    size = 0
    inside = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]  # never fails
    for file in inside if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            size += file.lstat().st_size
    return size


def delete(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link and nothing of what it points to.

    What another process deletes at the same time is gone all the same.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    while path.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)


def _clear(partial: Path, *, keep_work: bool) -> None:
    """Take away what an interrupted try left, but for the part that a resumable stage resumes from."""
    if partial.is_symlink() or not partial.is_dir():
        delete(partial)
        return
    for path in partial.iterdir():
        if not keep_work or path.name != WORK or path.is_symlink():
            delete(path)
    if not any(partial.iterdir()):
        partial.rmdir()
