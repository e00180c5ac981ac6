"""Variants against each other: differences-in-differences of log-likelihoods, with intervals.

The first difference is policy minus reference, the second variant minus baseline, pair by pair. What both variants did
to a response alike, as every training does, cancels; what is left is what the method does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.stats.estimates import Estimate, bootstrap, holm, minimum_detectable_effect, weighted_mean
from radpo.stats.mixed import over_seeds
from radpo.stats.permutation import sign_flip_test

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

GROUPS = ("rejected_high", "rejected_low", "chosen_high", "chosen_low")
UNITS = {"nats": "nats", "nats per token": "per_token"}
CONTRAST = "rejected_high_minus_low"
"""How much more (below 0) the variant lowers high-scored than low-scored rejected, beyond what the baseline does."""
COLUMNS = (
    "variant", "against", "goal", "group", "unit", "value", "stderr", "low", "high", "p", "p_holm",
    "detectable", "n", "prompts", "seeds", "seed_low", "seed_high",
)  # fmt: skip


def differences(
    likelihoods: pd.DataFrame,
    against: str,
    *,
    high_score: float = 5.0,
    units: Sequence[str] = tuple(UNITS),
    resamples: int = 5_000,
    seed: int = 0,
) -> pd.DataFrame:
    """The difference-in-differences of every other variant, by group of responses, goal and unit.

    Args:
        likelihoods: variant, seed, pair_id, response, goal, score, tokens, logp_policy, logp_reference, and where known
            prompt_id.
        against: the variant that the others are compared with.
        high_score: from which score on a response counts as high.
        units: of `UNITS`.
        seed: of the bootstrap and the sign flips.

    Returns:
        A tidy frame of `COLUMNS`, a row for each variant, goal (none, best, own), group (`GROUPS`, `CONTRAST`) and unit
        (nats; nats per token). value is the mean over pairs and seeds, low and high its 95% bootstrap interval with
        whole prompts drawn; p is the two-sided sign-flip test's (not given for `CONTRAST`, whose pairs have no two
        sides) and p_holm is Holm's over all of the variant's rows; detectable is the effect found with power 0.8.
        These speak of the checkpoints at hand; seed_low and seed_high, where there are several seeds, of the method,
        seeds taken for random. Groups without a pair are left out.

    Raises:
        DataError: a variant is not there, or variants share no pairs.
    """
    import pandas as pd

    changes = changes_by_response(likelihoods)
    variants = list(dict.fromkeys(changes["variant"]))
    if against not in variants:
        raise DataError(f"there is no variant {against!r} to compare with; there are {', '.join(map(str, variants))}")
    base = changes[changes["variant"] == against].drop(columns="variant")
    frames = []
    for variant in variants:
        if variant == against:
            continue
        own = changes[changes["variant"] == variant].drop(columns="variant")
        rows = list(_rows(_paired(own, base, variant, against), high_score, units, resamples, seed))
        numbers = ["value", "stderr", "low", "high", "p", "detectable", "seed_low", "seed_high"]
        frame = pd.DataFrame(rows).astype(dict.fromkeys(numbers, "float64")).assign(variant=variant, against=against)
        known = frame["p"].notna()
        frame["p_holm"] = float("nan")
        frame.loc[known, "p_holm"] = holm(frame.loc[known, "p"].to_numpy())
        frames.append(frame)
    if not frames:
        raise DataError(f"{against!r} is the only variant, so there is nothing to compare")
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)]


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


def _paired(own: pd.DataFrame, base: pd.DataFrame, variant: str, against: str) -> pd.DataFrame:
    key = ["seed", "pair_id", "prompt_id", "response", "goal", "score"]
    both = own.merge(base, on=key, suffixes=("", "_base"), validate="one_to_one")
    if both.empty:
        raise DataError(f"variants {variant!r} and {against!r} have no seed and pair in common")
    return both[key].assign(
        nats=both["change"] - both["change_base"], per_token=both["per_token"] - both["per_token_base"]
    )


def _rows(
    both: pd.DataFrame, high_score: float, units: Sequence[str], resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    import numpy as np

    high = both["score"] >= high_score
    for goal in dict.fromkeys(both["goal"]):
        asked = both["goal"] == goal
        for group in (*GROUPS, CONTRAST):
            response, level = group.split("_", 1)
            rows = both[
                asked & (both["response"] == response) & (level == "high_minus_low" or high == (level == "high"))
            ]
            sides = (rows["score"] >= high_score).to_numpy()
            if rows.empty or (group == CONTRAST and (sides.all() or not sides.any())):
                continue
            for unit in units:
                column = UNITS[unit]
                values = rows[column].to_numpy(dtype=float)
                clusters = rows["prompt_id"].to_numpy()
                rng = np.random.default_rng(seed)
                estimate = _estimate(values, sides if group == CONTRAST else None, clusters, resamples, rng)
                p = None if group == CONTRAST else sign_flip_test(
                    values, clusters=clusters, resamples=resamples, rng=rng
                )  # fmt: skip
                yield {
                    "goal": goal, "group": group, "unit": unit, "value": estimate.value, "stderr": estimate.stderr,
                    "low": estimate.low, "high": estimate.high, "p": p,
                    "detectable": None if estimate.stderr is None else minimum_detectable_effect(estimate.stderr),
                    "n": estimate.n, "prompts": estimate.clusters, "seeds": rows["seed"].nunique(),
                    **_over_seeds(rows, column, group),
                }  # fmt: skip


def _estimate(values: Any, sides: Any | None, clusters: Any, resamples: int, rng: np.random.Generator) -> Estimate:
    """The mean, or, where there are sides, the mean of the first minus that of the second; prompts drawn whole."""

    def statistic(weights: Any) -> Any:
        if sides is None:
            return weighted_mean(weights, values)
        return weighted_mean(weights * sides, values) - weighted_mean(weights * ~sides, values)

    return bootstrap(statistic, len(values), clusters=clusters, resamples=resamples, rng=rng)


def _over_seeds(rows: pd.DataFrame, column: str, group: str) -> dict[str, float | None]:
    """The interval with seeds taken for random, where several were run."""
    nothing: dict[str, float | None] = {"seed_low": None, "seed_high": None}
    if group == CONTRAST or rows["seed"].nunique() < 2 or rows["prompt_id"].nunique() < 2:
        return nothing
    means = rows.groupby(["seed", "prompt_id"], as_index=False)[column].mean()
    estimate = over_seeds(means[column].to_numpy(), means["seed"].to_numpy(), means["prompt_id"].to_numpy())
    return {"seed_low": estimate.low, "seed_high": estimate.high}
