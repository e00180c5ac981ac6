"""Servers that radpo starts itself: what one is, and at which address each is while it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from radpo.core.errors import RadpoError

SERVED = "http://127.0.0.1/v1"
"""In place of an address, which is another at each start."""
SERVERS = "servers"
"""The hint of a stage that holds the servers it needs, as mappings."""


@dataclass(frozen=True)
class Server:
    """What is to be started.

    Args:
        words: the command; `{port}` in it stands for the port.
        gpus: how many GPUs it computes on, where there are any.
        start_seconds: how long it may take until it answers.
    """

    words: tuple[str, ...]
    gpus: int
    start_seconds: float

    @property
    def id(self) -> str:
        """Equal exactly where one server will do."""
        return hashlib.sha256("\0".join((*self.words, str(self.gpus))).encode()).hexdigest()[:16]


_ports: dict[str, int] = {}


@contextmanager
def listening(ports: Mapping[str, int]) -> Iterator[None]:
    """Have this process know at which ports servers listen, by their ids."""
    before = dict(_ports)
    _ports.update(ports)
    try:
        yield
    finally:
        _ports.clear()
        _ports.update(before)


def address_of(server: Server) -> str:
    """The address of a server that runs, up to and with `/v1`.

    Raises:
        RadpoError: nobody has started it.
    """
    if server.id not in _ports:
        raise RadpoError(f"{server.words[0]}: this server runs only while a stage of a matrix that needs it does")
    return f"http://127.0.0.1:{_ports[server.id]}/v1"
