"""What a report's sections are made of: panels with figures, their caption, and the numbers in a table.

A benchmark's `sections` asks `points` for a run's figures as tidy rows, draws them with `radpo.figures.charts`, and
lists the same rows with `table_rows`, so that each number that is drawn can be read and traced to results.parquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.core.run import Run
from radpo.figures.styles import Styles
from radpo.stats.quantities import Name, measure, number, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

COLUMNS = ["variant", "subset", "group", "value", "low", "high", "n", "seeds", "metric", "unit", "rows"]


@dataclass(frozen=True)
class Panel:
    """A figure as JSON under a heading; see `panel`.

    Args:
        span: how many of its section's columns it takes.
        height: of the figure in pixels, which the page keeps free until it is drawn.
    """

    title: str
    figure: str
    span: int = 1
    height: int = 220


@dataclass(frozen=True)
class TableRow:
    """A number of a figure, for the table below it; `rows` is where it comes from, as in `Quantity`."""

    panel: str
    part: str
    variant: str
    value: str
    interval: str
    n: int
    rows: str


@dataclass(frozen=True)
class ReportSection:
    """Figures in rows of `columns` with the words below them, and their numbers.

    Without panels it is not shown, and its title is named among what the run has no figures of.

    Args:
        anchor: its address in the page, `#anchor`; a-z, 0-9 and hyphens.
        caption: at most two sentences: what to see; the sample's size and which interval is drawn.
        variants: those that it shows, for its legend.
        method: how the figures are computed, behind a fold.
        reading: what the figures show, in a sentence above them.
        lead: whether it stands before the summary.
    """

    anchor: str
    title: str
    caption: str = ""
    panels: Sequence[Panel] = ()
    columns: int = 1
    variants: Sequence[str] = ()
    numbers: Sequence[TableRow] = ()
    method: str = ""
    reading: str = ""
    lead: bool = False


def panel(title: str, figure: Figure, span: int = 1) -> Panel:
    """A plotly figure under a heading."""
    return Panel(title, figure_json(figure), span, int(figure.layout.height))


def points(run: Run, names: Sequence[Name]) -> pd.DataFrame:
    """Every variant's quantities as the figures take them; the group is the subset, or the metric of the whole."""
    import pandas as pd

    rows = [
        {
            "variant": variant, "subset": name.subset, "group": name.metric if name.subset == "all" else name.subset,
            "value": found.value, "low": None if found.low == found.high else found.low,
            "high": None if found.low == found.high else found.high, "n": found.n, "seeds": found.seeds,
            "metric": name.metric, "unit": unit_of(run, name), "rows": " ".join(found.rows),
        }
        for name in names
        for variant in run.variants
        if (found := measure(run, variant, name)) is not None
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).astype({"low": "float64", "high": "float64"})


def table_rows(panel: str, frame: pd.DataFrame) -> list[TableRow]:
    """The numbers of `points`, as the table below the figures shows them."""
    return [
        TableRow(
            panel, str(row["group"]), str(row["variant"]), number(row["value"], row["unit"]),
            "" if row["low"] != row["low"]
            else f"{number(row['low'], row['unit'])} to {number(row['high'], row['unit'])}",
            int(row["n"]), str(row["rows"]),
        )
        for _, row in frame.iterrows()
    ]  # fmt: skip


def opponents(run: Run, benchmark: str, variants: Sequence[str]) -> str:
    """Whose answers those of the variants were compared with, in words."""
    return " or ".join(dict.fromkeys(run.opponent(variant, benchmark) or "another model" for variant in variants))


def shown_in(styles: Styles, *frames: pd.DataFrame) -> list[str]:
    """The variants that a section shows, in the report's order."""
    present = {str(variant) for frame in frames for variant in frame["variant"].unique()}
    return [variant for variant in styles if variant in present]


def sizes(points: pd.DataFrame) -> str:
    """The sample sizes of points, as one number or as the lowest to the highest."""
    return span_of(points["n"])


def span_of(numbers: Iterable[Any]) -> str:
    """Whole numbers as one, or as the lowest to the highest."""
    found = sorted({int(value) for value in numbers})
    return "0" if not found else f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def seeds_note(points: pd.DataFrame) -> str:
    """A sentence on the interval over seeds; empty where there is one seed."""
    if points.empty or int(points["seeds"].max()) < 2:
        return ""
    seeds = span_of(points["seeds"])
    return f" Points are means over {seeds} seeds; an interval is the wider of this one and a t interval over seeds."


def figure_json(figure: Figure) -> str:
    """A plotly figure as a panel takes it."""
    return script_json(json.loads(figure.to_json()))


def script_json(document: Any) -> str:
    """JSON that can stand inside a script element: ASCII without `<`, `>`, `&`, so nothing in it ends the element."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
