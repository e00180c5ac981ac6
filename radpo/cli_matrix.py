"""The commands about a matrix as a whole: run, plan, schema. Options come in, `radpo.matrix` does the work."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli_options import Json, print_json, quiet_libraries

if TYPE_CHECKING:
    from radpo.matrix.expand import Plan
    from radpo.matrix.store import Store

MatrixFile = Annotated[Path, typer.Argument(metavar="MATRIX.yaml", help="The matrix file.")]
OutFolder = Annotated[Path | None, typer.Option(help="The run directory; runs/NAME unless given.")]
StorePlace = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store of finished stages, a folder or an fsspec URL such as s3://bucket/store; "
        "RADPO_STORE, else `store` beside the run directory, unless given.",
    ),
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Stages at once. Local: 1 unless given.")]


def run(
    matrix: MatrixFile,
    out: OutFolder = None,
    store: StorePlace = None,
    executor: Annotated[str, typer.Option(help="local (processes), ray, or an installed one.")] = "local",
    jobs: Jobs = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster's address, or `auto`; one on this machine unless given.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="After a failure, still do all that does not depend on it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, as `radpo plan`.")] = False,
) -> None:
    """Run a matrix to its report. Interrupted, the same command goes on; unchanged, it does nothing.

    Finished stages are kept in the store, shared by all matrices that need them; two runs on one store at the same time
    compute each stage once. With --jobs N the cores are divided among N stages at once.
    """
    from radpo.config import load_matrix
    from radpo.console import MatrixView
    from radpo.matrix.executors import find_executor
    from radpo.matrix.expand import expand
    from radpo.matrix.run import run_matrix

    plan_ = expand(load_matrix(matrix))
    folder, kept = _places(plan_, out, store)
    if dry_run:
        _print_plan(plan_, kept)
        return
    make_pool = find_executor(executor)
    quiet_libraries()
    with MatrixView(len(plan_.stages), {}) as view:
        finished = run_matrix(plan_, folder, kept, view, lambda: make_pool(kept, jobs, address), keep_going=keep_going)
    if finished.unchanged:
        print("nothing to do: every stage is in the store and the report is current", file=sys.stderr)
    for report in finished.reports:
        print(report)


def plan(matrix: MatrixFile, out: OutFolder = None, store: StorePlace = None, as_json: Json = False) -> None:
    """List a matrix's stages and which of them the store already has."""
    from radpo.config import load_matrix
    from radpo.matrix.expand import expand

    plan_ = expand(load_matrix(matrix))
    _, kept = _places(plan_, out, store)
    if as_json:
        stages = [
            {"name": s.name, "key": s.key, "in_store": kept.has(s), "needs": [i.name for i in s.inputs.values()]}
            for s in plan_.stages
        ]
        print_json({"name": plan_.matrix.name, "stages": stages})
    else:
        _print_plan(plan_, kept)


def _places(plan: Plan, out: Path | None, store: str | None) -> tuple[Path, Store]:
    """The run directory, and the store."""
    from radpo.matrix.store import Store

    folder = out or Path("runs") / plan.matrix.name
    return folder, Store(Path(store or os.environ.get("RADPO_STORE") or folder.parent / "store"))


def _print_plan(plan: Plan, store: Store) -> None:
    for stage in plan.stages:
        print(f"{'in store' if store.has(stage) else 'to do   '}  {stage.name}")
    missing = sum(not store.has(stage) for stage in plan.stages)
    print(f"{plan.matrix.name}: {len(plan.stages)} stages, {missing} to do")
