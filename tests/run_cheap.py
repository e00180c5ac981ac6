"""A small matrix of cheap stages in a process of its own: `python run_cheap.py STORE TRACE JOBS SLEEP`.

Prints one line for every stage: how it was had. TRACE gets a line each time that a stage's work begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cheap_stages import COUNT, stage

from radpo.engine.graph import Stage
from radpo.engine.local import LocalPool
from radpo.engine.schedule import Done, run_stages
from radpo.engine.store import Store


def graph(trace: Path, sleep: float) -> list[Stage]:
    """Two roots, four long stages that go on after a kill, six on top of them, one that joins all."""
    hints = {"trace": str(trace), "sleep": sleep}
    roots = [stage(f"root {n}", n, hints=hints) for n in range(2)]
    long = [
        Stage(f"long {n}", "count", COUNT, {"to": 8, "n": n}, {"root": roots[n % 2]}, {"sleep": sleep / 4})
        for n in range(4)
    ]
    tops = [stage(f"top {n}", f"t{n}", hints=hints, a=long[n % 4], b=roots[n % 2]) for n in range(6)]
    return [*tops, stage("join", "j", hints=hints, **{f"i{n}": top for n, top in enumerate(tops)})]


class Print:
    """Tells standard output."""

    def begins(self, stage: Stage) -> None: ...

    def progresses(self, stage: Stage, done: int, total: int) -> None: ...

    def ends(self, done: Done) -> None:
        print("kept" if done.from_store else "computed", done.stage.name, flush=True)

    def fails(self, stage: Stage, why: str) -> None:
        print("failed", stage.name, why, flush=True)

    def waits(self, stage: Stage) -> None:
        print("waits", stage.name, flush=True)

    def corrupt(self, stage: Stage, what: str) -> None:
        print("damaged", stage.name, flush=True)


if __name__ == "__main__":
    store, trace, jobs, sleep = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    kept = Store(store)
    run_stages(graph(trace, sleep), kept, LocalPool(kept, jobs, ()), Print())
