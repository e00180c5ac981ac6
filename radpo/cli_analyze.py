"""The `radpo analyze` commands: options come in, one room does the work, a result or one clear message goes out."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli_options import Json, PairsFile, Scale, Seed, figures, load_pairs, quiet_libraries, show, show_table
from radpo.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from radpo.report.load import Run

Policy = Annotated[str, typer.Option(help="The trained checkpoint: a folder, a Hub id, or a bundled model.")]
Reference = Annotated[str, typer.Option(help="The model it was trained from.")]
HighScore = Annotated[float, typer.Option(help="Responses from this score on count as high-scored.")]
MaxLength = Annotated[int, typer.Option(min=16, help="Tokens of prompt and response; what is longer is cut.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, as `radpo run` makes.")]
Against = Annotated[str | None, typer.Option(help="The variant to compare with; the run's baseline unless given.")]
Table = Annotated[Path | None, typer.Option(help="Write the table here, too: .parquet, .csv or .json.")]

analyze_app = typer.Typer(help="Ask what training did to a checkpoint.", no_args_is_help=True)


@analyze_app.command("unlearning")
def analyze_unlearning(
    pairs: PairsFile,
    policy: Policy,
    reference: Reference,
    high_score: HighScore = 5.0,
    scale: Scale = (1.0, 10.0),
    max_length: MaxLength = 1024,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for likelihoods.parquet; interrupted, the same command goes on from there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """How log p of held-out responses changed from reference to policy, by score and by the goal asked for.

    The figure to watch is none/delta_logp_rejected_high: below 0, training made the model unlearn good answers that
    came second. Per token, by score, with length as a covariate, and the implicit reward's gap against the gap in
    score are there too; standard errors are clustered by prompt.
    """
    from radpo.analysis.unlearning import summarise

    with _measured(pairs, policy, reference, scale, max_length, out) as frame:
        show(figures(summarise(frame, high_score=high_score)), as_json)


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
    from radpo.analysis.contrasts import differences

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

    from radpo.analysis.implicit_reward import agreement, summarise

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
    from radpo.analysis.trajectory import read_trajectory, trajectory

    table = load_pairs(pairs, scale, "raise", False).table.select(["id", "score_chosen", "score_rejected"])
    show_table(trajectory(read_trajectory(training), table.to_pandas(), high_score=high_score), as_json, out)


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

    from radpo.analysis.theory import METHODS, QUANTITIES, exponent, rates, unlearning
    from radpo.console import progress_bar
    from radpo.report.page import write_page
    from radpo.report.theory_page import theory_page

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
    from radpo.report.load import load_run

    return load_run(run_dir)


def _likelihoods(run: Run, run_dir: Path) -> pd.DataFrame:
    if run.likelihoods is None:
        raise DataError(f"{run_dir} has no likelihoods.parquet: its matrix did not ask for the unlearning benchmark")
    return run.likelihoods


@contextmanager
def _measured(
    pairs: Path, policy: str, reference: str, scale: tuple[float, float], max_length: int, out: Path | None
) -> Iterator[pd.DataFrame]:
    """Log-likelihoods of the pairs under both models, kept in `out` where there is one."""
    import pandas as pd

    from radpo.console import progress_bar
    from radpo.models.heldout import side_by_side, write_heldout
    from radpo.models.loading import model_fingerprint, resolve_model

    table = load_pairs(pairs, scale, "raise", False).table
    quiet_libraries()
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        frames = []
        for name, model in (("reference", reference), ("policy", policy)):
            with progress_bar(name) as progress:
                written = write_heldout(
                    resolve_model(model),
                    table.to_batches(),
                    folder / f"{name}.parquet",
                    total=table.num_rows,
                    best=scale[1],
                    max_length=max_length,
                    precision="float32",
                    made_by=f"{model_fingerprint(model)} {_content(table)}",
                    progress=progress,
                )
            frames.append(pd.read_parquet(written))
        frame = side_by_side(policy=frames[1], reference=frames[0])
        if out is not None:
            frame.to_parquet(out / "likelihoods.parquet", index=False)
        yield frame


def _content(table: pa.Table) -> str:
    """A hash of what the rows say."""
    import hashlib

    digest = hashlib.sha256()
    for batch in table.to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()
