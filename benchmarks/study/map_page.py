"""The exact map's page: what was predicted and what came, heat maps with their uncertainty, score at growing KL."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from exact_map import OUTCOMES, POLICIES, UNLIMITED

from radpo.figures.charts import lines
from radpo.figures.styles import FONT, styled, value_text, variant_styles
from radpo.report.page import Shown, write_page

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

# Blue to orange through a light grey, told apart with any colour vision; the ends are the report's blue and orange.
DIVERGING = ((0.0, "#0b5d96"), (0.25, "#7fb6dd"), (0.5, "#eceff1"), (0.75, "#f2ab74"), (1.0, "#c04f00"))
INK = "#3d4650"
UNDECIDED = "·"
SHOWN = ("score", "unlearning", "unlearning_own", "over_optimisation", "score_tuned", "score_fixed")


def write_map_page(path: Path, cells: pd.DataFrame, curves: pd.DataFrame, decided: pd.DataFrame) -> Path:
    """Write the page, in one step.

    Args:
        cells: as `exact_map.compare` gives.
        curves: as `exact_map.over_draws` gives.
        decided: as `predictions.decide` gives.
    """
    legend = (
        "Orange: reward-augmented DPO is ahead; blue: DPO is. A dot: the interval over draws and the smallest "
        f"difference that matters do not decide it. The columns marked ∞ are the closed form with unlimited pairs. n = "
        f"{cells['draws'].max()} draws of prompts, pairs and ratings a cell."
    )
    shown = [
        Shown(
            f"{outcome.replace('_', ' ').capitalize()}, {policy} policies",
            heat_map(part),
            f"{OUTCOMES[outcome][2][0].upper()}{OUTCOMES[outcome][2][1:]}. {legend}",
        )
        for outcome in SHOWN
        for policy in POLICIES
        for part in [cells[(cells["outcome"] == outcome) & (cells["policy"] == policy)]]
    ]
    shown += [
        Shown(
            f"Score at growing KL, {policy} policies", growing(curves, policy),
            "Expected true score where ratings have a noise of 4, scores are spread, gaps uniform and more is better, "
            "with the fewest pairs; whiskers: 95% intervals over draws. Grey circles: dpo; orange diamonds: ra-dpo.",
        )
        for policy in POLICIES
    ]  # fmt: skip
    return write_page(path, "Where reward-augmented DPO beats DPO: policies solved exactly", shown, _table(decided))


def heat_map(cells: pd.DataFrame) -> Figure:
    """A cell for each world and number of pairs: noise and pairs across, location, shape and gaps down."""
    import plotly.graph_objects as go

    location = cells["location"].where(
        cells["location"] != "all low", cells["location"] + ", asked for " + cells["asked"].astype(str)
    )
    pairs = ["∞" if size == UNLIMITED else f"{size:,.0f}" for size in cells["pairs"]]
    frame = cells.assign(location=location, across=pairs)
    frame["column"] = list(zip(frame["noise"], frame["pairs"], strict=True))
    frame["row"] = list(zip(frame["location"], frame["shape"], frame["gaps"], strict=True))
    rows, columns = list(dict.fromkeys(frame["row"])), sorted(set(frame["column"]))
    rows.sort(key=lambda row: [*dict.fromkeys(frame["location"])].index(row[0]))
    nothing = {"value": None, "verdict": "", "hover": ""}
    frame["hover"] = [_hover(one) for one in frame.to_dict("records")]
    known = {(one["row"], one["column"]): one for one in frame.to_dict("records")}
    reach = float(np.nanquantile(np.abs(frame["value"]), 0.9)) or 1.0
    laid = [[known.get((row, column), nothing) for column in columns] for row in rows]
    unit = cells["unit"].iloc[0]
    figure = go.Figure()
    across = [
        [f"noise {noise:g}" for noise, _ in columns],
        ["∞" if n == UNLIMITED else f"{n:,.0f}" for _, n in columns],
    ]
    down = [[row[0] for row in rows], [f"{shape}, {gaps}" for _, shape, gaps in rows]]
    figure.add_heatmap(
        z=[[one["value"] for one in line] for line in laid], x=across, y=down, zmin=-reach, zmax=reach,
        colorscale=DIVERGING,
        text=[[UNDECIDED if one["verdict"] == "unclear" else "" for one in line] for line in laid],
        texttemplate="%{text}", textfont={"size": 13},
        customdata=[[one["hover"] for one in line] for line in laid],
        hovertemplate="%{customdata}<extra></extra>", xgap=1, ygap=1,
        colorbar={
            "title": {"text": f"RA-DPO minus DPO ({unit})", "side": "right"}, "thickness": 12, "outlinewidth": 0,
        },
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False, dividerwidth=0)
    figure.update_xaxes(showgrid=False, side="top", dividerwidth=0, tickangle=-60)
    figure = styled(figure, height=150 + 15 * len(rows), margin={"l": 40, "r": 8, "t": 110, "b": 12})
    return figure.update_layout(font={"family": FONT, "size": 10.5, "color": INK})


def _hover(row: Any) -> str:
    pairs = "unlimited pairs" if row["pairs"] == UNLIMITED else f"{row['pairs']:,.0f} pairs"
    return (
        f"{row['location']}, {row['shape']}, {row['gaps']}, noise {row['noise']:g}, {pairs}<br>"
        f"{value_text(row)} {row['unit']}: {row['verdict']}"
    )


def growing(curves: pd.DataFrame, policy: str) -> Figure:
    """Score against KL for both methods where there is least to learn from."""
    finite = curves[curves["pairs"] != UNLIMITED]
    chosen = finite[
        (finite["policy"] == policy) & (finite["shape"] == "more is better") & (finite["location"] == "spread")
        & (finite["gaps"] == "uniform") & (finite["noise"] == 4) & (finite["pairs"] == finite["pairs"].min())
    ]  # fmt: skip
    styles = variant_styles(["dpo", "ra-dpo"], "dpo")
    axes = ("KL from the reference (nats)", "expected true score")
    return lines(
        chosen.assign(variant=chosen["method"]), styles, x="kl", axes=axes, hover="KL %{x}: %{y:.3f}", height=300
    )


def _figure(row: dict[str, Any]) -> str:
    if not row["cells"]:
        return "–"
    return f"{row['share']:.2f} [{row['low']:.2f}, {row['high']:.2f}], {row['cells']} cells"


def _table(decided: pd.DataFrame) -> str:
    """What was foreseen, what would refute it, and what came, as HTML."""
    head = "<tr><th>reading</th><th>whose</th><th>refuted if</th><th>figure</th><th>needed</th><th>came</th></tr>"
    body = "".join(
        f"<tr><td>{html.escape(row['reading'])}</td><td>{row['who']}</td><td>{html.escape(row['refuted'])}</td>"
        f"<td>{_figure(row)}</td>"
        f"<td>{row['threshold']:.2f}</td><td><b>{row['decision']}</b></td></tr>"
        for row in decided.to_dict("records")
    )
    return f"<h2>What was foreseen, and what came</h2><div class='table'><table>{head}{body}</table></div>"
