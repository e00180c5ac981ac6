"""The regression gate's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radpo.cli.options import Json, parse_pairs, print_json
from radpo.core.say import say


def regress(
    baseline: Annotated[
        Path,
        typer.Argument(metavar="BASELINE", help="A run directory, or the name of a baseline under reports/baselines/."),
    ],
    candidate: Annotated[
        Path | None, typer.Argument(metavar="CANDIDATE_DIR", help="The run directory to test.", show_default=False)
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Probability of a false alarm over all metrics.")
    ] = 0.05,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="The drop that must be detected, in the metric's own unit: X for every metric, METRIC=X (a metric, a "
            "benchmark, or benchmark/subset/metric with *), 0 for none, or METRIC=off to leave it out. Repeatable.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIANT=OTHER",
            help="Compare the candidate's VARIANT with the baseline's OTHER: a new variant with the one it is to beat. "
            "Repeat.",
        ),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Keep the run as this baseline: the candidate if it passes, or BASELINE if no candidate is given.",
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown for a pull request to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Say whether a run is worse than a baseline, example by example.

    Exit status: 0 pass; 1 regression; 2 wrong input; 4 no verdict, because the runs are not
    comparable (the output names what differs) or because the examples are too few to show a drop of the margin.

    A metric fails where it is significantly worse (paired by example, Holm over all metrics) and not shown to be worse
    by less than its margin. Unless given, a metric's margin is the one that its benchmark suggests; the table shows it.

    Keep a first baseline with `radpo regress RUN_DIR --save main`, then gate with `radpo regress main RUN_DIR`.
    """
    import sys

    from radpo.core.errors import ConfigError
    from radpo.core.files import replace_file
    from radpo.gate.baselines import find_baseline, save_baseline
    from radpo.gate.compare import compare
    from radpo.gate.documents import to_junit, to_markdown, to_table
    from radpo.gate.margins import parse_margins

    if candidate is None:
        if save is None:
            raise ConfigError("give CANDIDATE_DIR, the run directory to test, or --save NAME to keep this one")
        say(save_baseline(baseline, save))
        return
    verdict = compare(
        find_baseline(baseline), candidate, alpha=alpha, margins=parse_margins(margin or []),
        against={name: str(other) for name, other in parse_pairs("--against", against or []).items()},
    )  # fmt: skip
    for path, text in ((junit, to_junit), (markdown, to_markdown)):
        if path is not None:
            document = text(verdict)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda partial, document=document: partial.write_text(document, encoding="utf-8"))  # type: ignore[misc]
    if as_json:
        print_json(verdict.to_json())
    else:
        say(to_table(verdict), end="")
    if verdict.status == "refused":
        say(f"radpo: no verdict: {'; '.join(verdict.refusals)}", file=sys.stderr)
    if save is not None:
        kept = f"kept as {save_baseline(candidate, save)}" if verdict.status == "pass" else f"not kept as {save}"
        say(f"radpo: {kept}", file=sys.stderr)
    raise typer.Exit(verdict.exit_status)
