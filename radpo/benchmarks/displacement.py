"""Likelihood displacement: how often chosen responses fell, and how well CHES scores predict it.

Razin et al. 2024 (arXiv 2410.08847): preference training may lower the chosen response along with the rejected one, the
more so the more alike their hidden states are. Where the mass went instead, samples say (`radpo.benchmarks.reward_kl`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context
from radpo.benchmarks.settings import Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import Work, figures_only, of_model
from radpo.core.errors import DataError
from radpo.core.metrics import Metric
from radpo.core.results import Scores, write_scores
from radpo.core.run import Run
from radpo.engine.graph import Function, Stage, Task, kept_between_tries
from radpo.figures.charts import by_group
from radpo.figures.sections import ReportSection, panel, points, shown_in, sizes, table_rows
from radpo.figures.styles import Styles
from radpo.stats.contrasts import changes_by_response, whole_pairs
from radpo.stats.estimates import mean, rank_correlation
from radpo.stats.quantities import Name
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd

NAME = "displacement"
METRICS = (
    Metric("delta_logp_*", "", "nats", higher_is_better=None, zero_is_reference=True, examples=None),
    Metric("share_chosen_lost", "chosen responses that fell", "share", higher_is_better=False, examples=None),
    Metric("share_both_lost", "pairs of which both fell", "share", higher_is_better=False, examples=None),
    Metric("share_rejected_lost", "rejected responses that fell", "share", higher_is_better=None, examples=None),
    Metric("ches*", "", bounds=(-1, 1), higher_is_better=None, examples=None),
)
FELL = {
    "share_chosen_lost": "chosen fell", "share_rejected_lost": "rejected fell", "share_both_lost": "both fell",
}  # fmt: skip
CHES = {"ches_correlation": "CHES", "ches_normalised_correlation": "CHES, normalised"}


class Settings(Section):
    """Whether training lowered chosen responses, and whether CHES scores (arXiv 2410.08847) predicted which."""


def summarise(frame: pd.DataFrame, ches: pd.DataFrame, *, seed: int = 0, resamples: int = 1_000) -> Scores:
    """How often the chosen response was displaced, and whether CHES predicted which.

    Asked without a goal, over pairs:

    - `delta_logp_chosen`, `delta_logp_rejected` (nats); `share_chosen_lost`, `share_rejected_lost`, `share_both_lost`:
      whose log p fell at all.
    - `ches_correlation`, `ches_normalised_correlation`: Spearman's, of the score (Definition 2; means for sums) before
      training with the change of log p(chosen) in it; below 0, CHES predicts displacement.

    Args:
        frame: one variant and seed, as `radpo.benchmarks.unlearning.summarise` takes.
        ches: pair_id, ches, ches_normalised of the same pairs under the reference (`radpo.models.ches`).
        seed: of the bootstrap, which draws prompts whole.

    Raises:
        DataError: a pair has no CHES score.
    """
    import numpy as np

    frame, left_out = whole_pairs(frame)
    changes = changes_by_response(frame.assign(variant="policy", seed=0))
    changes = changes[changes["goal"] == "none"]
    key = ["pair_id", "prompt_id"]
    wide = changes.pivot(index=key, columns="response", values="change").reset_index()
    wide = wide.merge(ches[["pair_id", "ches", "ches_normalised"]], on="pair_id", how="left", validate="one_to_one")
    if wide["ches"].isna().any():
        raise DataError(f"pair {wide.loc[wide['ches'].isna(), 'pair_id'].iloc[0]!r} has no CHES score")
    who = wide["prompt_id"].to_numpy()
    chosen, rejected = wide["chosen"].to_numpy(), wide["rejected"].to_numpy()
    found = {
        "delta_logp_chosen": mean(chosen, clusters=who),
        "delta_logp_rejected": mean(rejected, clusters=who),
        "share_chosen_lost": mean((chosen < 0).astype(float), clusters=who),
        "share_rejected_lost": mean((rejected < 0).astype(float), clusters=who),
        "share_both_lost": mean(((chosen < 0) & (rejected < 0)).astype(float), clusters=who),
    }
    notes = [f"displacement: {note}" for note in left_out]
    for name in ("ches", "ches_normalised"):
        try:
            found[f"{name}_correlation"] = rank_correlation(
                wide[name].to_numpy(), chosen, clusters=who, resamples=resamples, rng=np.random.default_rng(seed)
            )
        except DataError as problem:
            notes.append(f"displacement: {name}_correlation is left out: {problem}.")
    named = {("all", metric): estimate for metric, estimate in found.items()}
    return Scores(results_of(NAME, METRICS, named), (), tuple(notes))


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage | None:
    """Held-out log-likelihoods and CHES scores; None for the model as it is, of which nothing was displaced."""
    if checkpoint.is_base:
        return None
    asked = {"max_length": context.training.max_length}
    ches = context.about(None, "ches", "model", asked, {"pairs": context.heldout_pairs()})
    inputs = {**pieces.policy_and_reference(context, checkpoint), "ches": ches}
    return context.stage(NAME, checkpoint.label, {}, inputs)


def _ches(task: Task) -> None:
    """CHES scores of held-out pairs under the model that training starts from (`ches.parquet`)."""
    from radpo.models.ches import write_ches

    settings, pairs = task.stage.settings, pieces.read_pairs(task)
    with kept_between_tries(task, "ches.parquet") as out:
        write_ches(
            pieces.policy_folder(task),
            pairs,
            out,
            total=pairs.total,
            max_length=settings["max_length"],
            key=task.stage.key,
            progress=task.progress,
        )


def _ches_cost(sizes: Sizes, stage: Stage) -> Work:
    """Both responses of every pair are read one by one, each with its prompt."""
    pairs, length = sizes.pairs(stage), stage.settings["max_length"]
    prompts = sum(min(length, prompt) for prompt in pairs.prompts) * pairs.number / max(1, len(pairs.prompts))
    tokens = pairs.sequences(length) + prompts
    return of_model(sizes, stage, prefill_tokens=tokens, precision="float32", disk_bytes=80 * pairs.number)


def _score(task: Task) -> None:
    """Log-likelihoods under policy and reference, and CHES scores -> results about displacement."""
    import pandas as pd

    ches = pd.read_parquet(task.inputs["ches"] / "ches.parquet")
    joined = pieces.read_likelihoods(task)
    joined.to_parquet(task.out / "likelihoods.parquet", index=False)
    write_scores(summarise(joined, ches), task.out)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """The shares of pairs whose responses fell, and how CHES goes with it."""
    title = "Likelihood displacement"
    fell = points(run, [Name(NAME, "all", metric) for metric in FELL]).replace({"group": FELL})
    ranks = points(run, [Name(NAME, "all", metric) for metric in CHES]).replace({"group": CHES})
    if fell.empty:
        return [ReportSection(NAME, title)]
    panels = [panel("Share of pairs", by_group(fell, styles, axis="share of pairs", within=(0, 1)))]
    if len(ranks):
        axis = "rank correlation with the change of log p of chosen"
        panels.append(panel("Did CHES predict it?", by_group(ranks, styles, axis=axis, within=(-1, 1), reference=0)))
    caption = (
        "Share of held-out pairs whose response became less likely; chosen responses should not. "
        f"n = {sizes(fell)} pairs; whiskers: 95% intervals."
    )
    method = (
        "Training can lower the chosen response along with the rejected one (Razin et al., arXiv 2410.08847). Log p is "
        "that of the response asked without a goal; the intervals of shares are t intervals, clustered by prompt."
    )
    if len(ranks):
        method += (
            " CHES is the similarity of both responses before training; its panel shows Spearman's correlation with "
            "the change of log p of the chosen response, with 95% intervals from the bootstrap's standard error. Left "
            "of the dotted line CHES predicts displacement."
        )
    numbers = table_rows("share of pairs", fell) + table_rows("rank correlation", ranks)
    return [ReportSection(NAME, title, caption, panels, 2, shown_in(styles, fell), numbers, method)]


BENCHMARK = Benchmark(
    name=NAME,
    title="Displacement",
    summary="Whether training lowered chosen responses, and whether CHES scores predicted which.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={
        "ches": Function(_ches, version=3, packages=pieces.NUMERICS, resumable=True),
        NAME: Function(_score, version=3, packages=("scipy",)),
    },
    cost={"ches": _ches_cost, NAME: figures_only},
    sections=sections,
    place=50,
    command="analyze",
    files={"ches.parquet": "ches/ches.parquet", "likelihoods.parquet": "likelihoods.parquet"},
)
