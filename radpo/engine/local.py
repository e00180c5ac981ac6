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

from radpo.core.errors import ConfigError
from radpo.core.machine import cores, visible_gpus
from radpo.core.paid_work import Flag, announce_paid_work
from radpo.core.plugins import NoSettings
from radpo.engine.devices import Devices, gpus_of
from radpo.engine.execute import Outcome, divide_threads, execute
from radpo.engine.executors import Executor
from radpo.engine.graph import Stage
from radpo.engine.schedule import Event
from radpo.engine.store import Store

STOP_SECONDS = 5.0
"""How long a worker that is asked to stop may take before it is killed, unless it waits for what is paid for."""


class LocalPool:
    """Up to `jobs` stages at once, in worker processes, each with an equal share of the cores.

    The shares are fixed, so that a stage computes with the same number of threads whatever runs beside it: sums in
    another order would round differently, and a run that was interrupted would not end like one that was not.

    GPUs are taken by stages and given back (`radpo.engine.devices`); a stage sees its own alone. A worker keeps those
    of its first stage for life, as CUDA's libraries look for them once, and ends where they are needed otherwise.

    Args:
        jobs: None for one for each GPU, and one where there is none.
        gpus: CUDA's names for those to use.
    """

    def __init__(self, store: Store, jobs: int | None, gpus: Sequence[str]) -> None:
        self.slots = jobs or max(1, len(gpus))
        self._store = store
        self._threads = max(1, cores() // self.slots)
        self._devices = Devices(gpus)
        self._workers: list[_Worker] = []

    def fits(self, stage: Stage, waiting: Sequence[Stage]) -> bool:
        """Whether there are GPUs for a stage, and none is waiting for them."""
        amount = self._amount(stage)
        if not amount or amount > len(self._devices):  # `start` says so
            return True
        return self._devices.have(amount) and not any(map(self._amount, waiting))

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Give a stage to an idle worker that has its GPUs, or to a new one.

        Raises:
            ConfigError: the machine has fewer GPUs than the stage asks for.
        """
        amount, idle = self._amount(stage), [worker for worker in self._workers if worker.stage is None]
        if amount > len(self._devices):
            raise ConfigError(_lacking(stage.function_name, amount, len(self._devices)))
        mine = self._devices.take(amount, [worker.gpus for worker in idle if worker.gpus])
        # Alone, a stage that needs no GPU may as well see one: a new worker would load all libraries again.
        worker = next((one for one in idle if one.gpus == mine or (not mine and self.slots == 1)), None)
        if worker is not None and not worker.process.is_alive():
            self._workers.remove(worker)
            worker = None
        if worker is None:
            for other in idle:
                if not set(other.gpus).isdisjoint(mine):  # it holds memory of theirs
                    self._workers.remove(other)
                    other.process.terminate()
                    other.end()
            worker = _Worker(self._store, self._threads, mine, ",".join(mine) if len(self._devices) else None)
            self._workers.append(worker)
        worker.stage, worker.taken = stage, (mine, amount)
        worker.connection.send((stage, notes))

    def _amount(self, stage: Stage) -> float:
        return gpus_of(stage) if len(self._devices) else 0.0

    def events(self, seconds: float) -> list[Event]:
        """What the workers sent; one that died without a word failed its stage."""
        at_work = {worker.connection: worker for worker in self._workers if worker.stage}
        events = []
        for ready in wait(list(at_work), timeout=seconds):
            worker = at_work[ready]  # type: ignore[index]
            assert worker.stage is not None
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                message = Outcome("failed", worker.end())
                self._workers.remove(worker)
            if isinstance(message, Outcome):
                events.append(Event(worker.stage, outcome=message))
                worker.stage = None
                self._devices.give_back(*worker.taken)
            else:
                events.append(Event(worker.stage, *message))
        return events

    def close(self) -> None:
        """End the workers; what they are computing is given up, but for what a resumable stage has saved."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._workers = []


def _ready(settings: NoSettings, stages: Sequence[Stage]) -> str | None:
    """Are there as many GPUs as one of the stages asks for?"""
    wanted = {stage.function_name: stage.hints.get("resources", {}).get("gpus") or 0 for stage in stages}
    function = max(wanted, key=lambda name: wanted[name], default="")
    there = len(visible_gpus())
    return _lacking(function, wanted[function], there) if function and wanted[function] > there else None


def _lacking(function: str, wanted: float, there: int) -> str:
    return (
        f"resources.{function}.gpus: {wanted:g} are asked for, and this machine has {there}; ask for fewer, or use an "
        "executor of machines that have them, such as ray or slurm"
    )


EXECUTOR = Executor("local", NoSettings, lambda store, jobs, settings: LocalPool(store, jobs, visible_gpus()), _ready)


class _Worker:
    def __init__(self, store: Store, threads: int, gpus: tuple[str, ...], visible: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.stage: Stage | None = None
        self.gpus = gpus
        self.taken: tuple[tuple[str, ...], float] = ((), 0.0)
        """What its stage has taken of the GPUs."""
        self.connection, theirs = context.Pipe()
        self.paying = context.Event()
        # No daemon: the libraries of some stages start processes of their own.
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, store, threads, visible, self.paying))
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


def _work(connection: Connection, store: Store, threads: int, visible: str | None, paying: Flag) -> None:
    """What a worker process does: it computes the stages that come through the pipe, and reports on them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C as well, and ends its workers in order
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what is half written goes
    announce_paid_work(paying)
    divide_threads(threads)
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
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
