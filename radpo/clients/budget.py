"""Spending within limits: what a request could cost is set aside before it is sent, what it did cost counted after."""

from __future__ import annotations

import asyncio
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
        if self.max_cost is None or self.spent.dollars + self.reserved + highest <= self.max_cost:
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

    def _try(self, highest: float) -> bool:
        account = self.account
        with account.change(durable=True) as state:
            if account.run is not None and account.run.occasion in state.stopped:
                raise StoppedError("another stage of the run has failed, so no more is paid for; answers are kept")
            account.sweep(state)
            at_most = highest + state.excess.get(account.endpoint, 0.0)
            if not all(limit.bears(at_most) for limit in self._limits(state)):
                return False
            mine = state.on_the_way.setdefault(account.client, OnTheWay(account.stage, account.endpoint))
            mine.requests += 1
            mine.cost += highest
            state.stages.setdefault(account.stage, Spent(account.name)).sent += 1
        self.usage.sent += 1
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
