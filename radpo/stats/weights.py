"""Examples that do not count alike: their values as ones whose plain mean is the figure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from radpo.core.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd


def mean_values(rows: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """The examples' values, row for row, such that the figure is their mean, for each variant and seed.

    Where examples weigh w and the figure is m = sum(w v) / sum(w), an example's value becomes m + w (v - m) / mean(w):
    the mean is m, and differences of such values are what the difference of two weighted means is made of (the
    linearisation of a ratio estimator: Cochran 1977, Sampling Techniques, section 6.4).

    Args:
        rows: variant, seed, value and detail of one metric's examples. Values that are missing stay so.
    """
    values = rows["value"].astype(float)
    if not metric.example_weight or rows.empty:
        return values
    try:
        weights = rows["detail"].map(lambda detail: _weight(detail, metric.example_weight)).astype(float)
    except (ValueError, KeyError, TypeError, AttributeError):
        return values  # of a run that was made elsewhere: then a figure that is not their mean is not compared by them
    weights = weights.where(values.notna())
    known = rows.assign(value=values, weight=weights, product=values * weights)
    cells = known.groupby(["variant", "seed"], sort=False, dropna=False)[["product", "weight"]]
    sums, means = cells.transform("sum"), cells.transform("mean")
    figure = sums["product"] / sums["weight"]
    weighted: pd.Series[float] = figure + weights * (values - figure) / means["weight"]
    return weighted


def _weight(detail: str, place: str) -> float:
    """What a detail says at `KEY.INNER`: the sum over the items of a list."""
    key, _, inner = place.partition(".")
    return float(sum(float(item[inner]) for item in json.loads(detail)[key]))
