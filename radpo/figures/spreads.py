"""Charts of shares, spreads and pairs of figures, each from a tidy frame as a plotly figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from radpo.figures.styles import (
    DOTTED,
    GREY,
    PALETTE,
    Styles,
    axis_titles,
    hover_name,
    labels,
    longest_line,
    plain,
    row_height,
    styled,
)

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


def shares(rows: pd.DataFrame, styles: Styles, names: Mapping[str, str], *, axis: str) -> Figure:
    """Shares of a whole as bars end to end, a line a variant; from good to bad by colour and by place.

    Args:
        rows: variant, n, and a column of shares (0 to 1) for each of `names`.
        names: column -> what it is called, at most three of them.
    """
    import plotly.graph_objects as go

    variants = [variant for variant in styles if variant in set(rows["variant"])]
    table = rows.set_index("variant").loc[variants]
    shown = labels(variants)
    figure = go.Figure()
    for (column, name), colour in zip(names.items(), ("#009e73", GREY, "#d55e00"), strict=False):
        figure.add_bar(
            y=list(shown.values()),
            x=(100 * table[column]).tolist(),
            orientation="h",
            marker={"color": colour},
            text=[f"{100 * value:.0f}%" if value >= 0.06 else "" for value in table[column]],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"color": "#ffffff"},
            name=name,
            customdata=table["n"].tolist(),
            hovertemplate=f"{plain(name)}: %{{x:.1f}}%, n = %{{customdata}}<extra>%{{y}}</extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    axis_titles(figure, x=axis, beside=longest_line(shown.values())).update_xaxes(range=[0, 100])
    drawn = styled(
        figure, height=110 + row_height(shown.values(), 26) * len(variants), margin={"l": 56, "r": 18, "t": 34, "b": 48}
    )
    return drawn.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    )


def boxes(spread: pd.DataFrame, styles: Styles, *, axis: str) -> Figure:
    """Quantiles as boxes on a horizontal scale, a line a variant: 10%, 25%, 50%, 75%, 90%.

    Args:
        spread: variant, q10, q25, q50, q75, q90, n.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    variants = [variant for variant in styles if variant in set(spread["variant"])]
    shown = labels(variants)
    for _, row in spread.set_index("variant").loc[variants].reset_index().iterrows():
        variant = str(row["variant"])
        figure.add_box(
            y=[shown[variant]], q1=[row["q25"]], median=[row["q50"]], q3=[row["q75"]], lowerfence=[row["q10"]],
            upperfence=[row["q90"]], orientation="h", line={"color": styles[variant].colour, "width": 1.6},
            hoverinfo="x+y", meta=variant, width=0.55,
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    axis_titles(figure, x=axis, beside=longest_line(shown.values())).update_xaxes(rangemode="tozero")
    return styled(figure, height=100 + row_height(shown.values(), 26) * len(variants))


def against(points: pd.DataFrame, styles: Styles, *, axes: tuple[str, str], suffix: str = "%") -> Figure:
    """One figure against another with both intervals, a point a variant; on the dotted line both are the same.

    Args:
        points: variant, x, x_low, x_high, y, y_low, y_high, n.
        axes: what the two scales say.
    """
    import numpy as np
    import plotly.graph_objects as go

    ends = points[["x", "x_low", "x_high", "y", "y_low", "y_high"]].to_numpy(dtype=float)
    ends = ends[np.isfinite(ends)]
    air = float(np.ptp(ends)) * 0.06 or 1.0
    span = [float(ends.min()) - air, float(ends.max()) + air]
    figure = go.Figure()
    figure.add_scatter(x=span, y=span, mode="lines", line=DOTTED, hoverinfo="skip")
    for _, row in points.iterrows():
        variant = str(row["variant"])
        bars = [
            {"type": "data", "symmetric": False, "thickness": 1.3, "width": 4,
             "array": [_or_zero(row[f"{side}_high"] - row[side])],
             "arrayminus": [_or_zero(row[side] - row[f"{side}_low"])]}
            for side in ("x", "y")
        ]  # fmt: skip
        figure.add_scatter(
            x=[row["x"]], y=[row["y"]], error_x=bars[0], error_y=bars[1], mode="markers", meta=variant,
            marker={"color": styles[variant].colour, "symbol": styles[variant].symbol, "size": 9},
            hovertemplate=f"%{{x:.1f}}{suffix}, %{{y:.1f}}{suffix}, n = {int(row['n'])}" + hover_name(variant),
        )  # fmt: skip
    axis_titles(figure, *axes)
    figure.update_xaxes(range=span)
    figure.update_yaxes(range=span)
    return styled(figure, height=360)


def stacked_seconds(rows: pd.DataFrame) -> Figure:
    """Seconds by kind of stage, stacked, a line a variant.

    Args:
        rows: variant, kind, seconds.
    """
    import plotly.graph_objects as go

    owners = list(dict.fromkeys(rows["variant"]))
    shown = labels(owners)
    figure = go.Figure()
    kinds = sorted(dict.fromkeys(rows["kind"]), key=lambda kind: kind == "other")
    for place, kind in enumerate(kinds):
        known = rows[rows["kind"] == kind].set_index("variant")["seconds"].reindex(owners).fillna(0)
        figure.add_bar(
            y=list(shown.values()), x=known.tolist(), orientation="h", name=plain(kind),
            marker={"color": (*PALETTE, GREY)[place % 7]},
            hovertemplate=f"{plain(kind)}: %{{x:,.1f}} s<extra>%{{y}}</extra>",
        )  # fmt: skip
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title={"text": "seconds"})
    drawn = styled(
        figure, height=130 + row_height(shown.values(), 26) * len(owners), margin={"l": 56, "r": 18, "t": 54, "b": 48}
    )
    return drawn.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    )


def _or_zero(value: float) -> float:
    return 0.0 if value != value else float(value)
