"""Unlearning's part of the report: changes of log-likelihood by score, against the baseline, and over training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from radpo.benchmarks.learned_unlearned import learned_unlearned
from radpo.benchmarks.trajectory import trajectory
from radpo.core.run import Run
from radpo.figures.charts import SIDE_BY_SIDE, grid, intervals, lines
from radpo.figures.sections import ReportSection, TableRow, panel, points, shown_in, span_of, table_rows
from radpo.figures.styles import DOTTED, Styles, error_bars, hover_name, styled, value_text
from radpo.stats.comparison import against, high_score_of
from radpo.stats.quantities import Name, of

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME = "unlearning"
GOALS = {"none": "asked without a goal", "best": "asked for the best score", "own": "asked for its own score"}
GROUPS = {
    "rejected_high": "rejected, high", "rejected_low": "rejected, low", "chosen_high": "chosen, high",
    "chosen_low": "chosen, low", "rejected_high_minus_low": "rejected, high − low",
}  # fmt: skip


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """Learned against unlearned, changes by score, differences from the baseline's, and changes over training."""
    return [learned_unlearned(run, styles), _unlearning(run, styles), _contrasts(run, styles), _trajectory(run, styles)]


def _unlearning(run: Run, styles: Styles) -> ReportSection:
    heading = "Unlearning"
    if run.likelihoods is None:
        return ReportSection(NAME, heading)
    edges = score_edges(run.likelihoods["score"].dropna(), high_score_of(run))
    changes = unlearning_by_bin(run.likelihoods, edges)
    if changes.empty:
        return ReportSection(NAME, heading)
    ends = changes[["value", "low", "high"]].to_numpy(dtype=float)
    low, high = min(float(_finite(ends).min()), 0.0), max(float(_finite(ends).max()), 0.0)
    reach = (low - 0.06 * (high - low), high + 0.06 * (high - low))
    bins = bin_names(edges)
    panels = [
        panel(f"{response.capitalize()}, {words}", _by_score(part, styles, bins, reach))
        for response in ("rejected", "chosen")
        for goal, words in GOALS.items()
        if len(part := of(changes, response=response, goal=goal))
    ]
    caption = (
        "Change in log p of held-out responses (nats) by the response's score: below the dotted line it was unlearned, "
        "and high-scored rejected responses (right) should not be. "
        f"n = {run.likelihoods['pair_id'].nunique():,} pairs, {span_of(changes['n'])} per bin; whiskers: 95% intervals."
    )
    method = (
        "The change is from reference to policy, summed over tokens. High-scored rejected responses were good answers "
        "that lost to better ones. All panels have one scale; points are set beside each other to be legible. "
        "Intervals are t intervals of the mean, clustered by prompt; a bin with one response has none."
    )
    return ReportSection(NAME, heading, caption, panels, 3, shown_in(styles, changes), _unlearning_numbers(run), method)


def _unlearning_numbers(run: Run) -> list[TableRow]:
    """The groups' changes, from results: the bins of the figures are wider than those of results.parquet."""
    found = []
    for goal, words in GOALS.items():
        for metric, group in (("rejected_high", "rejected, high"), ("rejected_low", "rejected, low"),
                              ("chosen_high", "chosen, high"), ("chosen_low", "chosen, low")):  # fmt: skip
            frame = points(run, [Name(NAME, goal, f"delta_logp_{metric}")])
            found += table_rows(words, frame.assign(group=group))
    return found


def _contrasts(run: Run, styles: Styles) -> ReportSection:
    title = "Unlearning against the baseline"
    if run.likelihoods is None or len(run.variants) < 2:
        return ReportSection("contrasts", title)
    differences = of(against(run, run.baseline), benchmark=NAME)
    groups = {f"delta_logp_{group}": words for group, words in GROUPS.items()}
    found = differences[differences["metric"].isin(list(groups))]
    found = found.assign(group=found["metric"].map(groups))
    panels = [
        panel(words.capitalize(), _contrast(part, styles))
        for goal, words in GOALS.items()
        if len(part := _in_order(found[found["subset"] == goal]))
    ]
    if not panels:
        return ReportSection("contrasts", title)
    caption = (
        f"How much more than {run.baseline} a variant changed log p of the same responses, by whether they scored "
        f"{high_score_of(run):g} or more; left of the dotted line it lowers them more. "
        f"n = {span_of(found['n'])} pairs; whiskers: 95% intervals."
    )
    method = (
        "These are differences in differences: policy minus reference, variant minus baseline. High − low shows "
        "whether a variant lowers high-scored rejected responses more than low-scored ones. Intervals are those of the "
        "tests, clustered by prompt; with several seeds, seeds are random effects. Those of high − low are bootstrap "
        "intervals for these checkpoints. radpo analyze compare gives figures per token, p-values, and the smallest "
        "difference that could have been found."
    )
    return ReportSection("contrasts", title, caption, panels, 3, shown_in(styles, found), method=method)


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """By group as `GROUPS` has them."""
    place = {words: place for place, words in enumerate(GROUPS.values())}
    return rows.sort_values("group", key=lambda column: column.map(place), kind="stable")


def _contrast(part: pd.DataFrame, styles: Styles) -> Figure:
    axis = "nats against the baseline’s change"
    if part["variant"].nunique() > SIDE_BY_SIDE:
        return grid(part, styles, axis=axis, within=None)
    return intervals(part, styles, axis=axis, reference=0)


def _trajectory(run: Run, styles: Styles) -> ReportSection:
    import pandas as pd

    heading = "Unlearning over training"
    if run.trajectory is None or run.likelihoods is None:
        return ReportSection("trajectory", heading)
    parts, high = [], high_score_of(run)
    for (variant, seed), part in run.trajectory.groupby(["variant", "seed"], sort=False):
        own = run.likelihoods[run.likelihoods["variant"] == variant]
        scores = own.drop_duplicates(["pair_id", "response"]).rename(columns={"pair_id": "id"})
        scores = scores.pivot(index="id", columns="response", values="score").add_prefix("score_").reset_index()
        parts.append(trajectory(part, scores, high_score=high).assign(variant=str(variant), seed=int(str(seed))))
    found = pd.concat(parts)
    shown = found[found["goal"].isin(["none", "own"]) & found["group"].str.startswith("rejected")]
    panels = [
        panel(f"{GROUPS[str(group)]}, {GOALS[str(goal)]}".capitalize(), _over_training(part, styles))
        for (goal, group), part in shown.groupby(["goal", "group"], sort=False)
    ]
    caption = (
        "Mean change of log p of rejected responses (nats) since the first step, by whether the response scored "
        f"{high:g} or more. n = {span_of(shown['n'])} pairs; whiskers: 95% intervals."
    )
    method = "Log p is summed over tokens. Intervals are t intervals of the mean over pairs."
    return ReportSection("trajectory", heading, caption, panels, 2, shown_in(styles, shown), method=method)


def _over_training(changes: pd.DataFrame, styles: Styles) -> Figure:
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


def _by_score(changes: pd.DataFrame, styles: Styles, bins: Sequence[str], reach: Sequence[float]) -> Figure:
    """Mean change of log p by score bin, a line a variant, for one kind of response and one goal.

    Args:
        changes: variant, bin, order, value, low, high, n, as `unlearning_by_bin` gives.
        bins: the names of all bins, which the panels share.
        reach: the ends of the vertical scale (nats), which the panels share.
    """
    import plotly.graph_objects as go

    variants = [variant for variant in styles if variant in set(changes["variant"])]
    figure = go.Figure()
    for place, variant in enumerate(variants):
        rows = changes[changes["variant"] == variant].sort_values("order")
        shift = (place - (len(variants) - 1) / 2) * 0.36 / max(len(variants), 2)
        figure.add_scatter(
            x=(rows["order"] + shift).tolist(),
            y=rows["value"].tolist(),
            error_y=error_bars(rows),
            mode="lines+markers",
            line={"color": styles[variant].colour, "width": 1.4},
            marker={"symbol": styles[variant].symbol, "size": 8},
            customdata=[[row["bin"], value_text(row, " nats"), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="score %{customdata[0]}: %{customdata[1]}, n = %{customdata[2]}" + hover_name(variant),
            meta=variant,
        )
    figure.add_hline(y=0, line=DOTTED)
    figure.update_xaxes(
        title={"text": "the response's score"}, tickvals=list(range(len(bins))), ticktext=list(bins), showgrid=False,
        range=[-0.5, len(bins) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(title={"text": "change of log p (nats)"}, range=list(reach))
    return styled(figure, height=270)


def score_edges(scores: pd.Series[float], high_score: float | None = None) -> list[float]:
    """The edges of the score bins: two points wide on a 1-10 scale, else five of one width; the last is closed.

    Args:
        high_score: from which score on a response counts as high, which is an edge, too, so that no bin holds both.
    """
    edges = _even_edges(scores)
    between = high_score is not None and edges[0] < high_score < edges[-1]
    return sorted({*edges, high_score}) if between and high_score is not None else edges


def _even_edges(scores: pd.Series[float]) -> list[float]:
    low, high = float(scores.min()), float(scores.max())
    if low >= 1 and high <= 10:
        edges = [1.0, 3.0, 5.0, 7.0, 9.0, 10.0]
        first = max(place for place, edge in enumerate(edges[:-1]) if edge <= low)
        last = min(place for place, edge in enumerate(edges) if edge >= high and place > first)
        return edges[first : last + 1]
    if low == high:
        return [low, low + 1]
    return [low + (high - low) * part / 5 for part in range(5)] + [high]


def bin_names(edges: Sequence[float]) -> list[str]:
    """What the bins are called: half-open but for the last."""
    last = len(edges) - 2
    return [
        f"{low:.3g}–{high:.3g}" if place == last else f"{low:.3g}–<{high:.3g}"
        for place, (low, high) in enumerate(pairwise(edges))
    ]


def unlearning_by_bin(likelihoods: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Mean change of log p (policy minus reference, nats) with a 95% t interval clustered by prompt.

    `own` asks for a rejected response's own score (goal `rejected`) and for a chosen response's (goal `chosen`). A
    variant that nowhere differs from the reference is the reference, which cannot change, and is left out.

    Args:
        likelihoods: variant, seed, pair_id, response, goal, score, logp_policy, logp_reference, and prompt_id where it
            is known; else every pair is one cluster.
        edges: the score bins' edges, as `score_edges` gives.

    Returns:
        variant, goal (none, best, own), response, bin, order (of the bin), value, low, high, n (pairs).
    """
    import pandas as pd

    from radpo.stats.estimates import mean

    names = bin_names(edges)
    frame = likelihoods.assign(change=likelihoods["logp_policy"] - likelihoods["logp_reference"])
    frame = frame[frame["change"].notna() & frame["score"].notna()]
    frame = frame[frame.groupby("variant")["change"].transform(lambda change: change.ne(0).any()).astype(bool)]
    own = frame[frame["goal"] == frame["response"]].assign(goal="own")
    frame = pd.concat([frame[frame["goal"].isin(["none", "best"])], own])
    order = pd.cut(frame["score"], list(edges), right=False, labels=False)
    frame = frame.assign(order=order.fillna(len(names) - 1).astype(int))  # the topmost edge belongs to the last bin
    shared = "prompt_id" if "prompt_id" in frame.columns else "pair_id"
    rows = []
    for (variant, goal, response, place), group in frame.groupby(["variant", "goal", "response", "order"], sort=True):
        estimate = mean(group["change"].to_numpy(), clusters=group[shared].to_numpy())
        rows.append(
            {
                "variant": str(variant), "goal": str(goal), "response": str(response), "bin": names[int(str(place))],
                "order": place, "value": estimate.value, "low": estimate.low, "high": estimate.high,
                "n": group["pair_id"].nunique(),
            }
        )  # fmt: skip
    columns = ["variant", "goal", "response", "bin", "order", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns).astype({"low": "float64", "high": "float64"})
