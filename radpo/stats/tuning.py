"""Settings that were tried: which is chosen, and how good the best of fewer tries would have been. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExpectedBest:
    """The best of `budget` settings that are drawn at random from those that were tried.

    Args:
        value: its expectation, draws with replacement (Dodge et al. 2019).
        unbiased: the same, draws without replacement (Tang et al. 2020): the mean over all subsets of that size.
        low, high: between these it is in 95% of draws with replacement.
    """

    budget: int
    value: float
    unbiased: float
    low: float
    high: float


def chosen(tried: Sequence[Mapping[int, float]], seeds: Sequence[int], *, upward: bool) -> int | None:
    """The place of the setting with the best mean over seeds, the first of equals; None where none has every seed.

    Args:
        tried: what each setting measured, by seed. One that lacks a seed, or measured no finite number with it, is
            not chosen: its mean would be over other seeds than the others'.
        upward: whether more is better.

    >>> chosen([{0: 1.0, 1: 3.0}, {0: 2.5, 1: 2.5}, {0: 9.0}], [0, 1], upward=True)
    1
    """
    means = [mean_over(values, seeds) for values in tried]
    known = [place for place, mean in enumerate(means) if mean is not None]
    sign = 1 if upward else -1
    return max(known, key=lambda place: (sign * means[place], -place), default=None)  # type: ignore[operator]


def mean_over(values: Mapping[int, float], seeds: Sequence[int]) -> float | None:
    """The mean over all of the seeds; None where one lacks, or is no finite number."""
    found = [values.get(seed, math.nan) for seed in seeds]
    return math.fsum(found) / len(found) if all(map(math.isfinite, found)) else None


def expected_best(scores: Sequence[float], *, upward: bool, confidence: float = 0.95) -> list[ExpectedBest]:
    """The expected best score for every budget from 1 to the number of settings that were tried.

    With the N scores sorted from worst to best, v_1 to v_N, the best of n draws with replacement is at most v_i with
    probability (i / N)^n, so that its expectation is sum_i v_i * ((i / N)^n - ((i - 1) / N)^n) (Dodge, Gururangan,
    Card, Schwartz & Smith 2019, arXiv 1909.03004, eq. 1 to 7, with the empirical distribution for the true one). That
    estimate is too pessimistic, as a draw may repeat (Tang et al. 2020, arXiv 2004.13705); without replacement it is
    sum_i v_i * C(i - 1, n - 1) / C(N, n), which is unbiased for n <= N.

    Args:
        scores: of the settings that were tried, each a mean over seeds, all finite.
        upward: whether more is better.

    >>> [round(each.value, 3) for each in expected_best([1.0, 2.0, 4.0], upward=True)]
    [2.333, 3.0, 3.37]
    """
    ordered = sorted(scores, reverse=not upward)
    n, tail = len(ordered), (1 - confidence) / 2
    found = []
    for budget in range(1, n + 1):
        reached = [(place / n) ** budget for place in range(n + 1)]
        subsets = math.comb(n, budget)
        ends = [next(v for v, p in zip(ordered, reached[1:], strict=True) if p >= q - 1e-12) for q in (tail, 1 - tail)]
        found.append(
            ExpectedBest(
                budget,
                math.fsum(v * (reached[i + 1] - reached[i]) for i, v in enumerate(ordered)),
                math.fsum(v * math.comb(i, budget - 1) / subsets for i, v in enumerate(ordered)),
                min(ends),
                max(ends),
            )
        )
    return found
