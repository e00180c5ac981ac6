"""What training made a policy unlearn: held-out log-likelihoods come in, changes by score come out, in nats.

The reward-augmented paper (arXiv 2410.08067) argues that DPO lowers rejected responses whatever their quality: the
figure to watch is the change in log p of rejected responses that scored high.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from radpo.analysis.statistics import mean
from radpo.errors import DataError
from radpo.results import Example, Result, Scores

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "unlearning"
COLUMNS = ("pair_id", "response", "goal", "score", "tokens", "logp_policy", "logp_reference")
Subset = Literal["none", "best", "own"]
SUBSETS: tuple[Subset, ...] = ("none", "best", "own")
"""Asked for no goal, for the best score, and for each response's own score."""


def summarise(frame: pd.DataFrame, *, high_score: float = 5.0) -> Scores:
    """Changes in log-likelihood from reference to policy, by the response's score and by the goal asked for.

    All of `delta_logp_*` are means over pairs of log p_policy(y | x) - log p_reference(y | x), in nats summed over the
    response's tokens; below 0 the policy finds the response less likely than the reference did.

    - `delta_logp_rejected_high`, `_low`: rejected responses that scored `high_score` or more, or less.
    - `delta_logp_chosen`, `_high`, `_low`: chosen responses, all and by their own score.
    - `share_high_rejected_lost_1nat`: the share of high-scored rejected whose log p fell by 1 nat or more.
    - `preference_accuracy`: the share of pairs whose implicit reward (Rafailov et al. 2023, eq. 5, without beta) is
      higher for the better response; equal rewards count as half, so the reference itself has 0.5. For `own` it is
      over the 2N relabeled pairs: asked for the chosen's score the chosen is better, asked for the rejected's the
      rejected. Tied pairs have no better response there and are left out.
    - `delta_logp_chosen`, `delta_logp_rejected` in the subsets `GOAL/[LO,HI)`: by whole points of the response's score.

    Args:
        frame: one variant and seed: pair_id, response (chosen or rejected), goal (none, best, chosen, rejected: whose
            score was asked for), score (the response's), tokens, logp_policy and logp_reference (nats, summed).
        high_score: from which score on a response counts as high, on the data's own scale.

    Returns:
        Results for the subsets of `SUBSETS`, standard errors over pairs; per-pair rows of the rejected responses; a
        note for every group that no pair falls into.

    Raises:
        DataError: a column or a row is missing, or a number is not finite.
    """
    wide = _wide(frame)
    results: list[Result] = []
    examples: list[Example] = []
    notes: list[str] = []
    for subset in SUBSETS:
        groups = _groups(wide, subset, high_score)
        groups["preference_accuracy"] = _accuracy(wide, subset)
        for metric, (values, clusters) in groups.items():
            if len(values) == 0:
                notes.append(_empty(metric, subset, high_score))
                continue
            results.append(_result(subset, metric, values, clusters))
        results += _by_score(wide, subset)
        examples += _examples(wide, subset, high_score)
    return Scores(tuple(results), tuple(examples), tuple(notes))


_DIRECTION = {
    "delta_logp_rejected_high": True,
    "share_high_rejected_lost_1nat": False,
    "preference_accuracy": True,
}
_Group = tuple["pd.Series[float]", "pd.Series[str]"]


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a pair; columns delta, tokens, logp_policy, logp_reference by (response, goal), score by response."""
    import numpy as np

    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(f"the likelihoods lack the column(s) {', '.join(missing)}; needed are {', '.join(COLUMNS)}")
    numbers = frame[["score", "logp_policy", "logp_reference"]].to_numpy(dtype=float)
    if not np.isfinite(numbers).all():
        pair = frame["pair_id"].iloc[int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])]
        raise DataError(f"the likelihoods of pair {pair!r} hold a number that is not finite; measure it again")
    key = ["pair_id", "response", "goal"]
    repeated = frame.duplicated(key)
    if repeated.any():
        row = frame.loc[repeated].iloc[0]
        raise DataError(
            f"pair {row['pair_id']!r} has two rows for {row['response']} asked with goal {row['goal']}; "
            "give one variant and seed at a time"
        )
    tidy = frame.assign(delta=frame["logp_policy"] - frame["logp_reference"])
    numbers_of = ["delta", "score", "tokens", "logp_policy", "logp_reference"]
    wide = tidy.pivot(index="pair_id", columns=["response", "goal"], values=numbers_of)
    wanted = [
        (name, response, goal)
        for name in ("delta", "score", "tokens")
        for response in ("chosen", "rejected")
        for goal in ("none", "best", "chosen", "rejected")
    ]
    absent = [column for column in wanted if column not in wide.columns]
    if absent or wide[wanted].isna().to_numpy().any():
        _, response, goal = absent[0] if absent else next(c for c in wanted if wide[c].isna().any())
        raise DataError(f"the likelihoods lack {response} responses asked with goal {goal} for some pairs")
    return wide


def _goal(subset: Subset, response: str) -> str:
    return response if subset == "own" else subset


def _groups(wide: pd.DataFrame, subset: Subset, high_score: float) -> dict[str, _Group]:
    """Metric -> its per-pair values and pair ids, possibly none."""
    chosen = wide["delta", "chosen", _goal(subset, "chosen")]
    rejected = wide["delta", "rejected", _goal(subset, "rejected")]
    chosen_high = wide["score", "chosen", "none"] >= high_score
    rejected_high = wide["score", "rejected", "none"] >= high_score
    lost = (rejected <= -1.0).astype(float)
    values = {
        "delta_logp_rejected_high": rejected[rejected_high],
        "delta_logp_rejected_low": rejected[~rejected_high],
        "delta_logp_chosen": chosen,
        "delta_logp_chosen_high": chosen[chosen_high],
        "delta_logp_chosen_low": chosen[~chosen_high],
        "share_high_rejected_lost_1nat": lost[rejected_high],
    }
    return {metric: (series, series.index.to_series()) for metric, series in values.items()}


def _accuracy(wide: pd.DataFrame, subset: Subset) -> _Group:
    """1 where the better response's implicit reward is the higher one, 0.5 where both are equal, 0 else."""
    import pandas as pd

    if subset != "own":
        margins = wide["delta", "chosen", subset] - wide["delta", "rejected", subset]
    else:
        untied = wide[wide["score", "chosen", "none"] != wide["score", "rejected", "none"]]
        by_goal = {
            goal: untied["delta", "chosen", goal] - untied["delta", "rejected", goal] for goal in ("chosen", "rejected")
        }
        margins = pd.concat([by_goal["chosen"], -by_goal["rejected"]])
    return ((margins > 0).astype(float) + (margins >= 0)) / 2, margins.index.to_series()


def _result(subset: str, metric: str, values: pd.Series[float], clusters: pd.Series[str]) -> Result:
    estimate = mean(values.to_numpy(), clusters=clusters.to_numpy())
    return Result(
        benchmark=BENCHMARK,
        subset=subset,
        metric=metric,
        value=estimate.value,
        stderr=estimate.stderr,
        n=estimate.n,
        higher_is_better=_DIRECTION.get(metric),
        primary=metric == "delta_logp_rejected_high",
    )


def _by_score(wide: pd.DataFrame, subset: Subset) -> Iterator[Result]:
    import numpy as np

    for response in ("chosen", "rejected"):
        delta = wide["delta", response, _goal(subset, response)]
        floors = np.floor(wide["score", response, "none"])
        for floor in sorted(floors.unique()):
            values = delta[floors == floor]
            bin_name = f"{subset}/[{floor:g},{floor + 1:g})"
            yield _result(bin_name, f"delta_logp_{response}", values, values.index.to_series())


def _examples(wide: pd.DataFrame, subset: Subset, high_score: float) -> Iterable[Example]:
    """One row a rejected response, under the metric that it counts towards."""
    goal = _goal(subset, "rejected")
    for pair_id, row in wide.iterrows():
        score = float(row["score", "rejected", "none"])
        detail = {
            "score": score,
            "tokens": int(row["tokens", "rejected", goal]),
            "logp_policy": float(row["logp_policy", "rejected", goal]),
            "logp_reference": float(row["logp_reference", "rejected", goal]),
        }
        yield Example(
            benchmark=BENCHMARK,
            subset=subset,
            example_id=str(pair_id),
            prompt="",
            output=None,
            baseline_output=None,
            metric="delta_logp_rejected_high" if score >= high_score else "delta_logp_rejected_low",
            value=float(row["delta", "rejected", goal]),
            detail=json.dumps(detail),
        )


def _empty(metric: str, subset: Subset, high_score: float) -> str:
    where = f"unlearning, goal {subset}: {metric} is left out"
    if metric == "preference_accuracy":
        return f"{where}, because every pair is tied."
    kind = "high" if "high" in metric else "low"
    bound = f"{'at or above' if kind == 'high' else 'below'} {high_score:g}"
    return f"{where}, because no {'chosen' if 'chosen' in metric else 'rejected'} response scored {bound}."
