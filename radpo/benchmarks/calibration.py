"""Goal calibration: whether asking for a higher score gives a higher score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context
from radpo.benchmarks.settings import Option
from radpo.core.errors import DataError
from radpo.core.metrics import Metric
from radpo.core.results import Scores
from radpo.core.run import Run
from radpo.engine.graph import Function, Stage, Task
from radpo.figures.charts import lines
from radpo.figures.sections import ReportSection, panel, points, shown_in, span_of, table_rows
from radpo.figures.styles import DOTTED, Styles
from radpo.judges.quality import JUDGE_METRICS
from radpo.judges.samples import samples_notes
from radpo.preferences.goals import Scale
from radpo.stats.estimates import Estimate, bootstrap, mean, rank_correlation, weighted_mean, weighted_slope
from radpo.stats.mixed import linear
from radpo.stats.quantities import subsets
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd

    from radpo.stats.estimates import Floats

NAME = "calibration"
JUDGED: Scale = (1.0, 10.0)
"""The scale of judges' scores."""
METRICS = (
    Metric("calibration_error", "calibration error (points)", higher_is_better=False, examples=None),
    Metric("rank_correlation", "rank correlation of goal and score", bounds=(-1, 1), examples=None),
    Metric("monotone_share", "steps at which the score rises", bounds=(0, 1), examples=None),
    Metric("slope", "points gained per point asked", higher_is_better=None, examples=None),
    Metric("extrapolation", "asked for more than the best (points)", higher_is_better=None, examples=None),
    Metric("score", "score", higher_is_better=None, examples=None),
    *JUDGE_METRICS,
)


class Settings(pieces.SampledSettings):
    """Samples asked for each goal, scored: does asking for more give more?"""

    goals: Annotated[tuple[float, ...], Option("goal")] | None = Field(
        None,
        min_length=2,
        description="Goals to ask for. Default: the whole scores of the scale, and one that is two points above it.",
    )
    best_seen: float | None = Field(
        None, description="The best score in the training data. Default: the end of the scale."
    )


def usual_goals(scale: Scale) -> tuple[float, ...]:
    """The whole scores of a scale, and one two points above it, which no training data has."""
    low, high = scale
    return (*map(float, range(math.ceil(low), math.floor(high) + 1)), high + 2)


def summarise(
    samples: pd.DataFrame, *, best_seen: float, scale: Scale = JUDGED, seed: int = 0, resamples: int = 2_000
) -> Scores:
    """How the score that a policy gets follows the score that it is asked for.

    - `score` in the subsets `goal G`: the calibration curve; `calibration_error`: the mean over goals up to `best_seen`
      of |mean score - goal|, in points.
    - `rank_correlation`: Spearman's, of goal and score over all samples; `slope`: points gained per point asked.
    - `monotone_share`: the share of steps from one goal to the next at which the mean score rises.
    - `extrapolation`: mean score when asked for more than the data's best minus when asked for its best.

    Args:
        samples: one checkpoint: prompt_id, goal (NaN where none was asked for), score (the judge's, 1-10).
        best_seen: the highest score in the training data; goals above it extrapolate.
        scale: of the goals, to which the judge's scores are moved linearly, so that the two can be compared.
        seed: of the bootstrap, which draws prompts whole.

    Raises:
        DataError: fewer than two goals were asked for, or no sample has a score.
    """
    import numpy as np

    scored = samples[samples["score"].notna()]
    notes = []
    if scale != JUDGED:
        share = (scored["score"] - JUDGED[0]) / (JUDGED[1] - JUDGED[0])
        scored = scored.assign(score=scale[0] + share * (scale[1] - scale[0]))
        notes.append(
            f"calibration: the judge's scores of {JUDGED[0]:g}-{JUDGED[1]:g} were moved to the goals' scale of "
            f"{scale[0]:g}-{scale[1]:g}."
        )
    asked = scored[scored["goal"].notna()]
    goals = sorted(float(goal) for goal in asked["goal"].unique())
    if len(goals) < 2:
        raise DataError(f"{len(goals)} goals were asked for and scored: a calibration curve takes two or more")
    goal, score = asked["goal"].to_numpy(dtype=float), asked["score"].to_numpy(dtype=float)
    who = asked["prompt_id"].to_numpy()
    inside = {g: (goal == g).astype(float) for g in goals}

    def means(weights: Floats) -> Floats:  # (draws, n) -> (draws, goals)
        return np.stack([weighted_mean(weights * inside[g], score) for g in goals], axis=1)

    def drawn(statistic: Callable[[Floats], Floats]) -> Estimate:
        rng = np.random.default_rng(seed)
        return bootstrap(statistic, len(asked), clusters=who, resamples=resamples, rng=rng)

    seen = [place for place, g in enumerate(goals) if g <= best_seen]
    beyond = [place for place, g in enumerate(goals) if g > best_seen]
    found: dict[tuple[str, str], Estimate] = {
        ("all", "slope"): drawn(lambda w: weighted_slope(w, goal, score)),
        ("all", "monotone_share"): drawn(lambda w: (np.diff(means(w), axis=1) > 0).mean(axis=1)),
    }
    try:
        found["all", "rank_correlation"] = rank_correlation(
            goal, score, clusters=who, resamples=min(resamples, 1_000), rng=np.random.default_rng(seed)
        )
    except DataError:
        notes.append("calibration: rank_correlation is left out: every sample has the same score.")
    if seen:
        found["all", "calibration_error"] = drawn(lambda w: np.abs(means(w) - np.array(goals))[:, seen].mean(axis=1))
    if seen and beyond:
        found["all", "extrapolation"] = drawn(lambda w: means(w)[:, beyond].mean(axis=1) - means(w)[:, seen[-1]])
    else:
        notes.append(f"calibration: no goal on both sides of the data's best score, {best_seen:g}: no extrapolation.")
    for g in goals:
        part = asked[goal == g]
        found[f"goal {g:g}", "score"] = mean(part["score"].to_numpy(), clusters=part["prompt_id"].to_numpy())
    plain = scored[scored["goal"].isna()]
    if len(plain):
        found["goal none", "score"] = mean(plain["score"].to_numpy(), clusters=plain["prompt_id"].to_numpy())
    notes += samples_notes(samples, NAME)
    return Scores(results_of(NAME, METRICS, found), (), tuple(notes))


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
            "the table needs columns goal_ATTRIBUTE and score_ATTRIBUTE, such as goal_honesty and score_honesty"
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


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage:
    """Samples asked for no goal and for each, then the judge's scores."""
    best_seen = context.scale[1] if settings.best_seen is None else settings.best_seen
    goals = usual_goals(context.scale) if settings.goals is None else settings.goals
    drawn = pieces.samples(context, settings, checkpoint, NAME, [None, *goals], reference=False)
    judge, hints = pieces.judge_settings(context, settings.judge)
    asked = {**context.questions(settings.questions), **judge, "best_seen": best_seen}
    if context.scale != JUDGED:
        asked["scale"] = list(context.scale)
    return context.stage(NAME, checkpoint.label, asked, {"samples": drawn}, hints)


def _score(task: Task) -> None:
    """Samples with goals -> results about goal and score."""
    samples, judge = pieces.read_scored_samples(task)
    settings = task.stage.settings
    found = summarise(samples, best_seen=settings["best_seen"], scale=tuple(settings.get("scale", JUDGED)))
    pieces.write_judged(task, found, judge)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """The calibration curve."""
    title = "Goal calibration"
    curve = points(run, [name for name in subsets(run, NAME, "score") if name.subset != "goal none"])
    if curve.empty:
        return [ReportSection(NAME, title)]
    curve = curve.assign(goal=curve["group"].str.removeprefix("goal ").astype(float))
    low, high = run.scale
    figure = lines(
        curve, styles, x="goal", axes=("score asked for", f"score got ({low:g}–{high:g})"),
        hover="asked for %{x}: %{y:.2f}, n = %{customdata}",
    )  # fmt: skip
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line=DOTTED, hoverinfo="skip")
    figure.update_xaxes(dtick=1 if high - low <= 20 else None)
    edge = (high - low) / 30
    figure.update_yaxes(range=[low - edge, high + edge], tickvals=[low + (high - low) * part / 3 for part in range(4)])
    caption = (
        "Mean score against the score that was asked for; on the dotted line the policy gives what it is asked for. "
        f"n = {span_of(curve['n'])} answers per goal; whiskers: 95% intervals."
    )
    method = (
        f"Goals above {high:g} ask for more than the scale has. Intervals are t intervals, clustered by prompt. Rank "
        "correlation, monotonicity and extrapolation are in the table of all figures."
    )
    numbers = table_rows("mean score", curve)
    panels = [panel("Calibration curve", figure, 2)]
    return [ReportSection(NAME, title, caption, panels, 2, shown_in(styles, curve), numbers, method)]


BENCHMARK = Benchmark(
    name=NAME,
    title="Goal calibration",
    summary="Does asking for a higher score give one? Samples for each goal, scored by a judge.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=3, packages=("scipy", "statsmodels"))},
    cost={NAME: pieces.scored_samples_cost},
    sections=sections,
    place=80,
    command="analyze",
    files={"samples.parquet": "samples/samples.parquet"},
)
