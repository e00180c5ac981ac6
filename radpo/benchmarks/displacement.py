"""Likelihood displacement: held-out changes and CHES scores come in, how often chosen responses sank goes out.

Razin et al. 2024 (arXiv 2410.08847): preference training may lower the chosen response along with the rejected one, the
more so the more alike their hidden states are. Where the mass went instead, samples say (`radpo.benchmarks.reward_kl`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.core.results import Scores
from radpo.stats.contrasts import changes_by_response, whole_pairs
from radpo.stats.estimates import mean, rank_correlation
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "displacement"


def summarise(frame: pd.DataFrame, ches: pd.DataFrame, *, seed: int = 0, resamples: int = 1_000) -> Scores:
    """How often the chosen response was displaced, and whether CHES told which.

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
    better = {"share_chosen_lost": False, "share_both_lost": False}
    return Scores(results_of(BENCHMARK, named, better), (), tuple(notes))
