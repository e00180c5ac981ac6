"""A graph of cheap stages, some of which ask an endpoint, run in two jobs and killed at random until it gets through.

What must hold: every end is equal to that of a run which nobody killed, no whole stage is done again, and nothing is
paid for twice but what was on its way when the process was killed (docs/judging.md). The store is a folder, or a URL
whose file system fails at random. The short form is in the test suite, the long one benchmarks/faults/kills.py.

Run by itself it is the process that is killed: python kill_rounds.py STORE SERVER
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty_fs
from cheap_stages import COUNT, Watcher, stage
from fault_server import FaultServer

from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import RadpoError
from radpo.engine.gc import collect, damaged
from radpo.engine.graph import Function, Stage, Task, in_order
from radpo.engine.local import LocalPool
from radpo.engine.schedule import run_stages
from radpo.engine.shared import SharedStore, open_store
from radpo.engine.store import Store

SLEEP = 0.1
QUESTIONS, AT_ONCE = 12, 4
RECENT_SECONDS = 1.0
"""What came to the server so shortly before a kill may not have been answered and kept yet: it is on its way."""
SHARE = float(os.environ.get("RADPO_TEST_FAULTS", "0"))

if SHARE:
    faulty_fs.plan("kills", target="file", share=SHARE).chance = random.Random(os.getpid())


def ask(task: Task) -> None:
    """Answers of an endpoint that is paid for."""
    chat = Chat(
        Endpoint(model="m", base_url=task.stage.hints["server"], concurrency=AT_ONCE), task.out / "work" / "replies"
    )
    (task.out / "work").mkdir(exist_ok=True)
    texts = [[{"role": "user", "content": f"{task.stage.name} {n}"}] for n in range(QUESTIONS)]
    replies = chat.complete([ChatRequest(messages, {"max_tokens": 5}) for messages in texts], task.progress)
    (task.out / "text").write_text("; ".join(str(reply.text) for reply in replies))


ASK = Function(ask, version=1, resumable=True)


def graph(server: str, sleep: float = SLEEP) -> list[Stage]:
    """Two roots; two stages that count and two that ask, all of which resume; four on top of them, and one of all."""
    hints = {"sleep": sleep, "server": server}
    roots = [stage(f"root {n}", n, hints=hints) for n in range(2)]
    long = [Stage(f"long {n}", "count", COUNT, {"to": 6, "n": n}, {"root": roots[n]}, hints) for n in range(2)]
    asking = [Stage(f"ask {n}", "ask", ASK, {"n": n}, {"root": roots[n]}, hints) for n in range(2)]
    tops = [stage(f"top {n}", f"t{n}", hints=hints, a=long[n % 2], b=asking[n // 2]) for n in range(4)]
    return in_order([stage("join", "j", hints=hints, **{f"i{n}": top for n, top in enumerate(tops)})])


@dataclass
class Found:
    """What came of it."""

    kills: int = 0
    ends: int = 0
    unequal: list[str] = field(default_factory=list)
    done_again: list[str] = field(default_factory=list)
    answers: int = 0
    on_their_way: int = 0
    """Answers that were paid for twice because a kill came before they were kept."""
    paid_twice: list[str] = field(default_factory=list)


def answer(body: Any) -> str:
    """What the endpoint says."""
    return f"said: {body['messages'][-1]['content']}"


def kill_until(folder: Path, kills: int, chance: random.Random, share: float = 0.0) -> Found:
    """Kill runs at random moments, and let each get through in the end.

    Args:
        share: of the operations on the store's file system that fail; the store is then at a URL.
    """
    found, killed_at = Found(), []
    place = f"faulty://kills{folder}/url" if share else str(folder / "torn")
    faulty_fs.plan("kills", target="file")
    environment = os.environ | {"RADPO_TEST_FAULTS": str(share), "RADPO_CACHE": str(folder / "cache")}
    with FaultServer(answer, delay=0.05) as server:
        words = [sys.executable, __file__, place, server.url]
        stages = graph(server.url)
        store = SharedStore(folder / "reader", place) if share else Store(Path(place))
        longest, began, killed = 0.0, {}, False
        while found.kills < kills or killed:
            start = time.monotonic()
            run = subprocess.Popen(
                words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
            try:
                said, _ = run.communicate(
                    timeout=chance.uniform(0, longest) if longest and found.kills < kills else None
                )
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                killed_at.append(time.monotonic())
                run.communicate()
                found.kills, killed = found.kills + 1, True
                now = started(store, stages)
                found.done_again += [name for name, when in began.items() if now.get(name) != when]
                began = now
                continue
            if run.returncode == 3 and share:  # the service failed for good: given again
                continue
            if run.returncode:
                raise AssertionError(said)
            now = started(store, stages)
            found.done_again += [name for name, when in began.items() if now.get(name) != when]
            ends = texts(store, stages)
            found.unequal += [one.name for one in stages if ends[one.name] != expected(one)]
            found.ends, killed = found.ends + 1, False
            longest, began = longest or 1.2 * (time.monotonic() - start), {}  # the first is left alone, to time it
            pay(found, server, killed_at)
            for name in ("torn", "cache", "url", "reader"):
                shutil.rmtree(folder / name, ignore_errors=True)
            forget(place)
    return found


def two_machines(folder: Path, share: float) -> int:
    """Two machines at once on a shared store of whose operations a share fails; returns how many runs that took.

    Raises:
        AssertionError: an end differs, an answer was paid for twice, or something was left behind.
    """
    place, runs = f"faulty://kills{folder}/url", 0
    faulty_fs.plan("kills", target="file")
    with FaultServer(answer, delay=0.05) as server:
        stages = graph(server.url)

        def begin(name: str) -> subprocess.Popen[str]:
            cache = {"RADPO_TEST_FAULTS": str(share), "RADPO_CACHE": str(folder / name)}
            words = [sys.executable, __file__, place, server.url]
            return subprocess.Popen(
                words, env=os.environ | cache, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )

        waiting = {name: begin(name) for name in ("one", "two")}
        while waiting:
            for name, run in list(waiting.items()):
                said, _ = run.communicate()
                runs += 1
                del waiting[name]
                if run.returncode == 3:
                    waiting[name] = begin(name)
                elif run.returncode:
                    raise AssertionError(said)
        store = SharedStore(folder / "three", place)
        assert texts(store, stages)["join"] == expected(stages[-1]), "an end differs"
        twice = [asked for asked, times in arrivals(server).items() if len(times) > 1]
        assert twice == [], "answers were paid for twice"
        collect(store, stages, dry_run=False)
        assert damaged(store) == {}
        assert sorted(store.finished()) == sorted(one.key for one in stages)
    return runs


def expected(one: Stage) -> str:
    """The text of a stage, by what its function does."""
    if one.function is COUNT:
        return str(one.settings["to"])
    if one.function is ASK:
        return "; ".join(f"said: {one.name} {n}" for n in range(QUESTIONS))
    return "".join(expected(needed) for _, needed in sorted(one.inputs.items())) + str(one.settings["text"])


def arrivals(server: FaultServer) -> dict[str, list[float]]:
    """When each question came to the server; all of them are paid for."""
    times = defaultdict(list)
    for body, when in zip(server.asked, server.arrived, strict=True):
        times[str(body["messages"][-1]["content"])].append(when)
    return times


def pay(found: Found, server: FaultServer, killed_at: list[float]) -> None:
    """Count what was answered in a round."""
    for asked, times in arrivals(server).items():
        found.answers += 1
        for when in times[:-1]:
            on_its_way = any(0 <= kill - when < RECENT_SECONDS for kill in killed_at)
            found.on_their_way += on_its_way
            found.paid_twice += [] if on_its_way else [asked]
    server.asked.clear()
    server.arrived.clear()


def started(store: Store, stages: list[Stage]) -> dict[str, str]:
    """When the stages that are whole were computed."""
    if isinstance(store, SharedStore):
        forget(store.url)
    return {one.name: store.record(one.key)["started"] for one in stages if store.has(one)}


def texts(store: Store, stages: list[Stage]) -> dict[str, str]:
    return {one.name: (store.open(one) / "text").read_text() for one in stages}


def forget(place: str) -> None:
    """See the URL as a new process does."""
    from radpo.engine import shared

    shared._listed.pop(place, None)


def main() -> None:
    """Run the graph once, in two jobs."""
    kept = open_store(sys.argv[1])
    stages = graph(sys.argv[2])
    try:
        with kept.using(one.key for one in stages):
            run_stages(stages, kept, LocalPool(kept, 2, ()), Watcher())
    except RadpoError as error:
        print(error)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
