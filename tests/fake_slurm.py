"""A stand-in for Slurm's commands: a cluster of one node without a queue, as far as radpo and submitit use one.

`install(folder)` puts the commands into a folder; their state is in its `state`, a file `ID.STATE` and more a job. A
job's steps are told to make room by signals, as Slurm tells them, and are begun again where `scontrol requeue` says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SRUN = """#!/bin/sh
while true; do case $1 in
  --output) out=$2; shift 2;; --error) err=$2; shift 2;; --*) shift;; *) break;;
esac; done
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; id=${id:-$SLURM_JOB_ID}
name() { echo "$1" | sed "s/%A_%a/$id/; s/%j/$id/; s/%t/0/"; }
echo $$ > "STATE/$id.step"
exec "$@" >> "$(name "$out")" 2>> "$(name "$err")"
"""
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")


def install(folder: Path) -> Path:
    """Put the commands into a folder; returns that of their state."""
    state = folder / "state"
    state.mkdir(parents=True)
    for name in COMMANDS:
        call = f"#!/bin/sh\nexec '{sys.executable}' -S -E '{__file__}' {name} '{state}' \"$@\"\n"
        (folder / name).write_text(call)
    (folder / "srun").write_text(SRUN.replace("STATE", str(state)))
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o755)
    return state


def states(state: Path) -> dict[str, str]:
    """Of every job the state, by its id."""
    return {path.name.rpartition(".")[0]: path.read_text() for path in state.glob("*.state")}


def tell(state: Path, job: str, number: int, then: str = "") -> None:
    """Send a job's step a signal; its state is `then` once it has ended, unless it is put into the queue again."""
    if then:
        (state / f"{job}.then").write_text(then)
    os.kill(int((state / f"{job}.step").read_text()), number)


def _options(script: Path) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def sbatch(state: Path, script: str) -> None:
    number = len(list(state.glob("*.submitted"))) + 1
    (state / f"{number}.submitted").write_text(Path(script).read_text())
    array = _options(Path(script)).get("array")
    elements = [""] if array is None else map(str, range(int(array.split("%")[0].split("-")[1]) + 1))
    for element in elements:
        job = f"{number}_{element}" if element else f"{number}"
        (state / f"{job}.state").write_text("RUNNING")
        subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, "run", str(state), script, str(number), element],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    print(f"Submitted batch job {number}")


def run(state: Path, script: str, number: str, element: str) -> None:
    job = f"{number}_{element}" if element else number
    array = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": element} if element else {}
    environment = {**os.environ, "SLURM_JOB_ID": number, **array}
    requeued = state / f"{job}.requeue"
    while True:
        status = subprocess.run(["bash", script], env=environment, check=False).returncode
        if not requeued.exists():
            break
        requeued.unlink()
    then = state / f"{job}.then"
    (state / f"{job}.state").write_text(then.read_text() if then.exists() else "FAILED" if status else "COMPLETED")


def squeue(state: Path, *options: str) -> None:
    print("\n".join(job for job, found in states(state).items() if found == "RUNNING"))


def sacct(state: Path, *options: str) -> None:
    print("JobID|State|NodeList")
    for job, found in states(state).items():
        print(f"{job}|{found}|here")


def scancel(state: Path, *jobs: str) -> None:
    for job in jobs:
        for _ in range(100):  # a job that has just been submitted may have no step yet
            if (state / f"{job}.step").exists():
                break
            time.sleep(0.05)
        tell(state, job, signal.SIGTERM, then="CANCELLED by 0")


def scontrol(state: Path, requeue: str, job: str) -> None:
    (state / f"{job}.requeue").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
