"""Requests that are being asked, shared by all who use one reply cache, so that none is asked and paid for twice.

A claim is a row of the cache's database, held by one client. Whether a client is alive is known by a lock on a file
of its own, which the system releases however the client ends: no clock is compared, and a killed client's claims are
taken over at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from pathlib import Path


class Claims:
    """One client's claims."""

    def __init__(self, connection: sqlite3.Connection, cache: Path) -> None:
        self._connection = connection
        self._folder = cache.with_name(f"{cache.name}.clients")
        self._name = uuid.uuid4().hex
        connection.execute("CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, client TEXT NOT NULL)")
        self._folder.mkdir(exist_ok=True)
        self._file = os.open(self._folder / self._name, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def take(self, key: str) -> bool:
        """Claim a request; False where a living client has it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            row = self._connection.execute("SELECT client FROM claims WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] != self._name and self._lives(row[0]):
                return False
            self._connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (key, self._name))
            return True
        finally:
            self._connection.execute("COMMIT")

    def release(self, key: str) -> None:
        """Give a request up, be it answered or not."""
        self._connection.execute("DELETE FROM claims WHERE key = ? AND client = ?", (key, self._name))

    def close(self) -> None:
        """Give up all that is left."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("DELETE FROM claims WHERE client = ?", (self._name,))
        with contextlib.suppress(OSError):
            (self._folder / self._name).unlink()
        os.close(self._file)

    def _lives(self, client: str) -> bool:
        try:
            file = os.open(self._folder / client, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            with contextlib.suppress(OSError):
                (self._folder / client).unlink()
            return False
        finally:
            os.close(file)
