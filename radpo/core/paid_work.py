"""Work that is paid for: what is under way, which whoever ends a process should wait for, and on whose account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


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
def announcing(flag: Flag) -> Iterator[None]:
    """Have a flag set while paid work is under way in what is done meanwhile."""
    _flags.append(flag)
    try:
        yield
    finally:
        _flags.remove(flag)


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


@dataclass(frozen=True)
class RunAccount:
    """On whose account a run's paid work goes, and how far.

    Args:
        folder: the folder in which what the run has spent is kept, for all its processes and reruns.
        identity: of the account there, so that another machine's folder of the same name is not taken for it.
        max_cost: dollars that the whole run may spend.
        max_requests: requests that the whole run may send.
        occasion: what tells this time of running from earlier ones: when a stage fails, all of it stops paying.
    """

    folder: str
    identity: str
    max_cost: float | None = None
    max_requests: int | None = None
    occasion: str = ""


@dataclass(frozen=True)
class Payer:
    """A stage that pays: on which account, under which key, and what people call it."""

    account: RunAccount
    key: str
    name: str


ACCOUNT = "account"
"""The hint of a stage that holds its run's account, as a mapping."""
_payers: list[Payer] = []


@contextmanager
def paying(hints: Mapping[str, Any], key: str, name: str) -> Iterator[None]:
    """Have this process's paid work go on the account that a stage's hints name; on none where they name none."""
    if ACCOUNT not in hints:
        yield
        return
    _payers.append(Payer(RunAccount(**hints[ACCOUNT]), key, name))
    try:
        yield
    finally:
        _payers.pop()


def payer() -> Payer | None:
    """Who pays for what this process asks now; None outside of a run."""
    return _payers[-1] if _payers else None
