"""The command line's entry point and the commands that belong to no group. No logic here."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from radpo.cli import matrix as matrix_commands
from radpo.cli import regress as regress_command
from radpo.cli.analyze import analyze_app
from radpo.cli.data import data_app
from radpo.cli.eval import eval_app
from radpo.cli.export import export
from radpo.cli.imported import import_
from radpo.cli.init import init
from radpo.cli.options import (
    Columns,
    FalseTens,
    Json,
    Model,
    OnErrorOption,
    Pairing,
    Scale,
    Seed,
    Source,
    Swap,
    one_of,
    print_counts,
    quiet_libraries,
    reading,
    show,
)
from radpo.cli.store import store_app
from radpo.core.errors import RadpoError
from radpo.core.say import LEVELS, say, set_level, shows
from radpo.core.warn import RadpoWarning


class RootGroup(TyperGroup):
    """The commands, whose general options may stand anywhere."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring the general options before the command."""
        before: list[str] = []
        after: list[str] = []
        left = iter(args)
        for word in left:
            if word == "--":
                after += [word, *left]
            elif word == "--log-level":
                before += [word, *([value] if (value := next(left, None)) is not None else [])]
            else:
                (before if word == "--quiet" or word.startswith("--log-level=") else after).append(word)
        return super().parse_args(ctx, [*before, *after])


app = typer.Typer(
    cls=RootGroup,
    help="Train plain and reward-augmented DPO, score the checkpoints, measure unlearning, compare.\n\n"
    "Start with: radpo init quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
app.add_typer(analyze_app, name="analyze")

app.command()(init)
app.command()(matrix_commands.run)
app.command()(matrix_commands.plan)
app.command()(matrix_commands.schema)
app.command()(regress_command.regress)
app.add_typer(store_app, name="store")
app.command()(export)
app.command("import")(import_)

REGRESSION = 1
"""The exit status of `radpo regress` where it found one, and of nothing else."""
INTERRUPTED = 130
"""The exit status that Typer makes of Ctrl-C."""


def main() -> None:
    """Run the command line; errors become one message and an exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a warning of every forked worker
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # gives memory back; see radpo.preferences.arrow
    warnings.showwarning = _show_warning
    try:
        app()
    except RadpoError as error:
        say(f"radpo: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            say("radpo: interrupted; the same command resumes from here", file=sys.stderr)
        if end.code == REGRESSION and not isinstance(end.__context__, typer.Exit):
            sys.exit(2)  # Typer ends so where a pipe is closed or a question is left unanswered, which is no verdict
        raise


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """radpo's own warnings are for the person who gave the command: a line, without a place in the code."""
    if not shows("warning"):
        return
    if issubclass(category, RadpoWarning):
        say(f"radpo: warning: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print results and errors alone: --log-level error.")] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            help="What to print on standard error: error, warning, info (progress, too) or debug (the libraries' own "
            "messages, too). Default: RADPO_LOG_LEVEL, else info. Both options may also stand after the command."
        ),
    ] = None,
) -> None:
    if log_level is not None:
        one_of("--log-level", log_level, LEVELS)
    set_level("error" if quiet else log_level)
    if version:
        from radpo import __version__

        say(__version__)
        raise typer.Exit


@app.command()
def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="Run directories, as `radpo run` makes them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write. Default: RUN_DIR/report.html; for several runs comparison.html in this folder."
        ),
    ] = None,
) -> None:
    """Build the HTML report of a run directory anew, or one report of several runs side by side.

    The variants of several runs are called RUN/VARIANT and tested against each other where both did the same examples.
    """
    from radpo.report.build import build_comparison, build_report

    if out is None and len(run_dirs) == 1:
        say(build_report(run_dirs[0]))
    else:
        say(build_comparison(run_dirs, out or Path("comparison.html")))


@app.command()
def train(
    pairs: Source,
    out: Annotated[Path, typer.Option(help="The run directory: policy/ (the checkpoint), tables and report.")],
    method: Annotated[
        str, typer.Option(help="dpo, ra-dpo, half-ra, ira, ra-attributes, cond-sft, dpo-norm, or an installed one.")
    ] = "ra-dpo",
    model: Model = "smollm2-135m-instruct",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A training setting, such as beta=0.1; repeatable."),
    ] = None,
    scale: Scale = (1.0, 10.0),
    on_error: OnErrorOption = "raise",
    swap: Swap = False,
    columns: Columns = [],  # noqa: B006 - Typer wants a list, and nothing changes it
    pairing: Pairing = "best-other",
    false_tens: FalseTens = "keep",
    seed: Seed = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Optimiser steps between resumable checkpoints.")] = 50,
    store: matrix_commands.StorePlace = None,
) -> None:
    """Train one checkpoint on scored pairs, or on the training pairs that `radpo data relabel` writes.

    Interrupted, the same command resumes from its last checkpoint.

    On several GPUs: accelerate launch --config_file accelerate/data_parallel.yaml -m radpo train …, with a file that
    `radpo init accelerate` writes;
    batch_size is what all of them see together in an optimiser step.

    Settings not set are the paper's: beta 0.01, learning_rate 5e-7, batch_size 128, one epoch, max_length 1024.
    """
    from radpo import api
    from radpo.training.settings import parse_settings

    chosen, read = parse_settings(settings or []), reading(scale, on_error, swap, columns, pairing, 0, false_tens)
    quiet_libraries()
    data = {
        "scale": list(read.scale), "on_error": read.on_error, "swap": read.swap, "columns": dict(read.columns),
        "pairing": read.pairing, "false_tens": read.false_tens,
    }  # fmt: skip
    policy = api.train(
        pairs, out, method=method, model=model, training=chosen.model_dump(mode="json", exclude_unset=True), data=data,
        seed=seed, save_every=save_every, store=store,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first one speaks
        counts = json.loads((out / "counts.json").read_text(encoding="utf-8"))
        for word, found in (("left out", counts["dropped"]), ("noted", counts["noted"])):
            print_counts(word, found, sys.stderr)
        say(policy)


@app.command(
    "lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def lm_eval(arguments: typer.Context) -> None:
    """Run lm-eval's own command, in which `--model radpo` reads what requests have in common once.

    All that follows is lm-eval's: radpo lm-eval --model radpo --model_args pretrained=FOLDER --tasks arc_challenge

    The values are those of `--model hf` up to rounding. Other tasks than multiple choice are as fast as with `hf`.
    """
    from lm_eval.__main__ import cli_evaluate

    import radpo.models.lm_eval  # noqa: F401 - registers the model class

    sys.argv = ["lm-eval", *arguments.args]
    cli_evaluate()


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has: versions, CPU, bfloat16, GPU, the bundled model, the store."""
    from radpo.cli.doctor import examine

    show(examine(), as_json)
