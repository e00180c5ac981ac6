"""Held-out log-likelihoods as examples that variants can be compared by, for differences in differences.

The first difference is policy minus reference, the second variant minus baseline, pair by pair. What both variants did
to a response alike, as every training does, cancels; what is left is what the method does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from radpo.stats.estimates import bootstrap, weighted_mean
from radpo.stats.paired import Difference

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "unlearning"
HIGH_SCORE = 5.0
"""From this score on a response counts as high, unless a matrix says otherwise."""
GROUPS = ("rejected_high", "rejected_low", "chosen_high", "chosen_low")
UNITS = {"delta_logp": "change", "delta_logp_per_token": "per_token"}
"""The beginnings of metrics' names, by the column that holds them: nats, and nats per token."""
CONTRAST = "rejected_high_minus_low"
"""How much more (below 0) the variant lowers high-scored than low-scored rejected, beyond what the baseline does."""
Key = tuple[str, str, str]
"""variant, goal (none, best, own) and metric."""


def likelihood_examples(likelihoods: pd.DataFrame, *, high_score: float = HIGH_SCORE) -> pd.DataFrame:
    """Changes of log p from reference to policy as rows of examples.

    Args:
        likelihoods: variant, seed, pair_id, response, goal, score, tokens, logp_policy, logp_reference, and where known
            prompt_id.
        high_score: from which score on a response counts as high.

    Returns:
        variant, seed, subset (the goal: none, best, own), example_id, prompt_id, metric (`delta_logp_GROUP` in nats,
        `delta_logp_per_token_GROUP`, for the groups of `GROUPS`), value.
    """
    import numpy as np
    import pandas as pd

    changes = changes_by_response(whole_pairs(likelihoods)[0])
    level = np.where(changes["score"] >= high_score, "_high", "_low")
    group: pd.Series[str] = changes["response"].astype(str) + level
    columns = {"goal": "subset", "pair_id": "example_id"}
    named = changes.rename(columns=columns)[["variant", "seed", "subset", "example_id", "prompt_id"]]
    named["example_id"] = named["example_id"].astype(str)
    parts = [named.assign(metric=f"{beginning}_" + group, value=changes[column]) for beginning, column in UNITS.items()]
    return pd.concat(parts, ignore_index=True)


def between_groups(
    likelihoods: pd.DataFrame, against: str, *, high_score: float = HIGH_SCORE, resamples: int = 2_000, seed: int = 0
) -> dict[Key, Difference]:
    """`CONTRAST` of every other variant: its difference for high-scored rejected minus that for low-scored ones.

    The interval is the bootstrap's, prompts drawn whole; it speaks of these checkpoints. There is no p-value, because
    the pairs of two groups have no signs to flip.
    """
    import numpy as np

    changes = changes_by_response(whole_pairs(likelihoods)[0])
    changes = changes[changes["response"] == "rejected"]
    base = changes[changes["variant"] == against].drop(columns="variant")
    found: dict[Key, Difference] = {}
    for variant in dict.fromkeys(map(str, changes["variant"])):
        if variant == against:
            continue
        both = _paired(changes[changes["variant"] == variant].drop(columns="variant"), base)
        for goal in dict.fromkeys(map(str, both["goal"])):
            rows = both[both["goal"] == goal]
            high = (rows["score"] >= high_score).to_numpy()
            if high.all() or not high.any():
                continue
            for beginning, column in UNITS.items():
                values, clusters = rows[column].to_numpy(dtype=float), rows["prompt_id"].to_numpy()
                rng = np.random.default_rng(seed)
                statistic = _high_minus_low(values, high)
                estimate = bootstrap(statistic, len(rows), clusters=clusters, resamples=resamples, rng=rng)
                found[variant, goal, f"{beginning}_{CONTRAST}"] = Difference(
                    estimate.value, estimate.low, estimate.high, "between groups", estimate.n, estimate.clusters,
                    int(rows["seed"].nunique()), estimate.stderr,
                    None if estimate.stderr is None else estimate.clusters - 1.0,
                )  # fmt: skip
    return found


def whole_pairs(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The pairs of which something was measured of both responses, and a sentence on the others.

    Where a prompt fills the greatest length, no token of the response is left, and its log p of 0 says nothing.
    """
    if not {"pair_id", "tokens"} <= set(frame.columns):  # likelihoods from elsewhere
        return frame, []
    empty = frame.groupby("pair_id")["tokens"].transform("min") == 0
    if not empty.any():
        return frame, []
    left_out = frame.loc[empty, "pair_id"].nunique()
    return frame[~empty], [
        f"{left_out} of {frame['pair_id'].nunique()} held-out pairs were left out: their prompt, goal included, fills "
        "max_length or the model's context, and no token of a response is left to measure."
    ]


def changes_by_response(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """variant, seed, pair_id, prompt_id, response, goal (none, best, own), score, change (nats), per_token."""
    import pandas as pd

    frame = likelihoods.assign(
        change=likelihoods["logp_policy"] - likelihoods["logp_reference"],
        prompt_id=likelihoods["prompt_id" if "prompt_id" in likelihoods.columns else "pair_id"],
    )
    frame["per_token"] = frame["change"] / frame["tokens"].clip(lower=1)
    own = frame[frame["goal"] == frame["response"]].assign(goal="own")
    columns = ["variant", "seed", "pair_id", "prompt_id", "response", "goal", "score", "change", "per_token"]
    return pd.concat([frame[frame["goal"].isin(["none", "best"])], own], ignore_index=True)[columns]


def _paired(own: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    key = ["seed", "pair_id", "prompt_id", "response", "goal", "score"]
    both = own.merge(base, on=key, suffixes=("", "_base"), validate="one_to_one")
    return both[key].assign(
        change=both["change"] - both["change_base"], per_token=both["per_token"] - both["per_token_base"]
    )


def _high_minus_low(values: Any, high: Any) -> Any:
    def statistic(weights: Any) -> Any:
        return weighted_mean(weights * high, values) - weighted_mean(weights * ~high, values)

    return statistic
