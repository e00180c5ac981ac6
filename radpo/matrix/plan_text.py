"""A plan for people and for programs: lines of text, or a JSON document."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radpo.matrix.estimate import Estimate, StageEstimate
from radpo.matrix.spending import Most


@dataclass(frozen=True)
class TuningPlan:
    """What is tried before the best of it is reported.

    Args:
        metric: what the settings are chosen by.
        trials: how many settings are tried, by variant, each with so many `seeds`.
        prompts: how many prompts are tuned on, how many reported, and how many of these are similar to any of those.
        chosen: the settings, by model and variant; None where the choice is yet to be made.
        keys: of the stages that are tried; some of them may be reported, too.
    """

    metric: str
    trials: Mapping[str, int]
    seeds: int
    prompts: Mapping[str, int]
    chosen: Mapping[str, Mapping[str, Any]] | None
    keys: frozenset[str]


def plan_json(
    name: str,
    expected: Estimate,
    absent: Sequence[str] = (),
    most: Most | None = None,
    tuning: TuningPlan | None = None,
) -> dict[str, Any]:
    """The plan as one document; seconds, bytes, US dollars. What cannot be said beforehand is null.

    Args:
        absent: models and files that are not here, so that their sizes are as the matrix states them.
        most: what can be spent at most, where something that is to do costs money.
        tuning: what is tried before, where settings are tuned.
    """
    nothing = _figures([])
    tried = {} if tuning is None else {"tuning": {**asdict(tuning), "keys": sorted(tuning.keys)}}
    return {
        **tried,
        "name": name,
        "machine": {
            "name": expected.machine.name,
            "float32_flops_per_second": expected.machine.float32,
            "bfloat16_flops_per_second": expected.machine.bfloat16,
            "gpus": 0 if expected.machine.memory is None else expected.machine.gpus,
            "gpu_memory_bytes": expected.machine.memory,
            "source": expected.machine.source,
        },
        "jobs": expected.jobs,
        "stages": [
            {
                "name": item.stage.name,
                "key": item.stage.key,
                "in_store": item.in_store,
                "needs": [needed.name for needed in item.stage.inputs.values()],
                "seconds": None if item.seconds is None else round(item.seconds, 3),
                "seconds_measured": item.measured,
                **(dict.fromkeys(nothing) if item.work is None else _figures([item])),
            }
            for item in expected.stages
        ],
        "all": _figures(expected.stages),
        "to_do": {**_figures(expected.to_do), "stages": len(expected.to_do)},
        "wall_seconds": round(expected.wall_seconds, 3),
        "at_most": None if most is None else asdict(most),
        "gpu_hours": None if expected.gpu_hours is None else round(expected.gpu_hours, 3),
        "too_large_for_its_gpus": [item.stage.name for item in _too_large(expected)],
        "size_hints": list(absent),
        "not_estimated": [item.stage.name for item in expected.stages if item.work is None],
    }


def plan_text(
    name: str,
    expected: Estimate,
    store: Path,
    absent: Sequence[str] = (),
    most: Most | None = None,
    tuning: TuningPlan | None = None,
) -> str:
    """The plan as a table, with what it comes to. Arguments as `plan_json`."""
    head = ("", "stage", "tokens", "FLOP", "time", "disk", "judge calls", "US$")
    rows = [head, *(_row(item) for item in expected.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    to_do = _figures(expected.to_do)
    lines += [
        "",
        f"{name}: {len(expected.stages)} stages, {len(expected.to_do)} to do: {_number(to_do['tokens']) or 0} tokens, "
        f"{_number(to_do['flops']) or 0} FLOP, {_time(expected.wall_seconds)} with {expected.jobs} "
        f"{'job' if expected.jobs == 1 else 'jobs'} on {expected.machine.name}, {_bytes(to_do['disk_bytes'])} of disk, "
        f"{to_do['judge_calls']} judge calls, {_dollars(to_do['judge_dollars'])}.",
    ]
    if tuning is not None:
        lines.append(_tuning(tuning, expected))
    if most is not None:
        lines.append(_most(most))
    guessed = sum(not item.measured for item in expected.to_do)
    if expected.gpu_hours is not None:
        lines.append(
            f"{expected.gpu_hours:.1f} GPU hours{_on_several(expected)}. Speeds are by {expected.machine.source}; all "
            "times are guesses (~)."
        )
    elif guessed:
        lines.append(
            f"The time of {guessed} stages is a guess from how fast the machine multiplies matrices (~); once the "
            "store has stages of their kind from this machine, it goes by those."
        )
    if unknown := [item.stage.name for item in expected.to_do if item.work is None]:
        lines.append(f"Not estimated, and in no sum: {', '.join(unknown)}.")
    if absent:
        lines.append(f"Not here; their sizes are those that the matrix states: {', '.join(absent)}.")
    if large := _too_large(expected):
        needs = max(item.work.memory_bytes / item.gpus for item in large if item.work)
        lines.append(
            f"NOT ENOUGH GPU MEMORY: weights, gradients and optimiser take {_bytes(needs)} of a GPU at least, which "
            f"has {_bytes(expected.machine.memory or 0)}: {', '.join(item.stage.name for item in large)}. "
            "Give training more of them (resources: {train: {gpus: 8}}), or train adapters (lora)."
        )
    needed = to_do["disk_bytes"] + max((i.work.scratch_bytes for i in expected.to_do if i.work), default=0)
    free = shutil.disk_usage(next(path for path in (store, *store.absolute().parents) if path.exists())).free
    if needed > free and expected.machine.this:
        lines.append(f"NOT ENOUGH DISK: {_bytes(needed)} are needed at most, {_bytes(free)} are free at {store}.")
    return "\n".join(lines)


def _tuning(tuning: TuningPlan, expected: Estimate) -> str:
    tried = ", ".join(f"{count} of {variant}" for variant, count in tuning.trials.items())
    prompts, figures = tuning.prompts, _figures([item for item in expected.to_do if item.stage.key in tuning.keys])
    dollars = f", {figures['judge_calls']} judge calls, {_dollars(figures['judge_dollars'])}"
    choice = (
        "the settings are chosen"
        if tuning.chosen is not None
        else "what is reported is planned with the settings that take most work, since the choice is yet to be made"
    )
    return (
        f"Tuning: settings tried: {tried}, with {tuning.seeds} {'seed' if tuning.seeds == 1 else 'seeds'} each, chosen "
        f"by {tuning.metric} on {prompts['tuning']} prompts, none of which is among the {prompts['reported']} that are "
        f"reported; to do for it: {_number(figures['flops']) or 0} FLOP{dollars * bool(figures['judge_calls'])}; "
        f"{choice}."
    )


def _most(most: Most) -> str:
    limits = [
        *([] if most.dollars is None else [f"${most.dollars:.2f}"]),
        *([] if most.requests is None else [f"{most.requests} requests"]),
    ]
    spent = f"; ${most.spent_dollars:.2f} and {most.spent_requests} requests of them are spent" * bool(
        most.spent_requests
    )
    if limits:
        return f"At most {' and '.join(limits)} can be spent, all reruns together{spent}."
    return f"Nothing limits what can be spent{spent}: set max_cost or max_requests in the matrix."


def _too_large(expected: Estimate) -> list[StageEstimate]:
    """What is to be trained and does not fit the memory of the GPUs that it is given."""
    memory = expected.machine.memory
    if memory is None:
        return []
    return [item for item in expected.to_do if item.work and item.work.memory_bytes / item.gpus > memory]


def _on_several(expected: Estimate) -> str:
    most = max((item.gpus for item in expected.to_do), default=1)
    split = f", training on {most} together and taken to be so many times as fast" if most > 1 else ""
    return f", {'other stages' if split else 'every stage'} on one GPU, {expected.jobs} at once{split}"


def _figures(items: Sequence[StageEstimate]) -> dict[str, Any]:
    """What stages come to together, those left out of which nothing can be said."""
    works = [item.work for item in items if item.work is not None]
    dollars = [work.judge_dollars for work in works]
    return {
        "tokens": round(sum(work.tokens for work in works)),
        "flops": sum(work.flops for work in works),
        "disk_bytes": round(sum(work.disk_bytes for work in works)),
        "scratch_bytes": round(max((work.scratch_bytes for work in works), default=0)),
        "judge_calls": sum(work.judge_calls for work in works),
        "judge_dollars": None if None in dollars else round(sum(cost for cost in dollars if cost), 6),
    }


def _row(item: StageEstimate) -> tuple[str, ...]:
    state, work = "in store" if item.in_store else "to do", item.work
    if work is None:
        return (state, item.stage.name, "?", "?", "?", "?", "?", "?")
    time = "?" if item.seconds is None else ("" if item.measured else "~") + _time(item.seconds)
    calls = f"{work.judge_calls}" if work.judge_calls else ""
    dollars = _dollars(work.judge_dollars) if work.judge_calls else ""
    return (
        state, item.stage.name, _number(work.tokens), _number(work.flops), time, _bytes(work.disk_bytes), calls, dollars
    )  # fmt: skip


def _number(value: float) -> str:
    if not value:
        return ""
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P", "E", "Z"))


def _bytes(value: float) -> str:
    return _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(value: float, base: int, units: Iterable[str]) -> str:
    *smaller, largest = units
    for unit in smaller:
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= base
    return f"{value:.3g}{largest}"


def _time(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"


def _dollars(value: float | None) -> str:
    return "no price known" if value is None else f"${value:.2f}"
