"""Permutation tests of per-example figures. Pure."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import DataError
from radpo.stats.estimates import by_cluster, finite, in_blocks

if TYPE_CHECKING:
    import numpy as np

    from radpo.stats.estimates import Floats, Values

Alternative = Literal["two-sided", "less", "greater"]


def sign_flip_test(
    differences: Values,
    *,
    clusters: Any = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> float:
    """The p-value of the paired permutation test: were the differences' signs heads or tails, how rare is this mean?

    Under the null hypothesis the two sides of a pair are exchangeable, so every sign (of a whole cluster's sum) may be
    flipped (Fisher 1935; Good 2005, ch. 3). Where all flips are no more than `resamples`, they are enumerated and the
    p-value is exact; else it is (1 + b) / (1 + resamples), which is never 0 (Phipson & Smyth 2010).

    Args:
        differences: shape (n,), candidate minus baseline of every pair.
        clusters: shape (n,), labels; all differences of a cluster flip together.
        alternative: `less` asks whether the candidate is below the baseline.

    Raises:
        DataError: as `mean`.
    """
    import numpy as np

    sums, _ = by_cluster(finite(differences), clusters)
    groups = len(sums)
    exact = groups < 63 and 2**groups <= resamples
    observed = sums.sum()
    if exact:
        bits = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1
        totals = (1.0 - 2.0 * bits) @ sums
    else:
        totals = in_blocks(
            lambda count: (1.0 - 2.0 * rng.integers(0, 2, size=(count, groups))) @ sums, resamples, groups
        )
    extreme = _extreme(totals, float(observed), alternative, float(np.abs(sums).sum()))
    return float(extreme / len(totals)) if exact else float((1 + extreme) / (1 + len(totals)))


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
