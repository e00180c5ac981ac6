"""An OpenAI-compatible server for tests: scripted answers, scripted faults, and a book of everything it was asked."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from radpo.clients.probe import QUESTION

FAULTS = ("429", "500", "cut", "broken", "empty", "slow")


@dataclass(frozen=True)
class Http:
    """An answer with a status and a body of its own; what is retried is to be sent again at once."""

    status: int
    document: Any


Answer = Callable[[Mapping[str, Any]], "Mapping[str, Any] | str | Http"]


def text_choice(text: str) -> dict[str, Any]:
    """A choice as the API gives one for a plain text."""
    return {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}


class FaultServer:
    """Serves on 127.0.0.1 from a thread of its own, as a context.

    Args:
        answer: the text (or whole choice) for a request's body.
        faults: the share of requests, by chance, that meet one of `FAULTS`.
        delay: seconds before every answer.
    """

    def __init__(
        self, answer: Answer, *, faults: float = 0.0, kinds: tuple[str, ...] = FAULTS, delay: float = 0.0, seed: int = 0
    ) -> None:
        self._answer, self._faults, self._kinds, self.delay = answer, faults, kinds, delay
        self._random = random.Random(seed)
        self.asked: list[dict[str, Any]] = []
        self.arrived: list[float] = []
        """When each of `asked` came, by the monotonic clock."""
        self.probes: list[dict[str, Any]] = []
        """The tiny requests by which runs begin; each is answered, whatever the answers and faults of others."""
        self.headers: list[str] = []
        self.delivered: Counter[str] = Counter()
        self.faulted: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> FaultServer:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._handle, "127.0.0.1", 0, backlog=256))
        self._port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = next(
                    int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")
                )
                body = json.loads(await reader.readexactly(length))
                if body["messages"] == [{"role": "user", "content": QUESTION}]:
                    self.probes.append(body)
                    await _send(writer, 200, json.dumps(_document(body, text_choice("OK"))).encode())
                    continue
                self.headers.append(head)
                self.asked.append(body)
                self.arrived.append(time.monotonic())
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    if not await self._respond(writer, body):
                        break
                finally:
                    self.at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _respond(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> bool:
        await asyncio.sleep(self.delay)
        fault = self._random.choice(self._kinds) if self._random.random() < self._faults else ""
        self.faulted[fault] += bool(fault)
        if fault in ("429", "500"):
            return await _send(writer, int(fault), b'{"error": {"message": "scripted"}}', "Retry-After: 0\r\n")
        if fault == "slow":
            await asyncio.sleep(0.3)
        given = self._answer(body)
        if isinstance(given, Http):
            content = given.document if isinstance(given.document, bytes) else json.dumps(given.document).encode()
            return await _send(writer, given.status, content, "Retry-After: 0\r\n")
        choice = text_choice(given) if isinstance(given, str) else given
        content = json.dumps(_document(body, None if fault == "empty" else choice)).encode()
        if fault == "cut":
            return await _send(writer, 200, content[: len(content) // 2])
        if fault == "broken":
            await _send(writer, 200, content, sent=len(content) // 2)
            return False
        await _send(writer, 200, content)
        if fault != "empty":
            self.delivered[json.dumps(body, sort_keys=True)] += 1
        return True


def _document(body: Mapping[str, Any], choice: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [] if choice is None else [choice],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }  # fmt: skip


async def _send(
    writer: asyncio.StreamWriter, status: int, content: bytes, more: str = "", sent: int | None = None
) -> bool:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n{more}\r\n"
    writer.write(head.encode() + content[:sent])
    await writer.drain()
    return True
