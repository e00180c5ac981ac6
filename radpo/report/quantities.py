"""Quantities with their intervals: a run's tables come in, values, intervals and differences from the baseline go out.

The summary, the headline and the figures all take their numbers from here, so that no two of them can disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from radpo.report.load import Run


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
        n: examples that each seed's figure rests on.
        seeds: how many seeds.
        rows: the places of its rows in results.parquet, from 0.
    """

    value: float
    half: float | None
    low: float
    high: float
    n: int
    seeds: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A variant's figure minus the baseline's, with its 95% interval; no ends where there is nothing to say them from.

    Args:
        kind: `paired` (over the same examples), `unpaired` (from two standard errors) or `identical` (every example
            scored the same under both).
        n: pairs, or the smaller of the two samples.
    """

    value: float
    low: float | None
    high: float | None
    kind: str
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def is_true(column: pd.Series[Any]) -> pd.Series[bool]:
    """A nullable boolean column with unknown taken for no."""
    return column.fillna(False).astype(bool)


def primary_names(run: Run) -> list[Name]:
    """The primary figures in the order of results.parquet, those of one benchmark together."""
    found = run.results[is_true(run.results["primary"])][list(Name._fields)].drop_duplicates()
    names = [Name(*map(str, row)) for row in found.itertuples(index=False)]
    place = {"alpaca-eval": 0, "arena-hard": 1, "mt-bench": 2, "unlearning": 4}
    return sorted(names, key=lambda name: place.get(name.benchmark, 3))


def measure(run: Run, variant: str, name: Name) -> Quantity | None:
    """One variant's figure, or None where it was not measured.

    With one seed the interval is value ± t standard errors, t being the 97.5% quantile of Student's distribution with
    n - 1 degrees of freedom: with ten examples the normal 1.96 would promise too much. With several seeds, it is the
    wider of that (with their mean standard error: they answer the same examples, so more seeds do not shrink it) and
    Student's t over the seeds' values.
    """
    from scipy import stats

    from radpo.analysis.statistics import mean

    rows = of(run.results, variant=variant, **name._asdict())
    rows = rows[rows["value"].notna()]
    if rows.empty:
        return None
    values = rows["value"].to_numpy(dtype=float)
    value = float(values.mean())
    n = int(rows["n"].min())
    known = n > 1 and rows["stderr"].notna().all()
    half = float(stats.t.ppf(0.975, n - 1)) * float(rows["stderr"].mean()) if known else 0.0
    over_seeds = mean(values).high if len(values) > 1 and all(map(math.isfinite, values)) else None
    half = max(half, over_seeds - value if over_seeds is not None else 0.0)
    bottom, top = bounds(name.metric, name.benchmark)
    return Quantity(
        value=value,
        half=half if half > 0 else None,
        low=max(value - half, min(bottom, value)),
        high=min(value + half, max(top, value)),
        n=n,
        seeds=len(rows),
        rows=tuple(map(int, rows.index)),
    )


def differ(run: Run, variant: str, name: Name) -> Difference | None:
    """A variant's figure minus the baseline's; None for the baseline itself, or where either was not measured.

    Paired wherever both have the same examples and the figure is their mean: the t interval of the mean difference,
    clustered by example where an example comes back under several seeds.
    """
    if variant == run.baseline:
        return None
    own, base = measure(run, variant, name), measure(run, run.baseline, name)
    if own is None or base is None:
        return None
    return _paired(run, variant, name, own, base) or _unpaired(own, base)


def _paired(run: Run, variant: str, name: Name, own: Quantity, base: Quantity) -> Difference | None:
    import numpy as np

    from radpo.analysis.statistics import mean

    rows = of(run.examples, benchmark=name.benchmark, metric=name.metric)
    rows = rows if name.subset == "all" else of(rows, subset=name.subset)
    rows = rows[np.isfinite(rows["value"].to_numpy(dtype=float, na_value=np.nan))]
    sides = [of(rows, variant=variant), of(rows, variant=run.baseline)]
    for side, quantity in zip(sides, (own, base), strict=True):
        if side.empty or not math.isclose(side["value"].mean(), quantity.value, rel_tol=1e-6, abs_tol=1e-9):
            return None  # the figure is no mean of these rows, so neither is the difference
    keys = ["seed", "subset", "example_id"]
    both = sides[0].merge(sides[1], on=keys, suffixes=("", "_baseline"))
    if len(both) < 2:
        return None
    differences = (both["value"] - both["value_baseline"]).to_numpy(dtype=float)
    if not differences.any():
        return Difference(0.0, None, None, "identical", len(both))
    # The turns of one MT-Bench question share the id before /turn-N: they are no independent facts.
    questions = both["subset"].astype(str) + "\0" + both["example_id"].astype(str).str.split("/turn-").str[0]
    estimate = mean(differences, clusters=questions.to_numpy())
    return Difference(estimate.value, estimate.low, estimate.high, "paired", estimate.n)


def _unpaired(own: Quantity, base: Quantity) -> Difference:
    value, n = own.value - base.value, min(own.n, base.n)
    if own.half is None or base.half is None:
        return Difference(value, None, None, "unpaired", n)
    half = math.hypot(own.half, base.half)
    return Difference(value, value - half, value + half, "unpaired", n)


def bounds(metric: str, benchmark: str) -> tuple[float, float]:
    """The lowest and highest value that a metric can have, infinite where there is none."""
    if unit(metric) == "%":
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
    if plain in ("acc", "acc_norm", "exact_match", "preference_accuracy") or plain.startswith("share_"):
        return "share"
    return "nats" if plain.startswith("delta_logp") else ""


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """A value as the report prints it, with a true minus sign and as many digits as its unit deserves."""
    digits = {"%": 1, "share": 3, "nats": 2}.get(unit(metric), 2 if abs(value) < 100 else 0)
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.replace("-", "+" if signed else "")
    return text.replace("-", "−")
