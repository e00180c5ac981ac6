"""Garbage collected over and over beside runs, imports and exports, on cheap stages: what fails, and what is missing.

The short form is in the test suite, the long one benchmarks/faults/gc.py.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cheap_stages import run_inline, stage

from radpo.core.errors import DataError
from radpo.engine.carry import export_stages, import_stages
from radpo.engine.gc import collect
from radpo.engine.graph import Stage, in_order
from radpo.engine.store import Store


def graph(number: int) -> list[Stage]:
    """Seven stages that no other number has."""
    roots = [stage(f"root {n}", f"{number}.{n} ") for n in range(2)]
    tops = [stage(f"top {n}", f"t{n} ", a=roots[0], b=roots[1]) for n in range(4)]
    return in_order([stage("join", "j", **{f"i{n}": top for n, top in enumerate(tops)})])


def collect_until(root: Path, stop: Any, failed: Path) -> None:
    """Remove whatever nobody uses or needs, again and again, until an event is set."""
    try:
        while not stop.is_set():
            collect(Store(root), [stage("needed", "by somebody else")], dry_run=False)
    except BaseException:
        failed.write_text(traceback.format_exc())
        raise


@contextmanager
def collecting(root: Path, start: Callable[..., Any], event: Any) -> Iterator[None]:
    """Garbage is collected meanwhile, in a thread or a process of its own."""
    failed = root.with_name(f"{root.name}-failed.txt")
    worker = start(target=collect_until, args=(root, event, failed))
    worker.start()
    try:
        yield
    finally:
        event.set()
        worker.join()
    assert not failed.exists(), failed.read_text()


def run_rounds(store: Store, rounds: int) -> None:
    """Runs: at the end of each every stage is there, and each was computed once."""
    for number in range(rounds):
        stages = graph(number)
        with store.using(one.key for one in stages):
            watcher = run_inline(store, *stages)
            assert (len(watcher.computed), watcher.damaged) == (7, []), watcher.__dict__
            assert all(store.damage(one.key, full=True) is None for one in stages)


def import_rounds(store: Store, rounds: int) -> None:
    """Imports: each takes in all stages, whatever was removed before."""
    source = Store(store.root.with_name("source"))
    stages = graph(0)
    run_inline(source, *stages)
    archive = store.root.with_name("carried.tar")
    export_stages(source, [one.key for one in stages], archive)
    for _ in range(rounds):
        with store.using(one.key for one in stages):  # those who wanted them imported
            assert sum(import_stages(store, archive)) == 7
            assert all(store.damage(one.key, full=True) is None for one in stages)


def export_rounds(store: Store, rounds: int) -> int:
    """Exports: each is whole, or refused by name because a stage had gone before it began; returns how many were."""
    archive, refused = store.root.with_name("exported.tar"), 0
    for number in range(rounds):
        stages = graph(number)
        with store.using(one.key for one in stages):
            run_inline(store, *stages)
        if refusal := _export(store, stages, archive):
            assert "is not finished" in refusal
            assert not archive.exists()
            refused += 1
            continue
        there = Store(store.root.with_name(f"there-{number}"))
        assert import_stages(there, archive) == (7, 0)
        archive.unlink()
    return refused


def _export(store: Store, stages: list[Stage], archive: Path) -> str | None:
    try:
        export_stages(store, [one.key for one in stages], archive)
    except DataError as error:
        return str(error)
    return None
