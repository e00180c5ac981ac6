"""Estimates, intervals and p-values of per-example figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Values = Sequence[float] | npt.NDArray[Any]

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

    x = finite(values)
    sums, sizes = by_cluster(x - x.mean(), clusters)
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
    """The mean paired difference with a bootstrap interval, of expanded percentiles (see `bootstrap`).

    Whole clusters are drawn with replacement and the mean is over the values drawn, so the denominator varies with the
    clusters' sizes. Without clusters every pair is one.

    Args:
        differences: shape (n,), candidate minus baseline of every pair.
        clusters: shape (n,), labels; None where pairs are independent.
        rng: the source of the draws; the same state gives the same interval.

    Raises:
        DataError: as `mean`.
    """
    x = finite(differences)
    sums, sizes = by_cluster(x, clusters)
    groups = len(sums)
    if groups < 2:
        return Estimate(float(x.mean()), None, None, None, len(x), groups)

    def resample(count: int) -> Floats:
        drawn = rng.integers(0, groups, size=(count, groups))
        means: Floats = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        return means

    means = in_blocks(resample, resamples, groups)
    return _from_draws(float(x.mean()), means, confidence, len(x), groups)


def bootstrap(
    statistic: Callable[[Floats], Floats],
    n: int,
    *,
    clusters: Any = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    rng: np.random.Generator,
) -> Estimate:
    """Any figure of n rows with a bootstrap interval; rows of one cluster are drawn together.

    The interval is between the percentiles Phi(-+ sqrt(G / (G - 1)) * t) of the draws, with Student's t for G - 1
    degrees of freedom: plain percentiles are too narrow for few clusters, by exactly this factor where the statistic is
    a mean of normal values (Hesterberg 2015, arXiv 1411.5279, "expanded percentile interval"). With many clusters they
    are the usual 2.5% and 97.5%. The standard error is the draws' standard deviation times sqrt(G / (G - 1)).

    Args:
        statistic: maps weights of shape (draws, n), how often each row was drawn, to the figure of every draw, shape
            (draws,); such as `weighted_mean` and `weighted_slope` with their data filled in. NaN where a draw left
            nothing to compute it from; those draws are left out.
        clusters: shape (n,), labels; None where rows are independent.

    Raises:
        DataError: labels and rows differ in number, or the figure of the rows as they are is not finite.
    """
    import numpy as np

    places = np.arange(n) if clusters is None else cluster_codes(clusters, n)
    groups = int(places.max()) + 1 if n else 0
    value = float(statistic(np.ones((1, n)))[0]) if n else float("nan")
    if not np.isfinite(value):
        raise DataError("the rows leave nothing to compute the figure from; it needs rows that differ in what it uses")
    if groups < 2:
        return Estimate(value, None, None, None, n, groups)

    def resample(count: int) -> Floats:
        drawn = rng.integers(0, groups, size=(count, groups)) + groups * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups)[:, places]
        return statistic(weights.astype(np.float64))

    draws = in_blocks(resample, resamples, max(n, groups))
    return _from_draws(value, draws[np.isfinite(draws)], confidence, n, groups)


def weighted_mean(weights: Floats, values: Floats) -> Floats:
    """The mean under every row of weights: (draws, n) and (n,) -> (draws,); NaN where all weights are 0."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ values / weights.sum(axis=1))


def weighted_slope(weights: Floats, x: Floats, y: Floats) -> Floats:
    """The least-squares slope of y on x under every row of weights: (draws, n), (n,), (n,) -> (draws,)."""
    import numpy as np

    x, y = x - x.mean(), y - y.mean()
    mean_x, mean_y = weighted_mean(weights, x), weighted_mean(weights, y)
    variance = weighted_mean(weights, x * x) - mean_x**2
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (weighted_mean(weights, x * y) - mean_x * mean_y) / variance
    return np.where(variance > 1e-12 * max(float(np.square(x).mean()), 1e-300), slope, np.nan)


def weighted_ranks(weights: Floats, values: Floats) -> Floats:
    """The rank of every value under every row of weights, ties at their mean rank: (draws, n) and (n,) -> (draws, n).

    Args:
        weights: how often each value was drawn; the ranks are those among all that were drawn.

    >>> import numpy as np
    >>> weighted_ranks(np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]), np.array([5.0, 7.0, 5.0])).tolist()
    [[1.5, 3.0, 1.5], [2.0, 3.5, 2.0]]
    """
    import numpy as np

    order = np.argsort(values, kind="stable")
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    up_to = np.cumsum(weights[:, order], axis=1)[:, np.cumsum(sizes) - 1]
    below = np.pad(up_to[:, :-1], ((0, 0), (1, 0)))
    return np.asarray(((below + up_to + 1) / 2)[:, group])


def rank_correlation(
    x: Values, y: Values, *, clusters: Any = None, confidence: float = 0.95, resamples: int = 2_000,
    rng: np.random.Generator,
) -> Estimate:  # fmt: skip
    """Spearman's rank correlation with its bootstrap interval; every draw is ranked anew, ties at their mean rank.

    Raises:
        DataError: fewer than two values, or all values of one side are equal.
    """
    import numpy as np

    left, right = finite(x), finite(y)
    if len(left) != len(right):
        raise DataError(f"{len(left)} values against {len(right)}: a correlation is of pairs")

    def statistic(weights: Floats) -> Floats:
        total = weights.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            ranks = [weighted_ranks(weights, side) for side in (left, right)]
            one, other = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
            spread = (weights * one * one).sum(axis=1) * (weights * other * other).sum(axis=1)
            found = np.clip((weights * one * other).sum(axis=1) / np.sqrt(spread), -1.0, 1.0)
        return np.where(spread > 0, found, np.nan)

    return bootstrap(statistic, len(left), clusters=clusters, confidence=confidence, resamples=resamples, rng=rng)


def holm(p_values: Values) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): reject where the adjusted p-value is at most alpha.

    Keeps the chance of any false rejection among all tests at alpha, whatever their dependence.

    Args:
        p_values: shape (m,), each in [0, 1].

    Returns:
        The adjusted p-values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
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

    >>> round(minimum_detectable_effect(1.0), 2)
    2.8
    """
    from scipy import stats

    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * stderr)


def sample_size(sd: float, effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many pairs a two-sided test at `alpha` needs to find a mean difference of `effect` with probability `power`.

    ceil(((z_{1 - alpha/2} + z_{power}) * sd / effect)^2): `minimum_detectable_effect` solved for n, the other tail's
    share of the power left out. Where examples come in clusters, n counts clusters and sd is that of their means.

    Args:
        sd: the standard deviation of the paired differences, in the unit of `effect`.

    Raises:
        DataError: the effect is 0, which no number of pairs shows.

    >>> sample_size(sd=4.0, effect=0.5)
    503
    """
    if effect == 0:
        raise DataError("no number of pairs shows an effect of 0; say the smallest effect that matters")
    return max(math.ceil((minimum_detectable_effect(sd, alpha=alpha, power=power) / abs(effect)) ** 2), 2)


def _from_draws(value: float, draws: Floats, confidence: float, n: int, groups: int) -> Estimate:
    """A statistic's expanded percentile interval; see `bootstrap`."""
    import numpy as np
    from scipy import stats

    if len(draws) < 2:
        return Estimate(value, None, None, None, n, groups)
    grown = math.sqrt(groups / (groups - 1))
    tail = float(stats.norm.cdf(-grown * stats.t.ppf(0.5 + confidence / 2, groups - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, grown * float(draws.std(ddof=1)), float(low), float(high), n, groups)


def finite(values: Values) -> Floats:
    """The values as an array; a DataError where there are none, or one is not finite."""
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise DataError("no values to take a mean of")
    if not np.isfinite(x).all():
        raise DataError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite; leave them out first")
    return x


def by_cluster(x: Floats, clusters: Any) -> tuple[Floats, Floats]:
    """Sum and size of every cluster, shape (G,) each, in the order in which the labels first appear.

    By appearance, not by label: the draws of a seeded generator then do not depend on how the clusters are called.
    """
    import numpy as np

    if clusters is None:
        return x, np.ones_like(x)
    codes = cluster_codes(clusters, len(x))
    return np.bincount(codes, weights=x).astype(np.float64), np.bincount(codes).astype(np.float64)


def cluster_codes(clusters: Any, n: int) -> npt.NDArray[np.intp]:
    """Labels of n values as numbers from 0, in the order in which they first appear."""
    import numpy as np

    places: dict[Any, int] = {}
    codes = np.array([places.setdefault(label, len(places)) for label in clusters], dtype=np.intp)
    if len(codes) != n:
        raise DataError(f"{len(codes)} cluster labels for {n} values; give one for each")
    return codes


def in_blocks(draw: Callable[[int], Floats], total: int, width: int) -> Floats:
    """`total` draws of `width` numbers each, made block by block to bound the memory."""
    import numpy as np

    block = max(_BLOCK // width, 1)
    return np.concatenate([draw(min(block, total - start)) for start in range(0, total, block)])
