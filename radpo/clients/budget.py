"""A run's spending: what a request could cost is set aside before it is sent, and what it did cost counted after."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ServiceError


class SpendingLimitError(ServiceError):
    """The next request could pass the limit, so it was not sent."""


@dataclass
class Usage:
    """What a run asked for and what it cost, so far.

    Args:
        sent: requests sent, repeated ones counted.
        answered: requests that gave an answer.
        from_cache: requests answered without being sent.
        failed: requests that the endpoint refused for good.
        prompt_tokens, completion_tokens: of the answers, as the endpoint counts them.
        cost: dollars for these tokens.
        unclear_cost: dollars at most for requests whose answers were lost on the way and may be billed all the same.
    """

    sent: int = 0
    answered: int = 0
    from_cache: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unclear_cost: float = 0.0


@dataclass
class Budget:
    """Holds a run to its limits. One event loop's tasks share it."""

    endpoint: Endpoint
    usage: Usage
    _reserved: float = 0.0
    _under_way: int = 0
    _settled: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def reserve(self, highest_cost: float) -> None:
        """Set aside what a request could cost, waiting for others to be settled where that may make room.

        Raises:
            SpendingLimitError: the request could pass a limit however the others end; it must not be sent.
        """
        limits, usage = self.endpoint, self.usage
        async with self._settled:
            while True:
                if limits.max_requests is not None and usage.sent >= limits.max_requests:
                    raise SpendingLimitError(
                        f"the limit of {limits.max_requests} requests is reached; answers so far are kept, and the "
                        "same command with a higher max_requests resumes from here"
                    )
                spent = usage.cost + usage.unclear_cost
                if limits.max_cost is None or spent + self._reserved + highest_cost <= limits.max_cost:
                    break
                if self._under_way == 0:
                    raise SpendingLimitError(
                        f"${spent:.4f} of at most ${limits.max_cost:g} are spent, and the next request could cost "
                        f"${highest_cost:.4f}; answers so far are kept, and the same command with a higher max_cost "
                        "resumes from here"
                    )
                await self._settled.wait()
            self._reserved += highest_cost
            self._under_way += 1
            usage.sent += 1

    async def settle(self, highest_cost: float, *, cost: float = 0.0, unclear: bool = False) -> None:
        """Put what was set aside back, and count what the request cost, or could have cost where that is unclear."""
        async with self._settled:
            self._under_way -= 1
            # Sums of dollars leave a last digit behind; with nothing under way there is nothing set aside.
            self._reserved = self._reserved - highest_cost if self._under_way else 0.0
            if unclear:
                self.usage.unclear_cost += highest_cost
            self.usage.cost += cost
            self._settled.notify_all()
