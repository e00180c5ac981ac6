"""Runs in two jobs, killed at 200 random moments: are the results equal, nothing lost, and nothing paid for twice?

The stages are cheap ones, some of which ask an endpoint that keeps a book of what it answered. Half of the kills are of
runs on a store in a folder, half on a shared one, a URL whose file system fails in one of twenty operations.

Run from the repository's root: python benchmarks/faults/kills.py [--kills 200] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))


def main() -> None:
    """Kill, resume, compare; exit status 1 where anything differs."""
    from kill_rounds import kill_until

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write what happened here as JSON")
    arguments = parser.parse_args()
    chance, rows = random.Random(arguments.seed), {}
    for where, share in (("folder", 0.0), ("URL that fails", 0.05)):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = kill_until(Path(folder), arguments.kills // 2, chance, share)
        rows[where] = {**asdict(found), "seconds": round(time.monotonic() - start, 1)}
        print(f"{where}: {rows[where]}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    sys.exit(any(row["unequal"] or row["done_again"] or row["paid_twice"] for row in rows.values()))


if __name__ == "__main__":
    main()
