"""The controlled testbed: a model from nothing, its data, and the runs of radpo on them.

All of it is made in one folder, and what is there already is not made again: the model stays, and so do the stages in
the runs' store.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pretrain import pretrain
from task import BEST, draw_pairs, write_pairs, write_questions

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
COMPANIONS: dict[str, dict[str, Any]] = {
    "noise-1": {"noise": 1.0},
    "noise-2": {"noise": 2.0},
    "noise-4": {"noise": 4.0},
    "capped": {"best": 8},
}
"""What the companion runs' training pairs are drawn with (`task.draw_pairs`)."""
TUNED = ("noise-1", "noise-4")
"""The companions whose pairs the tuned points are on; the runs are named tuned-noise-SD."""
KEPT = ("manifest.json", "matrix.yaml")
CURVES = ("loss", "rewards/accuracies", "rewards/margins")
"""The training figures that the kept report shows; all of them, and the examples, are in the run's own."""


@dataclass(frozen=True)
class Size:
    """How much of everything; no variants named are all of them."""

    pretraining_steps: int
    pretraining_batch: int
    pairs: int
    heldout: int
    questions: int
    seeds: tuple[int, ...]
    companions: tuple[str, ...]
    variants: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()


FULL = Size(
    pretraining_steps=800, pretraining_batch=128, pairs=3000, heldout=200, questions=150, seeds=(0, 1, 2, 3, 4),
    companions=tuple(COMPANIONS),
)  # fmt: skip
TOY = Size(
    pretraining_steps=2, pretraining_batch=8, pairs=64, heldout=16, questions=3, seeds=(0,), companions=(),
    variants=("base", "dpo", "ra-dpo"),
)  # fmt: skip


def run_all(out: Path, size: Size, jobs: int) -> list[str]:
    """Make whatever is not there yet; returns the runs' names."""
    make_inputs(out, size)
    runs = write_matrices(out, size)
    for name in runs:
        print(f"run {name}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "radpo", "run", f"{name}.yaml", "--out", f"runs/{name}", "--jobs", str(jobs)]
        subprocess.run(command, cwd=out, check=True, stdout=sys.stderr)
    return runs


def make_inputs(out: Path, size: Size) -> None:
    """The model, the pairs and the questions. A model that is there stays; data are drawn again."""
    if not (out / "model").exists():
        partial = out / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        pretrain(partial, seed=0, steps=size.pretraining_steps, batch_size=size.pretraining_batch)
        partial.rename(out / "model")
    for name in ("main", *size.companions):
        write_pairs(draw_pairs(size.pairs, "train", **COMPANIONS.get(name, {})), out / f"{name}.jsonl")
    write_pairs(draw_pairs(size.heldout, "heldout"), out / "heldout.jsonl")
    write_questions(size.questions, "questions", out / "questions.jsonl")
    if size.tuned:
        write_pairs(draw_pairs(size.heldout, "tuning"), out / "tuning.jsonl")
        write_questions(size.questions, "tuning", out / "tuning_questions.jsonl")


def write_matrices(out: Path, size: Size) -> list[str]:
    """The matrix files beside what they name; returns the runs' names."""
    templates = {"main": "main.yaml", **dict.fromkeys(size.companions, "companion.yaml")}
    for name, template in templates.items():
        matrix = yaml.safe_load((HERE / template).read_text(encoding="utf-8"))
        matrix |= {"name": name, "seeds": list(size.seeds)}
        matrix["variants"] = {
            v: how for v, how in matrix["variants"].items() if not size.variants or v in size.variants
        }
        matrix["data"]["train"]["path"] = f"{name}.jsonl"
        matrix["benchmarks"]["calibration"]["best_seen"] = COMPANIONS.get(name, {}).get("best", BEST)
        (out / f"{name}.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
    for name in size.tuned:
        matrix = yaml.safe_load((HERE / "tuned.yaml").read_text(encoding="utf-8"))
        matrix |= {"name": f"tuned-{name}"}
        matrix["data"]["train"]["path"] = f"{name}.jsonl"
        (out / f"tuned-{name}.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
    return [*templates, *(f"tuned-{name}" for name in size.tuned)]


def results_of(out: Path, runs: list[str]) -> pd.DataFrame:
    """The runs' results, with their margins of nearly equal pairs and a column `run`."""
    import pandas as pd
    from verdicts import near_equal_shares

    frames = []
    for name in runs:
        folder = out / "runs" / name
        shares = near_equal_shares(pd.read_parquet(folder / "likelihoods.parquet"))
        frames += [frame.assign(run=name) for frame in (pd.read_parquet(folder / "results.parquet"), shares)]
    return pd.concat(frames, ignore_index=True)


def keep_main(out: Path, kept: Path) -> None:
    """The main run's files that the study keeps."""
    for name in KEPT:
        shutil.copyfile(out / "runs" / "main" / name, kept / name)
    _report(out / "runs" / "main", kept / "report.html")


def _report(run: Path, kept: Path) -> None:
    """The run's report without its examples and with fewer training figures, so that it is small enough to keep."""
    import pandas as pd

    from radpo.report.build import build_report

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in run.glob("*"):
            if file.suffix != ".html":
                shutil.copyfile(file, folder / file.name)
        pd.read_parquet(run / "examples.parquet").head(0).to_parquet(folder / "examples.parquet", index=False)
        training = pd.read_parquet(run / "training.parquet")
        training[training["metric"].isin(CURVES)].to_parquet(folder / "training.parquet", index=False)
        shutil.copyfile(build_report(folder), kept)
