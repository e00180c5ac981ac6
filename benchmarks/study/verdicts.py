"""Claims: an effect over seeds and a verdict for every experiment, from the results of a study's runs.

What is compared and the smallest effect that matters are written down before there are numbers, and the verdict follows
from them by one rule, so that a claim that fails is said to have failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from radpo.core.errors import DataError
from radpo.core.results import FACTOR_COLUMNS
from radpo.stats.estimates import Estimate, holm, mean
from radpo.stats.mixed import FactorEstimate, over_runs
from radpo.stats.paired import ALPHA

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["supported", "not supported", "unclear at this scale"]
SEEDS = 5
"""From so many seeds on, the interval over seeds is taken for what it says."""
COLUMNS = (
    "claim", "experiment", "decides", "ours", "theirs", "unit", "seeds", "effect", "stderr", "low", "high", "smallest",
    "p", "p_holm", "verdict",
)  # fmt: skip
NEAR, WIDE = 1.0, 5.0
"""Pairs whose scores differ by no more than `NEAR` points are nearly equal, by `WIDE` or more far apart."""


@dataclass(frozen=True)
class Figure:
    """One figure of one variant of a run, which every seed has a value of (`results.parquet`)."""

    run: str
    variant: str
    benchmark: str
    subset: str
    metric: str

    def __str__(self) -> str:
        return f"{self.run}/{self.variant}: {self.benchmark} {self.metric}, {self.subset}"


@dataclass(frozen=True)
class Experiment:
    """What would bear a claim out: `ours` exceeds `theirs`.

    Args:
        claim: in the words of the paper (arXiv 2410.08067), more or less.
        what: the comparison in words.
        ours, theirs: figures, compared seed by seed, or a constant to compare with.
        smallest: the smallest difference that matters, above 0, in `unit`.
        decides: whether the claim stands or falls with it; others shed light on it.
    """

    claim: str
    what: str
    ours: Figure
    theirs: Figure | float
    smallest: float
    unit: str
    decides: bool = False

    @property
    def takes(self) -> frozenset[tuple[str, str]]:
        """The runs and variants that it needs."""
        return frozenset((side.run, side.variant) for side in (self.ours, self.theirs) if isinstance(side, Figure))


def verdict(effect: Estimate | FactorEstimate, smallest: float, seeds: int, adjusted: float | None = None) -> Verdict:
    """Supported: the effect matters, its 95% interval is above 0, and so is it by the p-value adjusted for many claims.
    Not supported: an effect that matters is outside the interval. Else, or with fewer than `SEEDS` seeds, unclear.

    Args:
        adjusted: that p-value, None for a row that decides no claim.
    """
    if effect.low is None or effect.high is None or seeds < SEEDS:
        return "unclear at this scale"
    if effect.low > 0 and effect.value >= smallest and (adjusted is None or adjusted < ALPHA):
        return "supported"
    return "not supported" if effect.high < smallest else "unclear at this scale"


def judge(experiments: Sequence[Experiment], results: pd.DataFrame) -> pd.DataFrame:
    """A row of `COLUMNS` an experiment: the effect is the mean over seeds with Student's 95% interval, seeds its units.

    Where runs are drawn by several factors, the mean and its interval are over these (`radpo.stats.mixed.over_runs`).
    p is of the two-sided t test that the interval is of, p_holm the same of the rows that decide claims, adjusted for
    their number by Holm's method.

    Args:
        results: `results.parquet` of all runs, with a column `run`.

    Raises:
        DataError: a figure or a combination of factors is not there, or the two sides of an experiment have different
            seeds.
    """
    import pandas as pd

    found = [_effect(experiment, results) for experiment in experiments]
    deciding = [place for place, one in enumerate(experiments) if one.decides and found[place].p is not None]
    adjusted = dict(zip(deciding, holm([found[place].p for place in deciding]), strict=True))  # type: ignore[misc]
    rows = []
    for place, (experiment, (effect, seeds, p)) in enumerate(zip(experiments, found, strict=True)):
        rows.append(
            {
                "claim": experiment.claim, "experiment": experiment.what, "decides": experiment.decides,
                "ours": str(experiment.ours), "theirs": str(experiment.theirs), "unit": experiment.unit,
                "seeds": seeds, "effect": effect.value, "stderr": effect.stderr, "low": effect.low,
                "high": effect.high, "smallest": experiment.smallest, "p": p, "p_holm": adjusted.get(place),
                "verdict": verdict(effect, experiment.smallest, seeds, adjusted.get(place)),
            }
        )  # fmt: skip
    numbers = dict.fromkeys(["effect", "stderr", "low", "high", "smallest", "p", "p_holm"], "float64")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(numbers)


def values(results: pd.DataFrame, figure: Figure) -> pd.Series[float]:
    """A figure by seed.

    Raises:
        DataError: it is not there, or twice for a seed.
    """
    found = _rows_of(results, figure)
    if found.empty or found["seed"].duplicated().any():
        raise DataError(f"{figure}: {'not among the results' if found.empty else 'there more than once for a seed'}")
    return found.set_index("seed")["value"].astype("float64").sort_index()


def _rows_of(results: pd.DataFrame, figure: Figure) -> pd.DataFrame:
    for column in ("run", "variant", "benchmark", "subset", "metric"):
        results = results[results[column] == getattr(figure, column)]
    return results


def near_equal_shares(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """How large the margins of nearly equal pairs are beside those of pairs far apart, as rows of `results.parquet`.

    near_equal_share, by goal (none, best): the mean margin, delta log p of the better response minus the worse, of
    held-out pairs at most `NEAR` points apart over that of pairs at least `WIDE` apart. A policy whose implicit reward
    follows the scores has the ratio of the mean gaps; one that drives all pairs apart alike has 1.

    Args:
        likelihoods: a run's `likelihoods.parquet`.

    Raises:
        DataError: there are no pairs of one of the two kinds.
    """
    import pandas as pd

    from radpo.benchmarks.implicit_reward import margins

    pairs = margins(likelihoods)
    rows = []
    for (variant, seed, goal), part in pairs.groupby(["variant", "seed", "goal"], sort=False):
        near, wide = (part[part["gap"] <= NEAR]["margin"], part[part["gap"] >= WIDE]["margin"])
        if near.empty or wide.empty:
            raise DataError(f"no held-out pairs of scores at most {NEAR:g} apart, or none at least {WIDE:g} apart")
        if wide.mean() != 0:  # the model as it is has no margins
            rows.append(
                {
                    "variant": variant, "seed": seed, "benchmark": "margins", "subset": goal,
                    "metric": "near_equal_share", "value": float(near.mean() / wide.mean()), "n": len(near),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


class Effect(NamedTuple):
    """An experiment's effect over so many seeds, and its two-sided p-value; None where one seed leaves none."""

    estimate: Estimate | FactorEstimate
    seeds: int
    p: float | None


def _effect(experiment: Experiment, results: pd.DataFrame) -> Effect:
    from scipy import stats

    differences = _differences(experiment, results)
    seeds = len(differences)
    effect: Estimate | FactorEstimate | None = mean(differences)
    degrees: float = seeds - 1
    if factors := _factors(experiment, results):
        effect = over_runs(differences, range(seeds), factors)
        if effect is None:
            raise DataError(f"{experiment.ours}: combinations of {', '.join(factors)} lack, so that it has no interval")
        degrees = effect.degrees  # type: ignore[union-attr]
    assert effect is not None
    if not effect.stderr:
        return Effect(effect, seeds, None)
    return Effect(effect, seeds, float(2 * stats.t.sf(abs(effect.value / effect.stderr), degrees)))


def _factors(experiment: Experiment, results: pd.DataFrame) -> dict[str, list[int]]:
    """The levels of what runs are drawn by, by factor, in the order of the seeds; only factors of several levels."""
    columns = [column for column in FACTOR_COLUMNS if column in results.columns]
    rows = _rows_of(results, experiment.ours).sort_values("seed")
    return {column: rows[column].astype(int).tolist() for column in columns if rows[column].nunique() > 1}


def _differences(experiment: Experiment, results: pd.DataFrame) -> list[float]:
    ours = values(results, experiment.ours)
    if not isinstance(experiment.theirs, Figure):
        return [float(value) - experiment.theirs for value in ours]
    theirs = values(results, experiment.theirs)
    if list(ours.index) != list(theirs.index):
        raise DataError(f"{experiment.ours} and {experiment.theirs} were not run with the same seeds")
    return [float(difference) for difference in ours - theirs]
