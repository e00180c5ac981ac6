"""Answers of chat endpoints on disk, by the content of what was asked.

One SQLite file, written as answers come: a killed process loses at most the answers still on their way, and several
processes may share it, also on several machines. It keeps a rollback journal, because SQLite's write-ahead log needs
memory that all its users share, which a network file system does not give. Neither keys nor headers of a request are
in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from radpo.core.errors import DataError
from radpo.core.files import replace_file
from radpo.core.warn import warn_once

_AT_ONCE = 500
ROOM = 64 * 2**20
"""Bytes that must be free before another request is paid for: more than all answers on their way can take."""
BALLAST = 2**20
"""Bytes kept for answers that are on their way when the disk, or the user's share of it, turns out to be full."""
_BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside its file; the last two are of older versions of this cache."""
_LOOKED_THROUGH: set[tuple[str, int]] = set()
"""Files, with their inodes, that this process found to be whole."""


class _CorruptError(sqlite3.DatabaseError):
    """What SQLite's own check found."""


def remove_cache(path: Path) -> None:
    """Remove a cache that nobody uses, with all that belongs to it."""
    for ending in ("", *_BESIDE, ".ballast"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    for folder in (claims_folder(path), batches_folder(path)):
        shutil.rmtree(folder, ignore_errors=True)


def claims_folder(path: Path) -> Path:
    """Where the requests that a cache's users are asking are noted (`radpo.clients.claims`)."""
    return path.with_name(f"{path.name}.claims")


def batches_folder(path: Path) -> Path:
    """Where batches that a cache's users have begun are noted (`radpo.clients.batch`)."""
    return path.with_name(f"{path.name}.batches")


class ReplyCache:
    """The answers in one file; used as a context, which closes it.

    A file that is no whole SQLite database is set aside under another name and begun anew; an answer that does not have
    its checksum is as one that is not there. `notes` says so.

    Raises:
        DataError: the file cannot be opened, or, as the context ends, it was damaged meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._ballast = path, path.with_name(f"{path.name}.ballast")
        self.notes: list[str] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _folder_lock(path.parent):
                try:
                    self._writer = _opened(path)
                except sqlite3.DatabaseError as error:
                    if not _is_corrupt(error):
                        raise
                    aside = _set_aside(path)
                    self._note(f"{path}: the cache of answers is corrupt ({error}); it was set aside as {aside.name}")
                    self._writer = _opened(path)
                # Of its own, because a read that is not over would keep a write of the same connection's lock.
                self._reader = _opened(path)
                if not self._ballast.exists():
                    replace_file(self._ballast, lambda partial: partial.write_bytes(os.urandom(BALLAST)))
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{path}: cannot be used as a cache of answers ({error}); remove it, or set RADPO_CACHE"
            ) from error

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The answers that there are, by key."""
        wanted, found, corrupt = list(dict.fromkeys(keys)), {}, 0
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            # Bytes, because a damaged text need not be UTF-8.
            question = f"SELECT key, CAST(reply AS BLOB), checksum FROM replies WHERE key IN ({marks})"
            for key, reply, checksum in self._reader.execute(question, part).fetchall():
                if checksum in (None, _checksum(key, reply)):  # None: kept before answers had checksums
                    found[key] = json.loads(reply)
                else:
                    corrupt += 1
        if corrupt:
            self._note(f"{self._path}: {corrupt} answers in the cache are not as they were kept; they are asked again")
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write answers as one; they are on the disk once it ends.

        Raises:
            DataError: they cannot be written.
        """
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield
            self._writer.execute("COMMIT")
        except BaseException as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise DataError(f"{self._path}: an answer cannot be kept ({error}); free some room there") from error
            raise

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keep an answer; to be called within `together`."""
        text = json.dumps(reply)
        row = (key, text, _checksum(key, text.encode()))
        self._writer.execute("INSERT OR REPLACE INTO replies (key, reply, checksum) VALUES (?, ?, ?)", row)

    def _note(self, message: str) -> None:
        self.notes.append(message)
        warn_once(message)

    def check_room(self) -> None:
        """See that what is paid for next can be kept.

        Raises:
            DataError: the disk is nearly full, or was found full as an answer was kept.
        """
        if shutil.disk_usage(self._path.parent).free < ROOM or not self._ballast.exists():
            raise DataError(
                f"{self._path}: less than {ROOM >> 20} MiB are left on its disk, so nothing more is asked; what was "
                "answered is kept. Free some room, or set RADPO_CACHE to another folder"
            )

    def drop_ballast(self) -> bool:
        """Make room for answers that are paid for; False where that was done before. Nothing is asked afterwards."""
        there = self._ballast.exists()
        self._ballast.unlink(missing_ok=True)
        return there

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()
        self._writer.close()
        if isinstance(error, sqlite3.DatabaseError) and _is_corrupt(error):
            raise DataError(
                f"{self._path}: the cache of answers was damaged while it was used ({error}); the same command sets it "
                "aside and asks again what it does not hold"
            ) from error


def _checksum(key: str, reply: bytes) -> str:
    return hashlib.sha256(key.encode() + b" " + reply).hexdigest()


def _opened(path: Path) -> sqlite3.Connection:
    """The database with its table, looked through as a whole the first time that this process opens it."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA synchronous=NORMAL")
        file = (str(path), path.stat().st_ino)
        if file not in _LOOKED_THROUGH:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise _CorruptError(" ".join(found.split()))
            _LOOKED_THROUGH.add(file)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, checksum TEXT)"
        )
        if "checksum" not in {row[1] for row in connection.execute("PRAGMA table_info(replies)")}:
            connection.execute("ALTER TABLE replies ADD COLUMN checksum TEXT")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, _CorruptError) or (
        code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    )


def _set_aside(path: Path) -> Path:
    """Give a corrupt cache another name; what belongs to it goes with it."""
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.corrupt-{n}").exists())
    aside = path.with_name(f"{path.name}.corrupt-{number}")
    for ending in (*_BESIDE, ""):  # a journal that stays would be played into the new file
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """One process at a time opens caches there, so that none sets aside what another has just begun anew."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # where a file system knows no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
