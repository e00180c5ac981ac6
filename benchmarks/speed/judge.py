"""Judging by an endpoint: radpo's judge against the openai package's client, same prompts, a server of 100 ms answers.

Run from the repository's root: python benchmarks/speed/judge.py [--json FILE]

Then 5,000 and 50,000 judgments, each number in a process of its own: what its memory grows by while it judges, beyond
the requests that it is given. Verdicts and the names of requests are kept to the end; prompts and replies are not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from tables import write

from radpo.judges.base import GradeRequest
from radpo.judges.fastchat import OPTIONS, grading
from radpo.judges.openai import OpenAIJudge, OpenAISettings

COUNT, CONCURRENCY, SECONDS, ROUNDS = 2000, 64, 0.1, 3
MANY, KIB_A_JUDGMENT = (5_000, 50_000), 0.75
IDEAL = COUNT / CONCURRENCY * SECONDS
"""Seconds that the server alone takes."""


def main() -> None:
    """Time both, check that they agree, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    parser.add_argument("--many", type=int, nargs=2, default=MANY, help="the two numbers of judgments for memory")
    arguments = parser.parse_args()
    port: SimpleQueue[int] = multiprocessing.get_context("spawn").SimpleQueue()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/v1"
    requests = _requests(COUNT)
    seconds: dict[str, list[float]] = {"ours": [], "peer": [], "cached": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            settings = OpenAISettings(model="judge", base_url=url, concurrency=CONCURRENCY)
            # Alternating which goes first, each round with a cache of its own.
            for name in ("ours", "peer") if turn % 2 == 0 else ("peer", "ours"):
                start = time.perf_counter()
                if name == "ours":
                    grades = OpenAIJudge(settings, Path(folder) / f"{turn}.sqlite").grade(requests)
                    assert all(grade.score == 7 for grade in grades)
                else:
                    assert len(asyncio.run(_peer(url, requests))) == COUNT
                seconds[name].append(time.perf_counter() - start)
            start = time.perf_counter()
            again = OpenAIJudge(settings, Path(folder) / f"{turn}.sqlite")
            assert len(again.grade(requests)) == COUNT
            assert again.chat.usage.sent == 0
            seconds["cached"].append(time.perf_counter() - start)
    few, many = (_grown(url, count) for count in arguments.many)
    server.terminate()
    rows = [
        _row(f"{COUNT} judgments at concurrency {CONCURRENCY}, answers of 100 ms, times the ideal {IDEAL:.3f} s",
             [s / IDEAL for s in seconds["ours"]], [s / IDEAL for s in seconds["peer"]], "times the ideal", 1.3),
        _row(f"{COUNT} judgments from the cache", [COUNT / s for s in seconds["cached"]], None, "judgments/s", 10_000),
        _row(f"memory that {arguments.many[1]} judgments take more than {arguments.many[0]}, for each of them",
             [(many - few) * 1024 / (arguments.many[1] - arguments.many[0])], None, "KiB a judgment", KIB_A_JUDGMENT),
    ]  # fmt: skip
    for row in rows:
        peer = "" if row["peer"] is None else f", openai's client {row['peer']}"
        print(f"{row['what']}: ours {row['ours']}{peer} {row['unit']}; spread {row['spread']}, goal {row['goal']}")
    write(arguments.json, "judge", rows)


def _requests(count: int) -> list[GradeRequest]:
    return [
        GradeRequest([{"role": "user", "content": f"Question {n}: " + "words of a question " * 20}], "an answer " * 100)
        for n in range(count)
    ]


def _grown(url: str, count: int) -> float:
    """MiB by which a process grows at most while it has so many answers judged."""
    answer: SimpleQueue[float] = multiprocessing.get_context("spawn").SimpleQueue()
    process = multiprocessing.get_context("spawn").Process(target=_judge_many, args=(url, count, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def _judge_many(url: str, count: int, answer: SimpleQueue[float]) -> None:
    def mib(name: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    requests, settings = _requests(count), OpenAISettings(model="judge", base_url=url, concurrency=CONCURRENCY)
    with tempfile.TemporaryDirectory() as folder:
        judge = OpenAIJudge(settings, Path(folder) / "replies.sqlite")
        judge.grade(requests[:CONCURRENCY])  # what is loaded and opened once
        before = mib("VmRSS:")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        assert len(judge.grade(requests)) == count
        answer.put(mib("VmHWM:") - before)


def _row(what: str, ours: list[float], peer: list[float] | None, unit: str, goal: float) -> dict[str, Any]:
    middle = statistics.median(ours)
    return {
        "what": what,
        "ours": round(middle, 3),
        "peer": None if peer is None else round(statistics.median(peer), 3),
        "unit": unit,
        "ratio": None if peer is None else round(statistics.median(a / b for a, b in zip(ours, peer, strict=True)), 3),
        "spread": [round(min(ours), 3), round(max(ours), 3)],
        "goal": goal,
    }


async def _peer(url: str, requests: list[GradeRequest]) -> list[str]:
    """The same conversations through openai's own asynchronous client."""
    import openai

    gate = asyncio.Semaphore(CONCURRENCY)
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:

        async def one(request: GradeRequest) -> str:
            async with gate:
                done = await client.chat.completions.create(
                    model="judge", messages=grading(None, request)[1], **OPTIONS
                )
            return done.choices[0].message.content or ""

        return await asyncio.gather(*map(one, requests))


def _serve(port: SimpleQueue[int]) -> None:
    """An endpoint that answers everything after 100 ms, in a process of its own."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Rating: [[7]]"}}
    usage = {"prompt_tokens": 300, "completion_tokens": 5, "total_tokens": 305}
    document = {"id": "1", "object": "chat.completion", "created": 1, "model": "judge"}
    body = json.dumps({**document, "choices": [choice], "usage": usage}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(asked.split(b"content-length:")[1].split(b"\r\n")[0]))
                await asyncio.sleep(SECONDS)
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=256)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
