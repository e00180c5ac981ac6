"""Charts of points with intervals, bars and lines, each from a tidy frame as a plotly figure.

No file and no HTML is made here; see `radpo.figures.sections` for what a report puts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from radpo.figures.styles import (
    DOTTED,
    Styles,
    axis_titles,
    error_bars,
    hover_name,
    labels,
    longest_line,
    plain,
    row_height,
    styled,
    value_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

SIDE_BY_SIDE = 8
"""Up to so many variants stand beside each other in a figure; more are shown as a grid."""
# Viridis, whose lightness rises evenly, so that it also reads without colour.
COLOURS = ((0.0, "#440154"), (0.25, "#3b528b"), (0.5, "#21918c"), (0.75, "#5ec962"), (1.0, "#fde725"))


def intervals(
    points: pd.DataFrame,
    styles: Styles,
    *,
    axis: str,
    within: tuple[float, float] | None = None,
    reference: float | None = None,
    suffix: str = "",
    labelled: bool = False,
    slots: int | None = None,
) -> Figure:
    """Points with their intervals on a horizontal scale, one line of the page a group, variants beside each other.

    Args:
        points: variant, group, value, low, high, n; low and high are NaN where there is no interval.
        axis: what the scale says.
        within: the ends of the scale; fitted to the points unless given.
        reference: where a dotted line stands for no effect.
        suffix: the unit after a number, as in 54.2%.
        labelled: print each value beside its interval.
        slots: how many points a group has room for, so that figures beside each other keep in line; as many as it
            holds unless given.
    """
    import plotly.graph_objects as go

    groups = list(dict.fromkeys(points["group"]))
    shown = labels(groups)
    members = points.groupby("group", sort=False)["variant"].nunique().max()
    variants = [variant for variant in styles if variant in set(points["variant"])]
    step = 0.62 / max(members, 2)
    figure = go.Figure()
    for variant in variants:
        rows = points[points["variant"] == variant]
        shift = (variants.index(variant) - (len(variants) - 1) / 2) * step if members > 1 else 0.0
        figure.add_scatter(
            x=rows["value"].tolist(),
            y=[groups.index(group) + shift for group in rows["group"]],
            error_x=error_bars(rows),
            mode="markers",
            marker={"color": styles[variant].colour, "symbol": styles[variant].symbol, "size": 9},
            customdata=[[plain(row["group"]), value_text(row, suffix), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]}" + hover_name(variant),
            meta=variant,
        )
        if labelled:
            figure.add_scatter(
                x=rows["high"].fillna(rows["value"]).tolist(),
                y=[groups.index(group) + shift for group in rows["group"]],
                mode="text",
                text=[f" {value:.1f}{suffix}" for value in rows["value"]],
                textposition="middle right",
                cliponaxis=False,
                hoverinfo="skip",
                meta=variant,
            )
    if reference is not None:
        figure.add_vline(x=reference, line=DOTTED)
    figure.update_yaxes(
        tickvals=list(range(len(groups))), ticktext=list(shown.values()), showgrid=False,
        range=[len(groups) - 0.45, -0.55],
    )  # fmt: skip
    figure.update_xaxes(range=list(within) if within else _reach(points, reference))
    axis_titles(figure, x=axis, beside=longest_line(shown.values()))
    margin = {"l": 56, "r": 58 if labelled else 18, "t": 14, "b": 48}
    line = 30 if (slots or members) == 1 and len(groups) > 6 else max(46, 15 * (slots or members) + 16)
    line = row_height(shown.values(), line)
    return styled(figure, height=84 + len(groups) * line, margin=margin)


def radar(points: pd.DataFrame, styles: Styles, *, within: tuple[float, float]) -> Figure:
    """Values by group as spokes, a closed line a variant.

    Args:
        points: variant, group, value, n.
        within: the ends of the scale, in its middle and at its rim.
    """
    import plotly.graph_objects as go

    low, high = within
    groups = list(dict.fromkeys(points["group"]))
    shown = list(labels(groups, 10).values())
    figure = go.Figure()
    for variant, rows in points.groupby("variant", sort=False):
        known = rows.set_index("group").reindex(groups)
        closed = [*range(len(groups)), 0]
        figure.add_scatterpolar(
            r=[known["value"].iloc[place] for place in closed],
            theta=[shown[place] for place in closed],
            mode="lines+markers",
            line={"color": styles[str(variant)].colour, "width": 1.8},
            marker={"symbol": styles[str(variant)].symbol, "size": 7},
            hovertemplate="%{theta}: %{r:.2f}" + hover_name(str(variant)),
            meta=str(variant),
        )
    figure.update_polars(
        radialaxis={
            "range": [low, high],
            "tickvals": [low + part * (high - low) / 3 for part in range(4)],
            "showline": False,
            "ticks": "",
            "angle": 90 - 180 / len(groups),
            "tickangle": 90 - 180 / len(groups),
        },
        angularaxis={"direction": "clockwise", "rotation": 90, "ticks": ""},
        bgcolor="rgba(0,0,0,0)",
    )
    return styled(figure, height=380, margin={"l": 70, "r": 70, "t": 34, "b": 34})


def lines(
    points: pd.DataFrame,
    styles: Styles,
    *,
    x: str,
    axes: tuple[str, str],
    by: Sequence[str] = ("variant",),
    hover: str = "%{x}: %{y:.3g}",
    size: int = 8,
    height: int = 340,
) -> Figure:
    """Values against a number, a line a variant, with their intervals where there are any.

    Args:
        points: variant, the column `x`, value, and where they have intervals low and high.
        axes: what the horizontal and the vertical scale say.
        by: the columns that a line is of, the variant first.
        hover: what a point tells, as a plotly template; `%{customdata}` is its n where points have one.
        size: of the markers.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for key, rows in points.groupby(list(by), sort=False):
        rows = rows.sort_values(x)
        variant, *rest = (str(part) for part in key)
        name = ", ".join([variant, *(f"{column} {part}" for column, part in zip(by[1:], rest, strict=True))])
        figure.add_scatter(
            x=rows[x].tolist(),
            y=rows["value"].tolist(),
            error_y=error_bars(rows) if "low" in rows.columns else None,
            mode="lines+markers",
            line={"color": styles[variant].colour, "width": 1.6},
            marker={"symbol": styles[variant].symbol, "size": size},
            customdata=rows["n"].tolist() if "n" in rows.columns else None,
            hovertemplate=hover + hover_name(name),
            meta=variant,
        )
    axis_titles(figure, *axes)
    return styled(figure, height=height)


def crosses(
    points: pd.DataFrame,
    styles: Styles,
    *,
    axes: tuple[str, str],
    units: tuple[str, str],
    origin: tuple[float | None, float | None],
) -> Figure:
    """One quantity against another, a point a variant with its interval both ways.

    Args:
        points: variant, value, low, high, n, and of the horizontal quantity x_value, x_low, x_high, x_n; the ends
            are NaN where there is no interval.
        axes: what the horizontal and the vertical scale say.
        units: what stands after a number of either.
        origin: where dotted lines stand for no effect.
    """
    import plotly.graph_objects as go

    across = points[["x_value", "x_low", "x_high"]].set_axis(["value", "low", "high"], axis=1)
    figure = go.Figure()
    for place, (_, row) in enumerate(points.iterrows()):
        variant = str(row["variant"])
        upward, along = points.iloc[[place]], across.iloc[[place]]
        texts = value_text(upward.iloc[0], units[1]), value_text(along.iloc[0], units[0])
        figure.add_scatter(
            x=along["value"].tolist(),
            y=upward["value"].tolist(),
            error_x=error_bars(along),
            error_y=error_bars(upward),
            mode="markers",
            marker={"color": styles[variant].colour, "symbol": styles[variant].symbol, "size": 11},
            customdata=[[texts[0], int(row["n"]), texts[1], int(row["x_n"])]],
            hovertemplate="%{customdata[0]}, n = %{customdata[1]}<br>%{customdata[2]}, n = %{customdata[3]}"
            + hover_name(variant),
            meta=variant,
        )
    if origin[0] is not None:
        figure.add_vline(x=origin[0], line=DOTTED)
    if origin[1] is not None:
        figure.add_hline(y=origin[1], line=DOTTED)
    figure.update_xaxes(range=_reach(across, origin[0]))
    figure.update_yaxes(range=_reach(points, origin[1]))
    axis_titles(figure, *axes)
    return styled(figure, height=360)


def bars(
    points: pd.DataFrame,
    styles: Styles,
    *,
    axis: str,
    base: float = 0.0,
    within: tuple[float, float] | None = None,
    reference: float | None = None,
    published: pd.DataFrame | None = None,
) -> Figure:
    """Bars beside each other by group, a colour a variant, with 95% intervals; hatched beside them, published figures.

    Args:
        points: variant, group, value, low, high, n.
        base: where bars begin, the scale's lowest value.
        reference: where a dotted line stands for no effect.
        published: variant, group, value.
    """
    import plotly.graph_objects as go

    groups = [*points["group"], *([] if published is None else published["group"])]
    # Up to a few groups stand level in lines of a few letters; more are turned, each in one line.
    shown = labels(groups, 14 if len(set(groups)) <= 4 else 24)
    figure = go.Figure()
    for variant in [variant for variant in styles if variant in set(points["variant"])]:
        rows = points[points["variant"] == variant]
        figure.add_bar(
            x=[shown[str(group)] for group in rows["group"]],
            y=(rows["value"] - base).tolist(),
            base=base,
            error_y=error_bars(rows),
            marker={"color": styles[variant].colour},
            customdata=[[value_text(row), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="%{x}: %{customdata[0]}, n = %{customdata[1]}" + hover_name(variant),
            meta=variant,
        )
        others = None if published is None else published[published["variant"] == variant]
        if others is not None and len(others):
            hatched = {"color": "rgba(0,0,0,0)", "line": {"color": styles[variant].colour, "width": 1.4}}
            figure.add_bar(
                x=[shown[str(group)] for group in others["group"]],
                y=(others["value"] - base).tolist(),
                base=base,
                marker={**hatched, "pattern": {"shape": "/", "fgcolor": styles[variant].colour, "size": 7}},
                customdata=others["value"].tolist(),
                hovertemplate="%{x}: %{customdata:.4g}, published" + hover_name(variant),
                meta=variant,
            )
    if reference is not None:
        figure.add_hline(y=reference, line=DOTTED)
    axis_titles(figure, y=axis)
    figure.update_yaxes(range=None if within is None else list(within))
    figure.update_xaxes(showgrid=False)
    return styled(figure, height=330)


def grid(points: pd.DataFrame, styles: Styles, *, axis: str, within: tuple[float, float] | None) -> Figure:
    """Values as a coloured grid, variants down, groups across: for more variants than stand beside each other.

    Args:
        points: variant, group, value, low, high, n.
        axis: what the colours say.
        within: the ends of the colour scale; fitted to the values unless given.
    """
    import plotly.graph_objects as go

    variants = [variant for variant in styles if variant in set(points["variant"])]
    groups = list(dict.fromkeys(points["group"]))
    shown = labels(variants)
    table = points.pivot(index="variant", columns="group", values="value").reindex(index=variants, columns=groups)
    hover_texts = {
        (row["variant"], row["group"]): f"{value_text(row, '')}, n = {int(row['n'])}" for _, row in points.iterrows()
    }
    figure = go.Figure()
    figure.add_heatmap(
        z=[[None if value != value else value for value in row] for row in table.to_numpy(dtype=float).tolist()],
        x=list(labels(groups).values()),
        y=list(shown.values()),
        zmin=None if within is None else within[0],
        zmax=None if within is None else within[1],
        colorscale=COLOURS,
        colorbar={"title": {"text": plain(axis, 34), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        customdata=[[hover_texts.get((variant, group), "") for group in groups] for variant in variants],
        hovertemplate="%{y}, %{x}: %{customdata}<extra></extra>",
        xgap=1, ygap=1, hoverongaps=False,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, side="top", tickangle=-40 if len(groups) > 4 else 0)
    return styled(
        figure, height=110 + row_height(shown.values(), 22) * len(variants), margin={"l": 56, "r": 8, "t": 70, "b": 12}
    )


def by_group(
    points: pd.DataFrame,
    styles: Styles,
    *,
    axis: str,
    within: tuple[float, float] | None = None,
    reference: float | None = None,
    suffix: str = "",
    slots: int | None = None,
) -> Figure:
    """Points with intervals by group as `intervals` draws them, or a `grid` where too many variants have several."""
    if points["variant"].nunique() > SIDE_BY_SIDE and points["group"].nunique() > 1:
        return grid(points, styles, axis=axis, within=None)
    return intervals(points, styles, axis=axis, within=within, reference=reference, suffix=suffix, slots=slots)


def _reach(points: pd.DataFrame, reference: float | None) -> list[float]:
    """A scale that holds all intervals and the reference, with some air."""
    import numpy as np

    ends = np.concatenate([points[column].to_numpy(dtype=float) for column in ("value", "low", "high")])
    ends = np.append(ends[np.isfinite(ends)], [] if reference is None else [reference])
    low, high = float(ends.min()), float(ends.max())
    air = (high - low or 1.0) * 0.08
    return [low - air, high + air]
