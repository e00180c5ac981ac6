"""Requests that are being asked, shared by all who use one reply cache, so that none is asked and paid for twice.

A claim is a locked file of the request's name beside the cache. The system releases it however the client ends: no
clock is compared, and a killed client's claims are free at once.
"""

from __future__ import annotations

from pathlib import Path

from radpo.core.locks import try_lock, unlock


class Claims:
    """One client's claims."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, key: str) -> bool:
        """Claim a request; False where a living client has it."""
        descriptor = try_lock(self._folder / key)
        if descriptor is not None:
            self._held[key] = descriptor
        return descriptor is not None

    def release(self, key: str) -> None:
        """Give a request up, be it answered or not."""
        unlock(self._folder / key, self._held.pop(key))

    def close(self) -> None:
        """Give up all that is left."""
        for key in list(self._held):
            self.release(key)
