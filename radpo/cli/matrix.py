"""The commands about a matrix as a whole: run, plan, schema."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from radpo.cli.options import Json, parse_pairs, print_json, quiet_libraries
from radpo.core.say import say, shows

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Values over the matrix file's, such as training.beta=0.05 or 'seeds=[0, 1]'.",
        show_default=False,
    ),
]
MatrixFile = Annotated[Path, typer.Argument(metavar="MATRIX.yaml", help="The matrix file.")]
OutFolder = Annotated[Path | None, typer.Option(help="The run directory. Default: runs/NAME.")]
StorePlace = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store of finished stages, a folder or an fsspec URL such as s3://bucket/store. Default: "
        "RADPO_STORE, else `store` beside the run directory.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Stages to compute at once. Default on the local executor: one a GPU, else 1.",
    ),
]


def run(
    matrix: MatrixFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    store: StorePlace = None,
    executor: Annotated[
        str | None,
        typer.Option(
            help="local (processes), ray, or an installed one. Default: the matrix file's `executor`, else local."
        ),
    ] = None,
    executor_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="An option of the executor, which overrides the matrix file's. Repeatable."
        ),
    ] = None,
    jobs: Jobs = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Short for --executor-set address=…: the address of a Ray cluster, or `auto`. Default: a cluster on "
            "this machine."
        ),
    ] = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="After a failure, still compute every stage that does not depend on it."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be computed, as `radpo plan` does.")
    ] = False,
) -> None:
    """Run a matrix to its report. Interrupted, the same command resumes; unchanged, it does nothing.

    Finished stages are kept in the store, shared by all matrices that need them; two runs on one store at the same time
    compute each stage once. With --jobs N the cores are divided among N stages at once. Where there are GPUs, each
    stage that loads a model has one to itself.
    """
    from radpo import api

    options = parse_pairs("--executor-set", executor_set or [])
    if address is not None:
        options["address"] = address
    with _overridden(overrides):
        if dry_run:
            say(api.plan(matrix, out, store=store, jobs=jobs))
            return
        quiet_libraries()
        finished = api.run(
            matrix, out, store=store, executor=executor, executor_options=options, jobs=jobs, keep_going=keep_going
        )
    if finished.unchanged and shows("info"):
        say("nothing to do: every stage is in the store and the report is current", file=sys.stderr)
    for report in finished.reports:
        say(report)


def plan(
    matrix: MatrixFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    store: StorePlace = None,
    jobs: Jobs = None,
    machine: Annotated[
        str,
        typer.Option(
            help="The machine to estimate for: `here`, a GPU such as h100-sxm or a100-80gb, or several: 8xh100-sxm."
        ),
    ] = "here",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only look whether a run could begin, as it does before its first stage: files, models, packages, "
            "GPUs, folders that can be written, and judges and endpoints, each asked one tiny request.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """What a matrix takes: stages, tokens, floating-point operations, time, disk, judge calls and money.

    Times rest on what the store's stages took, where this machine computed some of that kind; else on how fast it
    multiplies matrices. Nothing is computed and no judge is asked. Models and files may be yet to come, where the
    matrix states their sizes under `size_hints`.
    """
    from radpo import api
    from radpo.matrix.preflight import NotReadyError

    if check:
        try:
            with _overridden(overrides):
                stages = api.check(matrix, out, store=store, jobs=jobs)
        except NotReadyError as error:
            if as_json:
                print_json({"faults": list(error.faults)})
            raise
        print_json({"stages": stages}) if as_json else say(f"ready: {stages} stages to compute, nothing is lacking")
        return
    with _overridden(overrides):
        planned = api.plan(matrix, out, store=store, jobs=jobs, machine=machine)
    if as_json:
        print_json(planned.to_json())
    else:
        say(planned)


def _overridden(words: list[str] | None) -> AbstractContextManager[None]:
    from radpo.matrix.layers import nested, overridden

    return overridden(nested(parse_pairs("KEY=VALUE", words or [])))


def schema() -> None:
    """Print the JSON schema of matrix files, for editors that check and complete YAML."""
    from radpo.matrix.schema import matrix_schema

    print_json(matrix_schema())
