"""Unlearning over training: the mean change of tracked log-likelihoods by step and score group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.stats.estimates import mean

if TYPE_CHECKING:
    import pandas as pd

FILE = "trajectory.parquet"
COLUMNS = ("step", "id", "side", "goal", "logp", "tokens")


def read_trajectory(folder: Path) -> pd.DataFrame:
    """A training folder's `trajectory.parquet`: step, id (of the pair), side, goal, logp, tokens.

    side is chosen or rejected; goal none, best, chosen or rejected: whose score was asked for.

    Raises:
        DataError: training tracked nothing there, or the file lacks a column.
    """
    import pandas as pd

    path = folder / FILE
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); train with tracked pairs to have it") from error
    lacking = [name for name in COLUMNS if name not in frame.columns]
    if lacking:
        raise DataError(f"{path}: lacks the column(s) {', '.join(lacking)}")
    return frame


def trajectory(frame: pd.DataFrame, pairs: pd.DataFrame, *, high_score: float = 5.0) -> pd.DataFrame:
    """The mean change of log p since the first tracked step, by side, score group and goal.

    Args:
        frame: as `read_trajectory` gives.
        pairs: id, score_chosen, score_rejected of the tracked pairs; others are not looked at.
        high_score: from which score on a response counts as high.

    Returns:
        A tidy frame: step, goal (none, best, own: the response's own score), group (chosen_high, chosen_low,
        rejected_high, rejected_low), value (nats), per_token (nats per token), low, high (the 95% t interval of value
        over pairs), n.

    Raises:
        DataError: a tracked pair's scores are not known, or a step lacks a pair that the first step has.
    """
    import pandas as pd

    key = ["id", "side", "goal"]
    first = frame[frame["step"] == frame["step"].min()].set_index(key)["logp"]
    both = frame.join(first.rename("first"), on=key)
    counts = both.groupby("step").size()
    if both["first"].isna().any() or counts.nunique() > 1:
        raise DataError(f"{FILE}: its steps do not track the same pairs; train again with the same tracked pairs")
    scores = pairs.melt(
        id_vars="id", value_vars=["score_chosen", "score_rejected"], var_name="side", value_name="score"
    )
    scores["side"] = scores["side"].str.removeprefix("score_")
    both = both.merge(scores, on=["id", "side"], how="left", validate="many_to_one")
    if both["score"].isna().any():
        pair = both.loc[both["score"].isna(), "id"].iloc[0]
        raise DataError(f"{FILE}: the scores of pair {pair!r} are not known; give the pairs file that was trained with")
    level = both["score"].ge(high_score).map({True: "_high", False: "_low"})
    both = both.assign(group=both["side"] + level, change=both["logp"] - both["first"])
    own = both[both["goal"] == both["side"]].assign(goal="own")
    both = pd.concat([both[both["goal"].isin(["none", "best"])], own])
    rows = []
    for (goal, group, step), part in both.groupby(["goal", "group", "step"]):
        estimate = mean(part["change"].to_numpy(), clusters=part["id"].to_numpy())
        rows.append(
            {
                "step": step, "goal": goal, "group": group, "value": estimate.value,
                "per_token": float((part["change"] / part["tokens"].clip(lower=1)).mean()),
                "low": estimate.low, "high": estimate.high, "n": estimate.clusters,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
