"""Make the recipes' scored pairs, data/train.parquet and data/heldout.parquet, from UltraFeedback.

As the authors' preprocessing has it: the best of a prompt's responses by overall score against a random other, with
scores by attribute; prompts of TruthfulQA left out; 2,000 pairs held out. Run from the repository's root:

    python benchmarks/paper/make_data.py --leave-out TruthfulQA.csv

TruthfulQA.csv is github.com/sylinrl/TruthfulQA's. Without a Hub give UltraFeedback as a file, in any format that
`radpo data validate` reads, in place of the default.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

import pyarrow as pa

from radpo.preferences.preferences import PreferenceReader, Reading
from radpo.preferences.writing import write_preferences

ULTRAFEEDBACK = "hub:openbmb/UltraFeedback:train"
SEED = 42
HELD_OUT = 2000


def questions_of(file: Path) -> set[str]:
    """The questions of TruthfulQA.csv."""
    with file.open(encoding="utf-8", newline="") as stream:
        return {row["Question"].strip() for row in csv.DictReader(stream)}


def make(source: str, out: Path, leave_out: set[str], held_out: int = HELD_OUT) -> dict[str, int]:
    """Write both files into `out`; what was read, left out (by reason) and written, in numbers."""
    reader = PreferenceReader(source, Reading(on_error="skip", pairing="best-other", seed=SEED))
    table = pa.Table.from_batches(list(reader))
    asked = [prompt[-1]["content"].strip() for prompt in table.column("prompt").to_pylist()]
    kept = table.filter(pa.array([text not in leave_out for text in asked]))
    places = list(range(kept.num_rows))
    random.Random(SEED).shuffle(places)
    if len(places) <= held_out:
        raise SystemExit(f"{source}: {len(places)} pairs are left, and {held_out} are to be held out")
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("heldout", places[:held_out]), ("train", places[held_out:])):
        write_preferences(kept.take(pa.array(sorted(chosen))), out / f"{name}.parquet")
    return {
        "rows read": reader.rows_read,
        **{f"left out, {reason}": count for reason, count in sorted(reader.dropped.items())},
        "left out, a prompt of TruthfulQA": table.num_rows - kept.num_rows,
        "held out": held_out,
        "to train on": kept.num_rows - held_out,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", nargs="?", default=ULTRAFEEDBACK, help=f"UltraFeedback; {ULTRAFEEDBACK} unless given")
    parser.add_argument("--leave-out", type=Path, required=True, metavar="TruthfulQA.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    said = parser.parse_args()
    for what, number in make(said.source, said.out, questions_of(said.leave_out)).items():
        print(f"{what}: {number}")
