"""Leases at a URL: whoever creates the next file of a numbered row holds it, and writes it anew while it works.

leases/NAME.00000001, leases/NAME.00000002, ...

A file can be created once (a conditional write: If-None-Match on S3), so of several that take over a dead lease, or a
free one, one succeeds. How old a lease is says the service's clock alone (`Remote.age`): no machine's own clock counts.
This is leader election as G. Morling describes it for S3 (2024), with renewal.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from radpo.core.errors import ServiceError
from radpo.engine.remote import Remote
from radpo.engine.store import BusyError

BEAT_SECONDS = 20.0
LEASE_SECONDS = 120.0
"""A lease that was not written anew for so long is a dead process's. Should its owner live all the same, the stage is
computed twice, with the same result, and is put under its key once."""


@dataclass(frozen=True)
class Leases:
    """The leases at a URL, as one machine takes them.

    Args:
        owner: names this machine. It takes a lease only under a lock of its own that its processes share, so a lease
            with this name is of a dead process.
    """

    remote: Remote
    owner: str

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold a lease.

        Raises:
            BusyError: another machine holds it.
        """
        place, content = self._take(name)
        with beating(self.remote, place, content):
            yield

    def is_held(self, name: str) -> bool:
        """Whether a living process of another machine holds a lease."""
        numbers = self._numbers(name)
        return bool(numbers) and self._is_alive(_place(name, numbers[-1]))

    def remove_dead(self) -> None:
        """Delete the files of all leases that grew old."""
        for file in self.remote.names("leases"):
            with suppress(FileNotFoundError):
                if self.remote.age(f"leases/{file}") >= LEASE_SECONDS:
                    self.remote.delete(f"leases/{file}")

    def _take(self, name: str) -> tuple[str, bytes]:
        before = self._numbers(name)
        if before and self._is_alive(_place(name, before[-1])):
            raise BusyError(f"{self.remote.url}: {self._host(_place(name, before[-1]))} is at work on {name}")
        place = _place(name, before[-1] + 1 if before else 1)
        content = json.dumps(
            {"try": uuid.uuid4().hex, "host": platform.node(), "process": os.getpid(), "owner": self.owner}
        ).encode()
        busy = BusyError(f"{self.remote.url}: another machine has just begun {name}")
        try:
            self.remote.create(place, content)
        except FileExistsError:
            raise busy from None
        # A process that was slow may have gone by what was there long ago; and not every file system creates in one
        # step. Whoever finds a rival it has not seen dead, or another's content in its place, gives way.
        mine = int(place[-8:])
        rivals = [number for number in self._numbers(name) if number != mine]
        alive = [number for number in rivals if number not in before or self._is_alive(_place(name, number))]
        mine_still = self._content(place) == content
        if alive or not mine_still:
            if mine_still:
                self.remote.delete(place)
            raise busy
        for number in rivals:
            self.remote.delete(_place(name, number))
        return place, content

    def _numbers(self, name: str) -> list[int]:
        found = (re.fullmatch(rf"{re.escape(name)}\.(\d{{8}})", file) for file in self.remote.names("leases"))
        return sorted(int(match[1]) for match in found if match)

    def _is_alive(self, place: str) -> bool:
        try:
            return self.remote.age(place) < LEASE_SECONDS and self._document(place).get("owner") != self.owner
        except FileNotFoundError:
            return False

    def _host(self, place: str) -> str:
        return str(self._document(place).get("host", "another machine"))

    def _document(self, place: str) -> dict[str, object]:
        try:
            found = json.loads(self._content(place) or b"")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _content(self, place: str) -> bytes | None:
        try:
            return self.remote.read(place)
        except FileNotFoundError:
            return None


@contextmanager
def beating(remote: Remote, name: str, content: bytes) -> Iterator[None]:
    """Write a file anew as long as work continues, then delete it; a failed write is tried again, and ends nothing."""
    ended = threading.Event()

    def beat() -> None:
        wait = BEAT_SECONDS
        while not ended.wait(wait):
            try:
                remote.write(name, content)
                wait = BEAT_SECONDS
            except ServiceError:
                wait = BEAT_SECONDS / 4

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(ServiceError):  # else it grows old by itself
            remote.delete(name)


def _place(name: str, number: int) -> str:
    return f"leases/{name}.{number:08}"
