"""The controlled testbed from nothing to a table of claims: a model, its data, five runs of radpo, a page.

Run from the repository's root: python benchmarks/study/study.py [--out runs/testbed] [--full] [--jobs N]

With --full there are also points of the exact map (exact_map.py) on the language model, each method tuned.

All that is made lies in OUT; interrupted, the same command goes on there. OUT/study gets what is worth keeping:
claims.csv, results.parquet (all runs), study.html, and the main run's report, manifest and matrix.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from claims import CONDITIONED, EXPERIMENTS
from pretrain import pretrain
from task import BEST, draw_pairs, write_pairs, write_questions

from radpo.core.machine import cores

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
"""The main run's files that the study keeps."""
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


def main() -> None:
    """Make whatever is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/testbed"))
    parser.add_argument(
        "--jobs", type=int, default=cores(), help="stages at once; by default a core each, which gives the figures kept"
    )
    parser.add_argument("--full", action="store_true", help="the tuned points as well")
    parser.add_argument("--toy", action="store_true", help="too small to mean anything: whether all of it runs")
    arguments = parser.parse_args()
    size = TOY if arguments.toy else replace(FULL, tuned=TUNED if arguments.full else ())
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    make_inputs(arguments.out, size)
    runs = write_matrices(arguments.out, size)
    for name in runs:
        say(f"run {name}", start)
        command = [sys.executable, "-m", "radpo", "run", f"{name}.yaml", "--out", f"runs/{name}"]
        subprocess.run([*command, "--jobs", str(arguments.jobs)], cwd=arguments.out, check=True, stdout=sys.stderr)
    there = frozenset(("main", variant) for variant in size.variants) or None
    table = conclude(arguments.out, runs, there)
    say("done", start)
    print(table.to_string(columns=["experiment", "seeds", "effect", "low", "high", "smallest", "verdict"]))


def say(what: str, start: float) -> None:
    print(f"{time.perf_counter() - start:7.1f} s  {what}", file=sys.stderr, flush=True)


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


def conclude(out: Path, runs: list[str], there: frozenset[tuple[str, str]] | None = None) -> pd.DataFrame:
    """The table of claims from the runs' results, and the folder to keep.

    Args:
        there: the runs and variants that were made, if not all of them: experiments that need others are left out.
    """
    import pandas as pd
    from page import write_claims_page
    from verdicts import judge, near_equal_shares

    frames = []
    for name in runs:
        folder = out / "runs" / name
        shares = near_equal_shares(pd.read_parquet(folder / "likelihoods.parquet"))
        frames += [frame.assign(run=name) for frame in (pd.read_parquet(folder / "results.parquet"), shares)]
    results = pd.concat(frames, ignore_index=True)
    study = out / "study"
    study.mkdir(exist_ok=True)
    for name in KEPT:
        shutil.copyfile(out / "runs" / "main" / name, study / name)
    report(out / "runs" / "main", study / "report.html")
    results.to_parquet(study / "results.parquet", index=False)
    experiments = [experiment for experiment in EXPERIMENTS if experiment.takes <= there] if there else EXPERIMENTS
    table = judge(experiments, results).sort_values("decides", ascending=False, kind="stable", ignore_index=True)
    table.to_csv(study / "claims.csv", index=False, float_format="%.4f")
    write_claims_page(study / "study.html", table, results, CONDITIONED)
    return table


def report(run: Path, kept: Path) -> None:
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


if __name__ == "__main__":
    main()
