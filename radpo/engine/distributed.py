"""A training stage on several GPUs, one process each, which together write what one process would.

The model's weights, gradients and optimiser state are split over the processes (PyTorch's FSDP2, through accelerate).
torchrun starts them; the first one's progress comes back through its standard output, an error through a file.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from radpo.core.errors import ConfigError, RadpoError
from radpo.core.machine import cores
from radpo.engine.graph import Function, Stage, Task
from radpo.engine.sources import Source

SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch` sets for benchmarks/accelerate/fsdp.yaml."""
_PROGRESS = "radpo progress"
_TASK, _ERROR = "task.json", "error.json"


def launch_distributed(task: Task, processes: int) -> None:
    """Have so many processes run a stage's function together.

    Raises:
        ConfigError: there are fewer GPUs.
        RadpoError: a process failed.
    """
    import torch

    on_gpus = torch.cuda.is_available()
    if on_gpus and torch.cuda.device_count() < processes:
        raise ConfigError(
            f"resources.{task.stage.function_name}.gpus: {processes} are asked for, and the stage sees "
            f"{torch.cuda.device_count()}; ask for no more, or use machines that have them (--executor ray or slurm)"
        )
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or cores()) // processes)
    environment = {**os.environ, **SHARDED, "OMP_NUM_THREADS": str(threads)}
    if not on_gpus:
        environment["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory(prefix="radpo-") as folder:
        (Path(folder) / _TASK).write_text(json.dumps(_described(task)), encoding="utf-8")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
            "-m", "radpo.engine.distributed", folder,
        ]  # fmt: skip
        # Their standard input is a pipe that closes when this process ends, however it ends: then they end as well.
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as launched:
            try:
                _pass_on(launched, task)
            except BaseException:
                launched.terminate()
                raise
        if launched.returncode:
            raise _failure(Path(folder) / _ERROR, launched.returncode, processes)


def _pass_on(launched: subprocess.Popen[str], task: Task) -> None:
    assert launched.stdout is not None
    for line in launched.stdout:
        if line.startswith(_PROGRESS):
            done, total = line.removeprefix(_PROGRESS).split()
            task.progress(int(done), int(total))
        else:
            print(line, end="", flush=True)


def _failure(report: Path, status: int, processes: int) -> RadpoError:
    """The first process's own account, where there is one."""
    error = RadpoError(f"one of {processes} processes failed, and torchrun ended with status {status}")
    if report.is_file():
        document = json.loads(report.read_text(encoding="utf-8"))
        error = RadpoError(document["message"])
        error.exit_status = document["exit_status"]
    return error


def _described(task: Task) -> dict[str, Any]:
    stage = task.stage
    return {
        "name": stage.name,
        "function_name": stage.function_name,
        "function": {part.name: _to_json(getattr(stage.function, part.name)) for part in fields(Function)},
        "settings": _to_json(stage.settings),
        "hints": _to_json(stage.hints),
        "inputs": {name: str(folder) for name, folder in task.inputs.items()},
        "out": str(task.out),
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, Source):
        return {"location": value.read_from, "identity": value.identity}
    if callable(value):
        return {"module": value.__module__, "qualname": value.__qualname__}
    if isinstance(value, Mapping):
        return {key: _to_json(inner) for key, inner in value.items()}
    return [_to_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"location", "identity"}:
            return Source(**value)
        if value.keys() == {"module", "qualname"}:
            return getattr(importlib.import_module(value["module"]), value["qualname"])
        return {key: _from_json(inner) for key, inner in value.items()}
    return [_from_json(inner) for inner in value] if isinstance(value, list) else value


def _task(document: Mapping[str, Any], first: bool) -> Task:
    def progress(done: int, total: int) -> None:
        if first:
            print(_PROGRESS, done, total, flush=True)

    parts: dict[str, Any] = _from_json(document["function"])
    parts = {name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()}
    function = Function(**parts)
    settings, hints = _from_json(document["settings"]), _from_json(document["hints"])
    stage = Stage(document["name"], document["function_name"], function, settings, hints=hints)
    inputs = {key: Path(folder) for key, folder in document["inputs"].items()}
    return Task(stage, inputs, Path(document["out"]), progress)


def _end_with_the_parent() -> None:
    while os.read(0, 1):  # by its number: a lock on sys.stdin would be in the interpreter's way when it ends
        pass
    os._exit(1)


def worker_main(folder: Path, first: bool) -> int:
    """Do the task in `folder` together with the other processes; the exit status.

    Args:
        first: whether this is the process that tells how far they are.
    """
    task = _task(json.loads((folder / _TASK).read_text(encoding="utf-8")), first)
    try:
        task.stage.function.run(task)
    except RadpoError as error:
        report = {"message": str(error), "exit_status": error.exit_status}  # of several, the first counts
        with suppress(FileExistsError), (folder / _ERROR).open("x", encoding="utf-8") as stream:
            json.dump(report, stream)
        return 1
    return 0


def main(folder: Path) -> int:
    """One of the processes that torchrun starts."""
    import torch
    from accelerate import PartialState

    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    processes = PartialState(cpu=not torch.cuda.is_available())
    try:
        return worker_main(folder, processes.is_main_process)
    finally:
        processes.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
