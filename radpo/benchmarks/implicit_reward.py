"""The implicit reward beta * log(pi / pi_ref) on held-out pairs: its accuracy and calibration.

Rafailov et al. 2023, eq. 5. A policy asked with a goal has the implicit reward of that goal; the subsets say which.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context
from radpo.benchmarks.settings import ExistingModel, Section
from radpo.benchmarks.work import figures_only
from radpo.core.errors import ConfigError, DataError
from radpo.core.metrics import Metric
from radpo.core.results import Scores, write_scores
from radpo.core.run import Run, load_run
from radpo.engine.graph import Function, Stage, Task
from radpo.figures.charts import by_group
from radpo.figures.sections import ReportSection, panel, points, shown_in, span_of, table_rows
from radpo.figures.styles import Styles
from radpo.stats.contrasts import changes_by_response, whole_pairs
from radpo.stats.estimates import Estimate, bootstrap, mean, paired_bootstrap, rank_correlation
from radpo.stats.quantities import subsets
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd

    from radpo.stats.estimates import Floats

NAME = "implicit-reward"
GOALS = ("none", "best")
GAPS = (0.0, 1.0, 2.0, 3.0, 5.0, float("inf"))
"""Edges of the bins of the gap in score, in points: nearly equal pairs, to far apart ones."""
BINS = 10
METRICS = (
    Metric("accuracy", "accuracy", "share", examples=None),
    Metric("ece", "expected calibration error", higher_is_better=False, examples=None),
    Metric("confidence", "mean confidence", higher_is_better=None, examples=None),
    Metric("*_correlation", "", bounds=(-1, 1), examples=None),
)


class Settings(Section):
    """How the implicit reward ranks held-out responses, and how sure it is."""

    beta: float | None = Field(
        None,
        gt=0,
        description="The beta of checkpoints that this matrix does not train; those that it trains have their own.",
    )


class Existing(ExistingModel):
    """A run directory: every variant's figures, and its difference from the variant of --against (dpo, say).

    The difference is in accuracy; beside it stand how often both prefer the same response, and the correlation of
    margins.
    """

    run_dir: Path
    against: str | None = Field(None, description="The variant to compare with.")
    seed: int = 0


def score_existing(existing: Existing) -> pd.DataFrame:
    """The implicit rewards of a run's variants as a tidy frame.

    Raises:
        DataError: the run has no held-out log-likelihoods, or there is no such variant.
    """
    import pandas as pd

    run = load_run(existing.run_dir)
    if run.likelihoods is None:
        raise DataError(
            f"{existing.run_dir} has no likelihoods.parquet: its matrix did not ask for the unlearning benchmark"
        )
    rows: list[dict[Hashable, object]] = []
    for (variant, number), part in run.likelihoods.groupby(["variant", "seed"], sort=False):
        if part["logp_policy"].equals(part["logp_reference"]):
            continue  # the reference itself, whose implicit reward is 0 throughout
        scores = summarise(part, beta=run.manifest["variants"][variant]["training"]["beta"], seed=existing.seed)
        rows += [
            {"variant": variant, "seed": number, "subset": r.subset, "metric": r.metric, "value": r.value,
             "stderr": r.stderr, "n": r.n}
            for r in scores.results
        ]  # fmt: skip
    if existing.against is not None:
        compared = agreement(run.likelihoods, existing.against, seed=existing.seed).rename(columns={"goal": "subset"})
        rows += compared.drop(columns=["low", "high"], errors="ignore").to_dict("records")
    return pd.DataFrame(rows)


def summarise(frame: pd.DataFrame, *, beta: float, resamples: int = 1_000, seed: int = 0) -> Scores:
    """How the implicit reward ranks held-out responses, by the goal asked for (none, best).

    - `accuracy`: the share of pairs whose better response has the higher implicit reward, ties counting half; in the
      subsets `GOAL/gap [LO,HI)` by the gap in score.
    - `ece`: the expected calibration error (Guo et al. 2017, eq. 5; ten bins of equal width between 0.5 and 1) of the
      probability sigmoid(beta * margin) that DPO's Bradley-Terry model gives the response it prefers.
    - `confidence`: the mean of that probability; above accuracy, the model is too sure.
    - `score_correlation`: Spearman's, of implicit reward and score over all responses; `margin_gap_correlation`: of the
      implicit reward's gap and the score's over pairs.

    Args:
        frame: one variant and seed, as `radpo.benchmarks.unlearning.summarise` takes.
        beta: what the policy was trained with.
        seed: of the bootstrap.

    Raises:
        DataError: a column is missing, or every pair is tied.
    """
    import numpy as np

    frame, left_out = whole_pairs(frame)
    pairs = margins(frame.assign(variant="policy", seed=0))
    found: dict[tuple[str, str], Estimate] = {}
    notes: list[str] = [f"implicit-reward: {note}" for note in left_out]
    for goal in GOALS:
        part = pairs[pairs["goal"] == goal]
        clusters = part["prompt_id"].to_numpy()
        right, confidence = _right(part["margin"]), _sigmoid(beta * part["margin"].abs().to_numpy())
        found[goal, "accuracy"] = mean(right, clusters=clusters)
        found.update(_by_gap(part, goal))
        rng = np.random.default_rng(seed)
        found[goal, "ece"] = bootstrap(
            lambda weights, right=right, sure=confidence: calibration_error(sure, right, weights),  # type: ignore[misc]
            len(part), clusters=clusters, resamples=resamples, rng=rng,
        )  # fmt: skip
        found[goal, "confidence"] = mean(confidence, clusters=clusters)
        rewards = _rewards(frame, goal)
        for metric, x, y, who in (
            ("score_correlation", rewards["change"], rewards["score"], rewards["prompt_id"]),
            ("margin_gap_correlation", part["margin"], part["gap"], part["prompt_id"]),
        ):
            try:
                found[goal, metric] = rank_correlation(
                    x.to_numpy(), y.to_numpy(), clusters=who.to_numpy(), resamples=resamples, rng=rng
                )
            except DataError as problem:
                notes.append(f"implicit-reward, goal {goal}: {metric} is left out: {problem}.")
    tied = frame["pair_id"].nunique() - pairs["pair_id"].nunique()
    if tied:
        notes.append(f"implicit-reward: {tied} pairs of equal score have no better response and are left out.")
    return Scores(results_of(NAME, METRICS, found), (), tuple(notes))


def margins(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """A row for each variant, seed, untied pair and goal (none, best), the response of higher score called better.

    Returns:
        variant, seed, pair_id, prompt_id, goal, margin (delta log p of the better minus the worse, nats), gap (of their
        scores, above 0).

    Raises:
        DataError: every pair is tied.
    """
    import numpy as np

    changes = changes_by_response(likelihoods)
    changes = changes[changes["goal"].isin(GOALS)]
    key = ["variant", "seed", "pair_id", "prompt_id", "goal"]
    sides = [changes[changes["response"] == side].drop(columns="response") for side in ("chosen", "rejected")]
    both = sides[0].merge(sides[1], on=key, suffixes=("_chosen", "_rejected"), validate="one_to_one")
    gap = both["score_chosen"] - both["score_rejected"]
    sign = np.sign(gap)
    both = both.assign(margin=sign * (both["change_chosen"] - both["change_rejected"]), gap=gap.abs())
    untied = both[gap != 0]
    if untied.empty:
        raise DataError("every pair is tied: no response is the better one, so there is nothing to rank")
    return untied[[*key, "margin", "gap"]].reset_index(drop=True)


def agreement(likelihoods: pd.DataFrame, against: str, *, resamples: int = 5_000, seed: int = 0) -> pd.DataFrame:
    """Every other variant's implicit reward beside that of `against`, on the same pairs.

    Returns:
        variant, against, goal, metric, value, stderr, low, high, n: `accuracy_difference` (a paired bootstrap, prompts
        drawn whole), `same_preference` (the share of pairs on which both prefer the same response) and
        `margin_correlation` (Spearman's, of the two margins).

    Raises:
        DataError: there is no such variant.
    """
    import numpy as np
    import pandas as pd

    pairs = margins(likelihoods)
    if against not in set(pairs["variant"]):
        raise DataError(f"there is no variant {against!r}; there are {', '.join(sorted(set(pairs['variant'])))}")
    base = pairs[pairs["variant"] == against].drop(columns=["variant", "gap"])
    rows = []
    for (variant, goal), own in pairs[pairs["variant"] != against].groupby(["variant", "goal"], sort=False):
        both = own.merge(base, on=["seed", "pair_id", "prompt_id", "goal"], suffixes=("", "_base"))
        clusters, rng = both["prompt_id"].to_numpy(), np.random.default_rng(seed)
        better = _right(both["margin"]) - _right(both["margin_base"])
        same = (np.sign(both["margin"]) == np.sign(both["margin_base"])).to_numpy(dtype=float)
        found = {
            "accuracy_difference": paired_bootstrap(better, clusters=clusters, resamples=resamples, rng=rng),
            "same_preference": mean(same, clusters=clusters),
        }
        if both["margin"].nunique() > 1 and both["margin_base"].nunique() > 1:
            found["margin_correlation"] = rank_correlation(
                both["margin"].to_numpy(), both["margin_base"].to_numpy(), clusters=clusters, resamples=1000, rng=rng
            )
        rows += [
            {
                "variant": variant, "against": against, "goal": goal, "metric": metric, "value": e.value,
                "stderr": e.stderr, "low": e.low, "high": e.high, "n": e.n,
            }
            for metric, e in found.items()
        ]  # fmt: skip
    return pd.DataFrame(rows)


def calibration_error(confidence: Floats, right: Floats, weights: Floats) -> Floats:
    """sum over bins of (share of rows in the bin) * |accuracy - confidence|, for each row of weights.

    Args:
        confidence: shape (n,), between 0.5 and 1; right: shape (n,), between 0 and 1; weights: shape (draws, n).
    """
    import numpy as np

    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    inside = (place[:, None] == np.arange(BINS)).astype(np.float64)
    off = weights @ (inside * (right - confidence)[:, None])
    error: Floats = np.abs(off).sum(axis=1) / weights.sum(axis=1)
    return error


def _by_gap(part: pd.DataFrame, goal: str) -> Iterator[tuple[tuple[str, str], Estimate]]:
    for low, high in pairwise(GAPS):
        rows = part[(part["gap"] >= low) & (part["gap"] < high)]
        if len(rows):
            share = mean(_right(rows["margin"]), clusters=rows["prompt_id"].to_numpy())
            yield (f"{goal}/gap [{low:g},{high:g})", "accuracy"), share


def _rewards(frame: pd.DataFrame, goal: str) -> pd.DataFrame:
    changes = changes_by_response(frame.assign(variant="policy", seed=0))
    return changes[changes["goal"] == goal]


def _right(margin: pd.Series[float]) -> Any:
    return ((margin > 0).to_numpy(dtype=float) + (margin >= 0).to_numpy(dtype=float)) / 2


def _sigmoid(x: Any) -> Any:
    from scipy.special import expit

    return expit(x)


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage | None:
    """Held-out log-likelihoods; None for the model as it is, whose own reference gives 0 throughout."""
    if checkpoint.is_base:
        return None
    beta = settings.beta if checkpoint.train is None else checkpoint.train.settings["training"]["beta"]
    if beta is None:
        raise ConfigError(
            f"benchmarks.{NAME}.beta: missing: nothing says which beta variant {checkpoint.variant!r} was trained with"
        )
    return context.stage(NAME, checkpoint.label, {"beta": beta}, pieces.policy_and_reference(context, checkpoint))


def _score(task: Task) -> None:
    """Log-likelihoods under policy and reference -> results about the implicit reward."""
    write_scores(summarise(pieces.read_likelihoods(task), beta=task.stage.settings["beta"]), task.out)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """Accuracy by the gap of the scores, asked without a goal and for the best score."""
    names = [name for name in subsets(run, NAME, "accuracy") if "/gap " in name.subset]
    panels, shown, numbers = [], [], []
    for goal, words in (("none", "asked without a goal"), ("best", "asked for the best score")):
        found = points(run, [name for name in names if name.subset.startswith(f"{goal}/")])
        if len(found):
            found = found.assign(group=found["group"].str.split("/").str[1])
            figure = by_group(found, styles, axis="accuracy", within=(0, 1), reference=0.5)
            panels.append(panel(words.capitalize(), figure))
            numbers += table_rows(words, found)
            shown.append(found)
    caption = (
        "How often the better response has the higher implicit reward, by score gap; right of the dotted line is "
        f"better than chance. n = {span_of(size for frame in shown for size in frame['n'])} pairs per bin; whiskers: "
        "95% intervals."
    )
    method = (
        "The implicit reward is beta times the change of log p from reference to policy. Intervals are t intervals, "
        "clustered by prompt. Calibration errors and correlations are in the table of all figures."
    )
    return [ReportSection(NAME, "Implicit reward", caption, panels, 2, shown_in(styles, *shown), numbers, method)]


BENCHMARK = Benchmark(
    name=NAME,
    title="Implicit reward",
    summary="How the implicit reward ranks held-out responses, and how sure it is.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=2, packages=("scipy",))},
    cost={NAME: figures_only},
    sections=sections,
    place=60,
    command="analyze",
    Existing=Existing,
    score_existing=score_existing,
)
