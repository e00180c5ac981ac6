"""Garbage collected over and over beside 100 runs, 100 imports and 100 exports: does any of them fail or lack anything?

The collector is a process of its own, which needs no stage of theirs, so that all which nobody uses goes.

Run from the repository's root: python benchmarks/faults/gc.py [--rounds 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))


def main() -> None:
    """Run the rounds; whatever fails ends with its traceback and exit status 1."""
    from gc_rounds import collecting, export_rounds, import_rounds, run_rounds

    from radpo.engine.store import Store

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write what happened here as JSON")
    arguments = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), {}
    for name, rounds in (("runs", run_rounds), ("imports", import_rounds), ("exports", export_rounds)):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nothing:
            store = Store(Path(folder) / "store")
            with collecting(store.root, context.Process, context.Event()), contextlib.redirect_stdout(nothing):
                refused = rounds(store, arguments.rounds)
        rows[name] = {"rounds": arguments.rounds, "failures": 0, "seconds": round(time.monotonic() - start, 1)}
        if refused is not None:
            rows[name]["refused because a stage had gone before"] = refused
        print(f"{name}: {rows[name]}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
