"""Permutation tests of per-example figures, with the intervals that belong to them. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import DataError
from radpo.stats.estimates import by_cluster, finite, in_blocks

if TYPE_CHECKING:
    import numpy as np

    from radpo.stats.estimates import Floats, Values

Alternative = Literal["two-sided", "less", "greater"]


MANY = 2_000
"""With more clusters than this, flips are drawn a byte at a time."""


@dataclass(frozen=True)
class SignFlips:
    """The sign-flip test of one mean, at any value that the mean might have, and the interval that belongs to it.

    Under the null hypothesis that the mean is m, values are as likely to lie so far above m as below it (for paired
    differences: which side of a pair is which is chance), so that every sign of x - m may be flipped, those of a whole
    cluster at once (Fisher 1935; Good 2005, ch. 3). The flipped mean is at least as low as the observed one exactly
    where the mean over the flipped clusters alone is at least m. So the means over random sets of clusters are all that
    it takes: their share above m is the p-value of "below m", and their quantiles are the ends of the interval
    (Hartigan 1969, JASA 64:1303), which leaves out m exactly where the test rejects m.

    Args:
        means: of the flipped clusters, by flip, in rising order.
        idle: how many flips flipped nothing; they are as extreme as what was observed.
        exact: whether the flips are all there are; else they were drawn, and a p-value is (1 + b) / (1 + flips), which
            is never 0 (Phipson & Smyth 2010).
        slack: means nearer than this are equal but for rounding.
        at_zero: p-values of `less` and `greater` at 0 where these are exact although the others are not: clusters
            whose sum is 0 do not move it.
    """

    means: Floats
    idle: int
    exact: bool
    slack: float
    at_zero: tuple[float, float] | None = None

    def less(self, at: float = 0.0) -> float:
        """The one-sided p-value of "the mean is below `at`"."""
        if at == 0 and self.at_zero is not None:
            return self.at_zero[0]
        return self._share(len(self.means) - int(self.means.searchsorted(at - self.slack, side="left")))

    def greater(self, at: float = 0.0) -> float:
        """The one-sided p-value of "the mean is above `at`"."""
        if at == 0 and self.at_zero is not None:
            return self.at_zero[1]
        return self._share(int(self.means.searchsorted(at + self.slack, side="right")))

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """The values that neither one-sided test rejects at half the level; None where flips are too few to reject."""
        tail = (1 - confidence) / 2
        total = len(self.means) + self.idle
        spared = tail * total - self.idle if self.exact else tail * (1 + total) - 1 - self.idle
        if spared < 0:
            return None
        place = math.floor(spared + 1e-9)
        if place >= len(self.means):
            return None
        return float(self.means[place]), float(self.means[-1 - place])

    def _share(self, extreme: int) -> float:
        total = len(self.means) + self.idle
        extreme += self.idle
        return extreme / total if self.exact else (1 + extreme) / (1 + total)


def sign_flips(sums: Floats, sizes: Floats, *, resamples: int, rng: np.random.Generator) -> list[SignFlips]:
    """The sign-flip test of several means over the same clusters, all from the same flips.

    Where all flips are no more than `resamples`, they are enumerated.

    Args:
        sums: shape (G, K), the sum of each cluster's values in every one of K samples.
        sizes: shape (G,), how many values a cluster has.
    """
    import numpy as np

    groups = len(sizes)
    exact = _enumerable(groups, resamples)
    weights = np.column_stack([sums, sizes]).astype(np.float64)

    def means(totals: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = totals[:, :-1] / totals[:, -1:]
        return found

    if exact:
        drawn = means(_all_flips(groups).astype(np.float64) @ weights)
    elif groups > MANY:
        drawn = means(_by_bytes(weights, resamples, rng))
    else:
        drawn = in_blocks(
            lambda count: means(rng.integers(0, 2, size=(count, groups)).astype(np.float64) @ weights),
            resamples, groups,
        )  # fmt: skip
    idle = int(np.isnan(drawn[:, 0]).sum())
    drawn = np.sort(drawn[~np.isnan(drawn[:, 0])], axis=0)
    slack = 1e-10 * np.abs(sums).sum(axis=0) / max(float(sizes.sum()), 1.0)
    return [
        SignFlips(
            means=drawn[:, column],
            idle=idle,
            exact=exact,
            slack=float(slack[column]),
            at_zero=None if exact else _at_zero(sums[:, column], resamples),
        )
        for column in range(sums.shape[1])
    ]


def _by_bytes(weights: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Sums over random halves of many rows, shape (resamples, K), a byte for eight rows' flips at a time.

    The sums of all 256 halves of eight rows are made once and looked up, which takes an eighth of the time and less.

    Args:
        weights: shape (G, K).
    """
    import numpy as np

    groups, columns = weights.shape
    padded = np.zeros((-(-groups // 8) * 8, columns))
    padded[:groups] = weights
    halves = _all_flips(8).astype(np.float64)
    totals = np.zeros((resamples, columns))
    for eight in padded.reshape(-1, 8, columns):
        totals += (halves @ eight)[rng.integers(0, 256, size=resamples, dtype=np.uint8)]
    return totals


def _enumerable(groups: int, resamples: int) -> bool:
    return groups < 63 and 2**groups <= resamples


def _all_flips(groups: int) -> Any:
    import numpy as np

    return ((np.arange(2**groups)[:, None] >> np.arange(groups)) & 1).astype(np.uint8)


def _at_zero(sums: Floats, resamples: int) -> tuple[float, float] | None:
    """The exact p-values at 0 where few clusters moved."""
    import numpy as np

    moved = sums[np.abs(sums) > 1e-12 * np.abs(sums).max(initial=0.0)]
    if not _enumerable(len(moved), resamples):
        return None
    totals = _all_flips(len(moved)) @ moved
    slack = 1e-10 * float(np.abs(moved).sum())
    return float(np.mean(totals >= -slack)), float(np.mean(totals <= slack))


def sign_flip_test(
    differences: Values,
    *,
    clusters: Any = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> float:
    """The p-value of the paired permutation test that the mean is 0; see `SignFlips`.

    Args:
        differences: shape (n,), candidate minus baseline of every pair.
        clusters: shape (n,), labels; all differences of a cluster flip together.
        alternative: `less` asks whether the candidate is below the baseline; two-sided is twice the smaller of both.

    Raises:
        DataError: as `mean`.
    """
    sums, sizes = by_cluster(finite(differences), clusters)
    (flips,) = sign_flips(sums[:, None], sizes, resamples=resamples, rng=rng)
    if alternative == "two-sided":
        return min(1.0, 2 * min(flips.less(), flips.greater()))
    return flips.less() if alternative == "less" else flips.greater()


def shuffle_test(
    values: Values,
    treated: Any,
    *,
    clusters: Any = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> float:
    """The p-value of the permutation test of two independent samples, by the difference of their means.

    Under the null hypothesis it is chance which cluster is in which sample (Good 2005, ch. 3), so whole clusters change
    places. Where all ways to choose are no more than `resamples`, they are enumerated and the p-value is exact; else it
    is (1 + b) / (1 + resamples) (Phipson & Smyth 2010).

    Args:
        values: shape (n,).
        treated: shape (n,), whether the value is of the first sample; equal throughout a cluster.
        alternative: `less` asks whether the first sample's mean is the lower one.

    Raises:
        DataError: as `mean`, or a sample is empty, or a cluster is in both.
    """
    import numpy as np

    x, first = finite(values), np.asarray(treated, dtype=bool)
    sums, sizes = by_cluster(x, clusters)
    firsts, _ = by_cluster(first.astype(np.float64), clusters)
    if len(first) != len(x) or not np.isin(firsts / sizes, (0.0, 1.0)).all():
        raise DataError("every value and every cluster must belong to one of the two samples")
    labels = firsts > 0
    chosen, groups = int(labels.sum()), len(sums)
    if chosen in (0, groups):
        raise DataError("one of the two samples is empty")

    def differences(mask: Floats) -> Floats:
        inside, count = mask @ sums, mask @ sizes
        return np.asarray(inside / count - (sums.sum() - inside) / (sizes.sum() - count))

    ways = math.comb(groups, chosen)
    if ways <= resamples:
        masks = np.zeros((ways, groups))
        for row, places in enumerate(itertools.combinations(range(groups), chosen)):
            masks[row, list(places)] = 1.0
        found = differences(masks)
    else:
        found = in_blocks(
            lambda count: differences(rng.permuted(np.tile(labels.astype(np.float64), (count, 1)), axis=1)),
            resamples,
            groups,
        )
    extreme = _extreme(found, float(differences(labels[None].astype(np.float64))[0]), alternative, float(np.ptp(x)))
    return float(extreme / len(found)) if ways <= resamples else float((1 + extreme) / (1 + len(found)))


def _extreme(found: Floats, observed: float, alternative: Alternative, size: float) -> int:
    """How many of the permutations' figures are at least as extreme as the observed one."""
    import numpy as np

    # Equal sums differ in their last digits when added up in another order; they are ties all the same.
    slack = 1e-12 * max(size, 1e-300)
    if alternative == "two-sided":
        return int(np.count_nonzero(np.abs(found) >= abs(observed) - slack))
    if alternative == "less":
        return int(np.count_nonzero(found <= observed + slack))
    return int(np.count_nonzero(found >= observed - slack))
