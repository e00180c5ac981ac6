"""The decision: an outcome for every metric from its paired differences. Pure.

What is promised, for the true mean change D of a metric (above 0 is better), its margin M and the level alpha:

- Where no metric has D < 0, the gate fails with probability at most alpha. It is exact for runs that do not differ (the
  two values of a pair are exchangeable) and asymptotic where only the mean change is 0: many small losses against a
  few large gains look worse than they are in small samples (changes distributed as an exponential less its mean, 60
  prompts, 3 metrics: 12% of 1,000 simulated gates failed). The boundary of the guarantee is D = 0, not D = -M: a true
  drop below the margin may fail, unless it is shown to be below the margin.
- Where a metric has D <= -detectable, the gate fails with probability at least 0.8.
- Where detectable > M, there is no pass: a drop of the margin could have been missed.

A metric fails where "no worse" (D >= 0) is rejected by a one-sided sign-flip test at alpha after Holm's correction over
all metrics, unless "worse by the margin or more" (D <= -M) is rejected too, at alpha: then the drop is real, and shown
to be smaller than what matters (non-inferiority: Piaggio et al. 2012, JAMA 308:2594). That second test needs no
correction: it can only acquit, and each acquittal is wrong with probability at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radpo.gate.verdict import Outcome
from radpo.stats.estimates import holm, mean, sample_size
from radpo.stats.permutation import sign_flip_test

if TYPE_CHECKING:
    from radpo.stats.estimates import Floats

POWER = 0.8
_SCREEN = 2_000


@dataclass(frozen=True)
class Sample:
    """One metric's paired examples.

    Args:
        gains: shape (n,), candidate minus baseline, the sign turned where lower is better.
        clusters: shape (n,), the prompt that each example belongs to.
        margin: the drop that is to be found, in the unit of the gains; 0 where none is stated.
    """

    gains: Floats
    clusters: Any
    margin: float


@dataclass(frozen=True)
class Finding:
    """What is said of one sample; see `radpo.gate.verdict.Row`."""

    outcome: Outcome
    p_worse: float
    p_better: float
    detectable: float | None
    needed: int | None


def decide(samples: Sequence[Sample], *, alpha: float, resamples: int, seed: int = 0) -> list[Finding]:
    """An outcome for every metric.

    - `regression`: as above; `improvement`: its mirror image.
    - `too few examples`: neither, and detectable > M > 0.
    - `no difference`: neither; also where a difference is shown to be smaller than the margin.

    Samples in which no example differs are no part of Holm's family: no flip of signs could reject them (Tarone 1990,
    Biometrics 46:515).

    Args:
        resamples: sign flips a test; where all flips are fewer, the tests are exact.
    """
    moved = [bool((sample.gains != 0).any()) for sample in samples]
    tested = [sample for sample, moves in zip(samples, moved, strict=True) if moves]

    def adjusted(alternative: Literal["less", "greater"]) -> list[float]:
        return holm([_p(sample, 0.0, alternative, alpha, resamples, seed) for sample in tested])

    worse, better = iter(adjusted("less")), iter(adjusted("greater"))
    found = []
    for sample, moves in zip(samples, moved, strict=True):
        if not moves:
            found.append(Finding("no difference", 1.0, 1.0, None, None))
            continue
        p_worse, p_better = next(worse), next(better)
        seen = detectable(sample, alpha, len(tested))
        outcome: Outcome = "no difference"
        if p_worse <= alpha and not _within(sample, "greater", alpha, resamples, seed):
            outcome = "regression"
        elif p_better <= alpha and not _within(sample, "less", alpha, resamples, seed):
            outcome = "improvement"
        elif sample.margin and min(p_worse, p_better) > alpha and (seen is None or seen > sample.margin):
            outcome = "too few examples"
        needed = _needed(sample, alpha, len(tested)) if outcome == "too few examples" else None
        found.append(Finding(outcome, p_worse, p_better, seen, needed))
    return found


def detectable(sample: Sample, alpha: float, metrics: int) -> float | None:
    """The true drop that fails with probability 0.8, in the unit of the gains.

    max(c_a * SE, M - c_b * SE) + z_0.8 * SE, with a = alpha / metrics, the hardest that Holm's correction can be, and
    b = alpha: the observed drop must pass both of a regression's bounds. c are `_critical` values.

    Returns:
        None where not even the same sign in all clusters would be significant.
    """
    estimate = mean(sample.gains, clusters=sample.clusters)
    if estimate.stderr is None or estimate.clusters < _fewest(alpha, metrics):
        return None
    hardest = _critical(alpha / metrics, estimate.clusters)
    if math.isinf(hardest):
        return None
    acquitted = sample.margin - _critical(alpha, estimate.clusters) * estimate.stderr
    return max(hardest * estimate.stderr, acquitted) + _z(POWER) * estimate.stderr


def _critical(alpha: float, clusters: int) -> float:
    """How many standard errors below 0 a mean must be that the one-sided sign-flip test rejects.

    The flips' standard deviation is that around 0, not around the mean, so that m is significant where it exceeds
    z * sqrt((SE^2 * G + m^2) / G); solved for m / SE that is z / sqrt(1 - z^2 / G), for G clusters. Infinite where the
    normal approximation says that no mean can be far enough.
    """
    z = _z(1 - alpha)
    return z / math.sqrt(1 - z * z / clusters) if clusters > z * z else math.inf


def _z(share: float) -> float:
    from scipy import stats

    return float(stats.norm.ppf(share))


def _fewest(alpha: float, metrics: int) -> int:
    """How many clusters it takes that one sign flip in all can be significant."""
    return math.ceil(math.log2(metrics / alpha))


def _needed(sample: Sample, alpha: float, metrics: int) -> int:
    """How many prompts like these make `detectable` no more than the margin."""
    estimate = mean(sample.gains, clusters=sample.clusters)
    fewest = _fewest(alpha, metrics)
    if estimate.stderr is None:
        return fewest
    sd = estimate.stderr * math.sqrt(estimate.clusters)
    needed = max(fewest, sample_size(sd, sample.margin, alpha=2 * alpha / metrics, power=POWER))
    # The sign flips take a few prompts more than the normal test that `sample_size` is of.
    while (_critical(alpha / metrics, needed) + _z(POWER)) * sd / math.sqrt(needed) > sample.margin:
        needed += 1
    return needed


def _within(sample: Sample, alternative: Literal["less", "greater"], alpha: float, resamples: int, seed: int) -> bool:
    """Whether a drop (`greater`) or a gain (`less`) is shown to be smaller than the margin."""
    shift = sample.margin if alternative == "greater" else -sample.margin
    return sample.margin > 0 and _p(sample, shift, alternative, alpha, resamples, seed) <= alpha


def _p(
    sample: Sample, shift: float, alternative: Literal["less", "greater"], alpha: float, resamples: int, seed: int
) -> float:
    """The sign-flip test's p-value; one that a few flips show to be far above alpha is not told more exactly."""
    import numpy as np

    p = 1.0
    for count in sorted({min(resamples, _SCREEN), resamples}):
        rng = np.random.default_rng(seed)
        p = sign_flip_test(
            sample.gains + shift, clusters=sample.clusters, alternative=alternative, resamples=count, rng=rng
        )
        if p > 4 * alpha:
            break
    return p
