"""The quickstart, reduced, killed at 20 random moments and its store damaged between: does it end like one left alone?

Runs it once undisturbed and measures how long it takes; then again, killed with SIGKILL (all its processes) at random
moments, in every second pause with a random file of the store deleted or a random bit of one flipped; then to its end.
Checks that the tables are equal and that no stage was computed again whose files were whole.

Run from the repository's root: python benchmarks/faults/quickstart.py [--kills N] [--seed N] [--jobs N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from radpo.config import load_matrix
from radpo.matrix.expand import expand
from radpo.matrix.graph import Stage
from radpo.matrix.store import Store

QUICKSTART = Path(__file__).parents[1] / "quickstart.yaml"
TABLES = ("results.parquet", "examples.parquet", "likelihoods.parquet", "training.parquet")


def main() -> None:
    """Run both, compare, print what happened; exit status 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the damage")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what happened here as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = run(Path(folder), arguments.kills, random.Random(arguments.seed), arguments.jobs)
    print(json.dumps(said, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(said, indent=1), encoding="utf-8")
    sys.exit(0 if said["equal"] and not said["whole_stages_redone"] else 1)


def run(folder: Path, kills: int, chance: random.Random, jobs: int) -> dict[str, Any]:
    """What happened, in figures."""
    matrix = reduced(folder)
    stages = expand(load_matrix(matrix)).stages
    command = [sys.executable, "-m", "radpo", "run", str(matrix), "--jobs", str(jobs), "--out"]
    start = time.monotonic()
    subprocess.run([*command, str(folder / "whole" / "run")], check=True, capture_output=True)
    whole_seconds = time.monotonic() - start
    print(f"undisturbed: {len(stages)} stages in {whole_seconds:.0f} s", file=sys.stderr)

    store = Store(folder / "torn" / "store")
    began: dict[str, str] = {}
    damage, redone, killed = [], [], 0
    attempts = 0
    while killed < kills:
        attempts += 1
        # Long enough for some work to be done in most tries: the processes' own start takes seconds.
        seconds = chance.uniform(1, max(20.0, 2.5 * whole_seconds / kills))
        killed += killed_after([*command, str(folder / "torn" / "run")], seconds)
        redone += [name for name in began if began[name] != _began(store, stages, name)]
        began = {one.name: store.record(one.key)["started"] for one in stages if store.has(one)}
        hurt = _hurt_a_file(store.root, chance) if attempts % 2 == 0 else None
        if hurt is not None:
            damage.append(hurt[0])
            began = {one.name: began[one.name] for one in stages if one.name in began and one.key != hurt[1]}
        print(f"kill {killed} after {seconds:.1f} s: {len(began)} stages whole, {hurt}", file=sys.stderr)
        if attempts > 3 * kills:
            break
    last = subprocess.run([*command, str(folder / "torn" / "run")], check=False, capture_output=True, text=True)
    print(last.stderr[-2000:], file=sys.stderr)
    redone += [name for name in began if began[name] != _began(store, stages, name)]
    return {
        "stages": len(stages),
        "undisturbed_seconds": round(whole_seconds, 1),
        "kills": killed,
        "damage": damage,
        "ended": last.returncode == 0,
        "equal": last.returncode == 0 and all(_equal(folder, table) for table in TABLES),
        "whole_stages_redone": redone,
    }


def reduced(folder: Path) -> Path:
    """The quickstart with a handful of everything, and a checkpoint at every step."""
    matrix = yaml.safe_load(QUICKSTART.read_text())
    for split in ("train", "heldout"):
        matrix["data"][split] = {"path": str(QUICKSTART.parent / matrix["data"][split]["path"]), "limit": 4}
    matrix["training"].update({"batch_size": 2, "micro_batch_size": 2, "max_length": 160})
    matrix["save_every"] = 1
    for name in ("alpaca-eval", "mt-bench"):
        section = matrix["benchmarks"][name]
        section["questions"] = {"path": str(QUICKSTART.parent / section["questions"]["path"]), "limit": 3}
        section["sampling"]["max_new_tokens"] = 8
    academic = matrix["benchmarks"]["academic"]
    academic.update({"include": str(QUICKSTART.parent / academic["include"]), "limit": 2})
    path = folder / "reduced.yaml"
    path.write_text(yaml.safe_dump(matrix))
    return path


def killed_after(command: list[str], seconds: float) -> bool:
    """Run a command and kill it with all its processes after so many seconds; False where it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def _began(store: Store, stages: list[Stage], name: str) -> str | None:
    key = next(one.key for one in stages if one.name == name)
    try:
        started: str = store.record(key)["started"]
    except (OSError, ValueError):
        return None
    return started


def _hurt_a_file(root: Path, chance: random.Random) -> tuple[str, str] | None:
    """Delete a random file of a store, or flip a random bit of it; returns what was done, and to which stage."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "locks")
    if not files:
        return None
    path = chance.choice(files)
    place = path.relative_to(root)
    key = place.parts[1].split(".")[0] if len(place.parts) > 1 else ""
    done: Callable[[Path], None] = chance.choice([Path.unlink, lambda file: _flip(file, chance)])
    what = "deleted" if done is Path.unlink else "bit flipped"
    done(path)
    return f"{place}: {what}", key


def _flip(path: Path, chance: random.Random) -> None:
    if not path.stat().st_size:
        return
    with path.open("r+b") as stream:
        stream.seek(chance.randrange(path.stat().st_size))
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1 << chance.randrange(8)]))


def _equal(folder: Path, table: str) -> bool:
    frames = [pd.read_parquet(folder / name / "run" / table) for name in ("whole", "torn")]
    return frames[0].equals(frames[1])


if __name__ == "__main__":
    main()
