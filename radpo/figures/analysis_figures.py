"""Figures of the analyses: a tidy frame comes in, a plotly figure goes out, as in `radpo.figures.figures`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from radpo.figures.figures import GREY, Look, plain, styled, whiskers

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


def convergence(points: pd.DataFrame, look: Mapping[str, Look], axis: str) -> Figure:
    """How far policies are from the best ones against the number of pairs, both logarithmic, with the N^-1/2 line.

    Args:
        points: variant, pairs, value, low, high: means over replicates with their intervals.
        axis: what the vertical scale says.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    first = points[points["pairs"] == points["pairs"].min()]["value"].max()
    sizes = sorted(points["pairs"].unique())
    figure.add_scatter(
        x=sizes, y=[1.6 * first * (sizes[0] / n) ** 0.5 for n in sizes], mode="lines", hoverinfo="skip",
        line={"dash": "dot", "color": GREY, "width": 1.6},
    )  # fmt: skip
    figure.add_annotation(
        x=_log10(sizes[-1]), y=_log10(1.6 * first * (sizes[0] / sizes[-1]) ** 0.5), text="N<sup>−1/2</sup>",
        showarrow=False, xanchor="right", yanchor="bottom", font={"color": GREY},
    )  # fmt: skip
    for variant, rows in points.groupby("variant", sort=False):
        rows = rows.sort_values("pairs")
        figure.add_scatter(
            x=rows["pairs"].tolist(), y=rows["value"].tolist(), error_y=whiskers(rows), mode="lines+markers",
            line={"color": look[str(variant)].colour, "width": 1.6},
            marker={"symbol": look[str(variant)].symbol, "size": 8},
            hovertemplate="N = %{x:,}: %{y:.3g}<extra>" + plain(variant) + "</extra>", meta=str(variant),
        )  # fmt: skip
    figure.update_xaxes(type="log", title={"text": "preference pairs N"}, dtick=1)
    figure.update_yaxes(type="log", title={"text": axis}, exponentformat="power", dtick=1)
    return styled(figure, height=360)


def over_betas(changes: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """Change of log p against beta, a line a variant.

    Args:
        changes: variant, beta, value (nats).
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for variant, rows in changes.groupby("variant", sort=False):
        rows = rows.sort_values("beta")
        figure.add_scatter(
            x=rows["beta"].tolist(), y=rows["value"].tolist(), mode="lines+markers",
            line={"color": look[str(variant)].colour, "width": 1.6},
            marker={"symbol": look[str(variant)].symbol, "size": 8},
            hovertemplate="β = %{x}: %{y:.3g} nats<extra>" + plain(variant) + "</extra>", meta=str(variant),
        )  # fmt: skip
    figure.add_hline(y=0, line={"dash": "dot", "color": GREY, "width": 1.3})
    betas = sorted(changes["beta"].unique())
    figure.update_xaxes(type="log", title={"text": "β"}, tickvals=betas, ticktext=[f"{beta:g}" for beta in betas])
    figure.update_yaxes(title={"text": "change of log p (nats)"})
    return styled(figure, height=360)


def goal_curve(curve: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """The mean score that samples got against the score that was asked for, a line a variant; dotted: as asked.

    Args:
        curve: variant, goal, value, low, high, n.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    ends = [1.0, 10.0]
    line = {"dash": "dot", "color": GREY, "width": 1.3}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip")
    for variant, rows in curve.groupby("variant", sort=False):
        rows = rows.sort_values("goal")
        figure.add_scatter(
            x=rows["goal"].tolist(), y=rows["value"].tolist(), error_y=whiskers(rows), mode="lines+markers",
            line={"color": look[str(variant)].colour, "width": 1.6},
            marker={"symbol": look[str(variant)].symbol, "size": 8}, customdata=rows["n"].tolist(),
            hovertemplate="asked for %{x}: %{y:.2f}, n = %{customdata}<extra>" + plain(variant) + "</extra>",
            meta=str(variant),
        )  # fmt: skip
    figure.update_xaxes(title={"text": "score asked for"}, dtick=1)
    figure.update_yaxes(title={"text": "score got (1–10)"}, range=[0.7, 10.3], tickvals=[1, 4, 7, 10])
    return styled(figure, height=340)


def reward_kl(points: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """The judge's mean score against KL from the reference, a point a variant and seed, frontier points joined.

    Args:
        points: variant, seed, kl (nats), score (1-10), kl_half, score_half (half 95% intervals), on_frontier.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    best = points[points["on_frontier"]].sort_values("kl")
    figure.add_scatter(
        x=best["kl"].tolist(), y=best["score"].tolist(), mode="lines", hoverinfo="skip",
        line={"dash": "dot", "color": GREY, "width": 1.3},
    )  # fmt: skip
    for variant, rows in points.groupby("variant", sort=False):
        half = [{"type": "data", "array": rows[f"{axis}_half"].fillna(0).tolist(), "thickness": 1.3, "width": 4}
                for axis in ("kl", "score")]  # fmt: skip
        figure.add_scatter(
            x=rows["kl"].tolist(), y=rows["score"].tolist(), error_x=half[0], error_y=half[1], mode="markers",
            marker={"color": look[str(variant)].colour, "symbol": look[str(variant)].symbol, "size": 9},
            hovertemplate="KL %{x:.3g} nats, score %{y:.2f}<extra>" + plain(variant) + "</extra>", meta=str(variant),
        )  # fmt: skip
    figure.update_xaxes(title={"text": "KL from the reference (nats a response)"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "score (1–10)"})
    return styled(figure, height=340)


def over_training(changes: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """Mean change of log p over optimiser steps, a line a variant and seed.

    Args:
        changes: variant, seed, step, value, low, high (nats), n.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for (variant, seed), rows in changes.groupby(["variant", "seed"], sort=False):
        rows = rows.sort_values("step")
        figure.add_scatter(
            x=rows["step"].tolist(), y=rows["value"].tolist(), error_y=whiskers(rows), mode="lines+markers",
            line={"color": look[str(variant)].colour, "width": 1.6},
            marker={"symbol": look[str(variant)].symbol, "size": 6},
            hovertemplate="step %{x}: %{y:.3g} nats<extra>" + plain(f"{variant}, seed {seed}") + "</extra>",
            meta=str(variant),
        )  # fmt: skip
    figure.add_hline(y=0, line={"dash": "dot", "color": GREY, "width": 1.3})
    figure.update_xaxes(title={"text": "optimiser step"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "change of log p (nats)"})
    return styled(figure, height=270)


def _log10(value: Any) -> float:
    import math

    return math.log10(float(value))
