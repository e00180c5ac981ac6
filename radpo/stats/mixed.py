"""Statistical models of per-example figures: seeds as a random effect, and slopes with clustered standard errors.

Arrays come in, coefficients with their intervals go out. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.stats.estimates import Estimate

if TYPE_CHECKING:
    from radpo.stats.estimates import Floats, Values


@dataclass(frozen=True)
class SeedEstimate:
    """A mean over seeds and prompts, as an estimate for seeds and prompts that were not drawn.

    Args:
        value, stderr, low, high: as in `Estimate`, in the unit of the values.
        degrees: Satterthwaite's degrees of freedom of the interval; near `seeds` - 1 where seeds differ much.
        sd_seed, sd_prompt, sd_rest: standard deviations of the seeds' effects, of the prompts', and of what is left.
        seeds, prompts: how many of each.
    """

    value: float
    stderr: float
    low: float
    high: float
    degrees: float
    sd_seed: float
    sd_prompt: float
    sd_rest: float
    seeds: int
    prompts: int


def over_seeds(values: Values, seeds: Any, prompts: Any, *, confidence: float = 0.95) -> SeedEstimate:
    """The mean with seeds and prompts both taken for random: value_sp = mean + seed_s + prompt_p + rest_sp.

    Intervals over prompts alone speak of the checkpoints at hand; this one speaks of the method. The variances are
    those of the two-way analysis of variance without replication (Searle, Casella & McCulloch 1992, ch. 4), which are
    REML's where none comes out negative; a negative one is taken for 0. The mean's variance is
    (MS_seed + MS_prompt - MS_rest) / (S * P), its degrees of freedom Satterthwaite's (1946).

    Args:
        values: shape (n,), one for every seed and prompt; for a difference between variants, the differences.
        seeds, prompts: shape (n,), labels.

    Raises:
        DataError: fewer than two seeds or prompts, or a seed lacks a prompt or has it twice, or a value is not finite.
    """
    import numpy as np
    from scipy import stats

    table = _grid(values, seeds, prompts)
    rows, columns = table.shape
    mean, by_seed, by_prompt = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_prompt[None] + mean
    squares = {
        "seed": float(columns * np.square(by_seed - mean).sum() / (rows - 1)),
        "prompt": float(rows * np.square(by_prompt - mean).sum() / (columns - 1)),
        "rest": float(np.square(rest).sum() / ((rows - 1) * (columns - 1))),
    }
    left = squares["rest"]
    seed, prompt = max(squares["seed"], left), max(squares["prompt"], left)
    variance = (seed + prompt - left) / (rows * columns)
    spread = seed**2 / (rows - 1) + prompt**2 / (columns - 1) + left**2 / ((rows - 1) * (columns - 1))
    degrees = (seed + prompt - left) ** 2 / spread if spread > 0 else float(rows - 1)
    stderr = math.sqrt(variance)
    width = stderr * float(stats.t.ppf(0.5 + confidence / 2, degrees))
    return SeedEstimate(
        value=float(mean),
        stderr=stderr,
        low=float(mean - width),
        high=float(mean + width),
        degrees=float(degrees),
        sd_seed=math.sqrt((seed - left) / columns),
        sd_prompt=math.sqrt((prompt - left) / rows),
        sd_rest=math.sqrt(left),
        seeds=rows,
        prompts=columns,
    )


@dataclass(frozen=True)
class FactorEstimate:
    """A mean over crossed factors, as an estimate for levels of all of them that were not drawn.

    Args:
        value, stderr, low, high, degrees: as in `SeedEstimate`.
        sd: the standard deviation of each factor's own effects, by factor; that of its interactions is not in it.
        levels: how many of each.
    """

    value: float
    stderr: float
    low: float
    high: float
    degrees: float
    sd: Mapping[str, float]
    levels: Mapping[str, int]


def over_factors(values: Values, factors: Mapping[str, Any], *, confidence: float = 0.95) -> FactorEstimate:
    """The mean with all factors taken for random and crossed, such as models, draws of data, orders and prompts.

    The model has an effect for every factor and for every interaction. One that is nested in others, as the order of
    training is in the draw of data that it orders, has its variance in the interaction with them, and nothing changes.
    Variances are those of the balanced analysis of variance without replication: the expected mean square of a set S
    of factors is the sum over its supersets T of variance_T times the levels of all factors outside T (Searle, Casella
    & McCulloch 1992, ch. 4); from the largest set down, a variance that comes out negative is taken for 0. The mean's
    variance is the sum over all sets of variance_S / levels of S, which by inclusion and exclusion is
    sum_S (-1)^(|S| + 1) MS_S / n, its degrees of freedom Satterthwaite's (1946). With two factors it is `over_seeds`.

    Args:
        values: shape (n,), one for every combination of levels; for a difference between variants, the differences.
        factors: name -> labels, shape (n,).

    Raises:
        DataError: a factor has one level, a combination lacks or is there twice, or a value is not finite.
    """
    import numpy as np
    from scipy import stats

    names, table = list(factors), _table_of(values, factors)
    shape, n = table.shape, table.size
    sets = [tuple(place for place in range(len(names)) if bits >> place & 1) for bits in range(1, 2 ** len(names))]
    squares, degrees = {}, {}
    for members in sets:
        effect = table
        for axis in range(len(names)):
            mean = effect.mean(axis=axis, keepdims=True)
            effect = effect - mean if axis in members else mean
        degrees[members] = math.prod(shape[place] - 1 for place in members)
        outside = math.prod(shape[place] for place in range(len(names)) if place not in members)
        squares[members] = outside * float(np.square(effect).sum()) / degrees[members]
    variances: dict[tuple[int, ...], float] = {}
    for members in sorted(sets, key=len, reverse=True):
        outside = n // math.prod(shape[place] for place in members)
        above = _expected(variances, members, shape)
        variances[members] = max(0.0, (squares[members] - above) / outside)
    variance = math.fsum(each / math.prod(shape[p] for p in members) for members, each in variances.items())
    spread = math.fsum(_expected(variances, members, shape) ** 2 / degrees[members] for members in sets)
    freedom = (variance * n) ** 2 / spread if spread > 0 else float(min(shape) - 1)
    centre, stderr = float(table.mean()), math.sqrt(variance)
    width = stderr * float(stats.t.ppf(0.5 + confidence / 2, freedom))
    return FactorEstimate(
        value=centre,
        stderr=stderr,
        low=centre - width,
        high=centre + width,
        degrees=freedom,
        sd={name: math.sqrt(variances[place,]) for place, name in enumerate(names)},
        levels=dict(zip(names, shape, strict=True)),
    )


def over_runs(
    values: Values, runs: Any, factors: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> SeedEstimate | FactorEstimate | None:
    """The mean over runs, for runs that were not made; None where which of them share a level leaves it undetermined.

    Args:
        values: shape (n,), one for every run, or for every run and level of `more`.
        runs: labels, shape (n,).
        factors: the levels of what runs are drawn by, by factor, labels of shape (n,); empty where a run is drawn as a
            whole. Either every combination of levels is there, and factors are crossed; or no two runs have a level in
            common, and runs are independent, and then stand for all factors together.
        more: factors beside, such as prompts.

    Raises:
        DataError: as `over_factors`.
    """
    import numpy as np

    labels = np.asarray(runs)
    made = len(np.unique(labels))
    sizes = {name: len(np.unique(np.asarray(levels))) for name, levels in factors.items()}
    several = {name: factors[name] for name, size in sizes.items() if size > 1}
    beside = dict(more or {})
    if all(sizes[name] == made for name in several):  # also where there is no factor
        if len(beside) == 1:
            (of,) = beside.values()
            return over_seeds(values, labels, of)
        return over_factors(values, {"run": labels, **beside})
    if math.prod(sizes[name] for name in several) != made:
        return None
    return over_factors(values, {**several, **beside})


def _expected(variances: Mapping[tuple[int, ...], float], members: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """The expected mean square of a set of factors, given the variances of its supersets."""
    total = math.prod(shape)
    return math.fsum(
        variance * total / math.prod(shape[place] for place in above)
        for above, variance in variances.items()
        if set(above) >= set(members)
    )


def _table_of(values: Values, factors: Mapping[str, Any]) -> Floats:
    """The values as a table with an axis a factor."""
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    levels, codes = zip(
        *(np.unique(np.asarray(labels), return_inverse=True) for labels in factors.values()), strict=True
    )
    shape = tuple(map(len, levels))
    if min(shape) < 2:
        found = " and ".join(f"{size} of {name}" for name, size in zip(factors, shape, strict=True))
        raise DataError(f"{found}: variances take at least two of each")
    counts = np.zeros(shape, dtype=int)
    np.add.at(counts, codes, 1)
    if (counts != 1).any():
        place = np.argwhere(counts != 1)[0]
        named = ", ".join(f"{name} {of[at]}" for name, of, at in zip(factors, levels, place, strict=True))
        raise DataError(f"{named} has {counts[tuple(place)]} values; every combination needs one")
    if not np.isfinite(x).all():
        raise DataError("a value is not finite; leave its prompt out everywhere")
    table = np.zeros(shape)
    table[codes] = x
    return table


def linear(
    y: Values, covariates: Mapping[str, Values], *, clusters: Any = None, confidence: float = 0.95
) -> dict[str, Estimate]:
    """Least squares of y on the covariates and an intercept, by statsmodels, with cluster-robust standard errors.

    The covariance is CR1 over clusters and the intervals are Student's t with (clusters - 1) degrees of freedom;
    without clusters every row is one (HC1).

    Args:
        y: shape (n,).
        covariates: name -> shape (n,). Their coefficients are in y's unit for each unit of theirs.

    Returns:
        An estimate a covariate, and `intercept`.

    Raises:
        DataError: a number is not finite, or the covariates leave a coefficient undetermined (too few rows, or one is
            constant or follows from the others).
    """
    import numpy as np
    from scipy import stats
    from statsmodels.regression.linear_model import OLS  # statsmodels.api loads all of it, for half a second

    outcome = np.asarray(y, dtype=np.float64)
    columns = [np.asarray(values, dtype=np.float64) for values in covariates.values()]
    design = np.column_stack([np.ones(len(outcome)), *columns])
    if not (np.isfinite(outcome).all() and np.isfinite(design).all()):
        raise DataError("a regression takes finite numbers only; leave the rows without them out first")
    names = ["intercept", *covariates]
    labels = np.arange(len(outcome)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = len(np.unique(labels))
    if len(outcome) <= design.shape[1] or groups < 2 or np.linalg.matrix_rank(design) < design.shape[1]:
        raise DataError(
            f"{len(outcome)} rows in {groups} clusters do not determine the coefficients of {', '.join(covariates)}: "
            "one is constant, or follows from the others"
        )
    fit = OLS(outcome, design).fit(cov_type="cluster", cov_kwds={"groups": labels})
    t = float(stats.t.ppf(0.5 + confidence / 2, groups - 1))
    return {
        name: Estimate(float(b), float(se), float(b - t * se), float(b + t * se), len(outcome), groups)
        for name, b, se in zip(names, fit.params, fit.bse, strict=True)
    }


def _grid(values: Values, seeds: Any, prompts: Any) -> Floats:
    """The values as a table of seeds x prompts."""
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    rows, seed_codes = np.unique(np.asarray(seeds), return_inverse=True)
    columns, prompt_codes = np.unique(np.asarray(prompts), return_inverse=True)
    if len(rows) < 2 or len(columns) < 2:
        raise DataError(f"{len(rows)} seeds and {len(columns)} prompts: variances take at least two of each")
    counts = np.zeros((len(rows), len(columns)), dtype=int)
    np.add.at(counts, (seed_codes, prompt_codes), 1)
    if (counts != 1).any():
        s, p = np.argwhere(counts != 1)[0]
        raise DataError(f"seed {rows[s]} has {counts[s, p]} values for prompt {columns[p]}; every seed needs one")
    if not np.isfinite(x).all():
        raise DataError("a value is not finite; leave its prompt out for every seed")
    table = np.zeros((len(rows), len(columns)))
    table[seed_codes, prompt_codes] = x
    return table
