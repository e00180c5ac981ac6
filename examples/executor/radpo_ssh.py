"""Stages on machines that are reached by ssh, one at a time on each; all mount the store under the same path."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from radpo import Executor
from radpo.core.files import replace_json
from radpo.engine.execute import Outcome, divide_threads, execute
from radpo.engine.graph import Stage
from radpo.engine.schedule import Event
from radpo.engine.store import Store


class Settings(BaseModel):
    """What a matrix file may say beside `kind: ssh`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hosts: tuple[str, ...] = Field(min_length=1, description="Machines, as ssh knows them.")
    threads: int = Field(8, ge=1, description="Threads of each stage.")
    python: str = Field(sys.executable, description="The interpreter there, which has radpo and this package.")


class Work(NamedTuple):
    """A stage on a host, by the process here that waits for it, and the folder of its task, progress and outcome."""

    stage: Stage
    host: str
    process: subprocess.Popen[bytes]
    folder: Path


class SshPool:
    """What `radpo.engine.schedule.Pool` asks for: slots, start, events, close."""

    def __init__(self, store: Store, jobs: int | None, settings: Settings) -> None:
        self.slots = min(jobs or len(settings.hosts), len(settings.hosts))
        self._store, self._settings = store, settings
        self._at_work: list[Work] = []

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Have a host that has nothing to do compute a stage."""
        busy = {work.host for work in self._at_work}
        host = next(host for host in self._settings.hosts if host not in busy)
        folder = self._store.root.resolve() / "ssh" / f"{stage.key}-{time.time_ns()}"
        folder.mkdir(parents=True)
        (folder / "task.pickle").write_bytes(pickle.dumps((stage, self._store, dict(notes))))
        there = shlex.join([self._settings.python, "-m", "radpo_ssh", str(folder), str(self._settings.threads)])
        with (folder / "log").open("wb") as log:
            # Its standard input is a pipe that closes when this process ends, however it ends: then the stage ends too.
            process = subprocess.Popen(["ssh", host, there], stdin=subprocess.PIPE, stdout=log, stderr=log)
        self._at_work.append(Work(stage, host, process, folder))

    def events(self, seconds: float) -> list[Event]:
        """How far the stages are, and what became of those that ended."""
        time.sleep(seconds)
        events = []
        for work in list(self._at_work):
            ended = work.process.poll() is not None
            outcome, progress = _read(work.folder / "outcome.json"), _read(work.folder / "progress.json")
            if ended:
                self._at_work.remove(work)
                message = f"{work.host}: ssh ended with {work.process.returncode}; see {work.folder / 'log'}"
                lost = Outcome("failed", message, exit_status=3)
                events.append(Event(work.stage, outcome=Outcome(**outcome) if outcome else lost))
            elif progress:
                events.append(Event(work.stage, *progress))
        return events

    def close(self) -> None:
        """End what is not done."""
        for work in self._at_work:
            work.process.communicate()  # closes the pipe, and waits


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main(folder: Path, threads: int) -> None:
    """What runs on a host."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    divide_threads(threads)
    stage, store, notes = pickle.loads((folder / "task.pickle").read_bytes())  # noqa: S301 - written by `start`
    outcome = execute(stage, store, notes, lambda done, total: replace_json(folder / "progress.json", [done, total]))
    replace_json(folder / "outcome.json", asdict(outcome))


def _end_with_the_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


EXECUTOR = Executor("ssh", Settings, SshPool)

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
