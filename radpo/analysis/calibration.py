"""Goal calibration: samples drawn with goals and scored come in, whether asking for more gives more goes out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from radpo.analysis.models import linear
from radpo.analysis.statistics import Estimate, bootstrap, mean, rank_correlation, weighted_mean, weighted_slope
from radpo.errors import DataError
from radpo.results import Result, Scores

if TYPE_CHECKING:
    import pandas as pd

    from radpo.analysis.statistics import Floats

BENCHMARK = "calibration"


def summarise(samples: pd.DataFrame, *, best_seen: float, seed: int = 0, resamples: int = 2_000) -> Scores:
    """How the score that a policy gets follows the score that it is asked for.

    - `score` in the subsets `goal G`: the calibration curve; `calibration_error`: the mean over goals up to `best_seen`
      of |mean score - goal|, in points.
    - `rank_correlation`: Spearman's, of goal and score over all samples; `slope`: points gained a point asked.
    - `monotone_share`: the share of steps from one goal to the next at which the mean score rises.
    - `extrapolation`: mean score when asked for more than the data's best minus when asked for its best.

    Args:
        samples: one checkpoint: prompt_id, goal (NaN where none was asked for), score (the judge's, 1-10).
        best_seen: the highest score in the training data; goals above it extrapolate.
        seed: of the bootstrap, which draws prompts whole.

    Raises:
        DataError: fewer than two goals were asked for, or no sample has a score.
    """
    import numpy as np

    scored = samples[samples["score"].notna()]
    asked = scored[scored["goal"].notna()]
    goals = sorted(float(goal) for goal in asked["goal"].unique())
    if len(goals) < 2:
        raise DataError(f"{len(goals)} goals were asked for and scored: a calibration curve takes two or more")
    goal, score = asked["goal"].to_numpy(dtype=float), asked["score"].to_numpy(dtype=float)
    who = asked["prompt_id"].to_numpy()
    inside = {g: (goal == g).astype(float) for g in goals}

    def means(weights: Floats) -> Floats:  # (draws, n) -> (draws, goals)
        return np.stack([weighted_mean(weights * inside[g], score) for g in goals], axis=1)

    def drawn(statistic: object) -> Estimate:
        return bootstrap(
            statistic,
            len(asked),
            clusters=who,
            resamples=resamples,
            rng=np.random.default_rng(seed),  # type: ignore[arg-type]
        )

    seen = [place for place, g in enumerate(goals) if g <= best_seen]
    beyond = [place for place, g in enumerate(goals) if g > best_seen]
    found = {
        "rank_correlation": rank_correlation(
            goal, score, clusters=who, resamples=min(resamples, 1_000), rng=np.random.default_rng(seed)
        ),
        "slope": drawn(lambda w: weighted_slope(w, goal, score)),
        "monotone_share": drawn(lambda w: (np.diff(means(w), axis=1) > 0).mean(axis=1)),
    }
    notes = []
    if seen:
        found["calibration_error"] = drawn(lambda w: np.abs(means(w) - np.array(goals))[:, seen].mean(axis=1))
    if seen and beyond:
        found["extrapolation"] = drawn(lambda w: means(w)[:, beyond].mean(axis=1) - means(w)[:, seen[-1]])
    else:
        notes.append(f"calibration: no goal on both sides of the data's best score, {best_seen:g}: no extrapolation.")
    results = [_result("all", metric, estimate) for metric, estimate in found.items()]
    for g in goals:
        part = asked[goal == g]
        results.append(
            _result(f"goal {g:g}", "score", mean(part["score"].to_numpy(), clusters=part["prompt_id"].to_numpy()))
        )
    plain = scored[scored["goal"].isna()]
    if len(plain):
        estimate = mean(plain["score"].to_numpy(), clusters=plain["prompt_id"].to_numpy())
        results.append(_result("goal none", "score", estimate))
    if len(scored) < len(samples):
        notes.append(f"calibration: {len(samples) - len(scored)} of {len(samples)} samples have no score.")
    return Scores(tuple(results), (), tuple(notes))


def controllability(scored: pd.DataFrame) -> pd.DataFrame:
    """Whether each attribute follows its own goal, and only its own.

    For every scored attribute, least squares of its score on the goals of all attributes that were asked for, with
    standard errors clustered by prompt: the diagonal says how well an attribute is steered, the rest what else moves.

    Args:
        scored: prompt_id; `goal_ATTRIBUTE` and `score_ATTRIBUTE` columns, a row a sample.

    Returns:
        A tidy frame: attribute (scored), asked (whose goal), slope, stderr, low, high, n.

    Raises:
        DataError: there are no such columns, or goals do not vary on their own.
    """
    import pandas as pd

    goals = [name for name in scored.columns if name.startswith("goal_")]
    scores = [name for name in scored.columns if name.startswith("score_")]
    if not goals or not scores:
        raise DataError(
            "the table needs columns goal_ATTRIBUTE and score_ATTRIBUTE, such as goal_honesty, score_honesty"
        )
    rows = []
    for column in scores:
        part = scored[scored[column].notna()]
        fitted = linear(
            part[column].to_numpy(dtype=float),
            {name.removeprefix("goal_"): part[name].to_numpy(dtype=float) for name in goals},
            clusters=part["prompt_id"].to_numpy(),
        )
        rows += [
            {
                "attribute": column.removeprefix("score_"), "asked": asked, "slope": e.value, "stderr": e.stderr,
                "low": e.low, "high": e.high, "n": e.n,
            }
            for asked, e in fitted.items()
            if asked != "intercept"
        ]  # fmt: skip
    return pd.DataFrame(rows)


def steps(curve: pd.DataFrame) -> pd.DataFrame:
    """From each goal to the next: goal, next_goal, rise of the mean score.

    Args:
        curve: goal, value.
    """
    import pandas as pd

    ordered = curve.sort_values("goal")
    places = list(zip(ordered["goal"], ordered["value"], strict=True))
    return pd.DataFrame(
        [{"goal": a, "next_goal": b, "rise": y - x} for (a, x), (b, y) in pairwise(places)],
        columns=["goal", "next_goal", "rise"],
    )


def _result(subset: str, metric: str, estimate: Estimate) -> Result:
    return Result(
        benchmark=BENCHMARK,
        subset=subset,
        metric=metric,
        value=estimate.value,
        stderr=estimate.stderr,
        n=estimate.n,
        higher_is_better={"rank_correlation": True, "monotone_share": True, "calibration_error": False}.get(metric),
        primary=False,
    )
