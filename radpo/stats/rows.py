"""Estimates as the rows that every benchmark returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from radpo.core.metrics import Metric, result
from radpo.core.results import Result

if TYPE_CHECKING:
    from radpo.stats.estimates import Estimate


def results_of(
    benchmark: str, metrics: Iterable[Metric], found: Mapping[tuple[str, str], Estimate]
) -> tuple[Result, ...]:
    """A result for every estimate, given by subset and metric."""
    described = tuple(metrics)
    return tuple(
        result(benchmark, described, subset, metric, estimate.value, estimate.stderr, estimate.n)
        for (subset, metric), estimate in found.items()
    )
