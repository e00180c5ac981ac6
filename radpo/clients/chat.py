"""Chat completions from an OpenAI-compatible endpoint: conversations come in, answers go out, each paid for once.

Answers are kept on disk by the content of what was asked as they come, so that an interrupted run, run again, asks only
for what it lacks. Requests of like content are sent once. A request is sent again after 429, 5xx, time-outs and answers
that cannot be read, later each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.clients.budget import Budget, Usage
from radpo.clients.endpoint import RESULT_FIELDS, Endpoint
from radpo.clients.reply_cache import ReplyCache
from radpo.core.errors import ServiceError
from radpo.core.progress import Progress, no_progress

if TYPE_CHECKING:
    import aiohttp
    from tenacity import RetryCallState

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
LONGEST_ANSWER = 32 * 2**20
"""Bytes of one HTTP answer; more is taken for a broken server."""
LONGEST_PAUSE = 60.0


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


@dataclass(frozen=True)
class ChatReply:
    """An answer: its text, and the whole choice as the endpoint gave it; or why there is none.

    Args:
        text: None where the endpoint refused the request for good; `error` then says why.
    """

    text: str | None
    choice: Mapping[str, Any]
    error: str | None = None
    reasoning_tokens: int = 0

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ends, in the API's words."""
        reason = self.choice.get("finish_reason")
        return reason if isinstance(reason, str) else None

    @property
    def reasoned(self) -> bool:
        """Whether the model reasoned apart from its text: in a field of its own, or unseen but counted."""
        message = self.choice.get("message")
        fields = message if isinstance(message, dict) else {}
        return self.reasoning_tokens > 0 or any(fields.get(name) for name in ("reasoning_content", "reasoning"))


@dataclass
class Chat:
    """An endpoint with its cache and its account of what was spent."""

    endpoint: Endpoint
    cache: Path
    usage: Usage = field(default_factory=Usage)

    def complete(self, requests: Sequence[ChatRequest], progress: Progress = no_progress) -> list[ChatReply]:
        """Answer every request, in order.

        Raises:
            ConfigError: the key is not in the environment.
            ServiceError: the endpoint cannot be reached, refuses the key or the model, or answers none of the requests;
                `SpendingLimitError` where the next request could pass a limit. What was answered is kept.
        """
        keys = [self._key(request) for request in requests]
        with ReplyCache(self.cache) as cache:
            replies = {key: _from_record(record) for key, record in cache.get(keys).items()}
            missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in replies}
            self.usage.from_cache += len(requests) - len(missing)
            progress(len(replies), len(replies) + len(missing))
            if missing:
                replies |= _run(_Fetch(self.endpoint, self.usage, cache, len(replies), progress).all(missing))
        return [replies[key] for key in keys]

    def _key(self, request: ChatRequest) -> str:
        asked = {
            **{name: getattr(self.endpoint, name) for name in sorted(RESULT_FIELDS)},
            "messages": [dict(message) for message in request.messages],
            "options": dict(request.options),
            "sample": request.sample,
        }
        document = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()


class _TryAgainError(Exception):
    """An attempt failed in a way that the next may not. `unclear`: it may be billed all the same."""

    def __init__(self, why: str, *, pause: float | None = None, unclear: bool = False) -> None:
        super().__init__(why)
        self.pause, self.unclear = pause, unclear


class _Fetch:
    """The sending of one batch of requests by a fixed number of workers."""

    def __init__(self, endpoint: Endpoint, usage: Usage, cache: ReplyCache, before: int, progress: Progress) -> None:
        self._endpoint, self._usage, self._cache = endpoint, usage, cache
        self._before, self._progress = before, progress
        self._key = endpoint.api_key()
        self._stop: ServiceError | None = None
        self._next_slot = 0.0

    async def all(self, requests: Mapping[str, ChatRequest]) -> dict[str, ChatReply]:
        import aiohttp

        budget, replies, waiting = Budget(self._endpoint, self._usage), dict[str, ChatReply](), iter(requests.items())
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        total = self._before + len(requests)

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._endpoint.concurrency),
            timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout),
            headers=headers,
            trust_env=not self._endpoint.is_local,
        ) as session:

            async def work(waiting: Iterator[tuple[str, ChatRequest]]) -> None:
                for key, request in waiting:
                    if self._stop is not None:
                        return
                    try:
                        replies[key] = await self._one(session, budget, key, request)
                    except ServiceError as error:
                        self._stop = self._stop or error
                        return
                    self._progress(self._before + len(replies), total)

            workers = [
                asyncio.create_task(work(waiting)) for _ in range(min(self._endpoint.concurrency, len(requests)))
            ]
            try:
                await asyncio.wait(workers)
            except asyncio.CancelledError:
                # Interrupted: what is on its way is paid for, so it is waited for and kept. A second interrupt ends it.
                self._stop = ServiceError("interrupted")
                await asyncio.wait(workers)
                raise
            for worker in workers:
                worker.result()
        if self._stop is not None:
            raise self._stop
        if all(reply.text is None for reply in replies.values()):
            raise ServiceError(f"{self._endpoint.base_url}: {next(iter(replies.values())).error}")
        return replies

    async def _one(self, session: aiohttp.ClientSession, budget: Budget, key: str, request: ChatRequest) -> ChatReply:
        """Send a request until it is answered, refused for good, or was sent often enough."""
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        max_tokens = request.options.get("max_tokens", request.options.get("max_completion_tokens"))
        highest = self._endpoint.highest_cost(request.messages, max_tokens)
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgainError),
            stop=stop_after_attempt(self._endpoint.attempts),
            wait=_pause,
            reraise=True,
        )
        try:
            reply: ChatReply = await attempts(self._attempt, session, budget, highest, key, request)
        except _TryAgainError as failure:
            raise ServiceError(
                f"{self._endpoint.base_url}: no answer after {self._endpoint.attempts} attempts: "
                f"{self._redacted(str(failure))}; answers so far are kept, and the same command goes on from here"
            ) from None
        return reply

    async def _attempt(
        self, session: aiohttp.ClientSession, budget: Budget, highest: float, key: str, request: ChatRequest
    ) -> ChatReply:
        """Send a request once, within the limits, and keep its answer."""
        await self._slot()
        if self._stop is not None:
            raise self._stop
        await budget.reserve(highest)
        cost, unclear = 0.0, True
        try:
            document = await self._post(session, request)
            if isinstance(document, str):
                unclear = False
                self._usage.failed += 1
                return ChatReply(None, {}, self._redacted(document))
            reply, tokens = _read(document)
            self._cache.put(key, {"choice": reply.choice, "text": reply.text, "tokens": tokens})
            self._usage.answered += 1
            if tokens is not None:
                self._usage.prompt_tokens += tokens[0]
                self._usage.completion_tokens += tokens[1]
                cost, unclear = self._endpoint.cost(*tokens), False
            return reply
        except _TryAgainError as failure:
            unclear = failure.unclear
            raise
        finally:
            await budget.settle(highest, cost=cost, unclear=unclear)

    async def _post(self, session: aiohttp.ClientSession, request: ChatRequest) -> Any:
        """The parsed answer's body; a text where the endpoint refuses this request for good."""
        import aiohttp

        body = {"model": self._endpoint.model, "messages": [dict(m) for m in request.messages], **request.options}
        url = f"{self._endpoint.base_url}/chat/completions"
        try:
            async with session.post(url, json=body, allow_redirects=False) as response:
                content = await response.content.read(LONGEST_ANSWER + 1)
                while len(content) <= LONGEST_ANSWER and (more := await response.content.read(LONGEST_ANSWER)):
                    content += more
                status, headers = response.status, response.headers
        except TimeoutError:
            raise _TryAgainError(f"no answer within {self._endpoint.timeout:g} s", unclear=True) from None
        except aiohttp.ClientConnectorError as error:
            raise _TryAgainError(f"cannot be reached: {error}") from None
        except aiohttp.ClientError as error:
            raise _TryAgainError(f"the connection broke: {error}", unclear=True) from None
        said = content[:2000].decode("utf-8", "replace")
        if status in RETRIED and "insufficient_quota" not in said:
            raise _TryAgainError(f"HTTP {status}: {said[:300]}", pause=_asked_pause(headers.get("Retry-After")))
        if status in (400, 413, 422):
            return f"HTTP {status}: {said[:300]}"
        if status != 200:
            hint = f"; is {self._endpoint.api_key_env} set to the right key?" if status in (401, 403) else ""
            raise ServiceError(f"{self._endpoint.base_url}: HTTP {status}: {self._redacted(said[:300])}{hint}")
        if len(content) > LONGEST_ANSWER:
            raise ServiceError(f"{self._endpoint.base_url}: an answer of more than {LONGEST_ANSWER} bytes")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise _TryAgainError("the answer was cut off or is no JSON", unclear=True) from None

    async def _slot(self) -> None:
        """Wait until the rate allows one more request."""
        if self._endpoint.requests_per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_slot)
        self._next_slot = at + 60 / self._endpoint.requests_per_minute
        await asyncio.sleep(at - now)

    def _redacted(self, text: str) -> str:
        """What a server says, without the key, should it send it back."""
        return text.replace(self._key, "***") if self._key else text


def _read(document: Any) -> tuple[ChatReply, tuple[int, int] | None]:
    """A body's first choice, and its tokens of prompt and answer where it counts them.

    Raises:
        _TryAgainError: there is no choice in it, or none with a text.
    """
    choices = document.get("choices") if isinstance(document, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    text = _text(message) if isinstance(message, dict) else None
    if not isinstance(choice, dict) or text is None:
        raise _TryAgainError("the answer holds no choice with a text", unclear=True)
    usage = document.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    asked, said = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return ChatReply(text, choice), (asked, said) if isinstance(asked, int) and isinstance(said, int) else None


def _text(message: Mapping[str, Any]) -> str | None:
    """What a message says: its content, or the arguments of the function that it calls."""
    for call in (message.get("function_call"), *(tool.get("function") for tool in message.get("tool_calls") or ())):
        if isinstance(call, dict) and isinstance(call.get("arguments"), str):
            return str(call["arguments"])
    for name in ("content", "refusal"):
        if isinstance(message.get(name), str):
            return str(message[name])
    return None


def _from_record(record: Mapping[str, Any]) -> ChatReply:
    return ChatReply(record["text"], record["choice"])


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


def _run(work: Coroutine[Any, Any, dict[str, ChatReply]]) -> dict[str, ChatReply]:
    """Run a coroutine to its end, also where an event loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
