"""Two machines at once on a shared store whose file system fails: are all ends equal, and is each answer paid for once?

Each round starts two processes with caches of their own on an empty store. Of all operations on its file system a share
fails before it is done, after it, in the middle, or comes late. A run that a service's failure ends (exit status 3) is
given again. At the end every stage is fetched and checked by a third machine, and garbage is collected.

Run from the repository's root: python benchmarks/faults/shared.py [--rounds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))


def main() -> None:
    """Run the rounds, with more and more failures; whatever is not as it should be ends with exit status 1."""
    from kill_rounds import two_machines

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="for each share of failures")
    parser.add_argument("--json", type=Path, help="write what happened here as JSON")
    arguments = parser.parse_args()
    rows = []
    for share in (0.02, 0.1, 0.2):
        start, given = time.monotonic(), 0
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                given += two_machines(Path(folder), share)
        rows.append(
            {
                "share of failures": share,
                "rounds": arguments.rounds,
                "runs": given,
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        print(rows[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
