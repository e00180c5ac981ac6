"""Changes of log-likelihood by score: means by score bin, and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from radpo.figures.styles import DOTTED, Styles, error_bars, hover_name, styled, value_text

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


def unlearning(changes: pd.DataFrame, styles: Styles, bins: Sequence[str], reach: Sequence[float]) -> Figure:
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
