"""The local executor: worker processes on this machine, among which its cores and GPUs are divided.

A worker stays for many stages, because loading torch and transformers takes longer than many a stage. It starts from a
fresh interpreter, so that nothing of the parent's is in it, and ends with the parent, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from radpo.core.machine import cores, gpus
from radpo.core.paid_work import Flag, announce_paid_work
from radpo.core.plugins import NoSettings
from radpo.engine.execute import Outcome, divide_threads, execute
from radpo.engine.executors import Executor
from radpo.engine.graph import Stage
from radpo.engine.schedule import Event
from radpo.engine.store import Store

STOP_SECONDS = 5.0
"""How long a worker that is asked to stop may take before it is killed, unless it waits for what is paid for."""


class LocalPool:
    """Up to `jobs` worker processes, each with an equal share of the cores; with several GPUs, each with its own.

    The shares are fixed, so that a stage computes with the same number of threads whatever runs beside it: sums in
    another order would round differently, and a run that was interrupted would not end like one that was not.
    """

    def __init__(self, store: Store, jobs: int) -> None:
        self.slots = jobs
        self._store = store
        self._threads = max(1, cores() // jobs)
        self._workers: list[_Worker | None] = [None] * jobs
        """By place; None where none was needed yet, or the last one died."""

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Give a stage to an idle worker."""
        place = next(place for place, worker in enumerate(self._workers) if worker is None or worker.stage is None)
        worker = self._workers[place]
        if worker is None or not worker.process.is_alive():
            worker = self._workers[place] = _Worker(self._store, self._threads, place)
        worker.stage = stage
        worker.connection.send((stage, notes))

    def events(self, seconds: float) -> list[Event]:
        """What the workers sent; one that died without a word failed its stage."""
        at_work = {worker.connection: worker for worker in self._workers if worker and worker.stage}
        events = []
        for ready in wait(list(at_work), timeout=seconds):
            worker = at_work[ready]  # type: ignore[index]
            assert worker.stage is not None
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                message = Outcome("failed", worker.end())
                self._workers[self._workers.index(worker)] = None
            if isinstance(message, Outcome):
                events.append(Event(worker.stage, outcome=message))
                worker.stage = None
            else:
                events.append(Event(worker.stage, *message))
        return events

    def close(self) -> None:
        """End the workers; what they are computing is given up, but for what a resumable stage has saved."""
        workers = [worker for worker in self._workers if worker]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.end()
        self._workers = [None] * self.slots


def _ready(settings: NoSettings, stages: Sequence[Stage]) -> str | None:
    """Are there as many GPUs as one of the stages asks for?"""
    wanted = {stage.function_name: stage.hints.get("resources", {}).get("gpus") or 0 for stage in stages}
    function = max(wanted, key=lambda name: wanted[name], default="")
    if not function or wanted[function] <= len(gpus()):
        return None
    return (
        f"resources.{function}.gpus: {wanted[function]:g} are asked for, and this machine has {len(gpus())}; ask for "
        "fewer, or use an executor of machines that have them, such as ray"
    )


EXECUTOR = Executor("local", NoSettings, lambda store, jobs, settings: LocalPool(store, jobs or 1), _ready)


class _Worker:
    def __init__(self, store: Store, threads: int, place: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.stage: Stage | None = None
        self.connection, theirs = context.Pipe()
        self.paying = context.Event()
        # No daemon: the libraries of some stages start processes of their own.
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, store, threads, place, self.paying))
        self.process.start()
        theirs.close()

    def end(self) -> str:
        """Have the process gone, and say how it went."""
        self.process.join(STOP_SECONDS)
        while self.process.is_alive() and self.paying.is_set():  # a second Ctrl-C ends this
            self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
        status = self.process.exitcode or 0
        if status == -signal.SIGKILL:
            return "its process was killed (signal 9), as a machine that runs out of memory does"
        return f"its process ended by signal {-status}" if status < 0 else f"its process ended with status {status}"


def gpu_of(place: int, count: int, visible: str | None) -> str | None:
    """The one GPU that a worker is to see, by CUDA's name for it; None where there is nothing to divide.

    Args:
        count: how many GPUs this process may use.
        visible: `CUDA_VISIBLE_DEVICES` as it is.
    """
    if count < 2:
        return None
    names = [name.strip() for name in visible.split(",")] if visible else [str(number) for number in range(count)]
    return names[place % count]


def _work(connection: Connection, store: Store, threads: int, place: int, paying: Flag) -> None:
    """What a worker process does: it computes the stages that come through the pipe, and reports on them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C as well, and ends its workers in order
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what is half written goes
    announce_paid_work(paying)
    divide_threads(threads)
    if (mine := gpu_of(place, len(gpus()), os.environ.get("CUDA_VISIBLE_DEVICES"))) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = mine
    stages: queue.SimpleQueue[tuple[Stage, Mapping[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, stages), daemon=True).start()
    while True:
        stage, notes = stages.get()
        connection.send(execute(stage, store, notes, lambda done, total: connection.send((done, total))))


def _listen(connection: Connection, stages: queue.SimpleQueue[tuple[Stage, Mapping[str, Any]]]) -> None:
    """Read what the parent sends, from the first moment to the last: a parent that is gone needs no worker."""
    while True:
        try:
            stages.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)
