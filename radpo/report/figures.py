"""Figures: a tidy frame comes in, a plotly figure goes out. No file, no HTML; the report puts them together.

Every trace carries its variant in `meta`, so that the page's one legend can show and hide it. Colours of text and grid
are the page's, which knows light from dark; the figures are transparent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
            customdata=[[plain(row["group"]), _spoken(row, suffix), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]}" + _extra(variant),
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
    return styled(figure, height=84 + len(groups) * max(46, 15 * (slots or members) + 16), margin=margin)


def unlearning(changes: pd.DataFrame, look: Mapping[str, Look], bins: Sequence[str], reach: Sequence[float]) -> Figure:
    """Mean change of log p by score bin, a line a variant, for one kind of response and one goal.

    Args:
        changes: variant, bin, order, value, low, high, n, as `unlearning_by_bin` gives.
        bins: the names of all bins, which the panels share.
        reach: the ends of the vertical scale (nats), which the panels share.
    """
    import plotly.graph_objects as go

    variants = [variant for variant in look if variant in set(changes["variant"])]
    figure = go.Figure()
    for place, variant in enumerate(variants):
        rows = changes[changes["variant"] == variant].sort_values("order")
        shift = (place - (len(variants) - 1) / 2) * 0.36 / max(len(variants), 2)
        figure.add_scatter(
            x=(rows["order"] + shift).tolist(),
            y=rows["value"].tolist(),
            error_y=whiskers(rows),
            mode="lines+markers",
            line={"color": look[variant].colour, "width": 1.4},
            marker={"symbol": look[variant].symbol, "size": 8},
            customdata=[[row["bin"], _spoken(row, " nats"), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="score %{customdata[0]}: %{customdata[1]}, n = %{customdata[2]}" + _extra(variant),
            meta=variant,
        )
    figure.add_hline(y=0, line={"dash": "dot", "color": GREY, "width": 1.3})
    figure.update_xaxes(
        title={"text": "the response's score"}, tickvals=list(range(len(bins))), ticktext=list(bins), showgrid=False,
        range=[-0.5, len(bins) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(title={"text": "change of log p (nats)"}, range=list(reach))
    return styled(figure, height=270)


def score_edges(scores: pd.Series[float]) -> list[float]:
    """The edges of the score bins: two points wide on a 1-10 scale, else five of one width; the last is closed."""
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

    from radpo.analysis.statistics import mean

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
            hovertemplate="%{theta}: %{r:.2f}" + _extra(str(variant)),
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


def turns(points: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """MT-Bench scores (1-10) by turn as bars from the scale's lowest score, with 95% intervals.

    Args:
        points: variant, group (the turn), value, low, high, n.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for variant, rows in points.groupby("variant", sort=False):
        figure.add_bar(
            x=[plain(group) for group in rows["group"]],
            y=(rows["value"] - 1).tolist(),
            base=1,
            error_y=whiskers(rows),
            marker={"color": look[str(variant)].colour},
            customdata=[[_spoken(row, ""), int(row["n"])] for _, row in rows.iterrows()],
            hovertemplate="%{x}: %{customdata[0]}, n = %{customdata[1]}" + _extra(str(variant)),
            meta=str(variant),
        )
    figure.update_yaxes(title={"text": "score (1–10)"}, range=[1, 10.3], tickvals=[1, 4, 7, 10])
    figure.update_xaxes(showgrid=False)
    return styled(figure, height=380)


def training(frame: pd.DataFrame, look: Mapping[str, Look], metric: str) -> Figure:
    """One of TRL's figures along training, a line a variant and seed.

    Args:
        frame: variant, seed, step, metric, value.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for (variant, seed), rows in frame[frame["metric"] == metric].groupby(["variant", "seed"], sort=False):
        curve = rows.sort_values("step")
        long = len(curve) > SMOOTHED_FROM
        line = {"color": look[str(variant)].colour, "width": 1.6}
        hover = "step %{x}: %{y:.4g}" + _extra(f"{variant}, seed {seed}")
        shared = {"x": curve["step"].tolist(), "hovertemplate": hover, "meta": str(variant)}
        figure.add_scatter(
            **shared, y=curve["value"].tolist(), line={**line, "width": 1 if long else 1.6}, mode="lines+markers"
            if len(curve) <= 40 else "lines", marker={"symbol": look[str(variant)].symbol, "size": 5},
            opacity=0.3 if long else 1.0,
        )  # fmt: skip
        if long:
            window = len(curve) // 25
            smooth = curve["value"].rolling(window, min_periods=1).mean()
            figure.add_scatter(**shared, y=smooth.tolist(), line={**line, "width": 2}, mode="lines")
    if metric == "rewards/accuracies":
        figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_xaxes(title={"text": "optimiser step"}, rangemode="tozero")
    return styled(figure, height=240)


def plain(text: object, limit: int = 26) -> str:
    """Text that plotly shows as it is: its tags are escaped, `%{` cannot begin a template, and long names are cut."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def _extra(name: str) -> str:
    """The name beside a hover label, as part of a template."""
    return f"<extra>{plain(name)}</extra>"


def _spoken(row: pd.Series[Any], suffix: str) -> str:
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
