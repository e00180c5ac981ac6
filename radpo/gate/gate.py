"""The decision: an outcome for every metric, from the tests of its paired differences. Pure.

What is promised, for the true mean change D of a metric (above 0 is better), its margin M and the level alpha:

- Where no metric has D < 0, the gate fails with probability at most alpha. It is exact for runs that do not differ (the
  two values of a pair are exchangeable) and asymptotic where only the mean change is 0: many small losses against a
  few large gains look worse than they are in small samples (changes distributed as an exponential less its mean, 60
  prompts, 3 metrics: 12% of 1,000 simulated gates failed). The boundary of the guarantee is D = 0, not D = -M: a true
  drop below the margin may fail, unless it is shown to be below the margin.
- Where a metric has D <= -detectable, the gate fails with probability at least 0.8.
- Where detectable > M, there is no pass: a drop of the margin could have been missed.

A metric fails where "no worse" (D >= 0) is rejected by the one-sided test of `radpo.stats.paired` (the one comparison
of radpo: sign flips over prompts, and with several seeds seeds taken for random, too) at alpha after Holm's correction
over all metrics, unless "worse by the margin or more" (D <= -M) is rejected too, at alpha: then the drop is real, and
shown to be smaller than what matters (non-inferiority: Piaggio et al. 2012, JAMA 308:2594). That second test needs no
correction: it can only acquit, and each acquittal is wrong with probability at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.gate.verdict import Outcome
from radpo.stats.estimates import holm, sample_size
from radpo.stats.paired import PairedEstimate, PairedTest, paired_estimate, paired_tests

if TYPE_CHECKING:
    from radpo.stats.estimates import Floats

POWER = 0.8


@dataclass(frozen=True)
class Sample:
    """One metric's paired examples.

    Args:
        gains: shape (n,), candidate minus baseline, the sign turned where lower is better.
        clusters: shape (n,), the prompt that each example belongs to.
        margin: the drop that is to be found, in the unit of the gains; 0 where none is stated.
        seeds: shape (n,), the training seed of each example; None where there is one.
    """

    gains: Floats
    clusters: Any
    margin: float
    seeds: Any = None

    @property
    def estimate(self) -> PairedEstimate:
        """The mean gain and how sure it is."""
        return paired_estimate(self.gains, self.clusters, self._seeds)

    def test(self, resamples: int, seed: int) -> PairedTest:
        """The test of the mean gain."""
        (found,) = paired_tests(self.gains[:, None], self.clusters, self._seeds, resamples=resamples, seed=seed)
        assert found is not None
        return found

    @property
    def _seeds(self) -> Any:
        import numpy as np

        return np.zeros(len(self.gains)) if self.seeds is None else self.seeds


@dataclass(frozen=True)
class Tested:
    """One metric's test of candidate minus baseline.

    Args:
        margin: as in `Sample`.
        up: whether more is better.
    """

    test: PairedTest
    margin: float
    up: bool = True

    def worse(self, at: float = 0.0) -> float:
        """The one-sided p-value of "the true gain is below `at`"."""
        return self.test.less(at) if self.up else self.test.greater(-at)

    def better(self, at: float = 0.0) -> float:
        """The one-sided p-value of "the true gain is above `at`"."""
        return self.test.greater(at) if self.up else self.test.less(-at)


@dataclass(frozen=True)
class Finding:
    """What is said of one sample; see `radpo.gate.verdict.Row`."""

    outcome: Outcome
    p_worse: float
    p_better: float
    detectable: float | None
    needed: int | None
    needed_seeds: int | None = None


def decide(samples: Sequence[Sample], *, alpha: float, resamples: int, seed: int = 0) -> list[Finding]:
    """An outcome for every metric; see `judge`.

    Args:
        resamples: sign flips a test; where all flips are fewer, the tests are exact.
    """
    return judge([Tested(sample.test(resamples, seed), sample.margin) for sample in samples], alpha=alpha)


def judge(metrics: Sequence[Tested], *, alpha: float) -> list[Finding]:
    """An outcome for every metric.

    - `regression`: as above; `improvement`: its mirror image.
    - `too few examples`: neither, and detectable > M > 0.
    - `no difference`: neither; also where a difference is shown to be smaller than the margin.

    Samples in which no example differs are no part of Holm's family: no flip of signs could reject them (Tarone 1990,
    Biometrics 46:515).
    """
    moved = [metric.test.estimate.changed > 0 for metric in metrics]
    tested = [metric for metric, moves in zip(metrics, moved, strict=True) if moves]
    worse, better = iter(holm([one.worse() for one in tested])), iter(holm([one.better() for one in tested]))
    found = []
    for metric, moves in zip(metrics, moved, strict=True):
        if not moves:
            found.append(Finding("no difference", 1.0, 1.0, None, None))
            continue
        p_worse, p_better = next(worse), next(better)
        margin, estimate = metric.margin, metric.test.estimate
        seen = _detectable(estimate, margin, alpha, len(tested))
        outcome: Outcome = "no difference"
        # Shown to be smaller than the margin: then it is real and does not matter.
        if p_worse <= alpha and not (margin > 0 and metric.better(-margin) <= alpha):
            outcome = "regression"
        elif p_better <= alpha and not (margin > 0 and metric.worse(margin) <= alpha):
            outcome = "improvement"
        elif margin and min(p_worse, p_better) > alpha and (seen is None or seen > margin):
            outcome = "too few examples"
        needed = seeds = None
        if outcome == "too few examples":
            needed = _needed(estimate, margin, alpha, len(tested))
            seeds = _needed_seeds(estimate, margin, alpha, len(tested)) if needed is None else None
        found.append(Finding(outcome, p_worse, p_better, seen, needed, seeds))
    return found


def detectable(sample: Sample, alpha: float, metrics: int) -> float | None:
    """The true drop that fails with probability 0.8, in the unit of the gains; see `_detectable`."""
    return _detectable(sample.estimate, sample.margin, alpha, metrics)


def _detectable(estimate: PairedEstimate, margin: float, alpha: float, metrics: int) -> float | None:
    """max(c_a * SE, M - c_b * SE) + z_0.8 * SE, with a = alpha / metrics, the hardest that Holm's correction can be.

    And b = alpha: the observed drop must pass both of a regression's bounds. c are `_critical` values; with several
    seeds, quantiles of Student's t for c and for z where these ask for more.

    Returns:
        None where not even the same sign in all clusters would be significant.
    """
    if estimate.stderr is None or estimate.prompts < _fewest(alpha, metrics):
        return None
    degrees = None if estimate.over is None else estimate.degrees
    hardest = _quantile(alpha / metrics, estimate.prompts, degrees)
    if math.isinf(hardest):
        return None
    acquitting = _quantile(alpha, estimate.prompts, degrees)
    power = _z(POWER) if degrees is None else _t(POWER, degrees)
    stderr = estimate.stderr
    return max(hardest * stderr, margin - acquitting * stderr) + power * stderr


def _quantile(alpha: float, clusters: int, degrees: float | None) -> float:
    """`_critical`, or Student's quantile where seeds are taken for random and it asks for more."""
    flips = _critical(alpha, clusters)
    return flips if degrees is None else max(flips, _t(1 - alpha, degrees))


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


def _t(share: float, degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def _fewest(alpha: float, metrics: int) -> int:
    """How many clusters it takes that one sign flip in all can be significant."""
    return math.ceil(math.log2(metrics / alpha))


def _needed(estimate: PairedEstimate, margin: float, alpha: float, metrics: int) -> int | None:
    """How many prompts like these make `detectable` no more than the margin; None where more seeds must."""
    fewest = _fewest(alpha, metrics)
    if estimate.over is not None and estimate.prompts >= fewest:
        return None
    if estimate.stderr is None:
        return fewest
    sd = estimate.stderr * math.sqrt(estimate.prompts)
    needed = max(fewest, sample_size(sd, margin, alpha=2 * alpha / metrics, power=POWER))
    # The sign flips take a few prompts more than the normal test that `sample_size` is of.
    while (_critical(alpha / metrics, needed) + _z(POWER)) * sd / math.sqrt(needed) > margin:
        needed += 1
    return needed


def _needed_seeds(estimate: PairedEstimate, margin: float, alpha: float, metrics: int) -> int | None:
    """How many seeds like these make `detectable` no more than the margin; None for more than a hundred."""
    if estimate.stderr is None or estimate.over is None:
        return None
    for seeds in range(estimate.seeds + 1, 101):
        degrees = estimate.degrees * (seeds - 1) / (estimate.seeds - 1)
        stderr = estimate.stderr * math.sqrt(estimate.seeds / seeds)
        if (_quantile(alpha / metrics, estimate.prompts, degrees) + _t(POWER, degrees)) * stderr <= margin:
            return seeds
    return None
