"""Estimates as the rows that every benchmark returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from radpo.core.results import Result

if TYPE_CHECKING:
    from radpo.stats.estimates import Estimate


def results_of(
    benchmark: str, found: Mapping[tuple[str, str], Estimate], higher_is_better: Mapping[str, bool]
) -> tuple[Result, ...]:
    """A result for every estimate, none of them primary.

    Args:
        found: by subset and metric.
        higher_is_better: by metric; neither direction is better where it is not named.
    """
    return tuple(
        Result(
            benchmark=benchmark,
            subset=subset,
            metric=metric,
            value=estimate.value,
            stderr=estimate.stderr,
            n=estimate.n,
            higher_is_better=higher_is_better.get(metric),
        )
        for (subset, metric), estimate in found.items()
    )
