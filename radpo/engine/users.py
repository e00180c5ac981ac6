"""Who uses a folder of stages: a run, an import or an export says so while it lives, and `gc` keeps what they use.

users/ID/lock        held as long as the user lives; the system lets go of it with the process
users/ID/keys.json   the keys of the stages that the user reads or computes
users/ID/...         what it writes before that has its place: garbage once the user is dead
locks/users.lock     held while a user comes, and while garbage is collected, so that neither is half done for the other
"""

from __future__ import annotations

import errno
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from radpo.core.warn import warn_once

USERS = "users"
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Users:
    """What is in use, and what dead users left behind."""

    keys: frozenset[str]
    left_behind: tuple[Path, ...]


@contextmanager
def registered(root: Path, keys: Iterable[str]) -> Iterator[Path]:
    """Be a user of stages; yields a folder for what is yet to be put in its place, which goes at the end.

    In a folder that cannot be written nothing is noted, nor can anything be collected there by those who see it so.
    """
    folder = root / USERS / uuid.uuid4().hex
    lock = file_lock(folder / "lock")
    try:
        with gate(root):
            folder.mkdir(parents=True)
            (folder / "keys.json").write_text(json.dumps(sorted(set(keys))), encoding="utf-8")
            lock.acquire()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def users(root: Path) -> Users:
    """Who uses the stages now; to be asked for at the gate."""
    keys: set[str] = set()
    dead = []
    for folder in sorted((root / USERS).glob("*")):
        with suppress(FileNotFoundError):  # it has just left
            try:
                with file_lock(folder / "lock"):
                    dead.append(folder)
            except Timeout:
                keys.update(json.loads((folder / "keys.json").read_text(encoding="utf-8")))
    return Users(frozenset(keys), tuple(dead))


@contextmanager
def gate(root: Path) -> Iterator[None]:
    """Where users come in and garbage is collected, one at a time; waits for the other."""
    (root / "locks").mkdir(parents=True, exist_ok=True)
    lock = file_lock(root / "locks" / "users.lock")
    try:
        lock.acquire(timeout=PATIENCE_SECONDS, blocking=True)
    except Timeout:
        warn_once(f"{root}: waits for `radpo store gc`, which is at work there")
        lock.acquire(blocking=True, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def file_lock(path: Path) -> FileLock:
    """A lock that the system lets go of when its process dies; asks once, unless it is to wait."""
    # Soft locks, the fall-back, would stay behind a killed process for ever.
    return FileLock(path, blocking=False, fallback_to_soft=False, is_singleton=False)
