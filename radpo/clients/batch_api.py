"""The HTTP calls of a batch API (`/files` and `/batches`), as OpenAI and those who serve its API have them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from radpo.clients.endpoint import Endpoint
from radpo.clients.redaction import Redactor
from radpo.core.errors import ServiceError

if TYPE_CHECKING:
    import aiohttp

MARK = "radpo"
"""The key of a batch's metadata by which one is found whose id was lost."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
URL = "/v1/chat/completions"
_LISTED = 100
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})


class BatchApi:
    """One endpoint's batches.

    Args:
        sleep: waits, and no longer than until everything stops, at which `check` raises.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        redact: Redactor,
        sleep: Callable[[float], Awaitable[None]],
        check: Callable[[], None],
    ) -> None:
        self._session, self._endpoint, self._redact, self._sleep, self._check = session, endpoint, redact, sleep, check

    async def submit(self, lines: bytes, mark: str) -> str:
        """Upload requests and have them answered; the batch's id.

        Args:
            lines: JSON Lines, a request each.
            mark: tells this batch from all others.

        Raises:
            ServiceError: the endpoint has no batches, refuses these, or cannot be reached.
        """
        import aiohttp

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData()
            data.add_field("purpose", "batch")
            data.add_field("file", lines, filename="requests.jsonl", content_type="application/jsonl")
            return data

        uploaded = _text(await self._call("POST", "/files", data=form), "id")
        asked = {
            "input_file_id": uploaded, "endpoint": URL, "completion_window": "24h", "metadata": {MARK: mark},
        }  # fmt: skip
        # A call whose answer is lost may have begun the batch all the same, so it is looked for before another is made.
        return _text(await self._call("POST", "/batches", json=asked, done=lambda: self.find(mark)), "id")

    async def find(self, mark: str) -> dict[str, Any] | None:
        """The batch of a mark, if it was begun."""
        after = ""
        while True:
            page = await self._call("GET", f"/batches?limit={_LISTED}{after}")
            batches = [one for one in page.get("data") or [] if isinstance(one, dict)]
            for one in batches:
                if isinstance(one.get("metadata"), Mapping) and one["metadata"].get(MARK) == mark:
                    return one
            if not page.get("has_more") or not batches:
                return None
            after = f"&after={_text(batches[-1], 'id')}"

    async def state(self, batch: str) -> dict[str, Any]:
        """How a batch is getting on, as the API says."""
        return await self._call("GET", f"/batches/{batch}")

    async def lines(self, file: str) -> list[dict[str, Any]]:
        """The lines of a file that are JSON objects with a custom_id."""
        content = await self._call("GET", f"/files/{file}/content", raw=True)
        found = []
        for line in content["raw"].split(b"\n"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
                found.append(row)
        return found

    async def _call(
        self,
        method: str,
        path: str,
        *,
        data: Callable[[], Any] | None = None,
        json: Any = None,
        raw: bool = False,
        done: Callable[[], Awaitable[dict[str, Any] | None]] | None = None,
    ) -> dict[str, Any]:
        """A call's answer, tried again while the endpoint cannot be reached or says to come again.

        Args:
            done: finds what an earlier try, whose answer was lost, has done.
        """
        import aiohttp

        url, why = f"{self._endpoint.address}{path}", ""
        for attempt in range(self._endpoint.attempts):
            if attempt:
                await self._sleep(min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))
                self._check()
                if done is not None and (found := await done()) is not None:
                    return found
            try:
                body = {"data": data()} if data is not None else {} if json is None else {"json": json}
                async with self._session.request(method, url, allow_redirects=False, **body) as response:
                    content, status = await response.read(), response.status
            except (aiohttp.ClientError, TimeoutError) as error:
                why = str(error) or type(error).__name__
                continue
            if status == HTTPStatus.OK:
                answer = {"raw": content} if raw else _document(content)
                if answer is not None:
                    return answer
                why = "the answer is no JSON object"
            elif status not in _RETRIED:
                missing = "; it may have no batch API: leave `batch` out" if status == HTTPStatus.NOT_FOUND else ""
                raise ServiceError(f"{url}: HTTP {status}: {self._redact.excerpt(content)}{missing}")
            else:
                why = f"HTTP {status}: {self._redact.excerpt(content)}"
        raise ServiceError(
            f"{url}: no answer after {self._endpoint.attempts} attempts: {self._redact(why)}; the same command resumes "
            "from here"
        )


def _document(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value or "/" in value:
        raise ServiceError(f"the batch API's answer has no {name}")
    return value
