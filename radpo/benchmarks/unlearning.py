"""What training made a policy unlearn: changes of held-out log-likelihoods by score, in nats.

The reward-augmented paper (arXiv 2410.08067) argues that DPO lowers rejected responses whatever their quality: the
figure to watch is the change in log p of rejected responses that scored high.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context
from radpo.benchmarks.settings import Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.unlearning_report import sections
from radpo.benchmarks.work import Work
from radpo.core.errors import DataError
from radpo.core.metrics import Metric, result
from radpo.core.results import Example, Result, Scores, write_scores
from radpo.engine.graph import Function, Stage, Task
from radpo.stats.contrasts import whole_pairs
from radpo.stats.estimates import Estimate, mean
from radpo.stats.mixed import linear

if TYPE_CHECKING:
    import pandas as pd

NAME = "unlearning"
METRICS = (
    Metric(
        "delta_logp_rejected_high", "high-scored rejected responses", "nats", primary="*", margin=2.0,
        zero_is_reference=True, overview=True,
        parts=(
            ("none", "asked without a goal"), ("best", "asked for the best score"),
            ("own", "asked for each response's own score"),
        ),
    ),
    Metric("delta_logp_rejected_low", "low-scored rejected", "nats", higher_is_better=None, zero_is_reference=True),
    Metric("delta_logp_*", "", "nats", higher_is_better=None, zero_is_reference=True),
    Metric(
        "share_high_rejected_lost_1nat", "high-scored rejected that lost 1 nat", "share", higher_is_better=False,
    ),
    Metric("preference_accuracy", "preference accuracy", "share"),
    Metric("*", "", higher_is_better=None),
)  # fmt: skip
"""A margin of 2 nats is a factor of seven in probability."""


class Settings(Section):
    """Log-likelihoods of held-out responses before and after, by score and by the goal asked for.

    The figure to watch is none/delta_logp_rejected_high: below 0, training made the model unlearn good answers that
    came second. Standard errors are clustered by prompt.
    """

    high_score: float = Field(5.0, description="Responses with at least this score count as high-scored.")


COLUMNS = ("pair_id", "response", "goal", "score", "tokens", "logp_policy", "logp_reference")
Subset = Literal["none", "best", "own"]
SUBSETS: tuple[Subset, ...] = ("none", "best", "own")
"""Asked for no goal, for the best score, and for each response's own score."""


def summarise(frame: pd.DataFrame, *, high_score: float = 5.0, per_pair: bool = True) -> Scores:
    """Changes in log-likelihood from reference to policy, by the response's score and by the goal asked for.

    All of `delta_logp_*` are means over pairs of log p_policy(y | x) - log p_reference(y | x), in nats summed over the
    response's tokens; below 0 the policy finds the response less likely than the reference did.

    - `delta_logp_rejected_high`, `_low`: rejected responses that scored `high_score` or more, or less.
    - `delta_logp_chosen`, `_high`, `_low`: chosen responses, all and by their own score.
    - `delta_logp_per_token_*`: the same, each pair's change divided by its response's tokens first (nats per token).
    - `share_high_rejected_lost_1nat`: the share of high-scored rejected whose log p fell by 1 nat or more.
    - `rejected_delta_per_score`, `chosen_delta_per_score`: the slope of the change on the response's score (nats per
      point); `*_given_tokens`: the same with the response's length as a covariate, since long answers score higher
      and change more.
    - `margin_per_score_gap`: the slope of the implicit reward's gap, delta(chosen) - delta(rejected) (nats; times beta
      it is a reward), on the gap in score; `margin_at_equal_scores`: its intercept. A policy that has learned rewards
      has a slope and no intercept; one that stretches every pair alike, near-equal ones too, has an intercept and no
      slope (the paper's overfitting claim).
    - `preference_accuracy`: the share of pairs whose implicit reward (Rafailov et al. 2023, eq. 5, without beta) is
      higher for the better response; equal rewards count as half, so the reference itself has 0.5. For `own` it is
      over the 2N relabeled pairs: asked for the chosen's score the chosen is better, asked for the rejected's the
      rejected. Tied pairs have no better response there and are left out.
    - `delta_logp_chosen`, `delta_logp_rejected` in the subsets `GOAL/[LO,HI)`: by whole points of the response's score.

    Args:
        frame: one variant and seed: pair_id, response (chosen or rejected), goal (none, best, chosen, rejected: whose
            score was asked for), score (the response's), tokens, logp_policy and logp_reference (nats, summed), and
            where known prompt_id, by which standard errors are clustered (else every pair is one cluster), and cut, the
            tokens left out beyond the greatest length.
        high_score: from which score on a response counts as high, on the data's own scale.
        per_pair: whether to give the per-pair rows, too, which take most of the memory.

    Returns:
        Results for the subsets of `SUBSETS`, standard errors over pairs; per-pair rows of the rejected responses; a
        note for every group that no pair falls into.

    Raises:
        DataError: a column or a row is missing, a number is not finite, or no prompt leaves room for a response.
    """
    frame, left_out = whole_pairs(frame)
    if left_out and frame.empty:
        raise DataError(f"{left_out[0]} None is left: raise max_length")
    wide, prompts = by_pair(frame), _prompts(frame)
    results: list[Result] = []
    examples: list[Example] = []
    notes: list[str] = [*(f"unlearning: {note}" for note in left_out), *_cut(frame)]
    for subset in SUBSETS:
        groups = _groups(wide, subset, high_score)
        groups["preference_accuracy"] = _accuracy(wide, subset)
        for metric, values in groups.items():
            if len(values) == 0:
                if "_per_token" not in metric:  # said of the whole change already
                    notes.append(_empty(metric, subset, high_score))
                continue
            results.append(_result(subset, metric, mean(values.to_numpy(), clusters=prompts[values.index])))
        slopes, missing = _slopes(wide, subset, prompts)
        results += slopes
        notes += missing
        results += _by_score(wide, subset, prompts)
        if per_pair:
            examples += _examples(wide, prompts, subset, high_score)
    return Scores(tuple(results), tuple(examples), tuple(notes))


def by_pair(frame: pd.DataFrame) -> pd.DataFrame:
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


def _prompts(frame: pd.DataFrame) -> pd.Series[str]:
    """pair_id -> the prompt that it shares with others; itself where the frame does not say."""
    first = frame.drop_duplicates("pair_id").set_index("pair_id", drop=False)
    prompts: pd.Series[str] = first["prompt_id" if "prompt_id" in frame.columns else "pair_id"]
    return prompts


def _cut(frame: pd.DataFrame) -> list[str]:
    """Says how many responses were scored in part only."""
    if "cut" not in frame.columns:
        return []
    responses = frame[frame["goal"] == "none"]
    cut = int((responses["cut"] > 0).sum())
    return [f"unlearning: {cut} of {len(responses)} responses were cut to the greatest length."] if cut else []


def _groups(wide: pd.DataFrame, subset: Subset, high_score: float) -> dict[str, pd.Series[float]]:
    """Metric -> its values by pair id, possibly none."""
    values: dict[str, pd.Series[float]] = {}
    for unit in ("", "_per_token"):
        for response in ("rejected", "chosen"):
            change = wide["delta", response, _goal(subset, response)]
            if unit:
                change = change / wide["tokens", response, _goal(subset, response)].clip(lower=1)
            high = wide["score", response, "none"] >= high_score
            if response == "chosen":
                values[f"delta_logp{unit}_chosen"] = change
            values[f"delta_logp{unit}_{response}_high"] = change[high]
            values[f"delta_logp{unit}_{response}_low"] = change[~high]
    lost = (wide["delta", "rejected", _goal(subset, "rejected")] <= -1.0).astype(float)
    values["share_high_rejected_lost_1nat"] = lost[wide["score", "rejected", "none"] >= high_score]
    return values


def _accuracy(wide: pd.DataFrame, subset: Subset) -> pd.Series[float]:
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
    return ((margins > 0).astype(float) + (margins >= 0)) / 2


def _slopes(wide: pd.DataFrame, subset: Subset, prompts: pd.Series[str]) -> tuple[list[Result], list[str]]:
    """Changes against scores, with and without length, and the implicit reward's gap against the gap in score."""
    clusters = prompts[wide.index].to_numpy()
    found: dict[str, Estimate] = {}
    notes = []

    def fit(y: pd.Series[float], named: dict[str, str], **covariates: pd.Series[float]) -> None:
        try:
            estimates = linear(y.to_numpy(), {k: v.to_numpy() for k, v in covariates.items()}, clusters=clusters)
        except DataError as error:
            notes.append(f"unlearning, goal {subset}: {', '.join(named.values())} left out, because {error}.")
            return
        found.update({metric: estimates[name] for name, metric in named.items()})

    for response in ("rejected", "chosen"):
        goal = _goal(subset, response)
        change, score = wide["delta", response, goal], wide["score", response, "none"]
        tokens = wide["tokens", response, goal]
        fit(change, {"score": f"{response}_delta_per_score"}, score=score)
        given = {"score": f"{response}_delta_per_score_given_tokens", "tokens": f"{response}_delta_per_token_of_length"}
        fit(change, given, score=score, tokens=tokens)
    margin = wide["delta", "chosen", _goal(subset, "chosen")] - wide["delta", "rejected", _goal(subset, "rejected")]
    gap = wide["score", "chosen", "none"] - wide["score", "rejected", "none"]
    fit(margin, {"gap": "margin_per_score_gap", "intercept": "margin_at_equal_scores"}, gap=gap)
    return [_result(subset, metric, estimate) for metric, estimate in found.items()], notes


def _result(subset: str, metric: str, estimate: Estimate) -> Result:
    return result(NAME, METRICS, subset, metric, estimate.value, estimate.stderr, estimate.n)


def _by_score(wide: pd.DataFrame, subset: Subset, prompts: pd.Series[str]) -> Iterator[Result]:
    import numpy as np

    for response in ("chosen", "rejected"):
        delta = wide["delta", response, _goal(subset, response)]
        floors = np.floor(wide["score", response, "none"])
        for floor in sorted(floors.unique()):
            values = delta[floors == floor]
            estimate = mean(values.to_numpy(), clusters=prompts[values.index])
            yield _result(f"{subset}/[{floor:g},{floor + 1:g})", f"delta_logp_{response}", estimate)


def _examples(wide: pd.DataFrame, prompts: pd.Series[str], subset: Subset, high_score: float) -> Iterable[Example]:
    """One row a rejected response, under the metric that it counts towards."""
    goal = _goal(subset, "rejected")
    columns = [wide[name, "rejected", goal] for name in ("delta", "score", "tokens", "logp_policy", "logp_reference")]
    for pair_id, change, score, tokens, policy, reference in zip(wide.index, *columns, strict=True):
        detail = {"score": score, "tokens": int(tokens), "logp_policy": policy, "logp_reference": reference}
        yield Example(
            benchmark=NAME,
            subset=subset,
            example_id=str(pair_id),
            prompt="",
            output=None,
            baseline_output=None,
            metric="delta_logp_rejected_high" if score >= high_score else "delta_logp_rejected_low",
            value=float(change),
            detail=json.dumps(detail),
            prompt_id=str(prompts[pair_id]),
        )


def _empty(metric: str, subset: Subset, high_score: float) -> str:
    where = f"unlearning, goal {subset}: {metric} is left out"
    if metric == "preference_accuracy":
        return f"{where}, because every pair is tied."
    kind = "high" if "high" in metric else "low"
    bound = f"{'at or above' if kind == 'high' else 'below'} {high_score:g}"
    return f"{where}, because no {'chosen' if 'chosen' in metric else 'rejected'} response scored {bound}."


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage:
    """Held-out log-likelihoods under policy and reference, and their changes."""
    inputs = pieces.policy_and_reference(context, checkpoint)
    return context.stage(NAME, checkpoint.label, {"high_score": settings.high_score}, inputs)


def _score(task: Task) -> None:
    """Log-likelihoods under policy and reference -> results, examples and the joined `likelihoods.parquet`."""
    joined = pieces.read_likelihoods(task)
    whole_pairs(joined)[0].to_parquet(task.out / "likelihoods.parquet", index=False)
    write_scores(summarise(joined, high_score=task.stage.settings["high_score"]), task.out)


def _cost(sizes: Sizes, stage: Stage) -> Work:
    return Work(disk_bytes=400 * sizes.pairs(stage.inputs["policy"]).number)


BENCHMARK = Benchmark(
    name=NAME,
    title="Unlearning",
    summary="Log-likelihoods of held-out responses before and after training, by their score.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=4)},
    cost={NAME: _cost},
    sections=sections,
    tables={"likelihoods": "likelihoods.parquet"},
    place=40,
    command="analyze",
)
