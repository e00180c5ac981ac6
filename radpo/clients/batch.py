"""Requests asked in batches, at half the price, each paid for once.

A batch is noted beside the cache of replies before it is begun, with the requests that it holds. So a process that is
killed, run again, waits for the same batch, and other processes that want one of its answers wait for it, too. Whoever
first sees its end keeps the replies of all; whose account it was reserved on settles it.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from radpo.clients.batch_api import ENDED, URL, BatchApi
from radpo.clients.budget import Budget, SpendingLimitError
from radpo.clients.endpoint import Endpoint
from radpo.clients.replies import ChatReply
from radpo.core.errors import DataError, ServiceError
from radpo.core.files import replace_json
from radpo.core.locks import try_lock, unlock
from radpo.core.say import say, shows

MOST_REQUESTS = 50_000
MOST_BYTES = 190 * 2**20
"""Of one batch; the API's limits are 50,000 requests and 200 MB."""
TRIES = 3
"""In how many batches a request is asked at most."""
POLL, LONGEST_POLL = 2.0, 60.0
"""Seconds between looks at a batch, at first and later."""
LOCK_POLL = 0.1


NOTHING = {"cost": 0.0, "unclear": 0.0, "prompt": 0.0, "completion": 0.0}
"""What a batch cost that did not begin."""


class Asker(Protocol):
    """Who asks (`radpo.clients.chat`): makes requests' bodies, reads and keeps replies."""

    def body(self, request: Any) -> dict[str, Any]:
        """A request's body."""
        ...

    def read(self, document: Any, request: Any | None) -> tuple[ChatReply | None, tuple[int, int] | None]:
        """A body's reply and its tokens."""
        ...

    def kept(self, keys: Sequence[str]) -> dict[str, ChatReply]:
        """The replies that the cache has."""
        ...

    async def keep(self, key: str, record: Mapping[str, Any]) -> None:
        """Have the cache keep a reply."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, and no longer than until everything stops."""
        ...

    def raise_if_stopped(self) -> None:
        """Raise what stopped everything."""
        ...


@dataclass
class Batch:
    """One batch, as it is noted.

    Args:
        mark: its name here, and in the API's metadata.
        keys: the requests in it.
        endpoint: model and address.
        account, stage, client: on whose account `reserved` dollars are set aside.
        id: the API's; empty where it is not known whether it was begun.
        figures: what it cost, once its replies are kept.
    """

    mark: str
    keys: list[str]
    endpoint: str
    account: str
    stage: str
    client: str
    reserved: float
    created: float
    id: str = ""
    figures: dict[str, float] | None = None


@dataclass
class Batches:
    """One client's asking in batches.

    Args:
        asker: who asks.
        highest: the most dollars that a request can cost.
        folder: where batches are noted.
    """

    asker: Asker
    highest: Callable[[Any], float]
    api: BatchApi
    endpoint: Endpoint
    budget: Budget
    folder: Path
    _outcomes: dict[str, ChatReply | str] = field(default_factory=dict)
    """What became of requests in ended batches; a text says why one may be asked again."""

    async def answers(self, requests: Mapping[str, Any], keys: Sequence[str]) -> AsyncIterator[tuple[str, ChatReply]]:
        """The reply to each of these requests as it comes.

        Raises:
            ServiceError: the API fails or refuses a batch; `SpendingLimitError` where the next request could pass a
                limit.
        """
        left, asked = dict.fromkeys(keys), Counter[str]()
        pause = POLL
        while left:
            waiting, fresh = await self._begin(requests, left)
            asked.update(fresh)
            ended = [batch for batch in waiting if await self._ended(batch, requests)]
            keys = [key for batch in ended for key in batch.keys if key in left]
            elsewhere = self.asker.kept([key for key in keys if key not in self._outcomes])
            self.budget.usage.from_cache += len(elsewhere)
            for key in keys:
                outcome: ChatReply | str = elsewhere.get(key) or self._outcomes.pop(key, "it has no answer yet")
                if isinstance(outcome, str):
                    if asked[key] < TRIES:
                        continue
                    self.budget.usage.failed += 1
                    outcome = ChatReply(None, {}, f"no answer in {TRIES} batches: {outcome}")
                del left[key]
                yield key, outcome
            pause = POLL if ended else min(1.5 * pause, LONGEST_POLL)
            if left and not ended:
                await self.asker.sleep(pause)
            self.asker.raise_if_stopped()

    async def _begin(self, requests: Mapping[str, Any], left: Mapping[str, None]) -> tuple[list[Batch], list[str]]:
        """The batches to wait for, new ones for requests that are in none among them, and what is in these."""
        async with self.alone():
            open_ = []
            for batch in _noted(self.folder):
                if batch.figures is not None:
                    self._settle_if_mine(batch)
                elif batch.endpoint == self._name and (batch.id or await self._find(batch)):
                    open_.append(batch)
            known = {key for batch in open_ for key in batch.keys}
            unknown = [key for key in left if key not in known]
            there = self.asker.kept(unknown)  # by another process, meanwhile
            mine = [batch for batch in open_ if not left.keys().isdisjoint(batch.keys)]
            if there:
                mine.append(Batch("", list(there), self._name, "", "", "", 0.0, 0.0, figures={}))
            begun: list[str] = []
            for part in self._parts((key, self.asker.body(requests[key])) for key in unknown if key not in there):
                costs = [self.highest(requests[key]) for key in part]
                room = self.budget.reserve_some(costs) if not mine else self._room_beside(costs)
                if not room:
                    break  # what is under way may make room
                mine.append(await self._submit(dict(list(part.items())[:room]), sum(costs[:room])))
                begun += list(part)[:room]
        return mine, begun

    def _room_beside(self, costs: Sequence[float]) -> int:
        """As `Budget.reserve_some`; beside batches under way a limit is no reason to stop yet."""
        try:
            return self.budget.reserve_some(costs)
        except SpendingLimitError:
            return 0

    async def _submit(self, bodies: Mapping[str, Any], highest: float) -> Batch:
        account = self.budget.account
        batch = Batch(
            uuid.uuid4().hex, list(bodies), self._name, str(account.run.folder) if account.run else "", account.stage,
            account.client, highest, time.time(),
        )  # fmt: skip
        self._note(batch)
        lines = [
            json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": body}) for key, body in bodies.items()
        ]
        try:
            batch.id = await self.api.submit("\n".join(lines).encode(), batch.mark)
        except ServiceError:
            if await self._known_not_begun(batch):
                batch.figures = dict(NOTHING)
                self._settle_if_mine(batch)
            raise
        self._note(batch)
        if shows("info"):
            what = f"{len(bodies)} requests to {self.endpoint.model} are in batch {batch.id}"
            say(f"{what}, which may take a day; interrupted, the same command resumes", file=sys.stderr, flush=True)
        return batch

    async def _known_not_begun(self, batch: Batch) -> bool:
        try:
            return await self.api.find(batch.mark) is None
        except ServiceError:
            return False

    async def _find(self, batch: Batch) -> bool:
        """Take up the id of a batch whose beginning was interrupted; False, and forgotten, where it had not begun."""
        found = await self.api.find(batch.mark)
        if found is None:
            batch.figures = dict(NOTHING)
            self._note(batch)
            self._settle_if_mine(batch)
            return False
        batch.id = str(found.get("id"))
        self._note(batch)
        return True

    async def _ended(self, batch: Batch, requests: Mapping[str, Any]) -> bool:
        """Whether a batch has ended; its replies are kept then, by this process or another."""
        if batch.figures is not None:
            return True
        state = await self.api.state(batch.id)
        if state.get("status") not in ENDED:
            return False
        async with self.alone():
            noted = _read(self._place(batch))
            if noted is None:
                return True  # another process of this run has settled it
            if noted.figures is None:
                noted.figures = await self._take_up(noted, state, requests)
                self._note(noted)
            self._settle_if_mine(noted)
        if state["status"] in ("failed", "cancelled"):
            raise ServiceError(
                f"{self.endpoint.base_url}: batch {batch.id} was {state['status']}: {_reason(state)}; answers so far "
                "are kept"
            )
        return True

    async def _take_up(self, batch: Batch, state: Mapping[str, Any], requests: Mapping[str, Any]) -> dict[str, float]:
        """Keep an ended batch's replies; what it cost."""
        figures = dict(NOTHING)
        each, mine = batch.reserved / max(1, len(batch.keys)), set(batch.keys)
        for name in ("output_file_id", "error_file_id"):
            rows = await self.api.lines(state[name]) if isinstance(state.get(name), str) and state[name] else []
            for row in rows:
                key = row["custom_id"]
                if key not in mine:
                    continue
                mine.discard(key)
                response = row.get("response") if isinstance(row.get("response"), dict) else {}
                assert isinstance(response, dict)
                if response.get("status_code") != HTTPStatus.OK:
                    self._outcomes[key] = _error(row, response)
                    continue
                reply, tokens = self.asker.read(response.get("body"), requests.get(key))
                if tokens is None:
                    figures["unclear"] += each
                else:
                    figures["cost"] += self.endpoint.cost(*tokens)
                    figures["prompt"] += tokens[0]
                    figures["completion"] += tokens[1]
                if reply is None or not reply.is_final:
                    self._outcomes[key] = "the answer holds no text" if reply is None else reply.error or "no text"
                    continue
                await self.asker.keep(key, reply.record(tokens))
                self._outcomes[key] = reply
        self._outcomes |= dict.fromkeys(mine, f"the batch {state['status']} without an answer to it")
        return figures

    def _settle_if_mine(self, batch: Batch) -> None:
        """Have the account say what an ended batch cost in place of what was set aside for it."""
        account, figures = self.budget.account, batch.figures
        run = str(account.run.folder) if account.run else ""
        same_run = bool(run) and (batch.account, batch.stage) == (run, account.stage)
        if figures is None or not (batch.client == account.client or same_run or not batch.account):
            return
        self.budget.settle_batch(
            batch.client, batch.reserved, len(batch.keys), cost=figures["cost"], unclear=figures["unclear"],
            tokens=(int(figures["prompt"]), int(figures["completion"])),
        )  # fmt: skip
        self._place(batch).unlink(missing_ok=True)

    def _parts(self, bodies: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
        """Requests by batches, each within the API's limits."""
        part: dict[str, Any] = {}
        size = 0
        for key, body in bodies:
            length = len(json.dumps(body)) + 200
            if part and (len(part) == MOST_REQUESTS or size + length > MOST_BYTES):
                yield part
                part, size = {}, 0
            part[key] = body
            size += length
        if part:
            yield part

    @property
    def _name(self) -> str:
        return f"{self.endpoint.model} {self.endpoint.base_url}"

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Have no other process begin a batch of this cache's, or take up its end, meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / "lock"
        while (descriptor := try_lock(place)) is None:
            await self.asker.sleep(LOCK_POLL)
            self.asker.raise_if_stopped()
        try:
            yield
        finally:
            unlock(place, descriptor)

    def _place(self, batch: Batch) -> Path:
        return self.folder / f"{batch.mark}.json"

    def _note(self, batch: Batch) -> None:
        replace_json(self._place(batch), asdict(batch))


def keys_in_batches(folder: Path) -> set[str]:
    """The requests that are in batches which may be under way."""
    return {key for batch in _noted(folder) if batch.figures is None for key in batch.keys}


def _noted(folder: Path) -> list[Batch]:
    found = (_read(path) for path in folder.glob("*.json"))
    return sorted((batch for batch in found if batch is not None), key=lambda batch: batch.created)


def _read(path: Path) -> Batch | None:
    try:
        return Batch(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as the note of a batch ({error}); with the file removed, its requests are asked, "
            "and billed, again"
        ) from error


def _error(row: Mapping[str, Any], response: Mapping[str, Any]) -> ChatReply | str:
    """Why a request of a batch has no answer: for good, or (a text) such that it may be asked again."""
    status, body, error = response.get("status_code"), response.get("body"), row.get("error")
    said = body.get("error") if isinstance(body, dict) else None
    message = next(
        (str(one["message"])[:300] for one in (said, error) if isinstance(one, dict) and one.get("message")),
        "no reason",
    )
    final = isinstance(status, int) and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if final and status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS):
        return ChatReply(None, {}, f"HTTP {status}: {message}")
    return f"HTTP {status}: {message}" if status else message


def _reason(state: Mapping[str, Any]) -> str:
    errors = state.get("errors")
    rows: Sequence[Any] = errors.get("data") or [] if isinstance(errors, dict) else []
    said = [str(one.get("message"))[:300] for one in rows[:3] if isinstance(one, dict)]
    return "; ".join(said) or "no reason is given"
