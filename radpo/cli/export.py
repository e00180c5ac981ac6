"""`radpo export`: a checkpoint with its model card, or a run's figures for other tools and trackers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from radpo.cli.matrix import StorePlace
from radpo.cli.options import quiet_libraries
from radpo.core.errors import ConfigError
from radpo.core.say import say


def export(
    what: Annotated[
        str,
        typer.Argument(metavar="VARIANT|RUN_DIR", help="A trained variant; with --format or --to a run directory."),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="The folder to write. Default with --format: RUN_DIR/export, with TensorBoard: RUN_DIR/tensorboard.",
        ),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="Tables instead of a checkpoint: csv, latex, xlsx or lm-eval.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="A tracker that gets a run's results, curves and report: wandb, mlflow, trackio, tensorboard."
        ),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="The project, or experiment, of --to. Default: the run's name.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The run that trained the variant. Default: the only one below runs/ that did."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which of the variant's seeds. Default: its only one.")] = None,
    store: StorePlace = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Also upload the folder to this repository of the Hub, USER/NAME."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository of --push public.")] = False,
) -> None:
    """Write a trained checkpoint into a folder of its own, or give a run's figures to other tools and trackers.

    A checkpoint is weights, tokenizer and chat template, as any tool reads them, and a model card with data, settings
    and results with their intervals, also as the Hub's metadata. Nothing is uploaded without --push.
    """
    if format_ is not None and to is not None:
        raise ConfigError("give one of --format (files) and --to (a tracker)")
    if project is not None and to is None:
        raise ConfigError("--project: is the tracker's, which --to names")
    if to is not None:
        from radpo.export.trackers import export_to

        say(export_to(Path(what), to, project=project, out=out))
        return
    if format_ is not None:
        from radpo.export.tables import export_tables

        for path in export_tables(Path(what), format_, out or Path(what) / "export"):
            say(path)
        return
    from radpo.export import checkpoints

    if out is None:
        raise ConfigError(f"export {what}: give the folder to write it into, or for a run's figures --format or --to")
    quiet_libraries()
    for path in checkpoints.export_checkpoint(run or checkpoints.find_run(what), what, out, seed=seed, store=store):
        say(path)
    if push is not None:
        say(f"uploaded to {checkpoints.push(out, push, public=public)}", file=sys.stderr)
