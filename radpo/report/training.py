"""The report's section on training: TRL's own figures, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from radpo.core.run import Run
from radpo.figures.sections import ReportSection, panel, shown_in, span_of
from radpo.figures.styles import Styles, plain, styled
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

    A variant's lines are one trace with gaps between them: plotly takes milliseconds for each trace.

    Args:
        frame: variant, seed, step, metric, value.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for variant, rows in frame[frame["metric"] == metric].groupby("variant", sort=False):
        long = bool(rows.groupby("seed").size().max() > SMOOTHED_FROM)
        lines = [_thinned(seed, of_seed, long) for seed, of_seed in rows.groupby("seed", sort=False)]
        few = max(len(line["step"]) for line in lines) <= 40
        style = styles[str(variant)]
        whose = plain(f"{variant}, seed", 40, 6)
        shared = {
            "x": _with_gaps(lines, "step"), "customdata": _with_gaps(lines, "seed"), "meta": str(variant),
            "hovertemplate": f"step %{{x}}: %{{y:.4g}}<extra>{whose} %{{customdata}}</extra>",
        }  # fmt: skip
        figure.add_scatter(
            **shared, y=_with_gaps(lines, "value"), line={"color": style.colour, "width": 1 if long else 1.6},
            mode="lines+markers" if few else "lines", marker={"symbol": style.symbol, "size": 5},
            opacity=0.3 if long else 1.0,
        )  # fmt: skip
        if long:
            solid = {"color": style.colour, "width": 2}
            figure.add_scatter(**shared, y=_with_gaps(lines, "smooth"), line=solid, mode="lines")
    if metric == "rewards/accuracies":
        figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_xaxes(title={"text": "optimiser step"}, rangemode="tozero")
    return styled(figure, height=240)


def _thinned(seed: Any, rows: pd.DataFrame, long: bool) -> dict[str, list[Any]]:
    """Step, seed, value and (of long lines) running mean of one seed's line, at most `DRAWN` of each."""
    import pandas as pd

    order = rows["step"].to_numpy().argsort(kind="stable")
    line = {name: rows[name].to_numpy()[order] for name in ("step", "value")}
    if long:
        line["smooth"] = pd.Series(line["value"]).rolling(max(len(rows) // 25, 1), min_periods=1).mean().to_numpy()
    drawn = {name: values[:: -(-len(rows) // DRAWN)].tolist() for name, values in line.items()}
    return {**drawn, "seed": [int(seed)] * len(drawn["step"])}


def _with_gaps(lines: Sequence[Mapping[str, list[Any]]], name: str) -> list[Any]:
    """The lines' values one after the other, with a null between two, where plotly interrupts what it draws."""
    return [value for place, line in enumerate(lines) for value in ([None] if place else []) + line[name]]
