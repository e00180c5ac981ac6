"""The matrix engine: what a stage costs besides its work, beside joblib's cache; and a rerun with nothing to do.

Run from the repository's root: python benchmarks/speed/engine.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from tables import write

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # small models, small data and cheap stages are the tests' own

STAGES, ROUNDS = 200, 5
GOAL_MS, GOAL_SECONDS = 20.0, 3.0


def main() -> None:
    """Time both, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [overhead(Path(folder)), no_op(Path(folder))]
    for row in rows:
        peer = "" if row["peer"] is None else f", joblib {row['peer']}, ratio {row['ratio']} {row['spread']}"
        print(f"{row['what']}: {row['ours']} {row['unit']}{peer}; goal: under {row['goal']}")
    write(arguments.json, "engine", rows)


def overhead(folder: Path) -> dict[str, Any]:
    """200 stages that write a few bytes, through a worker process and a fresh store, against joblib.Memory."""
    import joblib
    from cheap_stages import Watcher, stage

    from radpo.engine.local import LocalPool
    from radpo.engine.schedule import run_stages
    from radpo.engine.store import Store

    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(ROUNDS):
        base = [stage(f"base {n}", n) for n in range(STAGES // 10)]
        stages = [*base, *(stage(f"top {n}", n, base=base[n % len(base)]) for n in range(STAGES - len(base)))]
        store = Store(folder / f"store-{number}")
        start = time.perf_counter()
        run_stages(stages, store, LocalPool(store, 1, ()), Watcher())
        taken["ours"].append(1000 * (time.perf_counter() - start) / STAGES)
        memory = joblib.Memory(folder / f"joblib-{number}", verbose=0)
        call = memory.cache(_write)
        start = time.perf_counter()
        for n in range(STAGES):
            call(n)
        taken["peer"].append(1000 * (time.perf_counter() - start) / STAGES)
    ratios = [ours / peer for ours, peer in zip(taken["ours"], taken["peer"], strict=True)]
    return {
        "what": f"overhead of a stage, {STAGES} of them, worker start included, synced to disk and checksummed",
        "ours": round(statistics.median(taken["ours"]), 2),
        "peer": round(statistics.median(taken["peer"]), 2),
        "unit": "ms a stage",
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "goal": GOAL_MS,
    }


def _write(number: int) -> str:
    return f"{number}"


def no_op(folder: Path) -> dict[str, Any]:
    """`radpo run` of a finished matrix of 200 stages on a model of two layers, each time in a new process."""
    matrix = write_matrix(folder)
    command = [sys.executable, "-m", "radpo", "run", str(matrix), "--out", str(folder / "runs" / "wide")]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    if first.returncode:
        raise SystemExit(first.stderr[-3000:])
    stages = len(json.loads((folder / "runs" / "wide" / "manifest.json").read_text())["stages"])
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert "nothing to do" in again.stderr
    return {
        "what": f"rerun of a finished matrix of {stages} stages, process start included",
        "ours": round(statistics.median(seconds), 2),
        "peer": None,
        "unit": "seconds",
        "ratio": None,
        "spread": [round(min(seconds), 2), round(max(seconds), 2)],
        "goal": GOAL_SECONDS,
    }


def write_matrix(folder: Path) -> Path:
    """48 cells of a small model, which make a little over 200 stages with what they share."""
    from factories import scored_pairs, write_model

    from radpo.preferences.writing import write_preferences

    write_model(folder / "model")
    write_preferences(scored_pairs([(9, 3), (7, 6), (10, 1), (6, 5)]), folder / "pairs.jsonl")
    questions = [
        {
            "question_id": f"q{n}",
            "category": "a",
            "turns": ["Say five."],
            "constraints": [[{"kind": "max_words", "n": 5}]],
        }
        for n in range(2)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    sampling = {"max_new_tokens": 2, "temperature": 0}
    document = {
        "name": "wide",
        "model": str(folder / "model"),
        "seeds": list(range(12)),
        "variants": {"base": None, "dpo": {"training": {"beta": [0.1, 0.5]}}, "ra-dpo": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl", "limit": 2}},
        "training": {"batch_size": 4, "per_device_train_batch_size": 4, "max_length": 1024},
        "benchmarks": {
            "unlearning": {},
            "mt-bench": {"questions": {"path": "questions.jsonl"}, "sampling": sampling},
        },
    }
    path = folder / "wide.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


if __name__ == "__main__":
    main()
