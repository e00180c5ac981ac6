"""Answers of chat endpoints on disk, by the content of what was asked.

One SQLite file, written one answer at a time: a killed process loses at most the answers still on their way, and
several processes may share it. Neither keys nor headers of a request are in it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from radpo.core.errors import DataError

_AT_ONCE = 500
ROOM = 64 * 2**20
"""Bytes that must be free before another request is paid for: more than all answers on their way can take."""


def remove_cache(path: Path) -> None:
    """Remove a cache that nobody uses, with all that belongs to it."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    shutil.rmtree(path.with_name(f"{path.name}.clients"), ignore_errors=True)


class ReplyCache:
    """The answers in one file; used as a context, which closes it.

    Raises:
        DataError: the file cannot be opened or is no such cache.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{path}: cannot be used as a cache of answers ({error}); remove it, or set RADPO_CACHE"
            ) from error

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The answers that there are, by key."""
        wanted, found = list(dict.fromkeys(keys)), {}
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = self.connection.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part)
            found.update({key: json.loads(reply) for key, reply in rows})
        return found

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keep an answer; on the disk's side of this process once it returns.

        Raises:
            DataError: it cannot be written.
        """
        try:
            self.connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(reply)))
        except sqlite3.Error as error:
            raise DataError(f"{self._path}: an answer cannot be kept ({error}); free some room there") from error

    def check_room(self) -> None:
        """See that what is paid for next can be kept.

        Raises:
            DataError: the disk is nearly full.
        """
        if shutil.disk_usage(self._path.parent).free < ROOM:
            raise DataError(
                f"{self._path}: less than {ROOM >> 20} MiB are left on its disk, so nothing more is asked; what was "
                "answered is kept. Free some room, or set RADPO_CACHE to another folder"
            )

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
