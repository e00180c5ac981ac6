"""`radpo init`: matrix files and packages to begin with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from radpo.core.say import say
from radpo.core.starters import starter, starters, write


def init(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[WHAT]",
            help="quickstart, gate, paper/RECIPE, judges/RECIPE and accelerate: files ready to use. variant, "
            "benchmark, judge, executor: a package of your own. RECIPE is a file of the recipes, such as "
            "paper/qwen2-7b-instruct.",
            autocompletion=lambda: starters(),
        ),
    ] = "quickstart",
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The name of the package's variant, benchmark, ...")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files that have other content.")] = False,
) -> None:
    """Write a commented matrix file with its data, or a package to begin a variant, benchmark, judge or executor with.

    Nothing is fetched: the files come with radpo. Their paths are printed, and what to type next.
    """
    made = starter(what, name)
    for path in write(made, out, force=force):
        say(path)
    for step in made.then:
        say(f"next: {step}", file=sys.stderr)
