"""Margins: the drop that is to be found in each metric, as the user says or as the metric's benchmark describes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from radpo.core.errors import ConfigError
from radpo.core.metrics import Metric
from radpo.core.suggestions import did_you_mean

OFF = None
"""The margin of a metric that is left out of the gate."""

Margins = Mapping[str, float | None]


def parse_margins(options: Sequence[str]) -> dict[str, float | None]:
    """`X` (for every metric) or `METRIC=X`, X a number of at least 0 or `off`.

    Raises:
        ConfigError: an option is written otherwise.
    """
    found: dict[str, float | None] = {}
    for option in options:
        name, sign, value = option.rpartition("=")
        found[name if sign else "*"] = OFF if value.strip() == "off" else _number(option, value)
    return found


def _number(option: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(f"--margin {option}: must be a number of at least 0, or METRIC=NUMBER, or METRIC=off")
    return number


def find_margin(given: Margins, benchmark: str, subset: str, metric: Metric) -> float | None:
    """The margin of a metric: the last given one that fits it, else its own, else 0; OFF where it is left out.

    A name fits a metric that is called so, every metric of a benchmark that is, or `benchmark/subset/metric` with *.
    """
    for name, margin in reversed(list(given.items())):
        if _fits(name, benchmark, subset, metric.name):
            return margin
    return metric.margin or 0.0


def check_margins(given: Margins, metrics: Iterable[tuple[str, str, str]]) -> None:
    """Raise a ConfigError where a name fits none of the metrics (benchmark, subset, metric), or a margin is below 0."""
    there = list(metrics)
    for name, margin in given.items():
        if margin is not OFF and not margin >= 0:
            raise ConfigError(f"margin {margin:g}: must be 0 or more")
        if not any(_fits(name, *metric) for metric in there):
            known = list(dict.fromkeys(metric for *_, metric in there))
            raise ConfigError(
                f"--margin {name}: no primary metric of that name; there are {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )


def _fits(name: str, benchmark: str, subset: str, metric: str) -> bool:
    return name in (metric, benchmark) or fnmatchcase(f"{benchmark}/{subset}/{metric}", name)
