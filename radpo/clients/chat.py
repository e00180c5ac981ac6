"""Chat completions from an OpenAI-compatible endpoint, each paid for once.

Answers are kept on disk by the content of what was asked as they come, so that an interrupted run, run again, asks only
for what it lacks. Requests of like content are sent once, also where several processes ask them at the same time. A
request is sent again after 429, 5xx, time-outs and answers that cannot be read, later each time. One that the endpoint
refuses, always fails on, or answers without a text is an unanswered one among the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from radpo.clients.account import Account
from radpo.clients.batch import Batches, keys_in_batches
from radpo.clients.batch_api import BatchApi
from radpo.clients.budget import Budget, Usage
from radpo.clients.claims import Claims
from radpo.clients.dialect import SAMPLING, Dialect
from radpo.clients.endpoint import Endpoint
from radpo.clients.redaction import Redactor
from radpo.clients.replies import ChatReply, from_record, read_body
from radpo.clients.reply_cache import ReplyCache, batches_folder, claims_folder
from radpo.core.errors import DataError, ServiceError
from radpo.core.paid_work import paid_work, payer
from radpo.core.progress import Progress, no_progress

if TYPE_CHECKING:
    import aiohttp
    from tenacity import RetryCallState

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
REFUSED = frozenset({400, 413, 422, 451})
"""The endpoint will not answer this request, whatever it thinks of others."""
LONGEST_ANSWER = 32 * 2**20
"""Bytes of one HTTP answer; more is taken for a broken server."""
LONGEST_PAUSE = 60.0
FIRST_FEW = 5
"""Where so many requests come to nothing and none before them came to anything, no more are sent."""
BYTES_A_TOKEN = 32
"""A text of more bytes for each token asked for is longer than asked for: few tokens of any vocabulary are as long."""
PAUSE = 0.02
POLL = 0.1
"""Seconds between checks of what another process is asking."""
AT_ONCE = 500
"""Replies read from the cache together."""

Unusable = Callable[[ChatReply], str | None]
"""Why a reply is of no use to who asked; None where it is."""


@dataclass(frozen=True)
class ChatRequest:
    """One conversation to answer.

    Args:
        messages: role/content messages.
        options: what else goes into the request's body, such as temperature, max_tokens, logprobs.
        sample: which of several draws of the same request this is.
    """

    messages: Sequence[Mapping[str, str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0


class Requests(Protocol):
    """Requests in order, a list or what makes each as it is looked at; the same place gives the same request."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, place: int, /) -> ChatRequest:
        """The request at a place."""
        ...


@dataclass(frozen=True)
class LazyRequests:
    """Requests whose texts are made as they are needed, and again where they are needed again, so that none is held."""

    count: int
    make: Callable[[int], ChatRequest]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int, /) -> ChatRequest:
        return self.make(place)


@dataclass
class Chat:
    """An endpoint with its cache and its account of what was spent."""

    endpoint: Endpoint
    cache: Path
    usage: Usage = field(default_factory=Usage)
    notes: list[str] = field(default_factory=list)
    """What is to be said of the cache."""

    def __post_init__(self) -> None:
        self.dialect = Dialect(self.endpoint.token_limit, self.endpoint.sampling_options)
        self.useful = False
        """Whether any reply so far was of use."""
        self.expected = 0
        """Of how many requests in all `max_unanswered` is the share; 0 where the asker holds it himself."""
        self.unanswered: list[str] = []
        """Why replies so far have no text."""
        self._own_account: Account | None = None

    def complete(
        self, requests: Requests, progress: Progress = no_progress, *, unusable: Unusable | None = None
    ) -> list[ChatReply]:
        """Every request's reply, in order. Arguments and errors as those of `replies`."""
        return list(self.replies(requests, progress, unusable=unusable))

    def replies(
        self, requests: Requests, progress: Progress = no_progress, *, unusable: Unusable | None = None
    ) -> Iterator[ChatReply]:
        """Answer every request, then give the replies, in order; one without a text says why it has none.

        Of requests under way and replies no more are held at a time than few: the cache has the others.

        Args:
            unusable: the asker's own test of a reply; where the first few fail it, no more are paid for.

        Raises:
            ConfigError: the key is not in the environment.
            DataError: an answer cannot be kept, or is damaged before it is given.
            ServiceError: the endpoint cannot be reached, refuses the key or the model, the first few requests came to
                nothing, or too many of those `expected` have no answer; `SpendingLimitError` where the next request
                could pass a limit. What was answered is kept.
        """
        keys = [self._key(self._as_sent(requests[place])) for place in range(len(requests))]
        missing: dict[str, int] = {}
        for place, key in enumerate(keys):
            missing.setdefault(key, place)
        unique = list(missing)
        with ReplyCache(self.cache) as cache:
            fetch = _Fetch(self, cache, progress, unusable)
            for start in range(0, len(unique), AT_ONCE):
                kept = fetch.kept(unique[start : start + AT_ONCE])
                fetch.look_back(list(kept.values()))
                fetch.raise_if_stopped()
                for key in kept:
                    del missing[key]
            self.usage.from_cache += len(keys) - len(missing)
            progress(len(unique) - len(missing), len(unique))
            if missing:
                _run(fetch, _Missing(missing, lambda place: self._as_sent(requests[place])), len(unique))
            if fetch.first is not None and not self.useful and not fetch.any_text:
                raise ServiceError(f"{self.endpoint.base_url}: {fetch.first.error}")
            for start in range(0, len(keys), AT_ONCE):
                yield from fetch.given(keys[start : start + AT_ONCE])
            self.notes += cache.notes

    def check_unanswered(self, reasons: Sequence[str], total: int) -> None:
        """Bear single requests without an answer, and no more of them than the endpoint's settings say.

        Args:
            reasons: why each of the unanswered has no answer.
            total: of how many requests.

        Raises:
            ServiceError: there are more than one, and more than the share `max_unanswered`.
        """
        share = self.endpoint.max_unanswered
        if len(reasons) > max(1, share * total) or (total > 1 and len(reasons) == total):
            raise ServiceError(
                f"{self.endpoint.base_url}: {len(reasons)} of {total} requests have no answer, more than "
                f"max_unanswered ({share:.0%}) allows; the first: {reasons[0]}. Answers so far are kept; "
                "fix the cause, or raise max_unanswered, and the same command resumes from here"
            )

    def note_unanswered(self, reply: ChatReply) -> None:
        """Count a reply without a text. Raises as `check_unanswered`, once there are too many of those expected."""
        if reply.text is None:
            self.unanswered.append(reply.error or "no answer")
            if self.expected:
                self.check_unanswered(self.unanswered, self.expected)

    def account(self) -> Account:
        """Where what is spent is noted: on the account of the run that this process works for, else on its own."""
        paid_by = payer()
        if paid_by is not None:
            return Account(paid_by, f"{self.endpoint.model} {self.endpoint.base_url}")
        self._own_account = self._own_account or Account(None, self.endpoint.model)
        return self._own_account

    def _as_sent(self, request: ChatRequest) -> ChatRequest:
        options = self.endpoint.options(request.options)
        if self.endpoint.sampling_options == "omit":
            options = {name: value for name, value in options.items() if name not in SAMPLING}
        return ChatRequest(request.messages, options, request.sample)

    def _key(self, request: ChatRequest) -> str:
        endpoint = self.endpoint
        asked = {
            "model": endpoint.model,
            "base_url": endpoint.base_url,
            **({} if endpoint.version is None else {"version": endpoint.version}),
            "messages": [dict(message) for message in request.messages],
            "options": dict(request.options),
            "sample": request.sample,
        }
        document = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class _Refusal:
    """What an endpoint says that will not answer a request."""

    status: int
    content: bytes


class _TryAgainError(Exception):
    """An attempt failed in a way that the next may not.

    Args:
        unclear: it may be billed all the same.
        outage: it is not about this request but about the endpoint.
        reply: an answer without a text, which counts where the next attempt brings no other; `record` is what is kept.
    """

    def __init__(
        self,
        why: str,
        *,
        pause: float | None = None,
        unclear: bool = False,
        outage: bool = False,
        reply: ChatReply | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(why)
        self.pause, self.unclear, self.outage, self.reply, self.record = pause, unclear, outage, reply, record


@dataclass(frozen=True)
class _Missing(Mapping[str, ChatRequest]):
    """Requests by key, made as they are looked at."""

    places: Mapping[str, int]
    make: Callable[[int], ChatRequest]

    def __getitem__(self, key: str) -> ChatRequest:
        return self.make(self.places[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class _Fetch:
    """The sending of one batch of requests by a fixed number of workers."""

    def __init__(self, chat: Chat, cache: ReplyCache, progress: Progress, unusable: Unusable | None) -> None:
        self._chat, self._endpoint, self._usage, self._cache = chat, chat.endpoint, chat.usage, cache
        self._progress, self._unusable = progress, unusable
        self.first: ChatReply | None = None
        """The first reply that there was, of the cache or not."""
        self.any_text = False
        self._without_text: dict[str, ChatReply] = {}
        """Replies that the cache need not have: those to requests that were refused or failed."""
        self._stop: Exception | None = None
        self._stopped: asyncio.Event | None = None
        self._next_slot = 0.0
        self._useless = self._failed_in_a_row = self._under_way = 0
        self._unwritten: list[tuple[str, Mapping[str, Any]]] = []
        self._writing = asyncio.Lock()

    def look_back(self, kept: Sequence[ChatReply]) -> None:
        """Take up what replies from the cache were worth; where none was of use, one more is still tried."""
        useless = [reply for reply in kept if self._why_useless(reply) is not None]
        self._chat.useful |= len(useless) < len(kept)
        self._useless = min(self._useless + len(useless), FIRST_FEW - 1)
        self._count(kept)

    def judge(self, reply: ChatReply) -> None:
        """See whether replies are of any use; where the first few are not, the others would not be."""
        self._count([reply])
        why = self._why_useless(reply)
        if why is None:
            self._chat.useful = True
        elif not self._chat.useful:
            self._useless += 1
            if self._useless >= FIRST_FEW and not self._under_way:
                self.stop(
                    ServiceError(
                        f"{self._endpoint.base_url}: {why}. The first {self._useless} requests all came to this, so no "
                        "more are sent; answers so far are kept"
                    )
                )

    def _count(self, replies: Sequence[ChatReply]) -> None:
        """Count those without an answer; past what may be, the stage fails, and so no more are paid for."""
        try:
            for reply in replies:
                self.first = self.first or reply
                self.any_text |= reply.text is not None
                self._chat.note_unanswered(reply)
        except ServiceError as error:
            self.stop(error)

    def _why_useless(self, reply: ChatReply) -> str | None:
        if reply.text is None:
            return reply.error
        return self._unusable(reply) if self._unusable else None

    def stop(self, error: Exception) -> None:
        """Send nothing more; what is on its way is waited for and kept."""
        self._stop = self._stop or error
        if self._stopped is not None:
            self._stopped.set()

    def raise_if_stopped(self) -> None:
        """Raise what stopped the sending."""
        if self._stop is not None:
            raise self._stop

    def given(self, keys: Sequence[str]) -> Iterator[ChatReply]:
        """The replies to requests that were all answered, in order."""
        kept = self.kept([key for key in keys if key not in self._without_text])
        for key in keys:
            reply = self._without_text.get(key) or kept.get(key)
            if reply is None:
                raise DataError(
                    f"{self._chat.cache}: an answer was damaged after it was kept; the same command asks it again"
                )
            yield reply

    async def all(self, requests: Mapping[str, ChatRequest], total: int) -> None:
        """Have every request answered.

        Args:
            total: how many there are, those that the cache had included.
        """
        import aiohttp

        key = self._endpoint.api_key()
        self._redact = Redactor(key)
        self._stopped = asyncio.Event()
        left, waiting, elsewhere = dict.fromkeys(requests), deque(requests), deque[str]()
        budget = Budget(self._endpoint, self._usage, self._chat.account())
        claims = Claims(claims_folder(self._chat.cache))

        def answered(key: str, reply: ChatReply) -> None:
            del left[key]
            if reply.text is None:
                self._without_text[key] = reply
            self.judge(reply)
            self._progress(total - len(left), total)

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._endpoint.concurrency),
            timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=not self._endpoint.is_local,
        ) as session:
            batching = self._endpoint.batch

            def batch_begins() -> bool:
                """Whether the others go in a batch: what the endpoint has to say of the settings is known by then."""
                known = self._usage.answered > 0 and self._chat.useful
                return batching and (known or len(requests) - len(left) >= FIRST_FEW)

            async def one(key: str) -> ChatReply | None:
                """A reply that is there by now, or that the endpoint gives; None while another process asks for it."""
                if not claims.take(key):
                    return self._kept(key)
                try:
                    return self._kept(key) or await self._one(session, budget, key, requests[key])
                finally:
                    claims.release(key)

            async def work() -> None:
                while self._stop is None and (waiting or elsewhere) and not batch_begins():
                    if not self._chat.useful and 0 < self._under_way >= FIRST_FEW - self._useless:
                        await self.sleep(PAUSE)  # until one of the first few is of use, no more than those are sent
                        continue
                    shared = not waiting
                    key = (elsewhere if shared else waiting).popleft()
                    self._under_way += 1
                    try:
                        reply = await one(key)
                    finally:
                        self._under_way -= 1
                    if reply is not None:
                        answered(key, reply)
                        continue
                    elsewhere.append(key)
                    if shared:
                        await self.sleep(POLL)

            async def in_batches() -> None:
                """The first by itself, at the full price, where none of another process' batches holds it."""
                batches = self._batches(session, budget)
                async with batches.alone():
                    known = keys_in_batches(batches.folder)
                    there = self.kept(list(requests))
                    waiting.clear()
                    waiting.extend(key for key in requests if key not in known and key not in there)
                    self._endpoint = self._endpoint.model_copy(update={"batch": False})
                    await work()
                    self._endpoint = self._chat.endpoint
                self.raise_if_stopped()
                async for key, reply in batches.answers(requests, list(left)):
                    answered(key, reply)

            async def guarded(work: Callable[[], Awaitable[None]]) -> None:
                try:
                    await work()
                except Exception as error:  # noqa: BLE001 - whatever it is, the other workers pay for no more
                    self.stop(error)

            works = [in_batches] if batching else [work] * min(self._endpoint.concurrency, len(requests))
            workers = [asyncio.create_task(guarded(one_work)) for one_work in works]
            try:
                await asyncio.wait(workers)
            except asyncio.CancelledError:
                # Interrupted: what is on its way is paid for, so it is waited for and kept. A second interrupt ends it.
                self.stop(ServiceError("interrupted"))
                await asyncio.wait(workers)
                raise
            finally:
                claims.close()
                budget.close()
        self.raise_if_stopped()

    def _batches(self, session: aiohttp.ClientSession, budget: Budget) -> Batches:
        api = BatchApi(session, self._endpoint, self._redact, self.sleep, self.raise_if_stopped)
        limited = budget.limits_cost

        def highest(request: ChatRequest) -> float:
            return self._endpoint.highest_cost(
                request.messages, self._chat.dialect.options(request.options), limited=limited
            )

        return Batches(self, highest, api, self._endpoint, budget, batches_folder(self._chat.cache))

    def kept(self, keys: Sequence[str]) -> dict[str, ChatReply]:
        """The replies that there are in the cache by now."""
        return {key: from_record(record) for key, record in self._cache.get(keys).items()}

    def _kept(self, key: str) -> ChatReply | None:
        """A reply that another process has kept meanwhile."""
        reply = self.kept([key]).get(key)
        self._usage.from_cache += reply is not None
        return reply

    async def _one(self, session: aiohttp.ClientSession, budget: Budget, key: str, request: ChatRequest) -> ChatReply:
        """Send a request until it is answered, refused for good, or was sent often enough."""
        from tenacity import AsyncRetrying, retry_if_exception_type

        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgainError),
            stop=self._enough,
            wait=_pause,
            sleep=self.sleep,
            reraise=True,
        )
        try:
            reply: ChatReply = await attempts(self._attempt, session, budget, key, request)
        except _TryAgainError as failure:
            if failure.reply is not None and failure.record is not None:
                await self.keep(key, failure.record)
                return failure.reply
            why = f"no answer after {self._endpoint.attempts} attempts: {self._redact(str(failure))}"
            self._usage.failed += 1
            self._failed_in_a_row += 1
            if failure.outage or self._failed_in_a_row >= FIRST_FEW:
                raise ServiceError(
                    f"{self._endpoint.base_url}: {why}; answers so far are kept, and the same command resumes from here"
                ) from None
            return ChatReply(None, {}, why)
        self._failed_in_a_row = 0
        return reply

    def _enough(self, state: RetryCallState) -> bool:
        """Whether a request was sent often enough: twice where it is answered without a text, else as settings say."""
        failure = state.outcome.exception() if state.outcome else None
        without_text = isinstance(failure, _TryAgainError) and failure.reply is not None
        return state.attempt_number >= (min(2, self._endpoint.attempts) if without_text else self._endpoint.attempts)

    async def sleep(self, seconds: float) -> None:
        """Wait, and no longer than until everything stops."""
        assert self._stopped is not None
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return

    async def _attempt(
        self, session: aiohttp.ClientSession, budget: Budget, key: str, request: ChatRequest
    ) -> ChatReply:
        """Send a request once, within the limits, and keep its answer; again at once where the form was not understood.

        An answer without a text is kept, too, once asking again is of no use, so that no rerun pays for it.
        """
        while True:
            await self._slot()
            self.raise_if_stopped()
            self._cache.check_room()
            found = await self._send(session, budget, key, request)
            if found is not None:
                return found

    async def _send(
        self, session: aiohttp.ClientSession, budget: Budget, key: str, request: ChatRequest
    ) -> ChatReply | None:
        """One request; None where the endpoint wants it in another form."""
        options = self._chat.dialect.options(request.options)
        highest = self._endpoint.highest_cost(request.messages, options, limited=budget.limits_cost)
        await budget.reserve(highest)
        cost, unclear = 0.0, highest
        try:
            document = await self._post(session, request, options)
            if isinstance(document, _Refusal):
                unclear = 0.0
                if self._chat.dialect.learn(document.content, options):
                    return None
                self._usage.failed += 1
                return ChatReply(None, {}, f"HTTP {document.status}: {self._redact.excerpt(document.content)}")
            reply, tokens = self.read(document, request)
            if reply is None:
                raise _TryAgainError("the answer holds no choice with a message", unclear=True)
            if tokens is not None:
                self._usage.prompt_tokens += tokens[0]
                self._usage.completion_tokens += tokens[1]
                cost, unclear = self._endpoint.cost(*tokens), 0.0
            else:
                unclear += self._uncounted_excess(reply, options)
            record = reply.record(tokens)
            if not reply.is_final:
                raise _TryAgainError(reply.error or "", unclear=tokens is None, reply=reply, record=record)
            self._usage.answered += reply.text is not None
            await self.keep(key, record)
            return reply
        except _TryAgainError as failure:
            unclear = unclear if failure.unclear else 0.0
            raise
        except ServiceError:
            unclear = 0.0  # refused as a whole
            raise
        finally:
            await budget.settle(highest, cost=cost, unclear=unclear)

    async def keep(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a reply; those that come while others are being written are written together."""
        self._unwritten.append((key, record))
        async with self._writing:
            if self._unwritten:
                batch, self._unwritten = self._unwritten, []
                await asyncio.to_thread(self._write, batch)

    def _write(self, batch: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        try:
            self._put(batch)
        except DataError:
            if not self._cache.drop_ballast():
                raise
            self._put(batch)  # in the room that was kept for this; nothing more is asked

    def _put(self, batch: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        with self._cache.together():
            for key, record in batch:
                self._cache.put(key, record)

    def _uncounted_excess(self, reply: ChatReply, options: Mapping[str, Any]) -> float:
        """Dollars at most beyond what was asked for, of a reply whose tokens nobody counts and that is clearly longer.

        No more tokens than bytes; up to `BYTES_A_TOKEN` bytes a token it may be what was asked for.
        """
        asked = options.get("max_tokens", options.get("max_completion_tokens"))
        length = len(json.dumps(reply.choice, ensure_ascii=False).encode("utf-8", "replace"))
        if not isinstance(asked, int) or length <= BYTES_A_TOKEN * asked:
            return 0.0
        return self._endpoint.cost(0, length - asked)

    def read(self, document: Any, request: ChatRequest | None) -> tuple[ChatReply | None, tuple[int, int] | None]:
        """A body's reply as it can be kept, and its tokens; `request` is None where another process asked."""
        omitted = () if request is None else self._chat.dialect.omitted(request.options)
        try:
            reply, tokens = read_body(self._redact.document(document), omitted)
            if reply is not None:
                json.dumps(reply.record(tokens))
        except RecursionError:
            return ChatReply(None, {"finish_reason": "refusal"}, "the reply is nested too deeply to be kept"), None
        return reply, tokens

    async def _post(self, session: aiohttp.ClientSession, request: ChatRequest, options: Mapping[str, Any]) -> Any:
        """The parsed answer's body; a `_Refusal` where the endpoint will not answer this request."""
        import aiohttp

        body = self._body(request, options)
        url = f"{self._endpoint.address}/chat/completions"
        try:
            async with session.post(url, json=body, allow_redirects=False) as response:
                content = await response.content.read(LONGEST_ANSWER + 1)
                while len(content) <= LONGEST_ANSWER and (more := await response.content.read(LONGEST_ANSWER)):
                    content += more
                status, headers = response.status, response.headers
        except TimeoutError:
            raise _TryAgainError(f"no answer within {self._endpoint.timeout:g} s", unclear=True) from None
        except aiohttp.ClientConnectorError as error:
            raise _TryAgainError(f"cannot be reached: {error}", outage=True) from None
        except aiohttp.ClientError as error:
            raise _TryAgainError(f"the connection broke: {error}", unclear=True) from None
        excerpt = self._redact.excerpt(content)
        if status in RETRIED and b"insufficient_quota" not in content:
            pause = _asked_pause(headers.get("Retry-After"))
            limited = status == HTTPStatus.TOO_MANY_REQUESTS
            # A gateway that gives up says nothing of the model behind it, which may have answered, and billed.
            billed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT
            raise _TryAgainError(f"HTTP {status}: {excerpt}", pause=pause, unclear=billed, outage=limited)
        if status in REFUSED:
            return _Refusal(status, content)
        if status != HTTPStatus.OK:
            hint = f"; is {self._endpoint.api_key_env} set to the right key?" if status in (401, 403) else ""
            refusal = ServiceError(f"{self._endpoint.base_url}: HTTP {status}: {excerpt}{hint}")
            if status < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise refusal
            self.stop(refusal)
            raise _TryAgainError(f"HTTP {status}: {excerpt}", unclear=True)
        if len(content) > LONGEST_ANSWER:
            self.stop(ServiceError(f"{self._endpoint.base_url}: an answer of more than {LONGEST_ANSWER} bytes"))
            raise _TryAgainError(f"an answer of more than {LONGEST_ANSWER} bytes", unclear=True)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise _TryAgainError("the answer was cut off or is no JSON", unclear=True) from None

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """A request's body, its options as the endpoint takes them."""
        return self._body(request, self._chat.dialect.options(request.options))

    def _body(self, request: ChatRequest, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self._endpoint.asked_for, "messages": [dict(m) for m in request.messages], **options}

    async def _slot(self) -> None:
        """Wait until the rate allows one more request."""
        if self._endpoint.requests_per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_slot)
        self._next_slot = at + 60 / self._endpoint.requests_per_minute
        await self.sleep(at - now)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asks for, else twice as long each time, with chance added."""
    from tenacity import wait_exponential_jitter

    failure = state.outcome.exception() if state.outcome else None
    asked = failure.pause if isinstance(failure, _TryAgainError) else None
    return asked if asked is not None else wait_exponential_jitter(initial=0.25, max=LONGEST_PAUSE, jitter=0.25)(state)


def _asked_pause(header: str | None) -> float | None:
    try:
        return min(max(float(header or ""), 0.0), LONGEST_PAUSE)
    except ValueError:
        return None


def _run(fetch: _Fetch, requests: Mapping[str, ChatRequest], total: int) -> None:
    """Run to the end, also where an event loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_here(fetch, requests, total)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, fetch.all(requests, total)).result()


def _run_here(fetch: _Fetch, requests: Mapping[str, ChatRequest], total: int) -> None:
    """Run in this thread. A request to terminate is obeyed once what is on its way has arrived."""
    terminated = False

    async def ending_in_order() -> None:
        def terminate() -> None:
            nonlocal terminated
            terminated = True
            fetch.stop(ServiceError("terminated"))

        if is_main:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        await fetch.all(requests, total)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with paid_work():
            asyncio.run(ending_in_order())
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
            if terminated:
                os.kill(os.getpid(), signal.SIGTERM)
