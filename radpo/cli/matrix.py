"""The commands about a matrix as a whole: run, plan, schema. Options come in, `radpo.matrix` does the work."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli.options import Json, parse_pairs, print_json, quiet_libraries

if TYPE_CHECKING:
    from radpo.engine.store import Store
    from radpo.matrix.expand import Plan

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
    executor: Annotated[
        str | None,
        typer.Option(
            help="local (processes), ray, or an installed one; the matrix file's `executor`, else local, unless given."
        ),
    ] = None,
    executor_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the executor, over the matrix file's. Repeat."),
    ] = None,
    jobs: Jobs = None,
    address: Annotated[
        str | None,
        typer.Option(help="Short for --executor-set address=…: a Ray cluster's, or `auto`; one here unless given."),
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
    from radpo.cli.console import MatrixView
    from radpo.engine.executors import choose_executor
    from radpo.matrix.estimate import estimate
    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix
    from radpo.matrix.machines import NOMINAL
    from radpo.matrix.run import run_matrix

    plan_ = expand(load_matrix(matrix, planning=dry_run), planning=dry_run)
    folder, kept = _places(plan_, out, store)
    if dry_run:
        _print_plan(plan_, kept, "here", jobs, as_json=False)
        return
    options = parse_pairs("--executor-set", executor_set or [])
    if address is not None:
        options["address"] = address
    make_pool = choose_executor(plan_.matrix.executor, executor, options)
    quiet_libraries()
    missing = [stage for stage in plan_.stages if not kept.has(stage)]
    expected = estimate(missing, kept, NOMINAL, jobs or 1, plan_.matrix.stated)
    with MatrixView(len(plan_.stages), expected.seconds_by_key()) as view:
        finished = run_matrix(
            plan_,
            folder,
            kept,
            view,
            lambda: make_pool(kept, jobs),
            keep_going=keep_going,
            weights=expected.seconds_by_key(),
            notes=expected.notes_by_key(),
        )
    if finished.unchanged:
        print("nothing to do: every stage is in the store and the report is current", file=sys.stderr)
    for report in finished.reports:
        print(report)


def plan(
    matrix: MatrixFile,
    out: OutFolder = None,
    store: StorePlace = None,
    jobs: Jobs = None,
    machine: Annotated[
        str,
        typer.Option(
            help="Whose time is estimated: `here`, a GPU such as h100-sxm or a100-80gb, or several: 8xh100-sxm."
        ),
    ] = "here",
    as_json: Json = False,
) -> None:
    """What a matrix takes: stages, tokens, floating-point operations, time, disk, judge calls and money.

    Times rest on what the store's stages took, where this machine computed some of that kind; else on how fast it
    multiplies matrices. Nothing is computed and no judge is asked. Models and files may be yet to come, where the
    matrix states their sizes under `stated`.
    """
    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix

    plan_ = expand(load_matrix(matrix, planning=True), planning=True)
    _, kept = _places(plan_, out, store)
    _print_plan(plan_, kept, machine, jobs, as_json)


def schema() -> None:
    """Print the JSON schema of matrix files, for editors that check and complete YAML."""
    from radpo.matrix.schema import matrix_schema

    print_json(matrix_schema())


def _places(plan: Plan, out: Path | None, store: str | None) -> tuple[Path, Store]:
    """The run directory, and the store."""
    from radpo.engine.shared import open_store

    folder = out or Path("runs") / plan.matrix.name
    return folder, open_store(store or os.environ.get("RADPO_STORE") or str(folder.parent / "store"))


def _print_plan(plan: Plan, store: Store, machine: str, jobs: int | None, as_json: bool) -> None:
    from radpo.engine.machine import cores
    from radpo.matrix.estimate import estimate
    from radpo.matrix.machines import find_machine
    from radpo.matrix.plan_text import plan_json, plan_text

    found = find_machine(machine, max(1, cores() // (jobs or 1)))
    expected = estimate(plan.stages, store, found, jobs or found.gpus, plan.matrix.stated)
    if as_json:
        print_json(plan_json(plan.matrix.name, expected, plan.absent))
    else:
        print(plan_text(plan.matrix.name, expected, store.root, plan.absent))
