"""Answers of chat endpoints on disk, by the content of what was asked: requests' keys come in, finished answers go out.

One SQLite file, written one answer at a time: a killed process loses at most the answers still on their way, and
several processes may share it. Neither keys nor headers of a request are in it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from radpo.core.errors import DataError

_AT_ONCE = 500


class ReplyCache:
    """The answers in one file; used as a context, which closes it.

    Raises:
        DataError: the file cannot be opened or is no such cache.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
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
            rows = self._connection.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part)
            found.update({key: json.loads(reply) for key, reply in rows})
        return found

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keep an answer; on the disk's side of this process once it returns."""
        self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(reply)))

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
