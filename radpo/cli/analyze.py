"""The `radpo analyze` commands: one for every benchmark that measures training, and those on tables and runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli.benchmark import AnalyzeGroup
from radpo.cli.options import (
    Columns,
    FalseTens,
    Json,
    OnErrorOption,
    Pairing,
    PairsFile,
    Scale,
    Seed,
    Swap,
    reading,
    show,
    show_table,
)
from radpo.core.errors import ConfigError

if TYPE_CHECKING:
    from radpo.core.run import Run

HighScore = Annotated[float, typer.Option(help="Responses with at least this score count as high-scored.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, as `radpo run` makes.")]
Against = Annotated[str | None, typer.Option(help="The variant to compare with. Default: the run's baseline.")]
Table = Annotated[Path | None, typer.Option(help="Also write the table to this file: .parquet, .csv or .json.")]

analyze_app = typer.Typer(cls=AnalyzeGroup, help="Ask what training did to a checkpoint.", no_args_is_help=True)


@analyze_app.command("compare")
def analyze_compare(
    run_dir: RunDir,
    against: Against = None,
    high_score: Annotated[
        float | None,
        typer.Option(help="Responses with at least this score count as high-scored. Default: the run's setting."),
    ] = None,
    out: Table = None,
    as_json: Json = False,
) -> None:
    """Variants of a run against each other: every figure that is a mean of examples, tested over the same examples.

    These are the rows of the run's comparisons.parquet, the p-values those of its report. value is variant minus
    baseline, low and high its 95% interval, p the two-sided test's, clustered by prompt and, with several seeds, seeds
    taken for random; p_holm is adjusted within the family (primary figures, and the others), detectable the difference
    that would have been found with power 0.8. Of log-likelihoods (delta_logp_...) it is a difference in differences:
    policy minus reference, variant minus baseline.
    """
    from radpo.stats import comparison

    run = _run(run_dir)
    show_table(comparison.against(run, against or run.baseline, high_score=high_score), as_json, out)


@analyze_app.command("trajectory")
def analyze_trajectory(
    training: Annotated[Path, typer.Argument(metavar="TRAINING_DIR", help="A training folder: trajectory.parquet.")],
    pairs: PairsFile,
    high_score: HighScore = 5.0,
    scale: Scale = (1.0, 10.0),
    on_error: OnErrorOption = "raise",
    swap: Swap = False,
    columns: Columns = [],  # noqa: B006 - Typer wants a list, and nothing changes it
    pairing: Pairing = "best-other",
    false_tens: FalseTens = "keep",
    out: Table = None,
    as_json: Json = False,
) -> None:
    """Unlearning over training: the mean change of log p of tracked pairs by step, side, score and goal."""
    from radpo.benchmarks.trajectory import read_trajectory, trajectory
    from radpo.preferences.preferences import load_preferences

    read = load_preferences(pairs, reading(scale, on_error, swap, columns, pairing, 0, false_tens))
    table = read.table.select(["id", "score_chosen", "score_rejected"])
    show_table(trajectory(read_trajectory(training), table.to_pandas(), high_score=high_score), as_json, out)


@analyze_app.command("controllability")
def analyze_controllability(
    scored: Annotated[
        Path,
        typer.Argument(
            metavar="SCORED", help="A table with a row per sample: prompt_id, goal_NAME and score_NAME columns."
        ),
    ],
    out: Table = None,
    as_json: Json = False,
) -> None:
    """Whether each attribute follows its own goal: the slope of every attribute's score on every attribute's goal."""
    from radpo.benchmarks.calibration import controllability
    from radpo.core.tables import read_table

    show_table(controllability(read_table(scored)), as_json, out)


@analyze_app.command("frontier")
def analyze_frontier(run_dir: RunDir, out: Table = None, as_json: Json = False) -> None:
    """Score against KL of a run's variants (several betas, say), and which of them no other beats in both."""
    from radpo.benchmarks.reward_kl import frontier, points
    from radpo.training.variants import find_variant

    run = _run(run_dir)
    betas = {
        name: settings["training"]["beta"]
        for name, settings in run.manifest["variants"].items()
        if find_variant(settings["method"]).data is not None  # the model as it is was not trained with any
    }
    show_table(frontier(points(run.results, betas)), as_json, out)


@analyze_app.command("power")
def analyze_power(
    sd: Annotated[float, typer.Option(min=0.0, help="The standard deviation of the paired differences.")],
    effect: Annotated[
        float | None, typer.Option(help="A difference to detect: prints how many pairs that takes.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=2, help="The number of pairs: prints the difference that they can detect.")
    ] = None,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.5)] = 0.05,
    power: Annotated[float, typer.Option(min=0.01, max=0.999)] = 0.8,
    as_json: Json = False,
) -> None:
    """How many pairs a difference takes to be found, or how small a difference a number of pairs can find."""
    from radpo.stats.estimates import minimum_detectable_effect, sample_size

    if (effect is None) == (pairs is None):
        raise ConfigError("give one of --effect (how many pairs?) and --pairs (how small a difference?)")
    if effect is not None:
        show({"pairs": sample_size(sd, effect, alpha=alpha, power=power)}, as_json)
    elif pairs is not None:
        show({"effect": minimum_detectable_effect(sd / pairs**0.5, alpha=alpha, power=power)}, as_json)


@analyze_app.command("theory")
def analyze_theory(
    out: Annotated[
        Path, typer.Option(help="The folder to write theory.html, rates.parquet and unlearning.parquet into.")
    ],
    replicates: Annotated[int, typer.Option(min=2, help="Random bandits to average over.")] = 24,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check the paper's theory on tabular bandits, where DPO can be solved exactly.

    Plain and reward-augmented DPO are optimised to convergence on growing samples. The fitted exponent says how fast
    suboptimality falls with the number of pairs N (the theorem asks for N^-0.5 or faster), and the converged policies
    show exactly what became of near-best responses that were rejected.
    """
    import numpy as np
    import pandas as pd

    from radpo.core.console import progress_bar
    from radpo.report.page import write_page
    from radpo.theory.page import theory_page
    from radpo.theory.rates import METHODS, QUANTITIES, exponent, rates, unlearning

    out.mkdir(parents=True, exist_ok=True)
    with progress_bar("bandits") as progress:
        measured = rates(replicates=replicates, seed=seed, progress=progress)
    unlearned = pd.concat(
        [unlearning(labels="bradley-terry", seed=seed), unlearning(labels="scores", seed=seed)], ignore_index=True
    )
    fitted = {
        (method, quantity): exponent(measured, method, quantity, rng=np.random.default_rng(seed))
        for method in METHODS
        for quantity in QUANTITIES
    }
    measured.to_parquet(out / "rates.parquet", index=False)
    unlearned.to_parquet(out / "unlearning.parquet", index=False)
    write_page(out / "theory.html", "Theory check: tabular bandits", theory_page(measured, unlearned, fitted))
    show(
        {
            f"{method}/{quantity}_exponent": {
                "value": e.value,
                "stderr": e.stderr,
                "n": e.n,
                "low": e.low,
                "high": e.high,
            }
            for (method, quantity), e in fitted.items()
        },
        as_json,
    )


def _run(run_dir: Path) -> Run:
    from radpo.core.run import load_run

    return load_run(run_dir)
