"""Figures: a tidy frame comes in, a plotly figure goes out. No file, no HTML; the report puts them together.

Every trace carries its variant in `meta`, so that the page's one legend can show and hide it. Colours of text and grid
are the page's, which knows light from dark; the figures are transparent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

GREY = "#8b939c"
# Okabe and Ito's palette, told apart with any colour vision, without its black and its pale yellow; the blue is lighter
# than theirs, to stand out on dark paper too.
PALETTE = ("#d55e00", "#1b7fc1", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SYMBOLS = ("diamond", "square", "triangle-up", "pentagon", "star", "hexagon", "triangle-down")
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SMOOTHED_FROM = 100
"""From so many steps on, a training curve is drawn faintly with its running mean over it."""
DRAWN = 400
"""A training curve has at most so many points; of a longer one every second, third ... is drawn."""
# Viridis, whose lightness rises evenly, so that it also reads without colour.
COLOURS = ((0.0, "#440154"), (0.25, "#3b528b"), (0.5, "#21918c"), (0.75, "#5ec962"), (1.0, "#fde725"))


@dataclass(frozen=True)
class Look:
    """How a variant looks in every figure; the symbol tells it apart where print or eyes lack colour."""

    colour: str
    symbol: str


def looks(variants: Sequence[str], baseline: str) -> dict[str, Look]:
    """One look for each variant; grey circles are the baseline's."""
    others = [variant for variant in variants if variant != baseline]
    coloured = {
        variant: Look(PALETTE[place % len(PALETTE)], SYMBOLS[place % len(SYMBOLS)])
        for place, variant in enumerate(others)
    }
    return {baseline: Look(GREY, "circle"), **coloured}


def intervals(
    points: pd.DataFrame,
    look: Mapping[str, Look],
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
    members = points.groupby("group", sort=False)["variant"].nunique().max()
    variants = [variant for variant in look if variant in set(points["variant"])]
    step = 0.62 / max(members, 2)
    figure = go.Figure()
    for variant in variants:
        rows = points[points["variant"] == variant]
        shift = (variants.index(variant) - (len(variants) - 1) / 2) * step if members > 1 else 0.0
        figure.add_scatter(
            x=rows["value"].tolist(),
            y=[groups.index(group) + shift for group in rows["group"]],
            error_x=whiskers(rows),
            mode="markers",
            marker={"color": look[variant].colour, "symbol": look[variant].symbol, "size": 9},
            customdata=[[plain(row["group"]), spoken_value(row, suffix), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]}" + extra(variant),
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
        figure.add_vline(x=reference, line={"dash": "dot", "color": GREY, "width": 1.3})
    figure.update_yaxes(
        tickvals=list(range(len(groups))), ticktext=[plain(group) for group in groups], showgrid=False,
        range=[len(groups) - 0.45, -0.55],
    )  # fmt: skip
    figure.update_xaxes(title={"text": axis}, range=list(within) if within else _reach(points, reference))
    margin = {"l": 56, "r": 58 if labelled else 18, "t": 14, "b": 48}
    line = 30 if (slots or members) == 1 and len(groups) > 6 else max(46, 15 * (slots or members) + 16)
    return styled(figure, height=84 + len(groups) * line, margin=margin)


def radar(points: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """MT-Bench scores (1-10) by category, a closed line a variant.

    Args:
        points: variant, group (the category), value, n.
    """
    import plotly.graph_objects as go

    groups = list(dict.fromkeys(points["group"]))
    figure = go.Figure()
    for variant, rows in points.groupby("variant", sort=False):
        known = rows.set_index("group").reindex(groups)
        closed = [*range(len(groups)), 0]
        figure.add_scatterpolar(
            r=[known["value"].iloc[place] for place in closed],
            theta=[plain(groups[place]) for place in closed],
            mode="lines+markers",
            line={"color": look[str(variant)].colour, "width": 1.8},
            marker={"symbol": look[str(variant)].symbol, "size": 7},
            hovertemplate="%{theta}: %{r:.2f}" + extra(str(variant)),
            meta=str(variant),
        )
    figure.update_polars(
        radialaxis={
            "range": [1, 10],
            "tickvals": [1, 4, 7, 10],
            "showline": False,
            "ticks": "",
            "angle": 90 - 180 / len(groups),
            "tickangle": 90 - 180 / len(groups),
        },
        angularaxis={"direction": "clockwise", "rotation": 90, "ticks": ""},
        bgcolor="rgba(0,0,0,0)",
    )
    return styled(figure, height=380, margin={"l": 70, "r": 70, "t": 34, "b": 34})


def bars(
    points: pd.DataFrame,
    look: Mapping[str, Look],
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

    figure = go.Figure()
    for variant in [variant for variant in look if variant in set(points["variant"])]:
        rows = points[points["variant"] == variant]
        figure.add_bar(
            x=[plain(group) for group in rows["group"]],
            y=(rows["value"] - base).tolist(),
            base=base,
            error_y=whiskers(rows),
            marker={"color": look[variant].colour},
            customdata=[[spoken_value(row, ""), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="%{x}: %{customdata[0]}, n = %{customdata[1]}" + extra(variant),
            meta=variant,
        )
        told = None if published is None else published[published["variant"] == variant]
        if told is not None and len(told):
            hatched = {"color": "rgba(0,0,0,0)", "line": {"color": look[variant].colour, "width": 1.4}}
            figure.add_bar(
                x=[plain(group) for group in told["group"]],
                y=(told["value"] - base).tolist(),
                base=base,
                marker={**hatched, "pattern": {"shape": "/", "fgcolor": look[variant].colour, "size": 7}},
                customdata=told["value"].tolist(),
                hovertemplate="%{x}: %{customdata:.4g}, published" + extra(variant),
                meta=variant,
            )
    if reference is not None:
        figure.add_hline(y=reference, line={"dash": "dot", "color": GREY, "width": 1.3})
    figure.update_yaxes(title={"text": axis}, range=None if within is None else list(within))
    figure.update_xaxes(showgrid=False)
    return styled(figure, height=330)


def grid(points: pd.DataFrame, look: Mapping[str, Look], *, axis: str, within: tuple[float, float] | None) -> Figure:
    """Values as a coloured grid, variants down, groups across: for more variants than stand beside each other.

    Args:
        points: variant, group, value, low, high, n.
        axis: what the colours say.
        within: the ends of the colour scale; fitted to the values unless given.
    """
    import plotly.graph_objects as go

    variants = [variant for variant in look if variant in set(points["variant"])]
    groups = list(dict.fromkeys(points["group"]))
    table = points.pivot(index="variant", columns="group", values="value").reindex(index=variants, columns=groups)
    told = {
        (row["variant"], row["group"]): f"{spoken_value(row, '')}, n = {int(row['n'])}" for _, row in points.iterrows()
    }
    figure = go.Figure()
    figure.add_heatmap(
        z=[[None if value != value else value for value in row] for row in table.to_numpy(dtype=float).tolist()],
        x=[plain(group) for group in groups],
        y=[plain(variant) for variant in variants],
        zmin=None if within is None else within[0],
        zmax=None if within is None else within[1],
        colorscale=COLOURS,
        colorbar={"title": {"text": axis, "side": "right"}, "thickness": 12, "outlinewidth": 0},
        customdata=[[told.get((variant, group), "") for group in groups] for variant in variants],
        hovertemplate="%{y}, %{x}: %{customdata}<extra></extra>",
        xgap=1, ygap=1, hoverongaps=False,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, side="top", tickangle=-40 if len(groups) > 4 else 0)
    return styled(figure, height=110 + 22 * len(variants), margin={"l": 56, "r": 8, "t": 70, "b": 12})


def training(frame: pd.DataFrame, look: Mapping[str, Look], metric: str) -> Figure:
    """One of TRL's figures along training, a line a variant and seed.

    Args:
        frame: variant, seed, step, metric, value.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for (variant, seed), rows in frame[frame["metric"] == metric].groupby(["variant", "seed"], sort=False):
        whole = rows.sort_values("step")
        long = len(whole) > SMOOTHED_FROM
        smooth = whole["value"].rolling(max(len(whole) // 25, 1), min_periods=1).mean()
        kept = slice(None, None, -(-len(whole) // DRAWN))
        curve = whole.iloc[kept]
        line = {"color": look[str(variant)].colour, "width": 1.6}
        hover = "step %{x}: %{y:.4g}" + extra(f"{variant}, seed {seed}")
        shared = {"x": curve["step"].tolist(), "hovertemplate": hover, "meta": str(variant)}
        figure.add_scatter(
            **shared, y=curve["value"].tolist(), line={**line, "width": 1 if long else 1.6}, mode="lines+markers"
            if len(curve) <= 40 else "lines", marker={"symbol": look[str(variant)].symbol, "size": 5},
            opacity=0.3 if long else 1.0,
        )  # fmt: skip
        if long:
            figure.add_scatter(**shared, y=smooth.iloc[kept].tolist(), line={**line, "width": 2}, mode="lines")
    if metric == "rewards/accuracies":
        figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_xaxes(title={"text": "optimiser step"}, rangemode="tozero")
    return styled(figure, height=240)


def plain(text: object, limit: int = 26) -> str:
    """Text that plotly shows as it is: its tags are escaped, `%{` cannot begin a template, and long names are cut."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def extra(name: str) -> str:
    """The name beside a hover label, as part of a template."""
    return f"<extra>{plain(name)}</extra>"


def spoken_value(row: pd.Series[Any], suffix: str) -> str:
    value = f"{row['value']:.4g}{suffix}"
    return value if row["low"] != row["low"] else f"{value} [{row['low']:.4g}, {row['high']:.4g}]"


def whiskers(rows: pd.DataFrame) -> dict[str, Any]:
    """Error bars from low to high; none where there is no interval."""
    return {
        "type": "data", "symmetric": False, "thickness": 1.3, "width": 4,
        "array": (rows["high"] - rows["value"]).fillna(0).tolist(),
        "arrayminus": (rows["value"] - rows["low"]).fillna(0).tolist(),
    }  # fmt: skip


def _reach(points: pd.DataFrame, reference: float | None) -> list[float]:
    """A scale that holds all intervals and the reference, with some air."""
    import numpy as np

    ends = np.concatenate([points[column].to_numpy(dtype=float) for column in ("value", "low", "high")])
    ends = np.append(ends[np.isfinite(ends)], [] if reference is None else [reference])
    low, high = float(ends.min()), float(ends.max())
    air = (high - low or 1.0) * 0.08
    return [low - air, high + air]


def styled(figure: Figure, *, height: int, margin: Mapping[str, int] | None = None) -> Figure:
    """The look that all figures share."""
    figure.update_layout(
        template="none",
        height=height,
        margin=dict(margin or {"l": 56, "r": 18, "t": 14, "b": 48}),
        showlegend=False,
        font={"family": FONT, "size": 12.5},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        bargap=0.35,
        bargroupgap=0.12,
        dragmode=False,
        hoverlabel={"font": {"family": FONT, "size": 12.5}, "align": "left"},
    )
    figure.update_xaxes(automargin=True, zeroline=False, ticks="", title={"standoff": 10, "font": {"size": 12.5}})
    figure.update_yaxes(automargin=True, zeroline=False, ticks="", title={"standoff": 8, "font": {"size": 12.5}})
    return figure
