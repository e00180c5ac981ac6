"""The Slurm executor, against stand-ins for Slurm's commands and on submitit's own local cluster."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cheap_stages import COUNT, GPU, Watcher, run_inline, stage
from fake_slurm import install, states, tell

from radpo.core.errors import ConfigError, ServiceError
from radpo.engine.executors import check_options, find_executor
from radpo.engine.graph import Stage, in_order
from radpo.engine.schedule import StageError, run_stages
from radpo.engine.slurm import SlurmPool, SlurmSettings
from radpo.engine.store import Store

QUICK = {"poll_seconds": 0.1, "time": 30, "cpus": 1}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands on the PATH; the folder of their state. Jobs find the tests' modules as this process does."""
    state = install(tmp_path / "bin")
    here = Path(__file__).parent
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent)]))
    return state


class Disturbed(SlurmPool):
    """A pool to which something happens between its looks at the queue."""

    happens: Callable[[SlurmPool], None]

    def events(self, seconds: float) -> Any:
        self.happens(self)
        return super().events(seconds)


def disturbed(store: Store, happens: Callable[[SlurmPool], None], **options: Any) -> SlurmPool:
    pool = Disturbed(store, None, SlurmSettings(**{**QUICK, **options}))
    pool.happens = happens
    return pool


def graph() -> list[Stage]:
    roots = [stage(f"root {n}", n) for n in range(2)]
    long = Stage("long", "count", COUNT, {"to": 8}, {"root": roots[0]}, {"sleep": 0.15})
    return [stage("top", "t", a=long, b=roots[1])]


def counted(store: Store) -> int:
    """How far the long stage is, while it is being computed."""
    return len(list((store.root / "partial").glob("*/work/*")))


def texts(store: Store) -> dict[str, str]:
    return {one.name: (store.folder(one) / "text").read_text() for one in in_order(graph())}


def test_a_matrix_that_is_preempted_twice_ends_as_an_undisturbed_one(tmp_path: Path, slurm: Path) -> None:
    """Once Slurm tells the job to make room and queues it again, once it ends the job for good."""
    store, done = Store(tmp_path / "slurm"), list[str]()

    def preempt(pool: SlurmPool) -> None:
        running = [job for job, state in states(slurm).items() if state == "RUNNING"]
        if counted(store) >= 2 and not done:
            tell(slurm, running[0], signal.SIGUSR2)
            done.append(running[0])
        elif counted(store) >= 5 and len(done) == 1:
            tell(slurm, running[0], signal.SIGTERM, then="PREEMPTED")
            done.append(running[0])

    watcher = Watcher()
    run_stages(graph(), store, disturbed(store, preempt), watcher)
    assert len(done) == 2
    assert watcher.failed == []
    run_inline(Store(tmp_path / "undisturbed"), *graph())
    assert texts(store) == texts(Store(tmp_path / "undisturbed"))
    long = next(one for one in in_order(graph()) if one.name == "long")
    assert store.log(long).read_text().count("--- ") == 3, "it was begun three times"
    (begun,) = store.folder(long).glob("began-at-*")
    assert int(begun.name.removeprefix("began-at-")) >= 5, "where it had stopped"
    assert {re.sub(r"_\d+$", "", job) for job in states(slurm)} == {"1", "2", "3", "4"}, "both roots are one array"
    assert not any((store.root / "slurm").iterdir()), "nothing is left of the jobs"


def test_the_local_cluster_of_submitit_requeues_a_preempted_stage(tmp_path: Path, slurm: Path) -> None:
    store, told = Store(tmp_path / "store"), list[int]()

    def preempt(pool: SlurmPool) -> None:
        if counted(store) >= 2 and not told:
            (log,) = [path for path in (store.root / "logs").iterdir() if "long" in path.read_text()]
            told.append(int(log.read_text().split("process ")[1].split()[0]))
            os.kill(told[0], signal.SIGUSR2)

    long = graph()[0].inputs["a"]
    run_stages([long], store, disturbed(store, preempt, cluster="local"), Watcher())
    assert told
    assert (store.folder(long) / "text").read_text() == "8"
    assert store.log(long).read_text().count("--- ") == 2
    assert states(slurm) == {}


def test_a_failure_and_a_lost_job_name_the_file_of_the_log(tmp_path: Path, slurm: Path) -> None:
    store = Store(tmp_path / "store")
    bad, dies = stage("bad", "b", hints={"fail": True}), stage("dies", "d", hints={"die": True})
    with pytest.raises(StageError) as failure:
        run_stages([bad, dies], store, disturbed(store, lambda pool: None), Watcher(), keep_going=True)
    said = str(failure.value)
    assert "bad failed: ValueError: no luck" in said
    assert str(store.log(bad)) in said
    found = re.search(r"dies failed: Slurm job (\S+) ended without a result \(FAILED\)", said)
    assert found, said
    log = re.search(r"the end of its log, (\S+):", said)
    assert log
    assert Path(log[1]).name.startswith(found[1])
    assert Path(log[1]).exists(), "what a failed job left is kept"
    assert failure.value.exit_status == 70


def test_an_interrupted_run_cancels_its_jobs(tmp_path: Path, slurm: Path) -> None:
    store = Store(tmp_path / "store")

    def interrupt(pool: SlurmPool) -> None:
        if counted(store):
            raise KeyboardInterrupt

    slow = Stage("slow", "count", COUNT, {"to": 1000}, {}, {"sleep": 0.05})
    with pytest.raises(KeyboardInterrupt):
        run_stages([slow], store, disturbed(store, interrupt), Watcher())
    deadline = time.monotonic() + 20
    while "RUNNING" in states(slurm).values() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(states(slurm).values()) == {"CANCELLED by 0"}
    assert counted(store), "what it had saved is kept for the next try"


def test_a_job_asks_for_what_the_matrix_file_says(tmp_path: Path, slurm: Path) -> None:
    options: dict[str, Any] = {
        "partition": "gpu", "account": "us", "qos": "low", "time": "1-12:30:00", "array_limit": 3, "memory_gib": 1.5,
        "setup": ["module load cuda"], "sbatch": {"reservation": "mine"}, "exclude": "n1", "constraint": "h100",
    }  # fmt: skip
    pool = SlurmPool(Store(tmp_path), None, SlurmSettings(**options))
    (model, plain, large) = (
        Stage("model", "see", GPU, {}),
        stage("plain", "p"),
        Stage("large", "train", GPU, {}, {}, {"resources": {"gpus": 8, "cpus": 32, "memory_gib": 400}}),
    )
    scripts = {}
    for one in (model, plain, large):
        function, cpus, gpus, memory = pool._takes(one)
        made = pool._executor(f"radpo-{function}", cpus, gpus, memory)
        scripts[one.name] = made._executor._make_submission_file_text("true", "u")
    told = scripts["model"]
    for line in (
        "partition=gpu", "account=us", "qos=low", "time=2190", "gpus-per-node=1", "cpus-per-task=4", "mem=1536MB",
        "reservation=mine", "exclude=n1", "constraint=h100", "job-name=radpo-see", "signal=USR2@90",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in told, line
    assert "\nmodule load cuda\n" in told
    assert "--cpus-per-task=4 true" in told
    assert "gpus" not in scripts["plain"]
    assert "gpus-per-node=8\n" in scripts["large"]
    assert "cpus-per-task=32\n" in scripts["large"]
    assert "mem=400GB\n" in scripts["large"]


@pytest.mark.parametrize(
    ("written", "minutes"), [(90, 90), ("90", 90), ("90:30", 91), ("4:00:00", 240), ("2-00", 2880), ("1-2:30", 1590)]
)
def test_times_are_written_as_slurm_writes_them(written: Any, minutes: int) -> None:
    assert check_options("slurm", {"time": written}).time == minutes


def test_what_is_wrong_is_said_before_and_when_slurm_refuses(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="time: must be minutes"):
        check_options("slurm", {"time": "soon"})
    with pytest.raises(ConfigError, match=r"partitoin.*did you mean 'partition'"):
        check_options("slurm", {"partitoin": "gpu"})
    ready = find_executor("slurm").ready
    assert ready is not None
    assert ready(SlurmSettings(), []) is None
    (tmp_path / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified' >&2\nexit 1\n"
    )
    store = Store(tmp_path / "store")
    with pytest.raises(ServiceError, match=r"executor slurm: sbatch: .*invalid partition specified"):
        run_stages([stage("one", 1)], store, SlurmPool(store, None, SlurmSettings(partition="no")), Watcher())
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert ready(SlurmSettings(), []) == (
        "executor slurm: no sbatch, srun, squeue, scancel, scontrol on the PATH; run this where Slurm's commands are"
    )
    assert ready(SlurmSettings(cluster="local"), []) is None
