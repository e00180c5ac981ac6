"""A run's quantities with their intervals, and how they are printed.

The summary, the words and the figures all take their numbers from here, so that no two of them can disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
        low, high: the interval's ends, cut at the metric's own bounds; both `value` where `half` is None.
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
    degrees: int
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
    """The primary figures in the order of results.parquet, those of one benchmark together.

    AlpacaEval's length-controlled win rate is among them, as the figure that its leaderboard and papers go by. It is
    not marked as primary because it is no mean over examples.
    """
    results = run.results
    led_by = (results["benchmark"] == "alpaca-eval") & (results["metric"] == "length_controlled_winrate")
    names = names_of(results[is_true(results["primary"]) | led_by])
    place = {"alpaca-eval": 0, "arena-hard": 1, "mt-bench": 2, "unlearning": 4}
    return sorted(names, key=lambda name: place.get(name.benchmark, 3))


def measure(run: Run, variant: str, name: Name) -> Quantity | None:
    """One variant's figure, or None where it was not measured.

    With one seed the interval is value ± t standard errors, t being the 97.5% quantile of Student's distribution with
    n - 1 degrees of freedom: with ten examples the normal 1.96 would promise too much. With several seeds, it is the
    wider of that (with their mean standard error: they answer the same examples, so more seeds do not shrink it) and
    Student's t over the seeds' values.
    """
    from radpo.stats.estimates import mean

    rows = run.figures.get((variant, *name))
    if rows is None:
        return None
    values = rows["value"].to_numpy(dtype=float)
    value = float(values.mean())
    n = int(rows["n"].min())
    known = n > 1 and rows["stderr"].notna().all()
    half = quantile_of_t(n - 1) * float(rows["stderr"].mean()) if known else 0.0
    over_seeds = mean(values).high if len(values) > 1 and all(map(math.isfinite, values)) else None
    wide = over_seeds - value if over_seeds is not None else 0.0
    degrees = len(values) - 1 if wide > half else n - 1
    half = max(half, wide)
    bottom, top = bounds(name.metric, name.benchmark)
    return Quantity(
        value=value,
        half=half if half > 0 else None,
        low=max(value - half, min(bottom, value)),
        high=min(value + half, max(top, value)),
        degrees=degrees,
        n=n,
        seeds=len(rows),
        rows=tuple(f"{run}/{row}" for run, row in zip(rows["run"], rows["row"], strict=True)),
    )


def quantile_of_t(degrees: float) -> float:
    """The 97.5% quantile of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def upward(run: Run, name: Name) -> bool | None:
    """Whether more of a figure is better; None where neither way is."""
    return run.upward.get((name.benchmark, name.subset, name.metric))


def is_duel(name: Name) -> bool:
    """Whether a figure is measured against somebody's answers, for whom it is 50 by definition."""
    return unit(name.metric) == "%" or (name.benchmark == "arena-hard" and name.metric == "score")


def is_reference(run: Run, variant: str, name: Name) -> bool:
    """Whether a change of log-likelihood is the reference's own: 0 by definition, not by measurement."""
    quantity = measure(run, variant, name) if name.metric.startswith("delta_logp") else None
    return quantity is not None and quantity.value == 0 and quantity.half is None


def bounds(metric: str, benchmark: str) -> tuple[float, float]:
    """The lowest and highest value that a metric can have, infinite where there is none."""
    if unit(metric) == "%" or (benchmark == "arena-hard" and metric == "score"):
        return 0.0, 100.0
    if unit(metric) == "share":
        return 0.0, 1.0
    if benchmark == "mt-bench" and metric in ("score", "first_turn", "second_turn"):
        return 1.0, 10.0
    return -math.inf, math.inf


def unit(metric: str) -> str:
    """A metric's unit: `%`, `share` (0 to 1), `nats`, or nothing known."""
    plain = metric.split(",")[0]
    if plain.endswith(("win_rate", "winrate")):
        return "%"
    if plain in ("acc", "acc_norm", "exact_match", "preference_accuracy", "accuracy") or plain.startswith("share_"):
        return "share"
    return "nats" if plain.startswith("delta_logp") else ""


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """A value as the report prints it, with a true minus sign and as many digits as its unit deserves."""
    digits = {"%": 1, "share": 3, "nats": 2}.get(unit(metric), 2 if abs(value) < 100 else 0)
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.replace("-", "+" if signed else "")
    return text.replace("-", "−")


def p_text(p: float) -> str:
    """A p-value as the report prints it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
