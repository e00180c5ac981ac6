"""Statistics of per-example figures: arrays of numbers come in, estimates, intervals and p-values go out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radpo.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Values = Sequence[float] | npt.NDArray[Any]

Alternative = Literal["two-sided", "less", "greater"]

# Resamples are drawn in blocks of at most so many numbers, so that memory stays below 50 MB at any size.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean and how sure it is, all in the unit of the values.

    Args:
        value: the mean.
        stderr: its standard error, None where one cluster (or one value) leaves nothing to estimate it from.
        low, high: the ends of the confidence interval, None where there is no standard error.
        n: how many values it rests on.
        clusters: how many independent groups these form; equals `n` where every value stands alone.
    """

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


def mean(
    values: Values, *, confidence: float = 0.95, interval: Literal["t", "normal"] = "t", clusters: Any = None
) -> Estimate:
    """The mean with its (clustered) standard error and confidence interval.

    Without clusters the standard error is s / sqrt(n). With clusters it is that of Miller 2024 (arXiv 2411.00640, eq.
    4), (1/n) * sqrt(sum_c (sum_{i in c} (x_i - mean))^2), times sqrt(G / (G - 1)) for the small number G of clusters
    (the CR1 correction of an intercept-only regression); with clusters of one value each it is s / sqrt(n) again.

    Args:
        values: shape (n,).
        interval: Student's t with (clusters - 1) degrees of freedom, or the normal distribution.
        clusters: shape (n,), a label for each value; values that share one (two turns of a question, seeds of one
            prompt) are not taken for independent.

    Raises:
        DataError: there are no values, or some are not finite, or labels and values differ in number.
    """
    import numpy as np
    from scipy import stats

    x = _finite(values)
    sums, sizes = _by_cluster(x - x.mean(), clusters)
    groups = len(sums)
    if groups < 2:
        return Estimate(float(x.mean()), None, None, None, len(x), groups)
    stderr = float(np.sqrt(groups / (groups - 1) * np.square(sums).sum()) / sizes.sum())
    tail = 0.5 + confidence / 2
    width = stderr * float(stats.t.ppf(tail, groups - 1) if interval == "t" else stats.norm.ppf(tail))
    centre = float(x.mean())
    return Estimate(centre, stderr, centre - width, centre + width, len(x), groups)


def paired_bootstrap(
    differences: Values,
    *,
    clusters: Any = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> Estimate:
    """The mean paired difference with a percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    Whole clusters are drawn with replacement and the mean is over the values drawn, so the denominator varies with the
    clusters' sizes. Without clusters every pair is one.

    Args:
        differences: shape (n,), candidate minus baseline of every pair.
        clusters: shape (n,), labels; None where pairs are independent.
        rng: the source of the draws; the same state gives the same interval.

    Raises:
        DataError: as `mean`.
    """
    import numpy as np

    x = _finite(differences)
    sums, sizes = _by_cluster(x, clusters)
    groups = len(sums)
    if groups < 2:
        return Estimate(float(x.mean()), None, None, None, len(x), groups)

    def resample(count: int) -> Floats:
        drawn = rng.integers(0, groups, size=(count, groups))
        means: Floats = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        return means

    means = _in_blocks(resample, resamples, groups)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(x.mean()), float(means.std(ddof=1)), float(low), float(high), len(x), groups)


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

    sums, _ = _by_cluster(_finite(differences), clusters)
    groups = len(sums)
    exact = groups < 63 and 2**groups <= resamples
    observed = sums.sum()
    if exact:
        bits = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1
        totals = (1.0 - 2.0 * bits) @ sums
    else:
        totals = _in_blocks(
            lambda count: (1.0 - 2.0 * rng.integers(0, 2, size=(count, groups))) @ sums, resamples, groups
        )
    # Equal sums differ in their last digits when added up in another order; they are ties all the same.
    slack = 1e-12 * max(float(np.abs(sums).sum()), 1e-300)
    if alternative == "two-sided":
        extreme = np.count_nonzero(np.abs(totals) >= abs(observed) - slack)
    elif alternative == "less":
        extreme = np.count_nonzero(totals <= observed + slack)
    else:
        extreme = np.count_nonzero(totals >= observed - slack)
    return float(extreme / len(totals)) if exact else float((1 + extreme) / (1 + len(totals)))


def holm(p_values: Values) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): reject where the adjusted p-value is at most alpha.

    Keeps the chance of any false rejection among all tests at alpha, whatever their dependence.

    Args:
        p_values: shape (m,), each in [0, 1].

    Returns:
        The adjusted p-values, in the order given.
    """
    import numpy as np

    p = np.asarray(p_values, dtype=np.float64)
    if np.any(~((p >= 0) & (p <= 1))):
        raise DataError(f"p-values must lie between 0 and 1, these do not: {p[~((p >= 0) & (p <= 1))].tolist()}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def minimum_detectable_effect(stderr: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at `alpha` finds with probability `power`.

    (z_{1 - alpha/2} + z_{power}) * stderr (Miller 2024, arXiv 2411.00640, sec. 5), in the unit of `stderr`.

    Args:
        stderr: the standard error of the difference.
    """
    from scipy import stats

    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * stderr)


def _finite(values: Values) -> Floats:
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise DataError("no values to take a mean of")
    if not np.isfinite(x).all():
        raise DataError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite; leave them out first")
    return x


def _by_cluster(x: Floats, clusters: Any) -> tuple[Floats, Floats]:
    """Sum and size of every cluster, shape (G,) each, in the order in which the labels first appear.

    By appearance, not by label: the draws of a seeded generator then do not depend on how the clusters are called.
    """
    import numpy as np

    if clusters is None:
        return x, np.ones_like(x)
    places: dict[Any, int] = {}
    codes = np.array([places.setdefault(label, len(places)) for label in clusters], dtype=np.intp)
    if len(codes) != len(x):
        raise DataError(f"{len(codes)} cluster labels for {len(x)} values; give one for each")
    return np.bincount(codes, weights=x).astype(np.float64), np.bincount(codes).astype(np.float64)


def _in_blocks(draw: Callable[[int], Floats], total: int, width: int) -> Floats:
    import numpy as np

    block = max(_BLOCK // width, 1)
    return np.concatenate([draw(min(block, total - start)) for start in range(0, total, block)])
