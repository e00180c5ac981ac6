"""Spending within limits: what a request could cost is set aside before it is sent, what it did cost counted after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from radpo.clients.account import Account, OnTheWay, Spent, State
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ServiceError

POLL = 0.2
"""Seconds between looks at what other processes have settled."""
_COUNTED = ("answered", "failed", "prompt_tokens", "completion_tokens")


class SpendingLimitError(ServiceError):
    """The next request could pass the limit, so it was not sent."""


class StoppedError(ServiceError):
    """Another stage of the run has failed, so this one pays for nothing more."""


@dataclass
class Usage:
    """What a client asked for and what it cost, so far.

    Args:
        sent: requests sent, repeated ones counted.
        answered: requests that gave an answer.
        from_cache: requests answered without being sent.
        failed: requests that the endpoint refused for good.
        prompt_tokens, completion_tokens: of the answers, as the endpoint counts them.
        cost: dollars for these tokens.
        unclear_cost: dollars at most for requests that may be billed and whose usage is not known: lost on the way,
            failed at the endpoint, or answered without a usable count.
    """

    sent: int = 0
    answered: int = 0
    from_cache: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unclear_cost: float = 0.0


@dataclass(frozen=True)
class _Limit:
    """A limit of a stage or of the whole run, with what was spent and is on its way."""

    whose: str
    max_cost: float | None
    max_requests: int | None
    spent: Spent
    on_the_way: int
    reserved: float

    def has_room(self, highest: float, requests: int) -> bool:
        """Whether so many more requests, at these dollars at most together, are within the limit."""
        if self.max_requests is not None and self.spent.sent + requests > self.max_requests:
            return False
        return self.max_cost is None or self.spent.dollars + self.reserved + highest <= self.max_cost

    def bears(self, highest: float) -> bool:
        """Whether one more request, at this cost at most, is within the limit; False where others may make room.

        Raises:
            SpendingLimitError: it is not, however the others end.
        """
        kept = "answers so far are kept, and the same command with a higher {} resumes from here"
        if self.max_requests is not None and self.spent.sent >= self.max_requests:
            raise SpendingLimitError(
                f"the limit of {self.max_requests} requests{self.whose} is reached; {kept.format('max_requests')}"
            )
        if self.has_room(highest, 1):
            return True
        if self.on_the_way:
            return False
        raise SpendingLimitError(
            f"${self.spent.dollars:.4f} of at most ${self.max_cost:g}{self.whose} are spent, and the next request "
            f"could cost ${highest:.4f}; {kept.format('max_cost')}"
        )


@dataclass
class Budget:
    """Holds a client to its stage's limits and to its run's. One event loop's tasks share it."""

    endpoint: Endpoint
    usage: Usage
    account: Account = field(default_factory=lambda: Account(None, ""))
    _settled: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self._counted = self._counts()

    @property
    def limits_cost(self) -> bool:
        """Whether there is a limit of dollars."""
        return self.endpoint.max_cost is not None or self._run_limits()[0] is not None

    async def reserve(self, highest_cost: float) -> None:
        """Set aside what a request could cost, waiting for others to be settled where that may make room.

        Args:
            highest_cost: dollars at most, by what it asks for.

        Raises:
            SpendingLimitError: the request could pass a limit however the others end; it must not be sent.
            StoppedError: another stage of the run has failed.
        """
        async with self._settled:
            while not self._try(highest_cost):
                try:
                    await asyncio.wait_for(self._settled.wait(), POLL)
                except TimeoutError:
                    continue

    def reserve_some(self, costs: Sequence[float]) -> int:
        """Set aside what the first of some requests could cost, as many as there is room for now; their number.

        Args:
            costs: dollars of each at most.

        Raises:
            SpendingLimitError: there is no room for any, however what is on its way ends.
            StoppedError: another stage of the run has failed.
        """
        account, total, taken = self.account, 0.0, 0
        with self._current() as state:
            excess, limits = state.excess.get(account.endpoint, 0.0), self._limits(state)
            for number, cost in enumerate(costs, start=1):
                if not all(limit.has_room(total + cost + number * excess, number) for limit in limits):
                    break
                total, taken = total + cost, number
            if taken:
                self._set_aside(state, total, taken)
            elif costs:
                for limit in limits:
                    limit.bears(costs[0] + excess)
        return taken

    @contextmanager
    def _current(self) -> Iterator[State]:
        """The account, what clients that are gone left behind being settled."""
        account = self.account
        with account.change(durable=True) as state:
            if account.run is not None and account.run.occasion in state.stopped:
                raise StoppedError("another stage of the run has failed, so no more is paid for; answers are kept")
            account.sweep(state)
            yield state

    def _set_aside(self, state: State, highest: float, requests: int) -> None:
        account = self.account
        mine = state.on_the_way.setdefault(account.client, OnTheWay(account.stage, account.endpoint))
        mine.requests += requests
        mine.cost += highest
        state.stages.setdefault(account.stage, Spent(account.name)).sent += requests
        self.usage.sent += requests

    def _try(self, highest: float) -> bool:
        account = self.account
        with self._current() as state:
            at_most = highest + state.excess.get(account.endpoint, 0.0)
            if not all(limit.bears(at_most) for limit in self._limits(state)):
                return False
            self._set_aside(state, highest, 1)
        return True

    def _limits(self, state: State) -> list[_Limit]:
        stage = self.account.stage
        limits = self.endpoint
        return [
            _Limit("", limits.max_cost, limits.max_requests, state.spent(stage), *state.reserved(stage)),
            _Limit(" of the whole run", *self._run_limits(), state.spent(), *state.reserved()),
        ]

    def _run_limits(self) -> tuple[float | None, int | None]:
        run = self.account.run
        return (None, None) if run is None else (run.max_cost, run.max_requests)

    async def settle(self, highest_cost: float, *, cost: float = 0.0, unclear: float = 0.0) -> None:
        """Put what was set aside back, and count what the request cost.

        Args:
            highest_cost: as it was reserved.
            cost: dollars that it is known to have cost.
            unclear: dollars that it may have cost at most, where that is not known.
        """
        account = self.account
        async with self._settled:
            with account.change() as state:
                mine = state.on_the_way[account.client]
                mine.requests -= 1
                # Sums of dollars leave a last digit behind; with nothing on its way there is nothing set aside.
                mine.cost = mine.cost - highest_cost if mine.requests else 0.0
                excess = max(state.excess.get(account.endpoint, 0.0), cost + unclear - highest_cost)
                if excess > 0:
                    state.excess[account.endpoint] = excess
                spent = state.stages[account.stage]
                spent.cost += cost
                spent.unclear_cost += unclear
                self._count(spent)
            self.usage.cost += cost
            self.usage.unclear_cost += unclear
            self._settled.notify_all()

    def settle_batch(
        self, client: str, highest_cost: float, requests: int, *, cost: float, unclear: float, tokens: tuple[int, int]
    ) -> None:
        """Put back what a client set aside for a batch, be it this one or one that is gone, and count what it cost.

        Args:
            client: who reserved.
            tokens: of prompts and answers.
        """
        account = self.account
        with account.change() as state:
            account.sweep(state)
            spent = state.stages.setdefault(account.stage, Spent(account.name))
            if client in state.on_the_way:
                theirs = state.on_the_way[client]
                theirs.requests -= requests
                theirs.cost = theirs.cost - highest_cost if theirs.requests else 0.0
            elif client in state.given_up:  # counted as possibly billed, when the client was gone
                most = highest_cost + requests * state.given_up[client]
                spent.unclear_cost = max(0.0, spent.unclear_cost - most)
            spent.cost += cost
            spent.unclear_cost += unclear
            self.usage.prompt_tokens += tokens[0]
            self.usage.completion_tokens += tokens[1]
            self._count(spent)
        self.usage.cost += cost
        self.usage.unclear_cost += unclear

    def close(self) -> None:
        """Note what is left to note, and let go of the account."""
        with self.account.change() as state:
            if self.account.stage in state.stages:
                self._count(state.stages[self.account.stage])
        self.account.close()

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self.usage, name) for name in _COUNTED}

    def _count(self, spent: Spent) -> None:
        """Carry over what the client counted since the last time."""
        now = self._counts()
        for name in _COUNTED:
            setattr(spent, name, getattr(spent, name) + now[name] - self._counted[name])
        self._counted = now
