"""`radpo import`: finished results of other tools as a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radpo.core.errors import ConfigError
from radpo.core.say import say


def import_(
    out: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run directory to write.")],
    files: Annotated[
        list[str],
        typer.Argument(metavar="VARIANT=FILE...", help="A result file of a variant; a variant may have several."),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="The variant that the others are compared with. Default: the first.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="The model whose rows count, where files hold several models'. Default: the variant's name."),
    ] = None,
) -> None:
    """Import finished results as the variants of a run, with its report and comparisons; nothing is computed anew.

    Files: lm-eval's results_*.json (with the samples_*.jsonl beside it), alpaca-eval's annotations, FastChat's
    judgments of single answers and of pairs, Arena-Hard's judgments and battles.
    """
    from radpo import api

    found: dict[str, list[Path]] = {}
    for word in files:
        variant, sign, file = word.partition("=")
        if not (variant and sign and file):
            raise ConfigError(f"{word}: write VARIANT=FILE, such as mine=results.json")
        found.setdefault(variant, []).append(Path(file))
    say(api.import_results(out, found, baseline=baseline, only=only))
