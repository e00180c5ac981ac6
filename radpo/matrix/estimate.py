"""The plan's figures: what each stage takes, and the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from radpo.benchmarks.registry import stage_costs
from radpo.benchmarks.sizes import SizeHints, Sizes
from radpo.benchmarks.work import Work
from radpo.engine.graph import Stage
from radpo.engine.store import Store
from radpo.matrix import training_stages
from radpo.matrix.machines import Machine, corrections, seconds

ON_SEVERAL_GPUS = ("train",)
"""The stages that can use more than one GPU (`radpo.engine.distributed`)."""


@dataclass(frozen=True)
class StageEstimate:
    """What one stage takes.

    Args:
        work: None where it cannot be said beforehand.
        seconds: on the machine in question: measured for what the store has, estimated for the rest.
        measured: whether the seconds rest on the store's records: its own, or those of stages of its kind.
        gpus: how many GPUs it computes on together, 1 where there are none.
    """

    stage: Stage
    in_store: bool
    work: Work | None
    seconds: float | None
    measured: bool
    gpus: int = 1


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Args:
        wall_seconds: from now to the end of what is to do, with `jobs` stages at once.
    """

    stages: tuple[StageEstimate, ...]
    machine: Machine
    jobs: int
    wall_seconds: float

    @property
    def to_do(self) -> list[StageEstimate]:
        """What the store lacks."""
        return [item for item in self.stages if not item.in_store]

    @property
    def gpu_hours(self) -> float | None:
        """Hours of GPUs that what is to do takes, of several as many times; None where the machine is none of GPUs."""
        if self.machine.memory is None:
            return None
        computing = [item for item in self.to_do if item.work and item.work.parameters]
        return sum((item.seconds or 0.0) * item.gpus for item in computing) / 3600

    def seconds_by_key(self) -> dict[str, float]:
        """Estimated seconds of what is to do; a stage of which nothing is known counts as one second."""
        return {item.stage.key: item.seconds or 1.0 for item in self.to_do}

    def notes_by_key(self) -> dict[str, dict[str, Any]]:
        """What a stage's record is to hold of its work, so that later plans learn from how long it took."""
        return {item.stage.key: {"work": None if item.work is None else asdict(item.work)} for item in self.to_do}


def estimate(
    stages: Sequence[Stage],
    store: Store,
    machine: Machine,
    jobs: int,
    hints: SizeHints | None = None,
    missing: Sequence[Stage] | None = None,
) -> Estimate:
    """What stages take, and when they will be done.

    Args:
        stages: in order, inputs first.
        hints: sizes of what is not here.
        missing: the stages that the store lacks, where that was looked for already.

    Raises:
        RadpoError: a model or data cannot be had, and nothing hints at its size.
    """
    sizes, learned = Sizes(hints or SizeHints()), corrections(store, machine)
    lacking = {stage.key for stage in ([s for s in stages if not store.has(s)] if missing is None else missing)}
    items = []
    for stage in stages:
        work, in_store = count_work(sizes, stage), stage.key not in lacking
        guess = None if work is None else seconds(stage.function_name, work, machine)
        measured = stage.function_name in learned
        if guess is not None and measured:
            guess *= learned[stage.function_name]
        gpus = gpus_of(stage, machine)
        if guess is not None:
            guess /= gpus
        if in_store and machine.this:
            guess, measured = store.record(stage.key)["seconds"], True
        items.append(StageEstimate(stage, in_store, work, guess, measured, gpus))
    wall = wall_seconds(
        [item.stage for item in items if not item.in_store],
        {item.stage.key: item.seconds or 0.0 for item in items},
        jobs,
        {item.stage.key: item.gpus for item in items},
    )
    return Estimate(tuple(items), machine, jobs, wall)


def count_work(sizes: Sizes, stage: Stage) -> Work | None:
    """What a stage has to do; None where that cannot be said beforehand.

    Raises:
        RadpoError: the model or the data that it reads cannot be had, and nothing hints at its size.
    """
    count = {**training_stages.COSTS, **stage_costs()}.get(stage.function_name)
    return None if count is None else count(sizes, stage)


def gpus_of(stage: Stage, machine: Machine) -> int:
    """How many of a machine's GPUs a stage computes on: what the matrix gives it, as far as it can use several."""
    asked = stage.hints.get("resources", {}).get("gpus", 1)
    return max(1, min(int(asked), machine.gpus)) if stage.function_name in ON_SEVERAL_GPUS else 1


def wall_seconds(
    to_do: Sequence[Stage], took: Mapping[str, float], jobs: int, places: Mapping[str, int] | None = None
) -> float:
    """When the last stage ends if free places take the next stage whose inputs are there.

    Args:
        to_do: in order, inputs first; what is not among them is there already.
        took: seconds by key.
        places: how many places a stage takes, by key; one, unless given.
    """
    free = [0.0] * jobs
    ends: dict[str, float] = {}
    for stage in to_do:
        ready = max((ends.get(needed.key, 0.0) for needed in stage.inputs.values()), default=0.0)
        taken = min((places or {}).get(stage.key, 1), jobs)
        ends[stage.key] = max(free[taken - 1], ready) + took[stage.key]
        free = sorted([ends[stage.key]] * taken + free[taken:])
    return max(ends.values(), default=0.0)
