"""How good a judge is: agreement with others and with itself, and its biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from radpo.core.metrics import Metric, result
from radpo.core.progress import Progress, no_progress
from radpo.core.results import Result
from radpo.judges.base import CompareRequest, Comparison, Judge, compare

BIAS_METRICS = tuple(
    Metric(name, label, higher_is_better=None, examples=None)
    for name, label in (
        ("judge_length_correlation", "judge: correlation of preference with length"),
        ("judge_swap_agreement", "judge: agreement between both orders"),
        ("judge_first_shown_rate", "judge: share of wins of the answer shown first"),
    )
)
"""What `Bias.results` gives: none of it is better high or low."""


@dataclass(frozen=True)
class Bias:
    """How the order and the length of responses sway a judge.

    Args:
        swap_agreement: the share of pairs with the same verdict when the two responses change places.
        first_shown_rate: the share of wins, over both orders, that went to the response shown first; 0.5 is no bias.
        length_correlation: Spearman's rho of preference for the second response and how much longer (in characters) it
            is; it holds real merit too, so it is to be compared with that of human verdicts on the same pairs.
        longer_rate: the share of verdicts that went to the longer response, where lengths differ.
        n, n_missing: pairs with a verdict in every order that was asked, and pairs without.
        n_swapped: pairs with a verdict in both orders.
    """

    swap_agreement: float | None
    first_shown_rate: float | None
    length_correlation: float | None
    longer_rate: float | None
    n: int
    n_missing: int
    n_swapped: int = 0

    def results(self, benchmark: str) -> tuple[Result, ...]:
        """The figures that there are, as results of a benchmark; none of them is better high or low."""
        figures = (
            ("judge_length_correlation", self.length_correlation, self.n),
            ("judge_swap_agreement", self.swap_agreement, self.n_swapped),
            ("judge_first_shown_rate", self.first_shown_rate, self.n_swapped),
        )
        return tuple(
            result(benchmark, BIAS_METRICS, "all", name, value, None, n)
            for name, value, n in figures
            if value is not None
        )


@dataclass(frozen=True)
class Agreement:
    """How a judge's verdicts go with reference verdicts.

    Args:
        agreement: the share of pairs with the same verdict; where one of the two says neither, half a pair
            (agreement with human verdicts is usually counted so).
        kappa: Cohen's kappa over the three verdicts; None where all verdicts are one and the same.
        n: pairs with a verdict of both.
    """

    agreement: float
    kappa: float | None
    n: int


def verdict(preference: float) -> int:
    """1 for the first, 2 for the second, 0 for neither, from the scale of preferences, 1 to 2."""
    return 1 if 1 <= preference < 1.5 else 2 if preference > 1.5 else 0


def both_orders(
    judge: Judge, requests: Sequence[CompareRequest], progress: Progress = no_progress
) -> tuple[list[Comparison], list[Comparison]]:
    """Every pair compared as given and with the responses swapped; the swapped verdicts are unswapped."""
    asked = [*requests, *(request.swapped() for request in requests)]
    found = compare(judge, asked, progress)
    return found[: len(requests)], [unswapped(comparison) for comparison in found[len(requests) :]]


def unswapped(comparison: Comparison) -> Comparison:
    """A verdict on swapped responses as one on the responses in their first order."""
    preference = None if comparison.preference is None else 3 - comparison.preference
    grades = None if comparison.grades is None else (comparison.grades[1], comparison.grades[0])
    return Comparison(preference, comparison.reason, grades)


def bias(
    requests: Sequence[CompareRequest], given: Sequence[Comparison], swapped: Sequence[Comparison] | None = None
) -> Bias:
    """Position and length bias of a judge's comparisons.

    Args:
        given: the judge's word on every request.
        swapped: the same with the responses shown in the other order, unswapped; None where that was not asked.
    """
    pairs = list(zip(requests, given, swapped or given, strict=True))
    whole = [
        (r, a.preference, b.preference) for r, a, b in pairs if a.preference is not None and b.preference is not None
    ]
    agreement = first_rate = None
    if swapped is not None and whole:
        agreement = sum(verdict(a) == verdict(b) for _, a, b in whole) / len(whole)
        shown_first = sum((verdict(a) == 1) + (verdict(b) == 2) for _, a, b in whole)
        decided = sum((verdict(a) != 0) + (verdict(b) != 0) for _, a, b in whole)
        first_rate = shown_first / decided if decided else None
    longer = [len(r.second) - len(r.first) for r, _, _ in whole]
    preferences = [(a + b) / 2 for _, a, b in whole]
    longer_won = [(d > 0) == (p > 1.5) for d, p in zip(longer, preferences, strict=True) if d != 0 and p != 1.5]
    return Bias(
        swap_agreement=agreement,
        first_shown_rate=first_rate,
        length_correlation=spearman(preferences, longer),
        longer_rate=sum(longer_won) / len(longer_won) if longer_won else None,
        n=len(whole),
        n_missing=len(pairs) - len(whole),
        n_swapped=0 if swapped is None else len(whole),
    )


def agreement(given: Sequence[float | None], reference: Sequence[float | None]) -> Agreement | None:
    """A judge's preferences against reference preferences, both from 1 to 2; None where none are shared."""
    shared = [
        (verdict(a), verdict(b)) for a, b in zip(given, reference, strict=True) if a is not None and b is not None
    ]
    if not shared:
        return None
    from sklearn.metrics import cohen_kappa_score

    ours, theirs = zip(*shared, strict=True)
    same = sum(1.0 if a == b else 0.5 if 0 in (a, b) else 0.0 for a, b in shared) / len(shared)
    kappa = float(cohen_kappa_score(ours, theirs)) if len({*ours, *theirs}) > 1 else None
    return Agreement(same, kappa, len(shared))


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's rank correlation, None where one side is constant or there are fewer than three values."""
    from scipy.stats import spearmanr

    if len(left) < 3 or len(set(left)) < 2 or len(set(right)) < 2:
        return None
    return float(spearmanr(left, right).statistic)
