"""What sections are made of: a run's figures come in, tidy points, panels and rows of numbers go out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.core.run import Run
from radpo.figures.embed import script_json
from radpo.figures.figures import Look
from radpo.stats.quantities import Name, measure, number

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

COLUMNS = ["variant", "group", "value", "low", "high", "n", "seeds", "metric", "rows"]
SIDE_BY_SIDE = 8
"""Up to so many variants stand beside each other in a figure; more are shown as a grid."""


@dataclass(frozen=True)
class Panel:
    """A figure as JSON under a heading; `span` is how many of its section's columns it takes."""

    title: str
    figure: str
    span: int = 1


@dataclass(frozen=True)
class Told:
    """A number of a figure, for the table below it; `rows` is where it comes from, as in `Quantity`."""

    panel: str
    part: str
    variant: str
    value: str
    interval: str
    n: int
    rows: str


@dataclass(frozen=True)
class Section:
    """Figures in rows of `columns` with the words below them, and their numbers; without panels it is not shown."""

    anchor: str
    title: str
    caption: str = ""
    panels: Sequence[Panel] = ()
    columns: int = 1
    variants: Sequence[str] = ()
    numbers: Sequence[Told] = ()


def points(run: Run, names: Sequence[Name]) -> pd.DataFrame:
    """Every variant's quantities as the figures take them; the group is the subset, or the metric of the whole."""
    import pandas as pd

    rows = [
        {
            "variant": variant, "group": name.metric if name.subset == "all" else name.subset, "value": found.value,
            "low": None if found.half is None else found.low, "high": None if found.half is None else found.high,
            "n": found.n, "seeds": found.seeds, "metric": name.metric, "rows": " ".join(found.rows),
        }
        for name in names
        for variant in run.variants
        if (found := measure(run, variant, name)) is not None
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).astype({"low": "float64", "high": "float64"})


def told(panel: str, frame: pd.DataFrame) -> list[Told]:
    """The numbers of `points`, as the table below the figures shows them."""
    return [
        Told(
            panel, str(row["group"]), str(row["variant"]), number(row["value"], row["metric"]),
            "" if row["low"] != row["low"]
            else f"{number(row['low'], row['metric'])} to {number(row['high'], row['metric'])}",
            int(row["n"]), str(row["rows"]),
        )
        for _, row in frame.iterrows()
    ]  # fmt: skip


def shown_in(looks: Mapping[str, Look], *frames: pd.DataFrame) -> list[str]:
    """The variants that a section shows, in the report's order."""
    present = {str(variant) for frame in frames for variant in frame["variant"].unique()}
    return [variant for variant in looks if variant in present]


def sizes(points: pd.DataFrame) -> str:
    return span_of(points["n"])


def span_of(numbers: Iterable[Any]) -> str:
    """Whole numbers as one, or as the lowest to the highest."""
    found = sorted({int(value) for value in numbers})
    return "0" if not found else f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def seeds_note(points: pd.DataFrame) -> str:
    if points.empty or int(points["seeds"].max()) < 2:
        return ""
    return f" Points are means over {span_of(points['seeds'])} seeds, intervals the wider of that and t over seeds."


def figure_json(figure: Figure) -> str:
    return script_json(json.loads(figure.to_json()))
