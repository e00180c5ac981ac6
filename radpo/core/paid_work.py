"""Work that is paid for and under way, which whoever ends a process should wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Flag(Protocol):
    """What another process can see, such as a multiprocessing Event."""

    def set(self) -> None:
        """Say that paid work is under way."""
        ...

    def clear(self) -> None:
        """Say that none is."""
        ...


_flags: list[Flag] = []


def announce_paid_work(flag: Flag) -> None:
    """Have a flag set in this process while paid work is under way."""
    _flags.append(flag)


@contextmanager
def paid_work() -> Iterator[None]:
    """Say that what is done meanwhile is paid for."""
    for flag in _flags:
        flag.set()
    try:
        yield
    finally:
        for flag in _flags:
            flag.clear()
