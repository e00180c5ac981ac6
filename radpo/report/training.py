"""The report's section on training: TRL's own figures, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo.core.run import Run
from radpo.figures.sections import ReportSection, panel, shown_in, span_of
from radpo.figures.styles import Styles, hover_name, styled
from radpo.stats.quantities import of

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

TRAINING = {
    "loss": "Loss",
    "rewards/margins": "Reward margin, chosen minus rejected",
    "rewards/accuracies": "Reward accuracy",
    "logps/chosen": "log p of chosen (nats)",
    "logps/rejected": "log p of rejected (nats)",
    "grad_norm": "Gradient norm",
}
SMOOTHED_FROM = 100
"""From so many steps on, a training curve is drawn faintly with its running mean over it."""
DRAWN = 400
"""A training curve has at most so many points; of a longer one every second, third ... is drawn."""


def training_section(run: Run, styles: Styles) -> ReportSection:
    """TRL's curves."""
    if run.training is None:
        return ReportSection("training", "Training")
    present = set(run.training["metric"])
    panels = [
        panel(heading, curves(run.training, styles, metric))
        for metric, heading in TRAINING.items()
        if metric in present
    ]
    steps = run.training.groupby(["variant", "seed"])["step"].max()
    logged = of(run.training, metric="loss").groupby(["variant", "seed"]).size()
    caption = (
        "TRL's figures at every logged optimiser step, a line per variant and seed. "
        f"n = {span_of(steps)} steps; each point is one batch, without an interval."
    )
    method = (
        "Variants train on different pairs, so their losses do not compare directly."
        + (" The solid line is the running mean over the last 1/25 of the steps." if (logged > 100).any() else "")
        + (f" Of long curves only {DRAWN} points are drawn." if (logged > DRAWN).any() else "")
    )
    return ReportSection("training", "Training", caption, panels, 3, shown_in(styles, run.training), method=method)


def curves(frame: pd.DataFrame, styles: Styles, metric: str) -> Figure:
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
        line = {"color": styles[str(variant)].colour, "width": 1.6}
        hover = "step %{x}: %{y:.4g}" + hover_name(f"{variant}, seed {seed}")
        shared = {"x": curve["step"].tolist(), "hovertemplate": hover, "meta": str(variant)}
        figure.add_scatter(
            **shared, y=curve["value"].tolist(), line={**line, "width": 1 if long else 1.6}, mode="lines+markers"
            if len(curve) <= 40 else "lines", marker={"symbol": styles[str(variant)].symbol, "size": 5},
            opacity=0.3 if long else 1.0,
        )  # fmt: skip
        if long:
            figure.add_scatter(**shared, y=smooth.iloc[kept].tolist(), line={**line, "width": 2}, mode="lines")
    if metric == "rewards/accuracies":
        figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_xaxes(title={"text": "optimiser step"}, rangemode="tozero")
    return styled(figure, height=240)
