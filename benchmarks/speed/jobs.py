"""A third of the quickstart with two jobs against one, and what `radpo plan` said of each beforehand, on empty stores.

Run from the repository's root: python benchmarks/speed/jobs.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from tables import write

QUICKSTART = Path(__file__).parents[1] / "quickstart.yaml"
GOAL_FACTOR = 1.5


def main() -> None:
    """Plan and run with one job and with two, print what was said and what came."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        matrix = a_third(Path(folder))
        runs = {jobs: planned_and_run(matrix, Path(folder) / f"jobs-{jobs}", jobs) for jobs in (1, 2)}
    rows = [
        {
            "what": "a third of the quickstart: two jobs against one",
            "ours": runs[2]["seconds"],
            "peer": runs[1]["seconds"],
            "unit": "seconds",
            "ratio": round(runs[2]["seconds"] / runs[1]["seconds"], 3),
            "spread": None,
            "goal": 1.0,
        },
        *(
            {
                "what": f"{what} with {jobs} {'job' if jobs == 1 else 'jobs'}: planned against measured",
                "ours": run[f"planned_{unit}"],
                "peer": run[unit],
                "unit": unit,
                "ratio": round(run[f"planned_{unit}"] / run[unit], 3),
                "spread": None,
                "goal": GOAL_FACTOR,
            }
            for jobs, run in runs.items()
            for what, unit in (("wall time", "seconds"), ("disk", "bytes"))
        ),
    ]
    for row in rows:
        print(f"{row['what']}: {row['ours']} against {row['peer']} {row['unit']}, ratio {row['ratio']}")
    print(f"with two jobs, stages ran side by side for {runs[2]['overlap']:.0%} of the time")
    write(arguments.json, "jobs", rows)


def a_third(folder: Path) -> Path:
    """The quickstart with about a third of its pairs, questions and documents."""
    matrix = yaml.safe_load(QUICKSTART.read_text())
    for split in ("train", "heldout"):
        matrix["data"][split] = {"path": str(QUICKSTART.parent / matrix["data"][split]["path"]), "limit": 12}
    for name, limit in (("alpaca-eval", 16), ("mt-bench", 8)):
        section = matrix["benchmarks"][name]
        section["questions"] = {"path": str(QUICKSTART.parent / section["questions"]["path"]), "limit": limit}
    academic = matrix["benchmarks"]["academic"]
    academic.update({"include": str(QUICKSTART.parent / academic["include"]), "limit": 8})
    path = folder / "third.yaml"
    path.write_text(yaml.safe_dump(matrix))
    return path


def planned_and_run(matrix: Path, folder: Path, jobs: int) -> dict[str, Any]:
    """What the plan said, what the run took, and for what share of the time two stages were at work."""
    words = [str(matrix), "--jobs", str(jobs), "--out", str(folder / "run")]
    plan = json.loads(_radpo("plan", *words, "--json").stdout)
    start = time.perf_counter()
    _radpo("run", *words)
    seconds = time.perf_counter() - start
    records = [json.loads(path.read_text()) for path in (folder / "store" / "stages").glob("*/stage.json")]
    spans = sorted(
        (begin := datetime.fromisoformat(record["started"]).timestamp(), begin + record["seconds"])
        for record in records
    )
    return {
        "planned_seconds": round(plan["wall_seconds"], 1),
        "seconds": round(seconds, 1),
        "planned_bytes": plan["to_do"]["disk_bytes"],
        "bytes": sum(path.stat().st_size for path in (folder / "store" / "stages").rglob("*") if path.is_file()),
        "overlap": _overlap(spans) / seconds,
    }


def _overlap(spans: list[tuple[float, float]]) -> float:
    """Seconds during which more than one span lasts."""
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    total, at_work = 0.0, 0
    for (moment, change), (following, _) in pairwise(edges):
        at_work += change
        total += following - moment if at_work > 1 else 0.0
    return total


def _radpo(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "radpo", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done


if __name__ == "__main__":
    main()
