"""The local executor: worker processes on this machine, among which its cores and GPUs are divided.

A worker stays for many stages, because loading torch and transformers takes longer than many a stage. It starts from a
fresh interpreter, so that nothing of the parent's is in it, and ends with the parent, however that ends.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from radpo.core.errors import ConfigError
from radpo.core.machine import cores, visible_gpus
from radpo.core.paid_work import Flag, announce_paid_work
from radpo.core.plugins import NoSettings
from radpo.core.served import Server
from radpo.engine.devices import Devices, gpus_of
from radpo.engine.execute import Outcome, divide_threads, execute
from radpo.engine.executors import Executor
from radpo.engine.graph import Stage
from radpo.engine.schedule import Event
from radpo.engine.servers import Started, given, gpus_of_servers, servers_of
from radpo.engine.servers import start as start_server
from radpo.engine.store import Store

Given = tuple[Stage, Mapping[str, Any], Mapping[str, Path]]
"""What a worker gets: a stage, what is to be noted with it, and the folders of the servers that it needs."""
STOP_SECONDS = 5.0
"""How long a worker that is asked to stop may take before it is killed, unless it waits for what is paid for."""


class LocalPool:
    """Up to `jobs` stages at once, in worker processes, each with an equal share of the cores.

    The shares are fixed, so that a stage computes with the same number of threads whatever runs beside it: sums in
    another order would round differently, and a run that was interrupted would not end like one that was not.

    GPUs are taken by stages and given back (`radpo.engine.devices`); a stage sees its own alone. A worker keeps those
    of its first stage for life, as CUDA's libraries look for them once, and ends where they are needed otherwise.

    A server that stages need is started with the first of them, on GPUs of its own, and serves all. It ends with the
    last of them, or before, when nobody asks it and its GPUs are needed; then it is started again.

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
        self._servers: dict[str, _Serving] = {}
        self._needed: dict[str, set[str]] = defaultdict(set)
        """The keys of the stages that are yet to be computed and need a server, by its id."""

    def expects(self, stages: Sequence[Stage]) -> None:
        """Know which stages are to be computed, so that no server ends before the last that needs it."""
        for stage in stages:
            for server in servers_of(stage):
                self._needed[server.id].add(stage.key)

    def fits(self, stage: Stage, waiting: Sequence[Stage]) -> bool:
        """Whether there are GPUs for a stage and its servers, and none is waiting for GPUs."""
        amounts = self._amounts(stage)
        if not any(amounts) or sum(map(math.ceil, amounts)) > len(self._devices):  # `start` says so
            return True
        if any(any(self._amounts(other)) for other in waiting):
            return False
        mine = {server.id for server in servers_of(stage)}
        idle = [name for name, serving in self._servers.items() if not serving.asked_by and name not in mine]
        while not self._devices.have(*amounts) and idle:
            self._end_server(idle.pop())
        return self._devices.have(*amounts)

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Give a stage to an idle worker that has its GPUs, or to a new one, and start the servers that it needs.

        Raises:
            ConfigError: the machine has fewer GPUs than these ask for.
        """
        amounts, idle = self._amounts(stage), [worker for worker in self._workers if worker.stage is None]
        if (wanted := sum(map(math.ceil, amounts))) > len(self._devices):
            raise ConfigError(_lacking(stage.function_name, wanted, len(self._devices)))
        folders = {server.id: self._serve(server, stage) for server in servers_of(stage)}
        mine = self._devices.take(amounts[0], [worker.gpus for worker in idle if worker.gpus])
        # Alone, a stage that needs no GPU may as well see one: a new worker would load all libraries again.
        worker = next((one for one in idle if one.gpus == mine or (not mine and self.slots == 1)), None)
        if worker is not None and not worker.process.is_alive():
            self._workers.remove(worker)
            worker = None
        if worker is None:
            self._free_of_workers(mine)
            worker = _Worker(self._store, self._threads, mine, self._visible(mine))
            self._workers.append(worker)
        worker.stage, worker.taken = stage, (mine, amounts[0])
        worker.connection.send((stage, notes, folders))

    def _amounts(self, stage: Stage) -> list[float]:
        """The GPUs that a stage takes, and those of each server that is not there yet."""
        if not len(self._devices):
            return [0.0]
        new = [server.gpus for server in servers_of(stage) if server.id not in self._servers]
        return [gpus_of(stage), *map(float, new)]

    def _visible(self, gpus: Sequence[str]) -> str | None:
        return ",".join(gpus) if len(self._devices) else None

    def _free_of_workers(self, gpus: Sequence[str]) -> None:
        """End the idle workers that hold memory of GPUs."""
        for worker in list(self._workers):
            if worker.stage is None and not set(worker.gpus).isdisjoint(gpus):
                self._workers.remove(worker)
                worker.process.terminate()
                worker.end()

    def _serve(self, server: Server, stage: Stage) -> Path:
        """The folder of a server, started where it does not run, which a stage asks from now on."""
        if server.id in self._servers and self._servers[server.id].started.has_ended():
            self._end_server(server.id)
        if server.id not in self._servers:
            mine = self._devices.take(server.gpus if len(self._devices) else 0)
            self._free_of_workers(mine)
            started = start_server(server, self._store.root / "servers", self._visible(mine))
            self._servers[server.id] = _Serving(started, mine)
        self._servers[server.id].asked_by.add(stage.key)
        return self._servers[server.id].started.folder

    def _end_server(self, name: str) -> None:
        serving = self._servers.pop(name)
        serving.started.stop()
        self._devices.give_back(serving.gpus, 1.0)

    def _ended(self, stage: Stage, outcome: Outcome) -> None:
        for server in servers_of(stage):
            if outcome.status not in ("busy", "corrupt"):  # else it comes again
                self._needed[server.id].discard(stage.key)
            if (serving := self._servers.get(server.id)) is not None:  # one that died may have been ended since
                serving.asked_by.discard(stage.key)
                if not self._needed[server.id] and not serving.asked_by:
                    self._end_server(server.id)

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
                self._ended(events[-1].stage, message)
            else:
                events.append(Event(worker.stage, *message))
        return events

    def close(self) -> None:
        """End workers and servers; what is being computed is given up, but for what a resumable stage has saved."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._workers = []
        for name in list(self._servers):
            self._end_server(name)


@dataclass
class _Serving:
    started: Started
    gpus: tuple[str, ...]
    asked_by: set[str] = field(default_factory=set)
    """The keys of the stages that ask it now."""


def _ready(settings: NoSettings, stages: Sequence[Stage]) -> str | None:
    """Are there as many GPUs as one of the stages asks for?"""
    there = len(visible_gpus())
    for stage in stages:
        asked = stage.hints.get("resources", {}).get("gpus") or 0
        wanted = asked + gpus_of_servers(stage) if there else asked
        if wanted > there:
            return _lacking(stage.function_name, wanted, there)
    return None


def _lacking(function: str, wanted: float, there: int) -> str:
    return (
        f"resources.{function}.gpus: {wanted:g} are asked for, and this machine has {there}; ask for fewer (those of a "
        "server count as well), or use an executor of machines that have them, such as ray or slurm"
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
    stages: queue.SimpleQueue[Given] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, stages), daemon=True).start()
    while True:
        stage, notes, servers = stages.get()
        with given(servers):
            outcome = execute(stage, store, notes, lambda done, total: connection.send((done, total)))
        connection.send(outcome)


def _listen(connection: Connection, stages: queue.SimpleQueue[Given]) -> None:
    """Read what the parent sends, from the first moment to the last: a parent that is gone needs no worker."""
    while True:
        try:
            stages.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)
