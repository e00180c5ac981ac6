"""The `radpo analyze` commands: options come in, one room does the work, a result or one clear message goes out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli_options import Json, PairsFile, Scale, Seed, figures, load_pairs, quiet_libraries, show

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Policy = Annotated[str, typer.Option(help="The trained checkpoint: a folder, a Hub id, or a bundled model.")]
Reference = Annotated[str, typer.Option(help="The model it was trained from.")]
HighScore = Annotated[float, typer.Option(help="Responses from this score on count as high-scored.")]
MaxLength = Annotated[int, typer.Option(min=16, help="Tokens of prompt and response; what is longer is cut.")]

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
