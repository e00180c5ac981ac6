"""The report's sections on what alignment did beside raising scores.

As in `radpo.report.sections`, a section without panels has nothing to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from radpo.benchmarks import unlearning_figures
from radpo.core.run import Run
from radpo.figures import charts as figures
from radpo.figures.charts import SIDE_BY_SIDE, lines
from radpo.figures.sections import ReportSection as Section
from radpo.figures.sections import panel, points, shown_in, span_of
from radpo.figures.sections import table_rows as told
from radpo.figures.styles import DOTTED
from radpo.figures.styles import VariantStyle as Look
from radpo.stats.comparison import against, high_score_of
from radpo.stats.contrasts import BENCHMARK
from radpo.stats.quantities import Name, of

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

GOALS = {"none": "asked without a goal", "best": "asked for the best score", "own": "asked for its own score"}
GROUPS = {
    "rejected_high": "rejected, high", "rejected_low": "rejected, low", "chosen_high": "chosen, high",
    "chosen_low": "chosen, low", "rejected_high_minus_low": "rejected, high − low",
}  # fmt: skip


def analysis_sections(run: Run, looks: Mapping[str, Look]) -> list[Section]:
    """The sections in the order in which they are read."""
    return [
        _unlearning(run, looks),
        _contrasts(run, looks),
        _trajectory(run, looks),
    ]


def _unlearning(run: Run, looks: Mapping[str, Look]) -> Section:
    heading = "Unlearning"
    if run.likelihoods is None:
        return Section("unlearning", heading)
    edges = unlearning_figures.score_edges(run.likelihoods["score"].dropna(), high_score_of(run))
    changes = unlearning_figures.unlearning_by_bin(run.likelihoods, edges)
    if changes.empty:
        return Section("unlearning", heading)
    ends = changes[["value", "low", "high"]].to_numpy(dtype=float)
    low, high = min(float(_finite(ends).min()), 0.0), max(float(_finite(ends).max()), 0.0)
    reach = (low - 0.06 * (high - low), high + 0.06 * (high - low))
    bins = unlearning_figures.bin_names(edges)
    panels = [
        panel(f"{response.capitalize()}, {words}", unlearning_figures.unlearning(part, looks, bins, reach))
        for response in ("rejected", "chosen")
        for goal, words in GOALS.items()
        if len(part := of(changes, response=response, goal=goal))
    ]
    caption = (
        "Change in log p of held-out responses from reference to policy (nats, summed over tokens), by the "
        "response's own score. Below the dotted line the policy unlearned it. Look at high-scored rejected responses "
        "(towards the right of those panels): they were good answers, and should not sink. All panels share one scale. "
        f"{run.likelihoods['pair_id'].nunique():,} pairs, {span_of(changes['n'])} in a bin; points are set beside each "
        "other for legibility. Whiskers: 95% t interval of the mean, clustered by prompt; a bin with one has none."
    )
    return Section("unlearning", heading, caption, panels, 3, shown_in(looks, changes), _unlearning_numbers(run))


def _unlearning_numbers(run: Run) -> list[Any]:
    """The groups' changes, from results: the bins of the figures are wider than those of results.parquet."""
    found = []
    for goal, words in GOALS.items():
        for metric, group in (("rejected_high", "rejected, high"), ("rejected_low", "rejected, low"),
                              ("chosen_high", "chosen, high"), ("chosen_low", "chosen, low")):  # fmt: skip
            frame = points(run, [Name("unlearning", goal, f"delta_logp_{metric}")])
            found += told(words, frame.assign(group=group))
    return found


def _contrasts(run: Run, looks: Mapping[str, Look]) -> Section:
    title = "Unlearning against the baseline"
    if run.likelihoods is None or len(run.variants) < 2:
        return Section("contrasts", title)
    differences = of(against(run, run.baseline), benchmark=BENCHMARK)
    groups = {f"delta_logp_{group}": words for group, words in GROUPS.items()}
    found = differences[differences["metric"].isin(list(groups))]
    found = found.assign(group=found["metric"].map(groups))
    panels = [
        panel(words.capitalize(), _contrast(part, looks))
        for goal, words in GOALS.items()
        if len(part := _in_order(found[found["subset"] == goal]))
    ]
    if not panels:
        return Section("contrasts", title)
    caption = (
        f"Differences-in-differences: how much more than {run.baseline} a variant changed log p of the same held-out "
        f"responses, by whether the response scored {high_score_of(run):g} or more. Left of the dotted line the "
        "variant lowers them more. High − low: whether it lowers high-scored rejected more than low-scored ones. "
        f"n = {span_of(found['n'])} pairs. Whiskers: 95% intervals of the tests, prompts taken whole, and with several "
        "seeds, seeds taken for random; of high − low, bootstrap intervals that speak of these checkpoints. radpo "
        "analyze compare gives per-token figures, p-values, and the smallest difference that could have been found."
    )
    return Section("contrasts", title, caption, panels, 3, shown_in(looks, found))


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """By group as `GROUPS` has them."""
    place = {words: place for place, words in enumerate(GROUPS.values())}
    return rows.sort_values("group", key=lambda column: column.map(place), kind="stable")


def _contrast(part: pd.DataFrame, looks: Mapping[str, Look]) -> Figure:
    axis = "nats against the baseline’s change"
    if part["variant"].nunique() > SIDE_BY_SIDE:
        return figures.grid(part, looks, axis=axis, within=None)
    return figures.intervals(part, looks, axis=axis, reference=0)


def _trajectory(run: Run, looks: Mapping[str, Look]) -> Section:
    import pandas as pd

    from radpo.benchmarks.trajectory import trajectory

    heading = "Unlearning over training"
    if run.trajectory is None or run.likelihoods is None:
        return Section("trajectory", heading)
    parts, high = [], high_score_of(run)
    for (variant, seed), part in run.trajectory.groupby(["variant", "seed"], sort=False):
        own = run.likelihoods[run.likelihoods["variant"] == variant]
        scores = own.drop_duplicates(["pair_id", "response"]).rename(columns={"pair_id": "id"})
        scores = scores.pivot(index="id", columns="response", values="score").add_prefix("score_").reset_index()
        parts.append(trajectory(part, scores, high_score=high).assign(variant=str(variant), seed=int(str(seed))))
    found = pd.concat(parts)
    shown = found[found["goal"].isin(["none", "own"]) & found["group"].str.startswith("rejected")]
    panels = [
        panel(f"{GROUPS[str(group)]}, {GOALS[str(goal)]}".capitalize(), _over_training(part, looks))
        for (goal, group), part in shown.groupby(["goal", "group"], sort=False)
    ]
    caption = (
        "Mean change of log p of held-out rejected responses since before the first step (nats, summed over tokens), "
        f"by whether the response scored {high:g} or more. n = {span_of(shown['n'])} pairs. Whiskers: 95% t intervals."
    )
    return Section("trajectory", heading, caption, panels, 2, shown_in(looks, shown))


def _over_training(changes: pd.DataFrame, styles: Mapping[str, Look]) -> Figure:
    """Mean change of log p over optimiser steps, a line a variant and seed.

    Args:
        changes: variant, seed, step, value, low, high (nats), n.
    """
    axes, hover = ("optimiser step", "change of log p (nats)"), "step %{x}: %{y:.3g} nats"
    figure = lines(changes, styles, x="step", axes=axes, by=("variant", "seed"), hover=hover, size=6, height=270)
    figure.add_hline(y=0, line=DOTTED)
    return figure.update_xaxes(rangemode="tozero")


def _finite(values: Any) -> Any:
    import numpy as np

    return values[np.isfinite(values)]
