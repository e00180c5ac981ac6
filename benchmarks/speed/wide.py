"""Large matrices: CPU seconds of `plan`, a run with nothing to do and `report` of 5,000 stages and of fewer.

Run from the repository's root: python benchmarks/speed/wide.py [--json FILE] [--keep FOLDER]

A sweep of DPO over betas and seeds, on a model of two layers. A small one is run. The stages of the large ones are then
put into the store as copies of the small one's outputs, each under its own key: what is measured reads folders,
checksums and tables, and trains nothing. Every command is a new process, whose CPU time counts whatever else is at
work on the machine. Above linear is what the large matrix takes more than the two smaller ones foretell.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from engine import write_matrix
from tables import write

from radpo.engine.store import FILES, RECORD, Store

BETAS, SEEDS, ROUNDS = 28, (10, 20, 34), 2
GOAL, GOAL_ABOVE_LINEAR = 10.0, 3.0
IDENTITY = ("name", "function", "version", "packages", "settings", "inputs")


def main() -> None:
    """Time all, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    parser.add_argument("--keep", type=Path, help="a new folder that keeps the matrices, their store and runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        rows = measure(folder)
    for row in rows:
        print(f"{row['what']}: {row['ours']} {row['unit']} {row['spread']}; goal: under {row['goal']}")
    write(arguments.json, "wide", rows)


def measure(folder: Path) -> list[dict[str, Any]]:
    """Rows of every command: the largest matrix, and how far it is above the line through the smaller ones."""
    matrix = write_matrix(folder)
    document = yaml.safe_load(matrix.read_text(encoding="utf-8"))
    donors = _donors(document, folder)
    taken: dict[str, list[list[float]]] = {}
    stages = 0
    for seeds in SEEDS:
        path = _write(document, folder / f"wide-{seeds}.yaml", BETAS, seeds)
        out = folder / "runs" / path.stem
        store = folder / "runs" / "store"
        again = {
            "plan, nothing in the store": ["plan", str(path), "--store", str(folder / "empty")],
            "plan, all in the store": ["plan", str(path), "--out", str(out)],
            "run with nothing to do": ["run", str(path), "--out", str(out)],
            "report": ["report", str(out)],
        }
        stages = _fill(path, store, donors)
        first = _cpu_seconds(["run", str(path), "--out", str(out)])
        taken.setdefault("run of which every stage is in the store", []).append([first])
        for name, words in again.items():
            taken.setdefault(name, []).append([_cpu_seconds(words) for _ in range(ROUNDS)])
    rows = []
    for name, sizes in taken.items():
        small, middle, large = (statistics.median(seconds) for seconds in sizes)
        spread = [round(min(sizes[-1]), 2), round(max(sizes[-1]), 2)]
        common = {"peer": None, "unit": "CPU seconds", "ratio": None}
        linear = middle + (middle - small) / (SEEDS[1] - SEEDS[0]) * (SEEDS[2] - SEEDS[1])
        rows.append(
            {"what": f"{name}, {stages} stages", "ours": round(large, 2), **common, "spread": spread, "goal": GOAL}
        )
        above = {"what": f"{name}: above linear", "ours": round(large - linear, 2), **common}
        rows.append({**above, "spread": [round(small, 2), round(middle, 2)], "goal": GOAL_ABOVE_LINEAR})
    return rows


def _write(document: dict[str, Any], path: Path, betas: int, seeds: int) -> Path:
    sweep = {"dpo": {"training": {"beta": [round(0.01 * (n + 1), 2) for n in range(betas)]}}}
    variants = {"base": None, **sweep, "ra-dpo": None}
    path.write_text(yaml.safe_dump({**document, "variants": variants, "seeds": list(range(seeds))}), encoding="utf-8")
    return path


def _donors(document: dict[str, Any], folder: Path) -> dict[str, Path]:
    """By function, the folder of a stage that a small run computed."""
    path, out = _write(document, folder / "small.yaml", 1, 1), folder / "small" / "run"
    _cpu_seconds(["run", str(path), "--out", str(out)])
    found = {}
    store = Store(out.parent / "store")
    for key in store.finished():
        found[store.record(key)["function"]] = store.root / "stages" / key
    return found


def _fill(path: Path, root: Path, donors: dict[str, Path]) -> int:
    """Put every stage that the store lacks into it, each a copy of a stage of its kind."""
    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix

    store, stages, rng = Store(root), expand(load_matrix(path)).stages, np.random.default_rng(0)
    synced, os.fsync = os.fsync, lambda _: None  # nothing of this needs to outlast a power cut
    try:
        for stage in stages:
            if not store.has(stage):
                store.produce(stage, lambda partial, stage=stage: _copied(donors[stage.function_name], partial, rng))
    finally:
        os.fsync = synced
    return len(stages)


def _copied(donor: Path, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Copy a stage's files, its examples with values of their own, so that variants differ; returns what it noted."""
    for source in donor.iterdir():
        if source.is_dir():
            shutil.copytree(source, folder / source.name)
        elif source.name == "examples.parquet":
            frame = pd.read_parquet(source)
            frame["value"] = np.clip(frame["value"] + rng.normal(0, 1, len(frame)), None, 10)
            frame.to_parquet(folder / source.name, index=False)
        elif source.name not in (RECORD, FILES):
            shutil.copyfile(source, folder / source.name)
    record: dict[str, Any] = json.loads((donor / RECORD).read_text(encoding="utf-8"))
    return {name: value for name, value in record.items() if name not in IDENTITY}


def _cpu_seconds(words: list[str]) -> float:
    """CPU seconds of a command and its child processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "radpo", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
