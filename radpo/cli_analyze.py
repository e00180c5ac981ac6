"""The `radpo analyze` commands: options come in, one room does the work, a result or one clear message goes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radpo.cli_options import Json, PairsFile, Scale, Seed, figures, load_pairs, quiet_libraries, show

analyze_app = typer.Typer(help="Ask what training did to a checkpoint.", no_args_is_help=True)


@analyze_app.command("unlearning")
def analyze_unlearning(
    pairs: PairsFile,
    policy: Annotated[str, typer.Option(help="The trained checkpoint.")],
    reference: Annotated[str, typer.Option(help="The model it was trained from.")],
    high_score: Annotated[
        float, typer.Option(help="Rejected responses from this score on count as high-scored.")
    ] = 5.0,
    scale: Scale = (1.0, 10.0),
    max_length: Annotated[int, typer.Option(min=16)] = 1024,
    as_json: Json = False,
) -> None:
    """How log p of held-out responses changed from reference to policy, by score and by the goal asked for."""
    from radpo.analysis.unlearning import summarise
    from radpo.console import progress_bar
    from radpo.models.heldout import heldout_change
    from radpo.models.loading import resolve_model

    table = load_pairs(pairs, scale, "raise", False).table
    quiet_libraries()
    with progress_bar("reference") as first, progress_bar("policy") as second:
        frame = heldout_change(
            resolve_model(policy),
            resolve_model(reference),
            table,
            best=scale[1],
            max_length=max_length,
            progress=(first, second),
        )
    outcome = summarise(frame, high_score=high_score)
    show(figures(outcome), as_json)


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
