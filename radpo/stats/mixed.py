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
    import statsmodels.api as sm
    from scipy import stats

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
    fit = sm.OLS(outcome, design).fit(cov_type="cluster", cov_kwds={"groups": labels})
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
