"""The `radpo analyze` commands."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli.options import Json, PairsFile, Scale, Seed, figures, load_pairs, quiet_libraries, show, show_table
from radpo.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from radpo.core.run import Run

Policy = Annotated[str, typer.Option(help="The trained checkpoint: a folder, a Hub id, or a bundled model.")]
Reference = Annotated[str, typer.Option(help="The model it was trained from.")]
HighScore = Annotated[float, typer.Option(help="Responses from this score on count as high-scored.")]
MaxLength = Annotated[int, typer.Option(min=16, help="Tokens of prompt and response; what is longer is cut.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, as `radpo run` makes.")]
Against = Annotated[str | None, typer.Option(help="The variant to compare with; the run's baseline unless given.")]
Table = Annotated[Path | None, typer.Option(help="Write the table here, too: .parquet, .csv or .json.")]
KeepIn = Annotated[
    Path | None, typer.Option(help="A folder to keep what is measured; interrupted, the same command goes on there.")
]
QuestionsFile = Annotated[
    Path, typer.Argument(metavar="PROMPTS.jsonl", help="question_id, category, turns, constraints.")
]
PerPrompt = Annotated[int, typer.Option(min=1, help="Samples of each prompt and goal.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens after which a sample is cut.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples drawn at once.")]

analyze_app = typer.Typer(help="Ask what training did to a checkpoint.", no_args_is_help=True)


@analyze_app.command("unlearning")
def analyze_unlearning(
    pairs: PairsFile,
    policy: Policy,
    reference: Reference,
    high_score: HighScore = 5.0,
    scale: Scale = (1.0, 10.0),
    max_length: MaxLength = 1024,
    out: KeepIn = None,
    as_json: Json = False,
) -> None:
    """How log p of held-out responses changed from reference to policy, by score and by the goal asked for.

    The figure to watch is none/delta_logp_rejected_high: below 0, training made the model unlearn good answers that
    came second. Per token, by score, with length as a covariate, and the implicit reward's gap against the gap in
    score are there too; standard errors are clustered by prompt.
    """
    from radpo.benchmarks.alone import kept_in, measure_pairs
    from radpo.benchmarks.unlearning import summarise
    from radpo.core.console import progress_bar
    from radpo.preferences.preferences import Reading
    from radpo.preferences.streamed import stream_pairs

    streamed = stream_pairs(pairs, Reading(scale))
    quiet_libraries()
    with kept_in(out) as folder, progress_bar("reference") as first, progress_bar("policy") as second:
        frame = measure_pairs(
            streamed, policy, reference, folder, scale=scale, max_length=max_length, progress=(first, second)
        )
    show(figures(summarise(frame, high_score=high_score, per_pair=False)), as_json)


@analyze_app.command("compare")
def analyze_compare(
    run_dir: RunDir,
    against: Against = None,
    high_score: HighScore = 5.0,
    seed: Seed = 0,
    out: Table = None,
    as_json: Json = False,
) -> None:
    """Variants of a run against each other: differences-in-differences of log p, by score and goal.

    The first difference is policy minus reference, the second variant minus baseline, over the same pairs. low and high
    are the 95% bootstrap interval with whole prompts drawn, p_holm the sign-flip test's p-value after Holm's
    correction, detectable the smallest difference that would have been found with power 0.8. With several seeds,
    seed_low and seed_high take the seeds for random: they speak of the method and not of these checkpoints.
    """
    from radpo.stats.contrasts import differences

    run = _run(run_dir)
    frame = differences(_likelihoods(run, run_dir), against or run.baseline, high_score=high_score, seed=seed)
    show_table(frame, as_json, out)


@analyze_app.command("implicit-reward")
def analyze_implicit_reward(
    run_dir: RunDir, against: Against = None, seed: Seed = 0, out: Table = None, as_json: Json = False
) -> None:
    """How every variant's implicit reward, beta * log(pi / pi_ref), ranks held-out pairs, and how sure it is.

    Accuracy by gap in score, expected calibration error, rank correlation with the scores; and beside the variant of
    --against (dpo, say): difference in accuracy, how often both prefer the same response, correlation of margins.
    """
    import pandas as pd

    from radpo.benchmarks.implicit_reward import agreement, summarise

    run = _run(run_dir)
    likelihoods = _likelihoods(run, run_dir)
    rows: list[dict[Hashable, object]] = []
    for (variant, number), part in likelihoods.groupby(["variant", "seed"], sort=False):
        if part["logp_policy"].equals(part["logp_reference"]):
            continue  # the reference itself, whose implicit reward is 0 throughout
        scores = summarise(part, beta=run.manifest["variants"][variant]["training"]["beta"], seed=seed)
        rows += [
            {"variant": variant, "seed": number, "subset": r.subset, "metric": r.metric, "value": r.value,
             "stderr": r.stderr, "n": r.n}
            for r in scores.results
        ]  # fmt: skip
    if against is not None:
        compared = agreement(likelihoods, against, seed=seed).rename(columns={"goal": "subset"})
        rows += compared.drop(columns=["low", "high"]).to_dict("records")
    show_table(pd.DataFrame(rows), as_json, out)


@analyze_app.command("trajectory")
def analyze_trajectory(
    training: Annotated[Path, typer.Argument(metavar="TRAINING_DIR", help="A training folder: trajectory.parquet.")],
    pairs: PairsFile,
    high_score: HighScore = 5.0,
    scale: Scale = (1.0, 10.0),
    out: Table = None,
    as_json: Json = False,
) -> None:
    """Unlearning over training: the mean change of log p of tracked pairs by step, side, score and goal."""
    from radpo.benchmarks.trajectory import read_trajectory, trajectory

    table = load_pairs(pairs, scale, "raise", False).table.select(["id", "score_chosen", "score_rejected"])
    show_table(trajectory(read_trajectory(training), table.to_pandas(), high_score=high_score), as_json, out)


@analyze_app.command("displacement")
def analyze_displacement(
    pairs: PairsFile,
    policy: Policy,
    reference: Reference,
    scale: Scale = (1.0, 10.0),
    max_length: MaxLength = 1024,
    out: KeepIn = None,
    as_json: Json = False,
) -> None:
    """Whether training lowered chosen responses, and whether hidden states told which (CHES, arXiv 2410.08847)."""
    from radpo.benchmarks.alone import kept_in, measure_ches, measure_pairs
    from radpo.benchmarks.displacement import summarise
    from radpo.core.console import progress_bar
    from radpo.preferences.preferences import Reading
    from radpo.preferences.streamed import stream_pairs

    streamed = stream_pairs(pairs, Reading(scale))
    quiet_libraries()
    with kept_in(out) as folder, progress_bar("reference") as first, progress_bar("policy") as second:
        frame = measure_pairs(
            streamed, policy, reference, folder, scale=scale, max_length=max_length, progress=(first, second)
        )
        with progress_bar("CHES") as progress:
            scores = measure_ches(streamed, reference, folder, max_length=max_length, progress=progress)
    show(figures(summarise(frame, scores)), as_json)


@analyze_app.command("reward-kl")
def analyze_reward_kl(
    questions: QuestionsFile,
    policy: Policy,
    reference: Reference,
    goal: Annotated[
        float | None, typer.Option(help="The score to ask for; what the checkpoint's template asks for unless given.")
    ] = None,
    scale: Scale = (1.0, 10.0),
    per_prompt: PerPrompt = 1,
    max_new_tokens: MaxNewTokens = 512,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    out: KeepIn = None,
    as_json: Json = False,
) -> None:
    """How far a policy is from its reference (sampled KL), how spread out it is, and how the verifier scores it.

    Answers are drawn at temperature 1 and scored on the tokens drawn. `radpo analyze frontier` puts the variants of a
    run, say one for each beta, on one reward-KL plane.
    """
    from radpo.benchmarks.alone import kept_in, sample_and_score
    from radpo.benchmarks.reward_kl import summarise
    from radpo.core.console import progress_bar
    from radpo.models.samples import SampleConfig

    drawing = SampleConfig(("default" if goal is None else goal,), per_prompt, max_new_tokens, seed, batch_size, scale)
    quiet_libraries()
    with kept_in(out) as folder, progress_bar("samples") as first, progress_bar("scores") as second:
        samples = sample_and_score(questions, policy, reference, drawing, folder, progress=(first, second))
    show(figures(summarise(samples)), as_json)


@analyze_app.command("calibration")
def analyze_calibration(
    questions: QuestionsFile,
    policy: Policy,
    goals: Annotated[
        list[float] | None,
        typer.Option(
            "--goal",
            help="A score to ask for; repeatable. The scale's whole scores and two above it unless given.",
        ),
    ] = None,
    best_seen: Annotated[
        float | None,
        typer.Option(help="The best score in the training data, above which is beyond; the scale's unless given."),
    ] = None,
    scale: Scale = (1.0, 10.0),
    per_prompt: PerPrompt = 1,
    max_new_tokens: MaxNewTokens = 512,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    out: KeepIn = None,
    as_json: Json = False,
) -> None:
    """Whether a policy that is asked for a higher score gets one: the curve of goals, scored by the verifier."""
    from radpo.benchmarks.alone import kept_in, sample_and_score
    from radpo.benchmarks.calibration import summarise, usual_goals
    from radpo.core.console import progress_bar
    from radpo.models.samples import SampleConfig

    asked = (None, *(goals or usual_goals(scale)))
    drawing = SampleConfig(asked, per_prompt, max_new_tokens, seed, batch_size, scale)
    quiet_libraries()
    with kept_in(out) as folder, progress_bar("samples") as first, progress_bar("scores") as second:
        samples = sample_and_score(questions, policy, None, drawing, folder, progress=(first, second))
    best = scale[1] if best_seen is None else best_seen
    show(figures(summarise(samples, best_seen=best, scale=scale)), as_json)


@analyze_app.command("controllability")
def analyze_controllability(
    scored: Annotated[
        Path,
        typer.Argument(metavar="SCORED", help="A table, a row a sample: prompt_id, goal_NAME and score_NAME columns."),
    ],
    out: Table = None,
    as_json: Json = False,
) -> None:
    """Whether each attribute follows its own goal: the slope of every attribute's score on every attribute's goal."""
    from radpo.benchmarks.alone import read_table
    from radpo.benchmarks.calibration import controllability

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


@analyze_app.command("style")
def analyze_style(run_dir: RunDir, out: Table = None, as_json: Json = False) -> None:
    """Length, variety, repetition and refusals of the answers that AlpacaEval compared, and win rate by length."""
    import pandas as pd

    from radpo.benchmarks.style import from_examples, summarise

    rows = []
    for (variant, number), part in _run(run_dir).examples.groupby(["variant", "seed"], sort=False):
        answers = from_examples(part)
        if len(answers):
            rows += [
                {"variant": variant, "seed": number, "subset": r.subset, "metric": r.metric, "value": r.value,
                 "stderr": r.stderr, "n": r.n}
                for r in summarise(answers).results
            ]  # fmt: skip
    if not rows:
        raise DataError(f"{run_dir} has no AlpacaEval answers to look at: its matrix did not ask for alpaca-eval")
    show_table(pd.DataFrame(rows), as_json, out)


@analyze_app.command("power")
def analyze_power(
    sd: Annotated[float, typer.Option(min=0.0, help="The standard deviation of the paired differences.")],
    effect: Annotated[
        float | None, typer.Option(help="A difference to be found: says how many pairs it takes.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=2, help="How many pairs there are: says what they can find.")] = None,
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
    out: Annotated[Path, typer.Option(help="A folder: gets theory.html, rates.parquet and unlearning.parquet.")],
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


def _likelihoods(run: Run, run_dir: Path) -> pd.DataFrame:
    if run.likelihoods is None:
        raise DataError(f"{run_dir} has no likelihoods.parquet: its matrix did not ask for the unlearning benchmark")
    return run.likelihoods
