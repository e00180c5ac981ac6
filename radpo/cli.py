"""The command line: options come in, one room does the work, a result or one clear message goes out. No logic here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radpo.errors import RadpoError

if TYPE_CHECKING:
    from radpo.matrix.expand import Plan
    from radpo.matrix.store import Store

app = typer.Typer(
    help="Train plain and reward-augmented DPO, score the checkpoints, measure unlearning, compare.\n\n"
    "Begin with: radpo run benchmarks/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Check, relabel and make scored preferences.", no_args_is_help=True)
eval_app = typer.Typer(help="Score one checkpoint on one benchmark.", no_args_is_help=True)
analyze_app = typer.Typer(help="Ask what training did to a checkpoint.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
app.add_typer(analyze_app, name="analyze")

MatrixFile = Annotated[Path, typer.Argument(metavar="MATRIX.yaml", help="The matrix file.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]


def main() -> None:
    """Run the command line; errors become one message and an exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a warning of every forked worker
    try:
        app()
    except RadpoError as error:
        print(f"radpo: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("radpo: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        from radpo import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def run(
    matrix: MatrixFile,
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/NAME unless given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, as `radpo plan`.")] = False,
) -> None:
    """Run a matrix to its report. Interrupted, the same command goes on; unchanged, it does nothing.

    Finished stages are kept in a store beside the run directories (runs/store, or RADPO_STORE) and shared by all
    matrices that need them.
    """
    from radpo.config import load_matrix
    from radpo.matrix.expand import expand

    plan_ = expand(load_matrix(matrix))
    folder, store = _places(plan_, out)
    if dry_run:
        _print_plan(plan_, store)
        return
    from radpo.console import MatrixView
    from radpo.matrix.graph import in_order
    from radpo.matrix.run import run_matrix

    _quiet_libraries()
    with MatrixView(len(in_order(plan_.wanted))) as view:
        finished = run_matrix(plan_, folder, store, view)
    if finished.unchanged:
        print("nothing to do: every stage is in the store and the report is current", file=sys.stderr)
    print(finished.report)


@app.command()
def plan(
    matrix: MatrixFile,
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/NAME unless given.")] = None,
    as_json: Json = False,
) -> None:
    """List a matrix's stages and which of them the store already has."""
    from radpo.config import load_matrix
    from radpo.matrix.expand import expand
    from radpo.matrix.graph import in_order

    plan_ = expand(load_matrix(matrix))
    _, store = _places(plan_, out)
    if as_json:
        stages = [
            {"name": s.name, "key": s.key, "in_store": store.has(s), "needs": [i.name for i in s.inputs.values()]}
            for s in in_order(plan_.wanted)
        ]
        print(json.dumps({"name": plan_.matrix.name, "stages": stages}, indent=1))
    else:
        _print_plan(plan_, store)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, as `radpo run` makes.")],
) -> None:
    """Build the HTML report of a run directory anew."""
    from radpo.report.build import build_report

    print(build_report(run_dir))


def _places(plan: Plan, out: Path | None) -> tuple[Path, Store]:
    """The run directory, and the store beside it."""
    from radpo.matrix.store import Store

    folder = out or Path("runs") / plan.matrix.name
    return folder, Store(Path(os.environ.get("RADPO_STORE") or folder.parent / "store"))


def _print_plan(plan: Plan, store: Store) -> None:
    from radpo.matrix.graph import in_order

    stages = in_order(plan.wanted)
    for stage in stages:
        print(f"{'in store' if store.has(stage) else 'to do   '}  {stage.name}")
    missing = sum(not store.has(stage) for stage in stages)
    print(f"{plan.matrix.name}: {len(stages)} stages, {missing} to do")


def _quiet_libraries() -> None:
    """The libraries' own bars and advice would run across ours; their errors still come through."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))
