"""What was spent: by one client alone, or by a whole run with all its stages, processes and reruns.

A run's account is one JSON file, changed under a lock. What a request could cost is in it before it is sent, so
that a process which is killed leaves its requests behind as possibly billed, at the most that they could cost.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from radpo.core.errors import ConfigError, DataError
from radpo.core.locks import locked, owner_lives, try_lock, unlock
from radpo.core.paid_work import Payer
from radpo.core.warn import warn_once

FILE, LOCK = "account.json", "lock"
_REMEMBERED = 20


@dataclass
class Spent:
    """What was asked for and what it cost.

    Args:
        name: of the stage that asked.
        sent: requests sent, repeated ones counted.
        answered: requests that gave an answer.
        failed: requests that stay without one.
        prompt_tokens, completion_tokens: as the endpoint counts them, of every reply, also of those of no use.
        cost: dollars for these tokens.
        unclear_cost: dollars at most for requests that may be billed and whose usage is not known.
    """

    name: str = ""
    sent: int = 0
    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unclear_cost: float = 0.0

    @property
    def dollars(self) -> float:
        """At most."""
        return self.cost + self.unclear_cost

    def __add__(self, other: Spent) -> Spent:
        sums = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)[1:]}
        return Spent(self.name, **sums)


@dataclass
class OnTheWay:
    """Requests of one client that are not settled.

    Args:
        stage: the key of the stage that asks.
        endpoint: whom it asks.
        requests: how many.
        cost: dollars at most by what they ask for.
    """

    stage: str
    endpoint: str
    requests: int = 0
    cost: float = 0.0


@dataclass
class State:
    """An account.

    Args:
        stages: what was spent, by stage key.
        on_the_way: what is not settled yet, by client.
        excess: dollars by which a reply cost more than what was asked for bounds, the most seen of each endpoint.
        stopped: the occasions of running that are to pay for nothing more, the last few.
        given_up: clients whose requests on their way were counted as possibly billed, with the excess that was added
            for each request.
    """

    identity: str = ""
    stages: dict[str, Spent] = field(default_factory=dict)
    on_the_way: dict[str, OnTheWay] = field(default_factory=dict)
    excess: dict[str, float] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    given_up: dict[str, float] = field(default_factory=dict)

    def spent(self, stage: str | None = None) -> Spent:
        """Of a stage, or of all."""
        of = [spent for key, spent in self.stages.items() if stage in (None, key)]
        return sum(of, Spent())

    def reserved(self, stage: str | None = None) -> tuple[int, float]:
        """Requests on their way, of a stage or of all, and the dollars that they could cost at the largest seen."""
        of = [open_ for open_ in self.on_the_way.values() if stage in (None, open_.stage)]
        dollars = sum(open_.cost + open_.requests * self.excess.get(open_.endpoint, 0.0) for open_ in of)
        return sum(open_.requests for open_ in of), dollars

    def give_up(self, client: str) -> None:
        """Count what a client that is gone had on its way as possibly billed."""
        left = self.on_the_way.pop(client)
        each = self.excess.get(left.endpoint, 0.0)
        self.stages.setdefault(left.stage, Spent()).unclear_cost += left.cost + left.requests * each
        if left.requests:
            self.given_up[client] = each


class Account:
    """One client's access to an account; it ends with `close`.

    Args:
        payer: the stage that pays, on whose run's account it goes; an account of the client's own for None.
        endpoint: whom the client asks.

    Raises:
        ConfigError: the run has a limit, and its account is not where this process can see it.
    """

    def __init__(self, payer: Payer | None, endpoint: str) -> None:
        self.client, self.endpoint = uuid.uuid4().hex, endpoint
        self.stage = payer.key if payer is not None else ""
        self.name = payer.name if payer is not None else ""
        self.run = payer.account if payer is not None else None
        self._folder = Path(self.run.folder) if self.run is not None else Path()
        self._own: State | None = State()
        self._presence: int | None = None
        if self.run is None:
            return
        if read_account(self._folder).identity == self.run.identity:
            self._own = None
            self._presence = try_lock(self._folder / self.client)
            return
        where = f"{self._folder}: what the run spends is kept there, and {platform.node()} does not see it"
        if self.run.max_cost is not None or self.run.max_requests is not None:
            raise ConfigError(f"{where}; give a run directory (--out) that all machines share")
        warn_once(f"{where}, so the record will lack it")

    @contextmanager
    def change(self, *, durable: bool = False) -> Iterator[State]:
        """Read the account and write it back, alone with it meanwhile.

        Args:
            durable: have it on the disk on return, and not only out of this process's hands.
        """
        if self._own is not None:
            yield self._own
            return
        with locked(self._folder / LOCK):
            state = read_account(self._folder)
            yield state
            _write(self._folder, state, durable=durable)

    def sweep(self, state: State) -> None:
        """Settle what clients left behind that are gone."""
        if self._own is None:
            others = [client for client in state.on_the_way if client != self.client]
            for client in others:
                if not owner_lives(self._folder / client):
                    state.give_up(client)

    def close(self) -> None:
        """Settle what is left."""
        with self.change() as state:
            if self.client in state.on_the_way:
                state.give_up(self.client)
        if self._presence is not None:
            unlock(self._folder / self.client, self._presence)
            self._presence = None


def begin_account(folder: Path) -> str:
    """Make a run's account where there is none; returns its identity.

    Raises:
        DataError: the folder cannot be written, or what is there is no account.
    """
    if known := read_account(folder).identity:
        return known
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror})") from error
    with locked(folder / LOCK):
        if not (folder / FILE).exists():
            _write(folder, State(uuid.uuid4().hex), durable=True)
        return read_account(folder).identity


def stop_paying(folder: Path, occasion: str) -> None:
    """Have all processes of a run pay for nothing more."""
    with locked(folder / LOCK):
        state = read_account(folder)
        state.stopped = [*state.stopped[-_REMEMBERED:], occasion]
        _write(folder, state, durable=False)


def read_account(folder: Path) -> State:
    """A run's account; an empty one where there is none.

    Raises:
        DataError: what is there is no account.
    """
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return State(
            identity=str(document["identity"]),
            stages={key: Spent(**spent) for key, spent in document["stages"].items()},
            on_the_way={client: OnTheWay(**open_) for client, open_ in document["on_the_way"].items()},
            excess={endpoint: float(dollars) for endpoint, dollars in document["excess"].items()},
            stopped=list(map(str, document["stopped"])),
            given_up={client: float(each) for client, each in document.get("given_up", {}).items()},
        )
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / FILE}: what the run has spent cannot be read ({type(error).__name__}: {error}); with the file "
            "removed, the run counts its spending from nothing"
        ) from error


def _write(folder: Path, state: State, *, durable: bool) -> None:
    partial = folder / f".{FILE}.partial"  # under the lock, so there is one at most
    document: dict[str, Any] = asdict(state)
    try:
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=1)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(folder / FILE)
    except OSError as error:
        raise DataError(f"{folder / FILE}: what the run spends cannot be noted ({error.strerror})") from error
