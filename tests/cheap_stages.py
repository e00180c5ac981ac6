"""Stages that take no model, in a module of their own so that other processes find them, and what runs them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from radpo.core.served import address_of
from radpo.engine.execute import execute
from radpo.engine.graph import Function, Stage, Task
from radpo.engine.leases import Leases
from radpo.engine.schedule import Done, Event, run_stages
from radpo.engine.servers import servers_of
from radpo.engine.store import BusyError, Store


class Watcher:
    """Notes what a run says of itself."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.kept: list[str] = []
        self.damaged: list[str] = []
        self.failed: list[str] = []
        self.waited: list[str] = []
        self.progress: list[tuple[str, int, int]] = []

    def begins(self, stage: Stage) -> None: ...

    def progresses(self, stage: Stage, done: int, total: int) -> None:
        self.progress.append((stage.name, done, total))

    def ends(self, done: Done) -> None:
        (self.kept if done.from_store else self.computed).append(done.stage.name)

    def fails(self, stage: Stage, why: str) -> None:
        self.failed.append(stage.name)

    def waits(self, stage: Stage) -> None:
        self.waited.append(stage.name)

    def corrupt(self, stage: Stage, what: str) -> None:
        self.damaged.append(stage.name)


class InlinePool:
    """Computes a stage in this process the moment it is started."""

    slots = 1

    def __init__(self, store: Store) -> None:
        self._store = store
        self._events: list[Event] = []

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        def progress(done: int, total: int) -> None:
            self._events.append(Event(stage, done, total))

        self._events.append(Event(stage, outcome=execute(stage, self._store, notes, progress)))

    def events(self, seconds: float) -> list[Event]:
        events, self._events = self._events, []
        return events

    def close(self) -> None: ...


def run_inline(store: Store, *wanted: Stage, **options: Any) -> Watcher:
    watcher = Watcher()
    run_stages(wanted, store, InlinePool(store), watcher, **options)
    return watcher


def write_text(task: Task) -> None:
    """The inputs' texts, then its own. Hints: `sleep` seconds, `fail`, `die`, and `trace`, a file to note runs in."""
    hints = task.stage.hints
    print(f"writing {task.stage.name}", flush=True)
    if trace := hints.get("trace"):
        with Path(trace).open("a") as stream:
            stream.write(f"{task.stage.name}\n")
    steps = max(1, round(hints.get("sleep", 0) / 0.05))
    for step in range(steps):
        time.sleep(hints.get("sleep", 0) / steps)
        task.progress(step + 1, steps)
    if hints.get("fail"):
        raise ValueError("no luck")
    if hints.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    before = "".join((folder / "text").read_text() for _, folder in sorted(task.inputs.items()))
    (task.out / "text").write_text(before + str(task.stage.settings["text"]))


def count_up(task: Task) -> None:
    """Counts to `to`, one file a step under `work`, from where an interrupted try stopped."""
    work = task.out / "work"
    work.mkdir(exist_ok=True)
    begun = len(list(work.iterdir()))
    (work.parent / f"began-at-{begun}").touch()
    for step in range(begun, task.stage.settings["to"]):
        time.sleep(task.stage.hints.get("sleep", 0))
        (work / f"{step}").touch()
        task.progress(step + 1, task.stage.settings["to"])
    (task.out / "text").write_text(str(task.stage.settings["to"]))


def fill(task: Task) -> None:
    """Writes so many MiB."""
    with (task.out / "filling").open("wb") as stream:
        for _ in range(task.stage.settings["mib"]):
            stream.write(os.urandom(2**20))


def see_gpus(task: Task) -> None:
    """Writes which GPUs its process sees and when. Hints: `meet`, a folder: it waits until two stages were there."""
    began = time.monotonic()
    if meet := task.stage.hints.get("meet"):
        (Path(meet) / task.stage.name).touch()
        while len(list(Path(meet).iterdir())) < 2:
            time.sleep(0.02)
    seen = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "process": os.getpid()}
    (task.out / "seen.json").write_text(json.dumps({**seen, "began": began, "ended": time.monotonic()}))


def ask_server(task: Task) -> None:
    """Writes what the stage's server answers. Hints: `meet`, as of see_gpus."""
    (server,) = servers_of(task.stage)
    if meet := task.stage.hints.get("meet"):
        (Path(meet) / task.stage.name).touch()
        while len(list(Path(meet).iterdir())) < 2:
            time.sleep(0.02)
    with urllib.request.urlopen(f"{address_of(server)}/models") as answer:
        (task.out / "text").write_text(answer.read().decode())


WRITE = Function(write_text, version=1)
COUNT = Function(count_up, version=1, resumable=True)
GPU = Function(see_gpus, version=1, packages=("torch",))
CPU = Function(see_gpus, version=1)
ASK = Function(ask_server, version=1)
FILL = Function(fill, version=1)


def stage(
    name: str, text: Any, *, function: Function = WRITE, hints: Mapping[str, Any] | None = None, **inputs: Stage
) -> Stage:
    return Stage(name, "write", function, {"text": text}, inputs, hints or {})


def most_holders(leases: Callable[[int], Leases], name: str, seconds: float) -> int:
    """How many of six who ask for a lease at the same moment, each to hold it for a while, hold it at once at most."""
    start, holding, most = threading.Barrier(6), [0], [0]

    def contend(mine: Leases) -> None:
        start.wait()
        with suppress(BusyError), mine.held(name):
            holding[0] += 1
            most.append(holding[0])
            time.sleep(seconds)
            most.append(holding[0])
            holding[0] -= 1

    threads = [threading.Thread(target=contend, args=(leases(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(most)
