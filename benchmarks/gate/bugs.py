"""What the gate says of sixteen planted bugs, and of twenty reruns in which nothing is wrong.

Run from the repository's root: python benchmarks/gate/bugs.py [--out runs/bugs] [--bugs NAME ...] [--reruns N]

Each bug is planted alone (`planted.py`) in a run of the gate's matrix, cut down to the variant that it touches; all
else comes from the store. Writes reports/gate/bugs.csv and reports/gate/reruns.csv (or to --tables).
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from planted import BUGS, ENTRY_POINTS, Bug, planted

import radpo
from radpo.gate.compare import compare
from radpo.gate.verdict import Verdict

HERE = Path(__file__).parent
MATRIX = HERE.parent / "gate.yaml"
BATCHES = (50, 64, 77, 100, 128, 150, 200, 250, 300, 384, 500, 1000)
"""Each batch of answers draws from a seed of its own, so that other batches are other seeds of sampling."""


@dataclass(frozen=True)
class Rerun:
    """A run in which nothing is wrong: what differs, and which variants are trained anew for it."""

    says: str
    sampling: int | None = None
    words: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    variant: str = "dpo"


RERUNS = (
    *(Rerun(f"other seeds of sampling: batches of {size}", sampling=size) for size in BATCHES),
    Rerun("one job of two threads", words=("--jobs", "1"), environment={"OMP_NUM_THREADS": "2"}),
    Rerun("two jobs", words=("--jobs", "2"), variant="ra-dpo"),
    Rerun("three jobs", words=("--jobs", "3"), variant="half-ra"),
    Rerun("executor ray", words=("--executor", "ray", "--jobs", "2")),
    Rerun("AVX2 (ATEN)", environment={"ATEN_CPU_CAPABILITY": "avx2"}, variant="ra-dpo"),
    Rerun("no vector instructions (ATEN)", environment={"ATEN_CPU_CAPABILITY": "default"}),
    Rerun("AVX2 (oneDNN)", environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}, variant="cond-sft"),
    Rerun(
        "SSE4.1 (oneDNN), AVX2 (ATEN and MKL)",
        environment={"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        variant="ra-dpo",
    ),
)  # fmt: skip


def main() -> None:
    """Make both tables and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bugs"))
    parser.add_argument("--tables", type=Path, default=Path("reports/gate"))
    parser.add_argument("--bugs", nargs="*", choices=list(BUGS), default=list(BUGS))
    parser.add_argument("--reruns", type=int, default=len(RERUNS))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    install(out / "packages")
    (clean,) = radpo.run(MATRIX, out / "gate", store=str(out / "store"), jobs=2).run_dirs
    arguments.tables.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("bugs", (bug_row(name, clean, out) for name in arguments.bugs)),
        ("reruns", (rerun_row(rerun, clean, out) for rerun in RERUNS[: arguments.reruns])),
    ):
        found = []
        for row in rows:
            found.append(row)
            print(" | ".join(map(str, row.values())), flush=True)
        if found:
            pd.DataFrame(found).to_csv(arguments.tables / f"{name}.csv", index=False)


def install(folder: Path) -> None:
    """Have the variants and the executor of `planted.py` found as an installed package's are."""
    info = folder / "radpo_planted-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: radpo-planted\nVersion: 0\n")
    (info / "RECORD").write_text("")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    for path in (HERE, folder):
        if str(path) not in sys.path:
            sys.path.append(str(path))


def matrix_of(path: Path, variants: list[str] | None, changes: Mapping[str, Any]) -> Path:
    """The gate's matrix with changes, cut down to some of its variants, as a file elsewhere."""
    matrix = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))
    matrix["model"] = str(MATRIX.parent / matrix["model"])
    for section in (*matrix["data"].values(), *(one.get("questions") for one in matrix["benchmarks"].values())):
        if isinstance(section, dict):
            section["path"] = str(MATRIX.parent / section["path"])
    if variants is not None:
        matrix["include"] = [{"variant": variants}]
    path.write_text(yaml.safe_dump(joined(matrix, changes), sort_keys=False), encoding="utf-8")
    return path


def joined(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A document with changes, mappings key by key."""
    found = dict(document)
    for key, value in changes.items():
        found[key] = joined(found.get(key) or {}, value) if isinstance(value, Mapping) else value
    return found


def plant(name: str, out: Path, smaller: Mapping[str, Any] | None = None) -> Path:
    """A run directory with that bug.

    Args:
        smaller: changes of the matrix that the clean run has, too.
    """
    bug = BUGS[name]
    if "data" in bug.matrix:
        with (out / bug.matrix["data"]["train"]["path"]).open("wb") as stream:
            for part in ("heldout", "train"):
                stream.write(gzip.decompress((HERE / f"{part}.jsonl.gz").read_bytes()))
    changes = joined(smaller or {}, {**bug.matrix, "variants": {bug.variant: dict(bug.settings)}})
    with planted(bug):
        matrix = matrix_of(out / f"{name}.yaml", ["base", bug.variant], changes)
        return radpo.run(matrix, out / name, store=str(out / "store"), executor="here").run_dirs[0]


def bug_row(name: str, clean: Path, out: Path) -> dict[str, Any]:
    """What the gate says of a bug, with the metric that shows it most.

    It is caught where a metric fails, or the gate refuses and names what differs; too few examples are no catch.
    """
    bug: Bug = BUGS[name]
    verdict = compare(clean, plant(name, out), variants=["base", bug.variant])
    return {
        "bug": bug.says, "variant": bug.variant, "planted in": bug.how, **said(verdict),
        "caught": verdict.regressed or bool(verdict.differences),
    }  # fmt: skip


def rerun_row(rerun: Rerun, clean: Path, out: Path) -> dict[str, Any]:
    """What the gate says of a run in which nothing is wrong."""
    place = out / f"rerun-{RERUNS.index(rerun)}"
    place.mkdir(exist_ok=True)
    if rerun.sampling is not None:
        sampling = {"sampling": {"batch_size": rerun.sampling}}
        changes = {"benchmarks": {"mt-bench": sampling, "alpaca-eval": sampling}}
        path = matrix_of(place / "gate.yaml", None, changes)
        (run,) = radpo.run(path, place / "run", store=str(out / "store"), executor="here").run_dirs
        verdict = compare(clean, run)
    else:
        matrix = matrix_of(place / "gate.yaml", ["base", rerun.variant], {})
        command = [sys.executable, "-m", "radpo", "run", str(matrix)]
        command += ["--out", str(place / "run"), "--store", str(place / "store"), *rerun.words]
        subprocess.run(command, check=True, env={**os.environ, **rerun.environment}, stdout=subprocess.DEVNULL)
        verdict = compare(clean, place / "run", variants=["base", rerun.variant])
    return {
        "rerun": rerun.says, "variants": "all" if rerun.sampling else f"base, {rerun.variant}", **said(verdict),
        "examples changed": sum(row.changed for row in verdict.rows),
    }  # fmt: skip


def said(verdict: Verdict) -> dict[str, Any]:
    """The verdict in a few columns, the metric that shows it most first."""
    if verdict.status == "refused":
        return {"verdict": "refused", "first": verdict.refusals[0], "metrics worse": 0, "metrics": len(verdict.rows)}
    return {
        "verdict": verdict.status, "first": verdict.worse[0].change if verdict.worse else "",
        "metrics worse": len(verdict.worse), "metrics": len(verdict.rows),
    }  # fmt: skip


if __name__ == "__main__":
    main()
