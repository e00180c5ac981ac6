"""Executors: a list of stages and a store come in; when they are done, every stage is in the store."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from radpo.matrix.graph import Stage, Task, in_order
from radpo.matrix.store import Store


@dataclass(frozen=True)
class Done:
    """How one stage was had. `seconds` and `peak_mib` are of the run that computed it, be it an earlier one."""

    stage: Stage
    from_store: bool
    seconds: float
    peak_mib: float | None


class Observer(Protocol):
    """Who is told how a run goes."""

    def begins(self, stage: Stage) -> None:
        """A stage is about to be computed."""
        ...

    def progresses(self, stage: Stage, done: int, total: int) -> None:
        """A stage is `done` of `total` through."""
        ...

    def ends(self, done: Done) -> None:
        """A stage is in the store."""
        ...


def run_local(wanted: Sequence[Stage], store: Store, observer: Observer) -> list[Done]:
    """Compute what the store lacks, one stage after the other, in this process."""
    return [_have(stage, store, observer) for stage in in_order(wanted)]


def _have(stage: Stage, store: Store, observer: Observer) -> Done:
    if not store.has(stage):
        with store.lock(stage):
            if not store.has(stage):  # another run may have finished it meanwhile
                observer.begins(stage)
                store.produce(stage, lambda folder: _compute(stage, store, folder, observer))
                done = _done(stage, store, from_store=False)
                observer.ends(done)
                return done
    done = _done(stage, store, from_store=True)
    observer.ends(done)
    return done


def _compute(stage: Stage, store: Store, folder: Path, observer: Observer) -> dict[str, Any]:
    _reset_peak_memory()
    start = time.perf_counter()
    task = Task(
        stage=stage,
        inputs={name: store.folder(needed) for name, needed in stage.inputs.items()},
        out=folder,
        progress=lambda done, total: observer.progresses(stage, done, total),
    )
    stage.function.run(task)
    notes = {"seconds": round(time.perf_counter() - start, 3), "peak_mib": _peak_memory_mib()}
    _give_memory_back()
    return notes


def _done(stage: Stage, store: Store, *, from_store: bool) -> Done:
    record = store.record(stage)
    return Done(stage, from_store=from_store, seconds=record["seconds"], peak_mib=record["peak_mib"])


def _give_memory_back() -> None:
    """Free the stage's models before the next loads its own, and have the C library return what it holds on to.

    Without the second, glibc keeps gigabytes of a training stage's freed blocks until the process ends.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _reset_peak_memory() -> None:
    """Linux forgets this process's high-water mark of resident memory; elsewhere nothing is measured."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_memory_mib() -> float | None:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return round(int(found[1]) / 1024, 1) if found else None
