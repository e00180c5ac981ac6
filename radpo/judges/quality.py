"""How good a judge is: agreement with others and with itself, and its biases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from radpo.core.metrics import Metric, result
from radpo.core.progress import Progress, no_progress
from radpo.core.results import Result
from radpo.judges.base import CompareRequest, Comparison, Judge, compare

JUDGE_METRICS = tuple(
    Metric(name, label, higher_is_better=None, examples=None)
    for name, label in (
        ("judge_length_correlation", "judge: correlation of preference with length"),
        ("judge_swap_agreement", "judge: agreement between both orders"),
        ("judge_first_shown_rate", "judge: share of wins of the answer shown first"),
        ("judge_panel_agreement", "panel of judges: share of pairs of judges that agree"),
        ("judge_panel_alpha", "panel of judges: Krippendorff's alpha"),
    )
)
"""What `Bias.results` and `PanelAgreement.results` give: none of it is better high or low."""


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
            result(benchmark, JUDGE_METRICS, "all", name, value, None, n)
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


@dataclass(frozen=True)
class PanelAgreement:
    """How the judges of a panel agree.

    Args:
        agreement: the share of pairs of judges with the same verdict (of grades: the same grade), over all requests on
            which both gave one.
        alpha: Krippendorff's alpha: nominal over the three verdicts, on the interval scale for grades; None where all
            verdicts are one and the same.
        by_judge: the same share of each judge with the others.
        n, n_incomplete: requests with two verdicts or more, and requests that lack some judge's.
    """

    agreement: float | None
    alpha: float | None
    by_judge: Mapping[str, float | None]
    n: int
    n_incomplete: int

    def results(self, benchmark: str) -> tuple[Result, ...]:
        """The figures that there are, as results of a benchmark."""
        figures = (("judge_panel_agreement", self.agreement), ("judge_panel_alpha", self.alpha))
        return tuple(
            result(benchmark, JUDGE_METRICS, "all", name, value, None, self.n)
            for name, value in figures
            if value is not None
        )

    def notes(self, benchmark: str) -> list[str]:
        """What a record says of verdicts that are lacking."""
        lacking = f"{self.n_incomplete} requests lack the verdict of one or more of the panel's judges"
        return [f"{benchmark}: {lacking}; the others decided."] if self.n_incomplete else []


def panel_agreement(verdicts: Sequence[tuple[Sequence[float | None], bool]], judges: Sequence[str]) -> PanelAgreement:
    """How judges agree.

    Args:
        verdicts: for every request what the judges said, in their order, and whether two responses were compared (then
            these are preferences, else grades).
        judges: their names.
    """
    units = [
        [verdict(value) if compared and value is not None else value for value in values]
        for values, compared in verdicts
    ]
    same: list[tuple[int, int, bool]] = []
    for unit in units:
        given = [(place, value) for place, value in enumerate(unit) if value is not None]
        same += [(a, b, left == right) for n, (a, left) in enumerate(given) for b, right in given[n + 1 :]]
    nominal = all(compared for _, compared in verdicts)
    return PanelAgreement(
        agreement=_share([equal for _, _, equal in same]),
        alpha=krippendorff_alpha(units, "nominal" if nominal else "interval"),
        by_judge={
            name: _share([equal for a, b, equal in same if place in (a, b)]) for place, name in enumerate(judges)
        },
        n=sum(sum(value is not None for value in unit) > 1 for unit in units),
        n_incomplete=sum(None in unit for unit in units),
    )


def _share(equal: Sequence[bool]) -> float | None:
    return sum(equal) / len(equal) if equal else None


def krippendorff_alpha(units: Sequence[Sequence[float | None]], level: Literal["nominal", "interval"]) -> float | None:
    """Krippendorff's alpha of judges' values for units, each a list of values in which None is one that is lacking.

    alpha = 1 - D_o / D_e, the observed against the expected disagreement of pairs of values (Krippendorff 2011,
    "Computing Krippendorff's Alpha-Reliability"). None where fewer than two values can be paired, or all are the same.
    """
    paired = [given for unit in units if len(given := [value for value in unit if value is not None]) > 1]
    total = sum(map(len, paired))
    expected = _disagreement([value for given in paired for value in given], level)
    if expected == 0:
        return None
    observed = sum(_disagreement(given, level) / (len(given) - 1) for given in paired)
    return 1 - (total - 1) * observed / expected


def _disagreement(values: Sequence[float], level: Literal["nominal", "interval"]) -> float:
    """Summed over all ordered pairs: whether two values differ, or the square of their difference."""
    if level == "nominal":
        return len(values) ** 2 - sum(count**2 for count in Counter(values).values())
    mean = sum(values) / max(1, len(values))
    return 2 * len(values) * sum((value - mean) ** 2 for value in values)


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's rank correlation, None where one side is constant or there are fewer than three values."""
    from scipy.stats import spearmanr

    if len(left) < 3 or len(set(left)) < 2 or len(set(right)) < 2:
        return None
    return float(spearmanr(left, right).statistic)
