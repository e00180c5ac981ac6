"""Relabeling: radpo's beside the same done row by row with `datasets.map`, and radpo's from Parquet to Parquet.

Run from the repository's root: python benchmarks/speed/relabel.py [--json FILE]

The pairs are synthetic, as long as UltraFeedback's: lengths have the quantiles of 960 of its pairs.
The peer keeps everything in memory; what both give is compared. Files are relabeled by the command line in a process of
its own, whose peak memory is the operating system's figure.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tables import write

from radpo.preferences.goals import condition
from radpo.preferences.preferences import schema
from radpo.preferences.relabel import relabel

PAIRS, MANY, ROUNDS, PIECE = 61_000, 1_000_000, 5, 20_000
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
PERCENTS = (0, 5, 25, 50, 75, 95, 99, 100)
CHARACTERS = {
    "prompt": (8, 42, 114, 368, 812, 2556, 4490, 6308),
    "chosen": (2, 18, 221, 903, 2082, 3414, 4356, 5487),
    "rejected": (2, 33, 270, 829, 1781, 3095, 4093, 4887),
}


def make_pairs(rows: int) -> Iterator[pa.RecordBatch]:
    """Pairs of random words, all scores distinct within a pair, a piece at a time."""
    rng = np.random.default_rng(0)
    letters = rng.choice(np.frombuffer(b"etaoinshrdlucmfwyp", np.uint8), (5_000, 12))
    words = [bytes(row[:size]).decode() for row, size in zip(letters, rng.integers(1, 12, 5_000), strict=True)]
    # Few words are used often, as in any language (Zipf's law).
    often = 1 / np.arange(10, 5_010)
    text = " ".join(words[rank] for rank in rng.choice(5_000, 2_000_000, p=often / often.sum()))
    for start in range(0, rows, PIECE):
        count = min(PIECE, rows - start)
        columns = {}
        for name, points in CHARACTERS.items():
            lengths = np.interp(rng.uniform(0, 100, count), PERCENTS, points).astype(int)
            begins = rng.integers(0, len(text) - 10_000, count)
            # The number at its end keeps every text from being another's.
            texts = (text[b : b + size] for b, size in zip(begins.tolist(), lengths.tolist(), strict=True))
            columns[name] = [f"{part} {name} {start + place}" for place, part in enumerate(texts)]
        scores = np.sort(rng.permuted(np.tile(np.arange(2, 21) / 2, (count, 1)), axis=1)[:, :2], axis=1)
        yield pa.RecordBatch.from_pydict(
            {
                "id": [str(number) for number in range(start, start + count)],
                "prompt": [[{"role": "user", "content": text}] for text in columns["prompt"]],
                "chosen": columns["chosen"],
                "rejected": columns["rejected"],
                "score_chosen": scores[:, 1],
                "score_rejected": scores[:, 0],
            },
            schema=schema(),
        )


def by_rows(dataset: Any) -> Any:
    """The peer: the method row by row, a pass for each side, as the authors' release has it."""
    from datasets import concatenate_datasets

    def chosen_side(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": condition(row["prompt"], row["score_chosen"], "system"), "goal": row["score_chosen"]}

    def rejected_side(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompt": condition(row["prompt"], row["score_rejected"], "system"),
            "goal": row["score_rejected"],
            "chosen": row["rejected"],
            "rejected": row["chosen"],
            "score_chosen": row["score_rejected"],
            "score_rejected": row["score_chosen"],
        }

    sides = [
        dataset.map(side, keep_in_memory=True, load_from_cache_file=False) for side in (chosen_side, rejected_side)
    ]
    return concatenate_datasets(sides)


def beside_map() -> dict[str, Any]:
    """Both on the same table in memory, alternating."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    table = pa.Table.from_batches(make_pairs(PAIRS))
    dataset = Dataset(table)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    ours = peer = None
    for _ in range(ROUNDS):
        ours = peer = None  # a round begins with nothing kept
        start = time.process_time()
        ours = relabel(table, "ra").table
        seconds["ours"].append(time.process_time() - start)
        start = time.process_time()
        peer = by_rows(dataset)
        seconds["peer"].append(time.process_time() - start)
    assert ours is not None
    assert peer is not None
    for side, place in (("chosen", 0), ("rejected", 1)):
        mine = ours.filter(pa.compute.equal(ours["side"], side)).slice(0, 500)
        theirs = peer.select(range(place * PAIRS, place * PAIRS + 500))
        for name in ("prompt", "chosen", "rejected", "goal", "score_chosen", "score_rejected"):
            assert mine[name].to_pylist() == theirs[name][:], f"{side}: the two differ in {name}"
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds["peer"], strict=True)]
    return row(
        f"{PAIRS:,} pairs in memory, beside datasets.map",
        statistics.median(seconds["ours"]),
        statistics.median(seconds["peer"]),
        "CPU seconds",
        statistics.median(ratios),
        [min(ratios), max(ratios)],
        "ratio at least 20",
    )


def from_file(rows: int, folder: Path) -> tuple[float, float, float]:
    """Seconds, peak memory and the input's size in GB of `radpo data relabel` from Parquet to Parquet."""
    source, out = folder / "pairs.parquet", folder / "relabeled.parquet"
    with pq.ParquetWriter(source, schema()) as writer:
        for batch in make_pairs(rows):
            writer.write_batch(batch)
    command = [sys.executable, "-m", "radpo", "data", "relabel", str(source), "--out", str(out)]
    start = time.perf_counter()
    # A small process starts it: a forked child's peak begins with its parent's memory.
    done = subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True, text=True)
    seconds, kilobytes = time.perf_counter() - start, int(done.stdout.split()[-1])
    assert pq.read_metadata(out).num_rows == 2 * rows
    size = source.stat().st_size / 1e9
    source.unlink()
    out.unlink()
    return seconds, kilobytes * 1024 / 1e9, size


def row(what: str, ours: float, peer: float | None, unit: str, ratio: float | None, spread: Any, goal: str) -> Any:
    """A row of the table, rounded."""
    return {
        "what": what,
        "ours": round(ours, 3),
        "peer": None if peer is None else round(peer, 3),
        "unit": unit,
        "ratio": None if ratio is None else round(ratio, 2),
        "spread": spread and [round(value, 2) for value in spread],
        "goal": goal,
    }


def main() -> None:
    """Measure, check that both give the same, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    arguments = parser.parse_args()
    rows = [beside_map()]
    with tempfile.TemporaryDirectory() as name:
        _, memory, size = from_file(PAIRS, Path(name))
        what = f"{PAIRS:,} pairs from Parquet to Parquet, peak memory beside the file's size"
        rows.append(row(what, memory, size, "GB", memory / size, None, "ratio below 3"))
        seconds, memory, size = from_file(MANY, Path(name))
        what = f"{MANY:,} pairs ({size:.1f} GB) from Parquet to Parquet"
        rows.append(row(what, seconds, None, "seconds", None, None, "below 120"))
        rows.append(row(f"{what}, peak memory", memory, None, "GB", None, None, "below 4"))
    for item in rows:
        beside = "" if item["peer"] is None else f" (peer {item['peer']}, ratio {item['ratio']} {item['spread'] or ''})"
        print(f"{item['what']}: {item['ours']} {item['unit']}{beside}; goal: {item['goal']}")
    write(arguments.json, "relabel", rows)


if __name__ == "__main__":
    main()
