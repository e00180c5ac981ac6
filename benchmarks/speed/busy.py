"""Training steps on cores that others use too: alone, and beside one and two busy processes.

Run from the repository's root: python benchmarks/speed/busy.py [--json FILE] [--rounds N]

Each round trains a few steps of the bundled model in a process of its own, as a stage does, on threads that wait asleep
(as radpo has them), on threads that keep their cores busy while they wait (the default of torch's OpenMP), and on one
thread. A fair share of C cores beside B busy processes is (C + B) / C of the time alone at the least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tables import write

from radpo.core.machine import cores
from radpo.engine.execute import THREAD_VARIABLES, WAITING

STEPS = 3
WORDS = 200
WAYS = {"asleep": (0, True), "busy": (0, False), "one thread": (1, True)}
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(10**6))"
"""Keeps a core busy for as long as this process is there, however it ends."""
GOALS = {0: 1.0, 1: 2.5, 2: 4.0}
"""Times the time alone, by busy processes."""


def main() -> None:
    """Time every way beside every number of busy processes, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps:
        print(json.dumps(steps()))
        return
    taken: dict[tuple[str, int], list[float]] = {(way, busy): [] for way in WAYS for busy in GOALS}
    for _ in range(arguments.rounds):
        for (way, busy), seconds in taken.items():
            seconds += measured(*WAYS[way], busy)
    rows = []
    for (way, busy), seconds in taken.items():
        alone = statistics.median(taken[way, 0])
        row = {
            "what": f"a training step of SmolLM2-135M, {way}, beside {busy} busy processes on {cores()} cores",
            "ours": round(statistics.median(seconds), 2),
            "peer": round(alone, 2),
            "unit": "seconds, the peer is the same alone",
            "ratio": round(statistics.median(seconds) / alone, 2),
            "spread": [round(min(seconds) / alone, 2), round(max(seconds) / alone, 2)],
            "goal": GOALS[busy] if way == "asleep" else None,
        }
        rows.append(row)
        print(f"{row['what']}: {row['ours']} s, {row['ratio']} times alone {row['spread']}", flush=True)
    write(arguments.json, "busy", rows)


def measured(threads: int, asleep: bool, busy: int) -> list[float]:
    """Seconds of every step of a process with so many threads (0: as many as cores) beside busy ones."""
    environment = {name: value for name, value in os.environ.items() if name not in (*WAITING, "OMP_WAIT_POLICY")}
    environment |= dict.fromkeys(THREAD_VARIABLES, str(threads or cores()))
    environment |= WAITING if asleep else {}
    with ExitStack() as stack:
        for _ in range(busy):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())]))
            stack.callback(process.kill)
        done = subprocess.run(
            [sys.executable, __file__, "--steps"], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def steps() -> list[float]:
    """Seconds of some steps; one more warms up."""
    import torch

    from radpo.models.loading import load_model, resolve_model

    model = load_model(resolve_model("smollm2-135m-instruct")).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    ids = torch.arange(WORDS * 4).reshape(4, WORDS) % 5000
    seconds = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


if __name__ == "__main__":
    main()
