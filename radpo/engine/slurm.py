"""The Slurm executor: every stage is a Slurm job, submitted through submitit, on a store that all nodes reach.

A job that is preempted, that loses its node or whose time is over begins again, where a resumable stage resumes from
what it had saved: submitit and Slurm queue it again, and what they do not is submitted anew. Needs the extra `slurm`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from radpo.core.errors import ServiceError
from radpo.core.files import replace_file, replace_json
from radpo.core.messages import clean_message
from radpo.core.optional import need_package
from radpo.core.warn import warn_once
from radpo.engine.devices import gpus_of
from radpo.engine.execute import UNEXPECTED, Outcome, divide_threads, execute
from radpo.engine.executors import Executor
from radpo.engine.graph import Stage
from radpo.engine.schedule import Event, last_lines
from radpo.engine.servers import gpus_of_servers
from radpo.engine.store import Store

UNLIMITED = 1000
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
REPORT_SECONDS = 2.0
"""A job writes how far it is no more often than this: the file is on a file system of the whole cluster."""
MISSING_POLLS = 2
"""How often in turn Slurm must not know a job that left no result: what it wrote may take a moment to be seen here."""
FINAL = {
    "OUT_OF_MEMORY": "it ran out of memory: give its function more under `resources`, memory_gib",
    "TIMEOUT": "its time was over: give the executor a longer `time`",
}
"""States of Slurm's that another try would end in, too, and what to do."""


class SlurmSettings(BaseModel):
    """The options of the executor `slurm`. What a function's stages take goes by the matrix file's `resources`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int = Field(
        24 * 60, ge=1, description="The time limit of a job: minutes, or as Slurm writes it, such as 12:00:00 or 2-00."
    )
    gpus: int = Field(1, ge=0, description="GPUs of a stage that loads a model, unless `resources` says otherwise.")
    cpus: int = Field(4, ge=1, description="Cores of a stage, unless `resources` says otherwise.")
    memory_gib: float | None = Field(None, gt=0, description="Memory of a stage, likewise. Default: the partition's.")
    constraint: str | None = Field(None, description="Features that a node must have.")
    exclude: str | None = Field(None, description="Nodes not to use.")
    array_limit: int = Field(256, ge=1, description="Jobs of one array that run at once.")
    requeues: int = Field(
        10, ge=0, description="How often a job begins again that was preempted, lost its node or ran out of time."
    )
    warning_seconds: int = Field(90, ge=1, description="How long before its time is over a job is signalled to save.")
    setup: tuple[str, ...] = Field((), description="Shell lines that a job runs first, such as `module load cuda`.")
    sbatch: dict[str, str | int | bool] = Field(
        default_factory=dict, description="Any other options of sbatch, such as {reservation: mine}."
    )
    python: str | None = Field(None, description="The interpreter on the nodes. Default: this one.")
    folder: Path | None = Field(
        None,
        description="Where jobs get their tasks and leave their logs; all nodes must see it. Default: `slurm` in the "
        "store, or for a store at a URL in its cache.",
    )
    poll_seconds: float = Field(15.0, gt=0, description="How often Slurm is asked which jobs there are still.")
    cluster: Literal["slurm", "local"] = Field(
        "slurm", description="`local` starts the jobs on this machine, to try a matrix without a cluster."
    )

    @field_validator("time", mode="before")
    @classmethod
    def _in_minutes(cls, value: Any) -> Any:
        if not isinstance(value, str) or value.isdecimal():
            return value
        found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", value)
        if found is None:
            raise ValueError("must be minutes, minutes:seconds, hours:minutes:seconds, or days-hours[:minutes]")
        days, *parts = (int(part) if part else None for part in found.groups())
        if days is not None or parts[2] is not None:
            hours, minutes, seconds = (part or 0 for part in parts)
        else:
            hours, minutes, seconds = 0, parts[0] or 0, parts[1] or 0
        return math.ceil((days or 0) * 1440 + hours * 60 + minutes + seconds / 60)


class SlurmPool:
    """Stages as Slurm jobs. Those that begin together and take the same are one array."""

    def __init__(self, store: Store, jobs: int | None, settings: SlurmSettings) -> None:
        self.slots = jobs or UNLIMITED
        self._store, self._settings = store, settings
        base = settings.folder or Path(store.root) / "slurm"
        self._folder = base.absolute() / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self._new: list[_Job] = []
        self._jobs: list[_Job] = []
        self._asked = 0.0
        self._failed = False

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Have a stage submitted by the next `events`, together with those that are started at the same time."""
        self._new.append(_Job(stage, notes))

    def events(self, seconds: float) -> list[Event]:
        """How far the jobs are, and what became of those that ended; those that were lost are submitted again.

        Raises:
            ServiceError: Slurm takes no job.
        """
        self._submit()
        time.sleep(seconds)
        alive, events = self._alive(), []
        for job in list(self._jobs):
            outcome = self._outcome(job, alive)
            if outcome is None:
                if (progress := job.progress(self._folder)) is not None:
                    events.append(Event(job.stage, *progress))
                continue
            self._jobs.remove(job)
            if isinstance(outcome, str):  # why it was lost
                warn_once(f"{job.stage.name}: Slurm job {job.id} {outcome}; its stage is submitted again")
                self._new.append(_Job(job.stage, job.notes, job.tries + 1))
            else:
                self._failed |= outcome.status == "failed"
                events.append(Event(job.stage, outcome=outcome))
        return events

    def close(self) -> None:
        """Cancel what is not done, and remove the folder of the jobs, unless one failed."""
        self._new.clear()
        if self._jobs and self._settings.cluster == "slurm":
            with suppress(ServiceError):
                _slurm("scancel", *(job.id for job in self._jobs))
        elif self._jobs:
            for job in self._jobs:
                job.submitted.cancel(check=False)
        elif not self._failed:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._jobs.clear()

    def _submit(self) -> None:
        groups: dict[tuple[Any, ...], list[_Job]] = defaultdict(list)
        for job in self._new:
            groups[self._takes(job.stage)].append(job)
        self._new = []
        for (function, cpus, gpus, memory), jobs in groups.items():
            executor = self._executor(f"radpo-{function}", cpus, gpus, memory)
            try:
                with executor.batch():
                    for job in jobs:
                        task = _Task(job.stage, self._store, job.notes, cpus, job.folder(self._folder))
                        job.submitted = executor.submit(task)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                raise ServiceError(f"executor slurm: sbatch: {clean_message(str(error).strip())}") from error
            self._jobs += jobs
            self._asked = time.monotonic()

    def _takes(self, stage: Stage) -> tuple[str, int, int, float | None]:
        asked, settings = stage.hints.get("resources", {}), self._settings
        gpus = asked["gpus"] if "gpus" in asked else settings.gpus * gpus_of(stage)
        gpus += gpus_of_servers(stage)
        cpus, memory = asked.get("cpus", settings.cpus), asked.get("memory_gib", settings.memory_gib)
        return stage.function_name, cpus, math.ceil(gpus), memory

    def _executor(self, name: str, cpus: int, gpus: int, memory: float | None) -> Any:
        import submitit

        logging.getLogger("submitit").setLevel(logging.ERROR)  # it writes to standard output
        settings = self._settings
        made = submitit.AutoExecutor(
            self._folder, cluster=settings.cluster, slurm_max_num_timeout=settings.requeues,
            local_max_num_timeout=settings.requeues, slurm_python=settings.python,
        )  # fmt: skip
        slurm = {
            "partition": settings.partition, "account": settings.account, "qos": settings.qos,
            "constraint": settings.constraint, "exclude": settings.exclude, "array_parallelism": settings.array_limit,
            "signal_delay_s": settings.warning_seconds, "setup": list(settings.setup) or None,
            # Slurm 22.05 and later do not hand a job's cores on to its steps by themselves.
            "srun_args": [f"--cpus-per-task={cpus}"], "additional_parameters": settings.sbatch or None,
        }  # fmt: skip
        made.update_parameters(
            name=name, timeout_min=settings.time, cpus_per_task=cpus, **({"gpus_per_node": gpus} if gpus else {}),
            **({} if memory is None else {"mem_gb": memory}),
            **{f"slurm_{key}": value for key, value in slurm.items() if value is not None},
        )  # fmt: skip
        return made

    def _alive(self) -> set[str] | None:
        """The jobs that Slurm has in its queue, waiting or running; None where it was asked a moment ago."""
        if not self._jobs or time.monotonic() - self._asked < self._settings.poll_seconds:
            return None
        self._asked = time.monotonic()
        if self._settings.cluster == "local":
            return {job.id for job in self._jobs if not job.submitted.done()}
        try:
            return set(_slurm("squeue", "--me", "--array", "--noheader", "--format=%i").split())
        except ServiceError:  # a moment without an answer is no end of a job
            return None

    def _outcome(self, job: _Job, alive: set[str] | None) -> Outcome | str | None:
        """How a job ended; why, where it was lost and is to be submitted again; None where it has not ended."""
        from submitit.core.utils import pickle_load

        paths = job.submitted.paths
        if paths.result_pickle.exists():
            kind, result = pickle_load(paths.result_pickle)
            if kind == "success":
                found: Outcome = result
                return found
            last = str(result).strip().splitlines()[-1]
            return Outcome("failed", job.describe(f"failed: {last}"), exit_status=UNEXPECTED)
        if alive is None:
            return None
        job.missing = 0 if job.id in alive else job.missing + 1
        if job.missing < MISSING_POLLS:
            return None
        state = job.state()
        if hint := FINAL.get(state):
            return Outcome("failed", job.describe(f"ended as {state}; {hint}"), exit_status=3)
        interrupted = (job.folder(self._folder) / INTERRUPTED).exists()
        lost = state in LOST or (interrupted and state != "CANCELLED")
        if lost and job.tries < self._settings.requeues:
            return f"was interrupted ({state})"
        return Outcome("failed", job.describe(f"ended without a result ({state})"), exit_status=3)


LOST = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"})
"""States of Slurm's that say nothing of the job itself."""
INTERRUPTED = "interrupted"
"""The file that a job leaves which was told to end."""


@dataclass
class _Job:
    stage: Stage
    notes: Mapping[str, Any]
    tries: int = 0
    submitted: Any = None
    """submitit's job."""
    missing: int = 0

    @property
    def id(self) -> str:
        found: str = self.submitted.job_id
        return found

    def folder(self, base: Path) -> Path:
        return base / f"{self.stage.key}-{self.tries}"

    def progress(self, base: Path) -> tuple[int, int] | None:
        try:
            done, total = json.loads((self.folder(base) / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return done, total

    def state(self) -> str:
        """The state that Slurm's accounting has of an ended job, without what it adds to it."""
        info = self.submitted.get_info(mode="force")
        return str(info.get("State") or info.get("jobState") or "unknown to Slurm").split(" by ")[0]

    def describe(self, what: str) -> str:
        """A sentence about the job, the file of its log and the log's end."""
        paths = self.submitted.paths
        logs = [path for path in (paths.stderr, paths.stdout) if path.exists() and path.stat().st_size]
        log = logs[0] if logs else paths.stdout
        lines = last_lines(log)
        where = f"the end of its log, {log}:" if lines else f"its log is {log}"
        return "\n    ".join([f"Slurm job {self.id} {what}; {where}", *lines])


class _Task:
    """What a job does. Where it is told to make room, submitit calls `checkpoint` and puts it back into the queue."""

    def __init__(self, stage: Stage, store: Store, notes: Mapping[str, Any], threads: int, folder: Path) -> None:
        self._stage, self._store, self._notes, self._threads, self._folder = stage, store, dict(notes), threads, folder

    def __call__(self) -> Outcome:
        divide_threads(self._threads)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / INTERRUPTED).unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, self._end)
        last = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > REPORT_SECONDS:
                last = time.monotonic()
                replace_json(self._folder / "progress.json", [done, total])

        return execute(self._stage, self._store, self._notes, progress)

    def checkpoint(self) -> Any:
        """The same once more: what is to be resumed from lies in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _end(self, number: int, frame: object) -> None:
        """Leave in order, as Slurm cancels or preempts with this signal before it kills."""
        replace_file(self._folder / INTERRUPTED, lambda path: path.write_text(str(os.getpid()), encoding="utf-8"))
        sys.exit(128 + number)


def _slurm(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = clean_message(str(getattr(error, "stderr", None) or error).strip())
        raise ServiceError(f"executor slurm: {command[0]}: {said}") from error


def _ready(settings: SlurmSettings, stages: Sequence[Stage]) -> str | None:
    need_package("submitit", "executor slurm", "radpo[slurm]")
    lacking = [command for command in COMMANDS if shutil.which(command) is None]
    if settings.cluster == "slurm" and lacking:
        return f"executor slurm: no {', '.join(lacking)} on the PATH; run this where Slurm's commands are"
    return None


EXECUTOR = Executor("slurm", SlurmSettings, SlurmPool, _ready)
