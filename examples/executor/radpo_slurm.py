"""Every stage is a Slurm job. The store's folder is on a file system that all nodes mount, or the store is a URL."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from radpo import Executor
from radpo.core.errors import ServiceError
from radpo.core.files import replace_json
from radpo.engine.execute import Outcome, divide_threads, execute
from radpo.engine.graph import Stage
from radpo.engine.schedule import Event
from radpo.engine.store import Store


class Settings(BaseModel):
    """What a matrix file may say beside `kind: slurm`. What each stage takes is in its `resources`, as for Ray."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    account: str | None = None
    minutes: int | None = Field(None, ge=1, description="The time limit of each job.")
    poll_seconds: float = Field(10.0, gt=0, description="How often Slurm is asked which jobs there are still.")


class Job(NamedTuple):
    """A stage, its job's id, and the folder in which its task, progress and outcome are."""

    stage: Stage
    number: str
    folder: Path


class SlurmPool:
    """What `radpo.engine.schedule.Pool` asks for: slots, start, events, close."""

    def __init__(self, store: Store, jobs: int | None, settings: Settings) -> None:
        self.slots = jobs or 1000  # Slurm's queue orders them
        self._store, self._settings, self._asked = store, settings, time.monotonic()
        self._jobs: list[Job] = []

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Submit a job that computes the stage; the queue says when."""
        folder = self._store.root.resolve() / "slurm" / f"{stage.key}-{time.time_ns()}"
        folder.mkdir(parents=True)
        (folder / "task.pickle").write_bytes(pickle.dumps((stage, self._store, dict(notes))))
        cpus, gpus, memory = map(stage.hints.get("resources", {}).get, ("cpus", "gpus", "memory_gib"))
        asked = {
            "partition": self._settings.partition, "account": self._settings.account, "time": self._settings.minutes,
            "cpus-per-task": cpus or 1, "gpus": gpus, "mem": memory and f"{int(memory * 1024)}M",
        }  # fmt: skip
        options = [f"--{name}={value}" for name, value in asked.items() if value is not None]
        command = f"--wrap=exec '{sys.executable}' -m radpo_slurm '{folder}' {cpus or 1}"
        options += [f"--job-name={stage.name}", f"--output={folder / 'job.log'}", command]
        self._jobs.append(Job(stage, _slurm("sbatch", "--parsable", *options).strip().split(";")[0], folder))

    def events(self, seconds: float) -> list[Event]:
        """How far the jobs are, and what became of those that ended."""
        time.sleep(seconds)
        alive, events = self._alive(), []
        for job in list(self._jobs):
            outcome, progress = _read(job.folder / "outcome.json"), _read(job.folder / "progress.json")
            if outcome is None and job.number not in alive:  # it was killed, or its node died
                message = f"Slurm job {job.number} ended without a result; see {job.folder / 'job.log'}"
                outcome = asdict(Outcome("failed", message, exit_status=3))
            if outcome is not None:
                self._jobs.remove(job)
                events.append(Event(job.stage, outcome=Outcome(**outcome)))
            elif progress is not None:
                events.append(Event(job.stage, *progress))
        return events

    def close(self) -> None:
        """Cancel what is not done."""
        if self._jobs:
            _slurm("scancel", *(job.number for job in self._jobs))

    def _alive(self) -> set[str]:
        """The jobs that Slurm still knows; all, where it was asked a moment ago."""
        if not self._jobs or time.monotonic() - self._asked < self._settings.poll_seconds:
            return {job.number for job in self._jobs}
        self._asked = time.monotonic()
        return set(_slurm("squeue", "--me", "--noheader", "--format=%i").split())


def _slurm(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServiceError(f"executor slurm: {command[0]}: {getattr(error, 'stderr', None) or error}") from error


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main(folder: Path, threads: int) -> None:
    """What a job does."""
    divide_threads(threads)
    stage, store, notes = pickle.loads((folder / "task.pickle").read_bytes())  # noqa: S301 - written by `start`
    outcome = execute(stage, store, notes, lambda done, total: replace_json(folder / "progress.json", [done, total]))
    replace_json(folder / "outcome.json", asdict(outcome))


EXECUTOR = Executor("slurm", Settings, SlurmPool)

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
