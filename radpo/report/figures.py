"""Figures: a tidy frame comes in, a plotly figure goes out. No file, no HTML; the report puts them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

# Okabe and Ito's palette, told apart with any colour vision; the first is for the baseline.
PALETTE = ("#8a929a", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a800")
Z95 = 1.96
"""Half the width of a 95% interval of the normal distribution, in standard errors."""

GOAL_TITLES = {"none": "asked without a goal", "best": "asked for the best score", "own": "asked for its own score"}


def colours(variants: Sequence[str], baseline: str) -> dict[str, str]:
    """One colour for each variant, the same in every figure."""
    others = [variant for variant in variants if variant != baseline]
    return {baseline: PALETTE[0], **{v: PALETTE[1 + i % (len(PALETTE) - 1)] for i, v in enumerate(others)}}


def win_rates(results: pd.DataFrame, colour: Mapping[str, str], baseline: str) -> Figure:
    """Win rate against the baseline in percent, one point a variant and seed, with 95% intervals."""
    import plotly.graph_objects as go

    rows = results[(results["benchmark"] == "alpaca-eval") & (results["metric"] == "win_rate")]
    rows = rows[rows["subset"] == "all"]
    figure = go.Figure()
    for variant, group in rows.groupby("variant", sort=False):
        figure.add_bar(
            x=group["value"],
            y=[f"{variant}, seed {seed}" if rows["seed"].nunique() > 1 else str(variant) for seed in group["seed"]],
            orientation="h",
            error_x={"type": "data", "array": Z95 * group["stderr"].fillna(0), "thickness": 1.5, "width": 5},
            marker={"color": colour[str(variant)]},
            width=0.5,
            name=str(variant),
            hovertemplate="%{y}: %{x:.1f}%<extra></extra>",
        )
    figure.add_vline(x=50, line={"dash": "dot", "color": "#8a929a"})
    figure.update_xaxes(title=f"win rate against {baseline} (%)", range=[0, 100])
    figure.update_yaxes(autorange="reversed")
    return _styled(figure, height=120 + 70 * len(rows), legend=False)


def unlearning(likelihoods: pd.DataFrame, colour: Mapping[str, str], edges: Sequence[float]) -> Figure:
    """Change of log p from reference to policy by score bin: rejected above, chosen below, one column a goal.

    Args:
        likelihoods: variant, response, goal, score, logp_policy, logp_reference; see the run directory's table.
        edges: the score bins' edges; the last bin is closed.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2, cols=3, shared_xaxes=True, shared_yaxes=True, vertical_spacing=0.1, horizontal_spacing=0.03,
        column_titles=list(GOAL_TITLES.values()), row_titles=["rejected responses", "chosen responses"],
    )  # fmt: skip
    changes = unlearning_by_bin(likelihoods, edges)
    shown: set[str] = set()
    for names, group in changes.groupby(["variant", "goal", "response"], sort=False):
        variant, goal, response = map(str, names)
        figure.add_scatter(
            x=group["bin"],
            y=group["mean"],
            error_y={"type": "data", "array": (group["high"] - group["mean"]).fillna(0), "thickness": 1.3, "width": 4},
            mode="lines+markers",
            line={"color": colour[variant], "width": 1.5},
            marker={"size": 7},
            name=variant,
            legendgroup=variant,
            showlegend=variant not in shown,
            customdata=group["n"],
            hovertemplate="%{y:.2f} nats, n = %{customdata}<extra>" + variant.replace("<", "&lt;") + "</extra>",
            row=1 if response == "rejected" else 2,
            col=list(GOAL_TITLES).index(goal) + 1,
        )
        shown.add(variant)
    figure.add_hline(y=0, line={"dash": "dot", "color": "#8a929a", "width": 1})
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=_bin_names(edges))
    figure.update_xaxes(title="score", row=2)
    figure.update_yaxes(title="change of log p (nats)", col=1)
    return _styled(figure, height=560)


def unlearning_by_bin(likelihoods: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Mean change of log p with a 95% t interval, clustered by pair, for every variant, goal, response and score bin.

    `own` asks a rejected response's own score of it, and a chosen response's of that. The reference itself, which
    cannot change, is left out.
    """
    import pandas as pd

    from radpo.analysis.statistics import mean

    frame = likelihoods.assign(change=likelihoods["logp_policy"] - likelihoods["logp_reference"])
    frame = frame[frame.groupby("variant")["change"].transform(lambda change: change.ne(0).any())]
    own = frame[frame["goal"] == frame["response"]].assign(goal="own")
    frame = pd.concat([frame[frame["goal"].isin(["none", "best"])], own])
    frame = frame.assign(
        bin=pd.cut(frame["score"], list(edges), right=False, labels=_bin_names(edges)).astype(str),
    )
    frame.loc[frame["score"] == edges[-1], "bin"] = _bin_names(edges)[-1]
    rows = []
    order = {name: place for place, name in enumerate(_bin_names(edges))}
    for (variant, goal, response, name), group in frame.groupby(["variant", "goal", "response", "bin"], sort=False):
        estimate = mean(group["change"].to_numpy(), clusters=group["pair_id"].to_numpy())
        rows.append(
            {
                "variant": variant, "goal": goal, "response": response, "bin": name, "order": order[str(name)],
                "mean": estimate.value, "high": estimate.high, "n": estimate.n,
            }
        )  # fmt: skip
    columns = ["variant", "goal", "response", "bin", "order", "mean", "high", "n"]
    return pd.DataFrame(rows, columns=columns).sort_values("order", kind="stable")


def mt_bench(results: pd.DataFrame, colour: Mapping[str, str]) -> Figure:
    """MT-Bench scores (1-10) by category, a closed line a variant; seeds are averaged."""
    import plotly.graph_objects as go

    rows = results[(results["benchmark"] == "mt-bench") & (results["metric"] == "score") & (results["subset"] != "all")]
    means = rows.groupby(["variant", "subset"], sort=False)["value"].mean().reset_index()
    figure = go.Figure()
    for variant, group in means.groupby("variant", sort=False):
        closed = [*range(len(group)), 0]
        figure.add_scatterpolar(
            r=group["value"].iloc[closed],
            theta=group["subset"].iloc[closed],
            name=str(variant),
            line={"color": colour[str(variant)], "width": 2},
            hovertemplate="%{theta}: %{r:.2f}<extra></extra>",
        )
    figure.update_polars(radialaxis={"range": [1, 10], "angle": 90, "tickangle": 90}, bgcolor="rgba(0,0,0,0)")
    return _styled(figure, height=440)


def academic(results: pd.DataFrame, colour: Mapping[str, str]) -> Figure:
    """Each task's primary metric by variant, with 95% intervals; seeds are averaged."""
    import plotly.graph_objects as go

    rows = results[(results["benchmark"] == "academic") & results["primary"].fillna(False)]
    rows = rows.assign(task=rows["subset"] + " (" + rows["metric"] + ")")
    figure = go.Figure()
    for variant, group in rows.groupby("variant", sort=False):
        averaged = group.groupby("task", sort=False).agg(value=("value", "mean"), stderr=("stderr", "mean"))
        figure.add_bar(
            x=averaged.index,
            y=averaged["value"],
            error_y={"type": "data", "array": Z95 * averaged["stderr"].fillna(0), "thickness": 1.3, "width": 4},
            marker={"color": colour[str(variant)]},
            name=str(variant),
            hovertemplate="%{x}: %{y:.3f}<extra></extra>",
        )
    figure.update_yaxes(title="share right", range=[0, 1])
    return _styled(figure, height=360)


def training(frame: pd.DataFrame, colour: Mapping[str, str]) -> Figure:
    """Loss, reward margin, reward accuracy and log-likelihoods along training, a line a variant and seed."""
    from plotly.subplots import make_subplots

    panels = {
        "loss": "loss",
        "rewards/margins": "reward margin",
        "rewards/accuracies": "reward accuracy",
        "logps/rejected": "log p of rejected (nats)",
    }
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(panels.values()), vertical_spacing=0.16)
    shown: set[str] = set()
    for place, metric in enumerate(panels):
        for names, group in frame[frame["metric"] == metric].groupby(["variant", "seed"], sort=False):
            variant, seed = map(str, names)
            figure.add_scatter(
                x=group["step"],
                y=group["value"],
                mode="lines+markers" if len(group) < 60 else "lines",
                line={"color": colour[variant], "width": 1.5},
                marker={"size": 4},
                name=variant,
                legendgroup=variant,
                showlegend=variant not in shown,
                hovertemplate=f"step %{{x}}, seed {seed}: %{{y:.4g}}<extra></extra>",
                row=place // 2 + 1,
                col=place % 2 + 1,
            )
            shown.add(variant)
    figure.update_xaxes(title="optimiser step", row=2)
    return _styled(figure, height=520)


def _bin_names(edges: Sequence[float]) -> list[str]:
    last = len(edges) - 2
    return [
        f"{low:g} to {high:g}" if i == last else f"{low:g} to <{high:g}"
        for i, (low, high) in enumerate(pairwise(edges))
    ]


def _styled(figure: Figure, *, height: int, legend: bool = True) -> Figure:
    """The look that all figures share; colours of text and grid are set in the page, which knows light from dark."""
    margins: dict[str, Any] = {"l": 60, "r": 30, "t": 50, "b": 50}
    figure.update_layout(
        template="none",
        height=height,
        margin=margins,
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        font={"family": "system-ui, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        bargap=0.35,
    )
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    return figure
