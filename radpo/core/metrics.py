"""What a metric is, described once: its unit, bounds, direction, label and default margin.

Every benchmark describes its metrics with `Metric`; a run's manifest carries the descriptions, so that a run can be
read where the benchmark's package is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from statistics import NormalDist
from typing import Any, Literal

from radpo.core.results import Result

Unit = Literal["%", "share", "nats", ""]
UNIT_BOUNDS: Mapping[Unit, tuple[float, float]] = {"%": (0.0, 100.0), "share": (0.0, 1.0)}


@dataclass(frozen=True)
class Metric:
    """One kind of figure of one benchmark.

    Args:
        name: the benchmark's own name for it, as in results.parquet; `*` stands for anything (`delta_logp_*`).
        label: what readers see.
        unit: `%` (0 to 100), `share` (0 to 1), `nats`, or the benchmark's own scale.
        bounds: its lowest and highest possible value; the unit's own where none are given.
        higher_is_better: None where neither direction is better.
        primary: the subsets (a pattern) in which it is one of the few figures that sum the benchmark up; None in none.
        margin: the drop, in the metric's own unit, that a gate must detect by default; None for 0.
        even: the value that says that a model and its opponent are alike (50 for a win rate); None for a metric that
            is not measured against an opponent.
        zero_is_reference: whether the reference model has the value 0 by definition.
        examples: the metric of the examples whose mean it is (its own name where this is empty); None where it is no
            mean of examples.
        example_scale: value = scale * mean of the examples' values + offset.
        example_weight: where examples do not count alike, the place in their detail of what each counts for, such as
            `games.weight`, the sum over the list `games`; the mean is then weighted.
        overview: whether the report's overview draws it.
        leads: whether the summary shows it although it is not primary.
        parts: what its subsets are called in a sentence, such as ("none", "asked without a goal"); the others by name.

    >>> Metric("win_rate", "win rate", unit="%", primary="all", margin=5.0, even=50.0).limits
    (0.0, 100.0)
    """

    name: str
    label: str
    unit: Unit = ""
    bounds: tuple[float, float] | None = None
    higher_is_better: bool | None = True
    primary: str | None = None
    margin: float | None = None
    even: float | None = None
    zero_is_reference: bool = False
    examples: str | None = ""
    example_scale: tuple[float, float] = (1.0, 0.0)
    example_weight: str = ""
    overview: bool = False
    leads: bool = False
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest possible value, infinite where there is none."""
        return self.bounds or UNIT_BOUNDS.get(self.unit, (-math.inf, math.inf))

    def part(self, subset: str) -> str:
        """What a subset is called in a sentence."""
        return dict(self.parts).get(subset, subset)

    @property
    def example_metric(self) -> str | None:
        """The metric of the examples whose mean this is; None where it is no mean of examples."""
        return self.name if self.examples == "" else self.examples


UNKNOWN = Metric("*", "")
"""Of a figure that nobody described: no unit, no bounds."""


def find_metric(metrics: Iterable[Metric], name: str) -> Metric:
    """The description of a metric: the first whose name fits; with lm-eval's filter (`acc,none`) or without.

    Its `name` is the given one, and its `label` that name where the description has none.
    """
    from dataclasses import replace

    for metric in metrics:
        if fits(metric, name):
            return replace(metric, name=name, label=metric.label or name.split(",")[0])
    return replace(UNKNOWN, name=name, label=name, higher_is_better=None)


def fits(metric: Metric, name: str) -> bool:
    """Whether a description is of the metric of that name; with lm-eval's filter (`acc,none`) or without."""
    return fnmatchcase(name, metric.name) or fnmatchcase(name.split(",")[0], metric.name)


def extreme_interval(metric: Metric, value: float, n: int) -> tuple[float, float] | None:
    """Wilson's 95% interval (1927) of a share of nothing or all, in the metric's unit; None for anything else.

    No standard error tells of these: all examples came out alike. Of n examples it reaches z^2 / (n + z^2) of the scale
    inwards, z = 1.96; as all examples are at the end, it holds for means of values between the ends, too.
    """
    if metric.unit not in UNIT_BOUNDS or n < 1:
        return None
    bottom, top = UNIT_BOUNDS[metric.unit]
    squared = NormalDist().inv_cdf(0.975) ** 2
    reach = (top - bottom) * squared / (n + squared)
    return (bottom, bottom + reach) if value == bottom else (top - reach, top) if value == top else None


def with_extreme_intervals(metrics: Iterable[Metric], document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of figures with the ends of their intervals where `extreme_interval` has them.

    Figures by SUBSET/METRIC get `low` and `high`; one of a benchmark's own document, beside `n_total`, NAME_ci_low and
    NAME_ci_high.
    """
    described, found = tuple(metrics), dict(document)
    if isinstance(n := document.get("n_total"), int):
        for metric in described:
            value = document.get(metric.name)
            if isinstance(value, float) and (ends := extreme_interval(metric, value, n)) is not None:
                found |= {f"{metric.name}_ci_low": ends[0], f"{metric.name}_ci_high": ends[1]}
    for name, figure in document.items():
        if isinstance(figure, dict) and {"value", "stderr", "n"} <= figure.keys() and figure["stderr"] is None:
            metric = find_metric(described, name.rpartition("/")[2])
            ends = extreme_interval(metric, figure["value"], figure["n"])
            found[name] = figure if ends is None else {**figure, "low": ends[0], "high": ends[1]}
    return found


def result(
    benchmark: str, metrics: Iterable[Metric], subset: str, name: str, value: float, stderr: float | None, n: int
) -> Result:
    """A result with the direction and rank that its metric's description gives it."""
    metric = find_metric(metrics, name)
    primary = metric.primary is not None and fnmatchcase(subset, metric.primary)
    return Result(benchmark, subset, name, value, stderr, n, metric.higher_is_better, primary)


def metrics_to_json(metrics: Mapping[str, Iterable[Metric]]) -> dict[str, list[dict[str, Any]]]:
    """Descriptions by benchmark, as a manifest carries them."""
    return {name: [asdict(metric) for metric in described] for name, described in metrics.items()}


def metrics_from_json(document: Mapping[str, Any]) -> dict[str, tuple[Metric, ...]]:
    """Descriptions by benchmark, read from a manifest.

    Raises:
        ValueError, TypeError: the document is not what `metrics_to_json` makes.
    """
    return {name: tuple(_from_json(row) for row in rows) for name, rows in document.items()}


def _from_json(row: Mapping[str, Any]) -> Metric:
    values = dict(row)
    for name in ("bounds", "example_scale"):
        if values.get(name) is not None:
            low, high = values[name]
            values[name] = (float(low), float(high))
    values["parts"] = tuple((str(subset), str(words)) for subset, words in values.get("parts", ()))
    return Metric(**values)
