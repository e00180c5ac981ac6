"""The quickstart, reduced, killed at 20 random moments and its store damaged between: does it end like one left alone?

Runs it once undisturbed and measures how long it takes; then again, killed with SIGKILL (all its processes) at random
moments, in every second pause with a random file of the store deleted or a random bit of one flipped, until it gets
through; then again with an empty store, until there were enough kills, and the last round to its end. Checks that each
round's tables equal the undisturbed run's and that no stage was computed again whose files were whole.

Run from the repository's root: python benchmarks/faults/quickstart.py [--kills N] [--seed N] [--jobs N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
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

from radpo.engine.graph import Stage
from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix

QUICKSTART = Path(__file__).parents[1] / "quickstart.yaml"
TABLES = ("results.parquet", "examples.parquet", "likelihoods.parquet", "training.parquet")


def main() -> None:
    """Run both, compare, print what happened; exit status 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the damage")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--model", help="another model than the quickstart's, such as a small one's folder")
    parser.add_argument("--json", type=Path, help="write what happened here as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        matrix = reduced(Path(folder), arguments.model)
        said = run(Path(folder), matrix, arguments.kills, random.Random(arguments.seed), arguments.jobs)
    print(json.dumps(said, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(said, indent=1), encoding="utf-8")
    sys.exit(0 if all(said["equal"]) and not said["whole_stages_redone"] else 1)


def run(folder: Path, matrix: Path, kills: int, chance: random.Random, jobs: int) -> dict[str, Any]:
    """What happened, in figures."""
    stages = expand(load_matrix(matrix)).stages
    command = [sys.executable, "-m", "radpo", "run", str(matrix), "--jobs", str(jobs), "--out"]
    start = time.monotonic()
    subprocess.run([*command, str(folder / "whole" / "run")], check=True, capture_output=True)
    whole_seconds = time.monotonic() - start
    print(f"undisturbed: {len(stages)} stages in {whole_seconds:.0f} s", file=sys.stderr)

    store = Store(folder / "torn" / "store")
    began: dict[str, str] = {}
    damage, redone, equal = [], [], []
    killed = 0
    while killed < kills or not equal:
        # At the end of a round, which is a run killed until it got through, the next begins with an empty store.
        seconds = chance.uniform(2, max(25.0, whole_seconds / 4)) if killed < kills else None
        ended = not killed_after([*command, str(folder / "torn" / "run")], seconds)
        redone += [name for name in began if began[name] != _began(store, stages, name)]
        if ended:
            equal.append(all(_equal(folder, table) for table in TABLES))
            print(f"round {len(equal)} ended; equal: {equal[-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(folder / "torn")
            began = {}
            continue
        killed += 1
        began = {one.name: store.record(one.key)["started"] for one in stages if store.has(one)}
        hurt = _hurt_a_file(store.root, chance) if killed % 2 == 0 else None
        if hurt is not None:
            damage.append(hurt[0])
            began = {one.name: began[one.name] for one in stages if one.name in began and one.key != hurt[1]}
        after = f"kill {killed} after {seconds:.1f} s: {len(began)} stages whole"
        print(f"{after}{f'; {hurt[0]}' if hurt else ''}", file=sys.stderr, flush=True)
    return {
        "stages": len(stages),
        "undisturbed_seconds": round(whole_seconds, 1),
        "kills": killed,
        "rounds_to_the_end": len(equal),
        "equal": equal,
        "damage": damage,
        "whole_stages_redone": redone,
    }


def reduced(folder: Path, model: str | None) -> Path:
    """The quickstart with a handful of everything, and a checkpoint at every step."""
    matrix = yaml.safe_load(QUICKSTART.read_text())
    matrix["model"] = model or matrix["model"]
    for split in ("train", "heldout"):
        matrix["data"][split] = {"path": str(QUICKSTART.parent / matrix["data"][split]["path"]), "limit": 4}
    matrix["training"].update({"batch_size": 2, "per_device_train_batch_size": 2, "max_length": 1024 if model else 160})
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


def killed_after(command: list[str], seconds: float | None) -> bool:
    """Run a command and kill it with all its processes after so many seconds; False where it ended before.

    Raises:
        SystemExit: it ended with an error.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise SystemExit(said[-3000:])
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
