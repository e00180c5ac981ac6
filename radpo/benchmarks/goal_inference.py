"""The goal read backwards: which score a conditioned policy takes a response for.

A policy that gives what it is asked for, pi(y | x, g), says by Bayes' rule how likely each goal is once a response is
seen, p(g | x, y) = pi(y | x, g) / sum over g' of pi(y | x, g'), all goals being as likely before. A policy that knows
what a 7 is can so say that something is a 7, which no sample is drawn for and no judge is asked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context
from radpo.benchmarks.settings import Option, Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import GOAL_TOKENS, Work, figures_only, of_model
from radpo.core.errors import DataError
from radpo.core.metrics import Metric
from radpo.core.results import Scores, write_scores
from radpo.core.run import Run
from radpo.engine.graph import Function, Stage, Task, kept_between_tries
from radpo.figures.charts import by_group
from radpo.figures.sections import ReportSection, panel, points, shown_in, span_of, table_rows
from radpo.figures.styles import Styles
from radpo.preferences.goals import asked_in
from radpo.stats.estimates import Estimate, mean, rank_correlation
from radpo.stats.quantities import Name
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd

NAME, LIKELIHOOD = "goal-inference", "goal-likelihood"
FILE = "goal_likelihoods.parquet"
METRICS = (
    Metric("rank_correlation", "rank correlation of inferred goal and score", primary="all", bounds=(-1, 1),
           examples=None, margin=0.1, overview=True),
    Metric("accuracy", "pairs in the right order", "share", examples=None),
    Metric("error", "inferred goal off by (points)", higher_is_better=False, examples=None),
    Metric("surprise", "surprise at the true score (nats)", "nats", higher_is_better=False, examples=None),
    Metric("inferred_goal", "inferred goal", higher_is_better=None, examples=None),
)  # fmt: skip


class Settings(Section):
    """Held-out responses under every goal: does the policy tell a good one from a bad one by the goal that fits?"""

    goals: Annotated[tuple[float, ...], Option("goal")] | None = Field(
        None, min_length=2, description="Goals to compare. Default: the whole scores of the scale."
    )
    limit: int | None = Field(100, ge=1, description="Held-out pairs; each response is read once for every goal.")


def posterior(logps: Any) -> Any:
    """p(g | x, y), all goals being as likely before a response is seen.

    Args:
        logps: (responses, goals), log pi(y | x, g) in nats.

    Returns:
        (responses, goals), each row summing to 1.
    """
    from scipy.special import softmax

    return softmax(logps, axis=1)


def summarise(frame: pd.DataFrame, *, seed: int = 0, resamples: int = 1_000) -> Scores:
    """How the goal that a response speaks for follows its score.

    The inferred goal is the posterior's mean, sum over g of g p(g | x, y). Over all responses:

    - `rank_correlation`: Spearman's, of inferred goal and score; 0 where the policy does not read its goal.
    - `error`: the mean of |inferred goal - score|, in points.
    - `surprise`: the mean of -log p(g* | x, y) in nats, g* being the goal nearest to the score (the lower of two); the
      logarithm of the number of goals where the policy does not read its goal, more where it is sure and wrong.
    - `inferred_goal` in the subsets `score S`, by whole scores: what responses of a score are taken for.
    - `accuracy`: the share of pairs whose better response has the higher inferred goal, ties counting half.

    Args:
        frame: one checkpoint: pair_id, prompt_id, response, goal (a number as text), score, tokens, logp.
        seed: of the bootstrap, which draws prompts whole.

    Raises:
        DataError: no response has a token.
    """
    import numpy as np

    whole = frame[frame["tokens"] > 0]
    wide = whole.pivot_table(
        index=["pair_id", "prompt_id", "response", "score"], columns="goal", values="logp", sort=False
    )
    if wide.empty:
        raise DataError("no held-out response has a token within max_length, so no goal can be inferred")
    goals = wide.columns.astype(float).to_numpy()
    likely = posterior(wide.to_numpy())
    each = wide.index.to_frame(index=False).assign(inferred=likely @ goals)
    score, who = each["score"].to_numpy(dtype=float), each["prompt_id"].to_numpy()
    away = np.abs(score[:, None] - goals[None, :])
    nearest = np.lexsort((np.broadcast_to(goals, away.shape), away), axis=1)[:, 0]
    chance = np.clip(likely[np.arange(len(each)), nearest], 1e-300, None)
    found: dict[tuple[str, str], Estimate] = {
        ("all", "error"): mean(np.abs(each["inferred"].to_numpy() - score), clusters=who),
        ("all", "surprise"): mean(-np.log(chance), clusters=who),
    }
    notes = [
        f"{NAME}: goals {', '.join(f'{goal:g}' for goal in sorted(goals))}; a policy that does not read its goal has "
        f"a surprise of {math.log(len(goals)):.2f} nats."
    ]
    try:
        found["all", "rank_correlation"] = rank_correlation(
            each["inferred"].to_numpy(), score, clusters=who, resamples=resamples, rng=np.random.default_rng(seed)
        )
    except DataError as problem:
        notes.append(f"{NAME}: rank_correlation is left out: {problem}.")
    lost = frame["pair_id"].nunique() * 2 - len(each)
    if lost:
        notes.append(f"{NAME}: {lost} responses without a token within max_length are left out.")
    sides = [each[each["response"] == side].set_index(["pair_id", "prompt_id"]) for side in ("chosen", "rejected")]
    both = sides[0].join(sides[1], lsuffix="_chosen", rsuffix="_rejected", how="inner").reset_index()
    gap = (both["score_chosen"] - both["score_rejected"]).to_numpy(dtype=float)
    untied = gap != 0
    if untied.any():
        higher = (both["inferred_chosen"] - both["inferred_rejected"]).to_numpy(dtype=float)
        ahead = (np.sign(gap) * higher)[untied]
        right = ((ahead > 0).astype(float) + (ahead >= 0)) / 2
        found["all", "accuracy"] = mean(right, clusters=both["prompt_id"].to_numpy()[untied])
    for step, part in each.groupby(np.floor(score + 0.5)):
        found[f"score {step:g}", "inferred_goal"] = mean(part["inferred"].to_numpy(), clusters=part["prompt_id"])
    return Scores(results_of(NAME, METRICS, found), (), tuple(notes))


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage:
    """Log-likelihoods of held-out responses under every goal, then what they say of the scores."""
    low, high = context.scale
    goals = settings.goals or tuple(map(float, range(math.ceil(low), math.floor(high) + 1)))
    heldout = context.heldout
    if heldout is not None and settings.limit is not None:
        heldout = heldout.model_copy(update={"limit": min(settings.limit, heldout.limit or settings.limit)})
    asked = {
        **context.goals,
        "asked_goals": list(goals),
        "max_length": context.training.max_length,
        "precision": context.training.precision,
    }
    label = "model" if checkpoint.is_base else checkpoint.label
    measured = context.about(checkpoint, LIKELIHOOD, label, asked, {"pairs": context.pairs(heldout, "heldout")})
    return context.stage(NAME, checkpoint.label, {}, {"likelihoods": measured})


def _measure(task: Task) -> None:
    """Log-likelihoods of held-out responses under a checkpoint, for every goal (`goal_likelihoods.parquet`)."""
    from radpo.models.heldout import write_heldout

    settings, pairs = task.stage.settings, pieces.read_pairs(task)
    with kept_between_tries(task, FILE) as out:
        write_heldout(
            pieces.policy_folder(task), pairs, out, total=pairs.total, scale=tuple(settings["scale"]),
            wording=asked_in(settings), max_length=settings["max_length"], precision=settings["precision"],
            goals=settings["asked_goals"], key=task.stage.key, progress=task.progress,
        )  # fmt: skip


def _score(task: Task) -> None:
    """Log-likelihoods under every goal -> results about goal and score."""
    import pandas as pd

    write_scores(summarise(pd.read_parquet(task.inputs["likelihoods"] / FILE)), task.out)


def _cost(sizes: Sizes, stage: Stage) -> Work:
    pairs, goals = sizes.pairs(stage), len(stage.settings["asked_goals"])
    tokens = goals * pairs.sequences(stage.settings["max_length"], GOAL_TOKENS)
    return of_model(sizes, stage, prefill_tokens=tokens, disk_bytes=20 * 2 * goals * pairs.number)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """What responses of each score are taken for, and how often pairs are put in order, beside the implicit reward."""
    import pandas as pd

    title = "Goal inference"
    scores = sorted(
        {row for row in run.results[run.results["benchmark"] == NAME]["subset"] if row.startswith("score ")},
        key=lambda subset: float(subset.removeprefix("score ")),
    )
    curve = points(run, [Name(NAME, subset, "inferred_goal") for subset in scores])
    if curve.empty:
        return [ReportSection(NAME, title)]
    order = points(run, [Name(NAME, "all", "accuracy")]).assign(group="goal inference")
    implicit = points(run, [Name("implicit-reward", "none", "accuracy")]).assign(group="implicit reward")
    low, high = run.scale
    ranked = pd.concat([frame for frame in (order, implicit) if len(frame)], ignore_index=True)
    inferred = by_group(curve, styles, axis="inferred goal", within=(low, high))
    accuracy = by_group(ranked, styles, axis="accuracy", within=(0, 1), reference=0.5)
    panels = [panel("What responses of a score are taken for", inferred), panel("Pairs in the right order", accuracy)]
    caption = (
        "The goal that fits a held-out response best under the policy, by the response's own score: with a policy that "
        f"reads its goal it rises. n = {span_of(curve['n'])} responses per score; whiskers: 95% intervals."
    )
    method = (
        "Every response is read once for each goal; the inferred goal is the mean of p(goal | response), all goals "
        "being as likely before. Accuracy is over pairs of different scores; t intervals, clustered by prompt."
    )
    numbers = table_rows("inferred goal", curve) + table_rows("accuracy", ranked)
    return [ReportSection(NAME, title, caption, panels, 2, shown_in(styles, curve), numbers, method)]


BENCHMARK = Benchmark(
    name=NAME,
    title="Goal inference",
    summary="Does the policy know what a 7 is? Held-out responses under every goal, no samples and no judge.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={
        LIKELIHOOD: Function(_measure, version=1, packages=pieces.NUMERICS, resumable=True),
        NAME: Function(_score, version=1, packages=("scipy",)),
    },
    cost={LIKELIHOOD: _cost, NAME: figures_only},
    sections=sections,
    place=85,
    command="analyze",
    files={"likelihoods.parquet": f"likelihoods/{FILE}"},
)
