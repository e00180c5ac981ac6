"""The `radpo eval` commands: one for every benchmark (`radpo.cli.benchmark`), and how good a judge is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radpo.cli.benchmark import EvalGroup
from radpo.cli.options import Json, parse_pairs, quiet_libraries, show

eval_app = typer.Typer(
    cls=EvalGroup, help="Score one checkpoint, or existing judgments, on one benchmark.", no_args_is_help=True
)


@eval_app.command("judge")
def eval_judge(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="Pairs with verdicts: alpaca-eval's (instruction, output_1, output_2, preference) or RewardBench's "
            "(prompt, chosen, rejected).",
        ),
    ],
    judge: Annotated[str, typer.Option(help="openai, panel, reward-model, verifier, or an installed one.")] = "openai",
    judge_set: Annotated[
        list[str] | None,
        typer.Option(
            "--judge-set", metavar="KEY=VALUE", help="A setting of the judge, such as model=NAME; repeatable."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N pairs.")] = None,
    as_json: Json = False,
) -> None:
    """How good a judge is: agreement with the verdicts, Cohen's kappa, and its bias for order and length.

    Every pair is judged in both orders. Of several verdicts on one pair the majority counts.
    """
    from radpo.core.console import progress_bar
    from radpo.judges.agreement import load_verdicts, measure
    from radpo.judges.lookup import find_judge

    quiet_libraries()
    asked = find_judge(judge, parse_pairs("--judge-set", judge_set or []))
    with progress_bar("judging") as progress:
        show(measure(load_verdicts(pairs)[:limit], asked, progress), as_json)
