"""The report's section on tuning: settings that were tried, those chosen, and the best that fewer would have given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo.core.run import Run
from radpo.figures.charts import by_group, lines
from radpo.figures.sections import ReportSection, panel, points, shown_in, span_of, table_rows
from radpo.figures.styles import Styles
from radpo.stats.quantities import Name, label_of, names_of, of, unit_of

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "tuning"
WHOLE_TICKS = 12
"""Up to so many settings, each number of them has its mark on the scale."""


def tuning_sections(run: Run, styles: Styles) -> list[ReportSection]:
    """What was tried for every variant on prompts that are not reported; nothing where nothing was."""
    rows = of(run.results, benchmark=BENCHMARK)
    if rows.empty:
        return []
    derived = rows["metric"].str.startswith("expected_best") | (rows["metric"] == "chosen")
    tried = points(run, names_of(rows[~derived]))
    best = _best(run, rows)
    metric, unit = str(tried["metric"].iloc[0]), str(tried["unit"].iloc[0])
    axis = f"{label_of(run, BENCHMARK, metric)}{f' ({unit})' if unit else ''}"
    picked = rows[(rows["metric"] == "chosen") & (rows["value"] == 1)]
    chosen = dict(zip(picked["variant"], picked["subset"], strict=True))
    reading = "Chosen: " + "; ".join(f"{variant} with {settings}" for variant, settings in chosen.items())
    curve = lines(best, styles, x="budget", axes=("settings tried", axis))
    if (most := int(best["budget"].max())) <= WHOLE_TICKS:
        curve.update_xaxes(tickvals=list(range(1, most + 1)))
    panels = [
        panel("Settings tried", by_group(tried, styles, axis=axis)),
        panel("Expected best of so many settings", curve),
    ]
    caption = (
        f"Settings were chosen by {metric} on prompts that are not reported, the best mean over seeds. n = "
        f"{span_of(tried['n'])} examples a setting; whiskers: 95% intervals, on the right of the best of random draws."
    )
    method = (
        "The expected best of a budget is the expectation of the maximum of so many settings drawn at random, with "
        "replacement, from those tried (Dodge et al. 2019, arXiv 1909.03004), with the range that holds 95% of such "
        "draws. Draws repeat, so it is too pessimistic near the whole number of settings (Tang et al. 2020, arXiv "
        "2004.13705); expected_best_unbiased in results.parquet is without replacement. A variant that does better "
        "only with many settings tried owes it to the search. choices.json has every seed of every setting."
    )
    numbers = [*table_rows("settings tried", tried), *table_rows("expected best", best)]
    shown = shown_in(styles, tried, best)
    return [ReportSection(BENCHMARK, "Tuning", caption, panels, 2, shown, numbers, method, f"{reading}.")]


def _best(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """The expected best by variant and budget, with the ends of its range."""
    keys = ["variant", "subset"]
    best = of(rows, metric="expected_best")
    for end in ("low", "high"):
        ends = of(rows, metric=f"expected_best_{end}")[[*keys, "value"]].rename(columns={"value": end})
        best = best.merge(ends, on=keys)
    return best.assign(
        group=best["subset"],
        budget=best["subset"].str.removeprefix("budget ").astype(int),
        unit=unit_of(run, Name(BENCHMARK, "all", "expected_best")),
        rows=best["run"].astype(str) + "/" + best["row"].astype(str),
    )
