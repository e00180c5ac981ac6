"""Sources changed while a run reads them, and restored with their times: is a result kept that was made of others?

Small matrices that read every kind of source (scored pairs, questions, answers, references, prompts, task files and
what they name, models, a model of the Hub, packages' code) are computed once, undisturbed. Then, for each kind, the
stage that reads it is computed again by its own function while the source has another content; before the stage ends
the source is as it was, times and all. Checks that nothing is stored, that one message names the source, and that the
next try, undisturbed, ends in the same tables as the first.

Judges that ask an endpoint ask a server of this script. Run from the repository's root:
python benchmarks/faults/sources.py [--only TEXT] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from cheap_stages import run_inline
from fault_server import FaultServer
from source_world import KINDS, Kind, World, changed, source_world, stage_of

from radpo.core.files import checksums
from radpo.core.progress import no_progress
from radpo.engine.execute import execute
from radpo.engine.graph import Stage, Task, in_order
from radpo.engine.sources import sources_in
from radpo.engine.store import Store

TABLES = (".parquet", ".safetensors", "answers.jsonl")
"""How the names of files end that have neither times nor places in them, nor what came from the cache of replies."""


def main() -> None:
    """Change each, print what happened; exit status 1 where a result of a changed source was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kinds of sources whose names have this text in them")
    parser.add_argument("--json", type=Path, help="write what happened here as JSON")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, FaultServer(lambda body: "Rating: [[5]] [[A>B]]") as server:
        os.environ |= {"RADPO_CACHE": str(Path(folder) / "cache"), "OPENAI_API_KEY": "none"}
        with source_world(Path(folder) / "world") as world:
            found = run(world, server.url, arguments.only)
    bad = [row["source"] for row in found if row["fault"]]
    for row in found:
        print(f"{row['source']:42} {row['stage']:36} {row['seconds']:6.1f} s  {row['fault'] or row['message']}")
    print(f"{len(found)} kinds of sources changed while they were read and restored: {len(bad)} kept or unclear")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.exit(1 if bad or not found else 0)


def run(world: World, url: str, only: str = "") -> list[dict[str, Any]]:
    """A row for each kind of source: the stage that read it, what it said, and what was wrong with that."""
    for key in ("mt-bench", "arena-hard"):
        world.set("main", f"benchmarks/{key}/judge/base_url", url)
    store, rows = Store(world.folder.parent / "store"), []
    for name, kind in KINDS.items():
        if only in name:
            start = time.monotonic()
            row = {"source": name, **disturb(world, kind, store)}
            rows.append({**row, "seconds": round(time.monotonic() - start, 1)})
            print(f"{name}: {row['fault'] or 'not stored'}", file=sys.stderr, flush=True)
    return rows


def disturb(world: World, kind: Kind, store: Store) -> dict[str, Any]:
    """Compute the stage that reads a source undisturbed, then with the source changed, then undisturbed again."""
    stage = stage_of(world.stages(), kind)  # of now: what an earlier kind touched is another state
    with quiet():
        run_inline(store, *in_order([stage]))
    whole = tables(store, stage)
    store.remove(stage.key)

    def meanwhile(task: Task) -> None:
        with changed(world, kind):
            stage.function.run(task)

    disturbed = replace(stage, function=replace(stage.function, run=meanwhile))
    with quiet():
        outcome = execute(disturbed, store, {}, no_progress)
    stored = store.has(stage)
    with quiet():
        again = execute(stage_of(world.stages(), kind), store, {}, no_progress)
    faults = [
        "STORED" if stored else "",
        "" if outcome.status == "failed" else f"the stage {outcome.status}",
        "" if any(outcome.message.startswith(f"{one.location}: changed while") for one in sources_in(stage.settings))
        else f"unclear: {outcome.message}",
        "" if again.status == "computed" else f"the next try {again.status}: {again.message}",
        "" if whole and tables(store, stage) == whole else "the next try ends in other tables",
    ]  # fmt: skip
    message = outcome.message.replace(str(world.folder.parent), "")
    return {"stage": stage.name, "message": message, "fault": "; ".join(filter(None, faults))}


def tables(store: Store, stage: Stage) -> dict[str, Any]:
    """The results that a stage wrote, by file."""
    folder = store.folder(stage)
    return {name: known for name, known in checksums(folder).items() if name.endswith(TABLES)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries print."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


if __name__ == "__main__":
    main()
