"""The store: finished stages' folders under their keys. A folder under its key is whole, or absent, or found damaged.

stages/KEY/        a finished stage: its files, `stage.json` (what it was) and `files.json` (sizes and checksums)
partial/KEY/       what an unfinished or interrupted stage has written so far
locks/KEY.lock     held while a stage is computed, so that two runs on one store compute it once
logs/KEY.log       what the stage printed, try after try
seen/KEY.json      the state of the large files when their checksums were last found right

Whenever a stage is looked for, its files' checksums are computed, but for large files that have the size, times and
inode number of the last time that theirs were right. What a stage is about to read is checked in full.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from radpo.core.errors import RadpoError
from radpo.core.files import FileChecksum, checksums, files_in, is_full, replace_json, verify_checksums
from radpo.engine.graph import WORK, Stage, described, key_of

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
class Store:
    """A folder of finished stages."""

    root: Path

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
        return self.folder(stage).is_dir() and self.damage(stage.key) is None

    def damage(self, key: str, *, full: bool = False) -> str | None:
        """What is wrong with a finished stage's folder, in words; None where it is whole.

        Args:
            full: compute every checksum, also of files whose state is what it was when they were last found right.
        """
        folder = self.root / "stages" / key
        try:
            recorded: dict[str, FileChecksum] = json.loads((folder / FILES).read_text(encoding="utf-8"))
            seen, state = self._seen(key), _file_state(folder)
            trusted = frozenset(name for name in state if not full and seen.get(name) == state[name])
            found = verify_checksums(folder, recorded, leave_out=frozenset({FILES}), trusted=trusted)
            if found is None and RECORD not in recorded:
                found = f"{FILES} does not name {RECORD}"
            if found is None and key_of(self.record(key)) != key:
                found = f"{RECORD} tells of another stage than its key"
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
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
    def lock(self, key: str) -> Iterator[None]:
        """Held while a stage is computed; let go by the system when the process that holds it dies.

        Raises:
            BusyError: another process holds it.
        """
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Soft locks, the fall-back, would stay behind a killed process for ever.
            with FileLock(folder / f"{key}.lock", blocking=False, fallback_to_soft=False, is_singleton=False):
                yield
        except Timeout:
            raise BusyError(f"{self.root}: another run is computing {key}") from None

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
        (partial / RECORD).write_text(json.dumps(record, indent=1, default=described), encoding="utf-8")
        (partial / FILES).write_text(json.dumps(checksums(partial), indent=1), encoding="utf-8")
        _sync([*partial.rglob("*"), partial])
        final.parent.mkdir(parents=True, exist_ok=True)
        self.remove(stage.key)  # damaged, else it would not be produced again
        partial.rename(final)
        self._note_seen(stage.key, {}, _file_state(final))

    def remove(self, key: str) -> None:
        """Delete a finished stage, first moving it out of its key's place, so that no half of it can be read."""
        folder = self.root / "stages" / key
        if not folder.exists():
            return
        garbage = Path(tempfile.mkdtemp(prefix="garbage-", dir=self.root))
        folder.rename(garbage / key)
        shutil.rmtree(garbage)
        (self.root / "seen" / f"{key}.json").unlink(missing_ok=True)

    @contextmanager
    def translate_disk_full(self) -> Iterator[None]:
        """Turn any failure of a full disk into one clear error."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            yield
        except Exception as error:
            if isinstance(error, RadpoError) or not is_full(error, _existing(self.root)):
                raise
            free = shutil.disk_usage(_existing(self.root)).free
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


def is_key(name: str) -> bool:
    """Whether a name is a stage's key."""
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None


def _file_state(folder: Path) -> dict[str, list[int]]:
    """Size, times and inode number of a folder's large files. Whoever writes to a file changes at least its times."""
    stats = {name: path.stat() for name, path in files_in(folder).items()}
    return {
        name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        for name, stat in stats.items()
        if stat.st_size > LARGE_BYTES
    }


def _clear(partial: Path, *, keep_work: bool) -> None:
    """Take away what an interrupted try left, but for the part that a resumable stage resumes from."""
    if not partial.exists():
        return
    for path in partial.iterdir():
        if keep_work and path.name == WORK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(partial.iterdir()):
        partial.rmdir()


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _sync(paths: Sequence[Path]) -> None:
    """Have the disk hold what was written before the folder is renamed, so that a power cut leaves no hollow stage.

    Side by side, because a file system writes its journal once for all that ask at the same time.
    """

    def sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(max_workers=8) as threads:
        list(threads.map(sync, paths))
