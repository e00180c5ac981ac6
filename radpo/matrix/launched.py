"""A plan's stages in several processes that were started together, as `accelerate launch -m radpo train` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from radpo.core.errors import RadpoError
from radpo.core.progress import no_progress
from radpo.engine.execute import execute
from radpo.engine.graph import Stage, Task
from radpo.engine.store import Store

TRAIN = "train"
"""The function of the stages that all processes compute together."""


def is_launched() -> bool:
    """Whether this is one of several processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def compute_together(stages: Sequence[Stage], store: Store) -> bool:
    """Compute what the store lacks: the first process everything, and all of them together what trains.

    Returns:
        Whether this is the first process.

    Raises:
        RadpoError: a stage failed.
    """
    import torch
    from accelerate import PartialState

    processes = PartialState(cpu=not torch.cuda.is_available())

    def together(stage: Stage, task: Task) -> None:
        processes.wait_for_everyone()  # the first one has made the folder
        stage.function.run(replace(task, stage=stage))

    if missing := [stage for stage in stages if not store.has(stage)]:
        store.check_writable(missing)
    processes.wait_for_everyone()
    for stage in stages:
        there = store.has(stage)
        processes.wait_for_everyone()  # all have looked before one of them writes
        if there:
            continue
        trains = stage.function_name == TRAIN
        if processes.is_main_process:
            joined = replace(stage.function, run=partial(together, stage))
            outcome = execute(replace(stage, function=joined) if trains else stage, store, {}, no_progress)
            if outcome.status not in ("computed", "kept"):
                error = RadpoError(f"{stage.name}: {outcome.message or outcome.status}")
                error.exit_status = outcome.exit_status
                raise error
        elif trains:
            os.environ.update(stage.settings.get("environment", {}))
            inputs = {name: store.folder(needed) for name, needed in stage.inputs.items()}
            together(stage, Task(stage, inputs, store.partial(stage), no_progress))
        processes.wait_for_everyone()
    return bool(processes.is_main_process)
