"""A run's quantities with their intervals, and how they are printed.

The summary, the words and the figures all take their numbers from here, so that no two of them can disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from radpo.core.metrics import extreme_interval

if TYPE_CHECKING:
    import pandas as pd

    from radpo.core.run import Run


class Name(NamedTuple):
    """Which figure: a benchmark, a part of it, and a metric."""

    benchmark: str
    subset: str
    metric: str


@dataclass(frozen=True)
class Quantity:
    """One variant's figure.

    Args:
        value: the value in results.parquet; the mean over seeds where there are several.
        half: half the width of its 95% interval; None where there is no standard error, or where every example came
            out alike (a standard error of 0 says only that the sample was too small to see any spread).
        low, high: the interval's ends, cut at the metric's own bounds; where `half` is None, Wilson's of a share of
            nothing or all, else both `value`.
        degrees: of freedom of Student's t in that interval.
        n: examples that each seed's figure rests on.
        seeds: how many seeds.
        rows: where it comes from: RUN/ROW, the places of the run directory and of the row in its results.parquet, both
            from 0.
    """

    value: float
    half: float | None
    low: float
    high: float
    degrees: float
    n: int
    seeds: int
    rows: tuple[str, ...]


def of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def is_true(column: pd.Series[Any]) -> pd.Series[bool]:
    """A nullable boolean column with unknown taken for no."""
    return column.fillna(False).astype(bool)


def names_of(rows: pd.DataFrame) -> list[Name]:
    """The figures that rows of results hold, in their order."""
    found = rows[list(Name._fields)].drop_duplicates()
    return [Name(*map(str, row)) for row in found.itertuples(index=False)]


def subsets(run: Run, benchmark: str, metric: str) -> list[Name]:
    """The figure in all of its benchmark's parts."""
    rows = of(run.results, benchmark=benchmark, metric=metric)
    return names_of(rows[rows["subset"] != "all"])


def primary_names(run: Run) -> list[Name]:
    """The primary figures, and those that lead their benchmark though they are no mean over examples; by benchmark."""
    import numpy as np

    results = run.results
    known = results[["benchmark", "metric"]].drop_duplicates().itertuples(index=False)
    leading = {(benchmark, metric) for benchmark, metric in known if run.metric(benchmark, metric).leads}
    led_by = [pair in leading for pair in zip(results["benchmark"], results["metric"], strict=True)]
    names = names_of(results[is_true(results["primary"]).to_numpy() | np.array(led_by, dtype=bool)])
    place = {benchmark: place for place, benchmark in enumerate(run.benchmarks)}
    return sorted(names, key=lambda name: place[name.benchmark])


def measure(run: Run, variant: str, name: Name) -> Quantity | None:
    """One variant's figure, or None where it was not measured.

    With one seed the interval is value ± t standard errors, t being the 97.5% quantile of Student's distribution with
    n - 1 degrees of freedom: with ten examples the normal 1.96 would promise too much. With several seeds, it is the
    wider of that (with their mean standard error: they answer the same examples, so more seeds do not shrink it) and
    Student's t over the seeds' values (over the factors that they are drawn by, `radpo.stats.mixed.over_runs`).
    """
    rows = run.figures.get((variant, *name))
    if rows is None:
        return None
    values = rows["value"].to_numpy(dtype=float)
    value = float(values.mean())
    n = int(rows["n"].min())
    known = n > 1 and rows["stderr"].notna().all()
    half = quantile_of_t(n - 1) * float(rows["stderr"].mean()) if known else 0.0
    end, over_degrees = _over_runs(run, rows, values)
    wide = end - value if end is not None else 0.0
    degrees = over_degrees if wide > half else n - 1
    half = max(half, wide)
    metric = run.metric(name.benchmark, name.metric)
    bottom, top = metric.limits
    ends = max(value - half, min(bottom, value)), min(value + half, max(top, value))
    if half <= 0:
        ends = extreme_interval(metric, value, n) or ends
    return Quantity(
        value=value,
        half=half if half > 0 else None,
        low=ends[0],
        high=ends[1],
        degrees=degrees,
        n=n,
        seeds=len(rows),
        rows=tuple(f"{run}/{row}" for run, row in zip(rows["run"], rows["row"], strict=True)),
    )


def _over_runs(run: Run, rows: pd.DataFrame, values: Any) -> tuple[float | None, float]:
    """The upper end of the interval of a figure's mean over seeds, for seeds that were not drawn; and its degrees."""
    from radpo.stats.estimates import mean
    from radpo.stats.mixed import over_runs

    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None, 0
    if not run.factors:
        return mean(values).high, len(values) - 1
    seeds = rows["seed"].to_numpy()
    factors = {name: [of[int(seed)] for seed in seeds] for name, of in run.factors.items()}
    over = over_runs(values, seeds, factors)
    return (None, 0) if over is None else (over.high, over.degrees)


def quantile_of_t(degrees: float) -> float:
    """The 97.5% quantile of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def upward(run: Run, name: Name) -> bool | None:
    """Whether more of a figure is better; None where neither way is."""
    return run.upward.get((name.benchmark, name.subset, name.metric))


def unit_of(run: Run, name: Name) -> str:
    """A figure's unit: `%`, `share` (0 to 1), `nats`, or nothing known."""
    return run.metric(name.benchmark, name.metric).unit


def label_of(run: Run, benchmark: str, metric: str) -> str:
    """What readers see for a metric: its label, else its name in words."""
    described = run.metric(benchmark, metric)
    plain = metric.split(",")[0]
    return plain.replace("_", " ") if described.label in ("", plain, metric) else described.label


def is_reference(run: Run, variant: str, name: Name) -> bool:
    """Whether a figure is the reference model's own: 0 by definition, not by measurement."""
    quantity = measure(run, variant, name) if run.metric(name.benchmark, name.metric).zero_is_reference else None
    return quantity is not None and quantity.value == 0 and quantity.half is None


def number(value: float, unit: str, *, signed: bool = False) -> str:
    """A value as the report prints it, with a true minus sign and as many digits as its unit deserves."""
    digits = {"%": 1, "share": 3, "nats": 2}.get(unit, 2 if abs(value) < 100 else 0)
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.replace("-", "+" if signed else "")
    return text.replace("-", "−")


def p_text(p: float) -> str:
    """A p-value as the report prints it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
