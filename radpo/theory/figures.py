"""The theory check's figures, each from a tidy frame as a plotly figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from radpo.figures.charts import lines
from radpo.figures.styles import DOTTED, GREY, Styles, error_bars, plain, styled

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


def convergence(points: pd.DataFrame, styles: Styles, axis: str) -> Figure:
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
            x=rows["pairs"].tolist(), y=rows["value"].tolist(), error_y=error_bars(rows), mode="lines+markers",
            line={"color": styles[str(variant)].colour, "width": 1.6},
            marker={"symbol": styles[str(variant)].symbol, "size": 8},
            hovertemplate="N = %{x:,}: %{y:.3g}<extra>" + plain(variant) + "</extra>", meta=str(variant),
        )  # fmt: skip
    figure.update_xaxes(type="log", title={"text": "preference pairs N"}, dtick=1)
    figure.update_yaxes(type="log", title={"text": axis}, exponentformat="power", dtick=1)
    return styled(figure, height=360)


def over_betas(changes: pd.DataFrame, styles: Styles) -> Figure:
    """Change of log p against beta, a line a variant.

    Args:
        changes: variant, beta, value (nats).
    """
    axes = ("β", "change of log p (nats)")
    figure = lines(changes, styles, x="beta", axes=axes, hover="β = %{x}: %{y:.3g} nats", height=360)
    figure.add_hline(y=0, line=DOTTED)
    betas = sorted(changes["beta"].unique())
    return figure.update_xaxes(type="log", tickvals=betas, ticktext=[f"{beta:g}" for beta in betas])


def _log10(value: Any) -> float:
    import math

    return math.log10(float(value))
