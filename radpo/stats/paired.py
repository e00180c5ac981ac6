"""The one test of a paired difference: clustered by prompt, and with several seeds, for seeds that were not drawn.

Which test, and why:

- With one seed, the sign-flip test over prompts (`radpo.stats.permutation.SignFlips`). It is exact where the two sides
  are exchangeable, whatever the values' distribution; the t test is not, and errs just where a gate needs it most: with
  three of many verdicts changed, all for the worse, t is about -sqrt(3) and its one-sided p-value 0.04, while chance
  does that one time in eight. As the sum of squares does not change with signs, the test is the same as that of the
  studentised mean, so that it also keeps its level asymptotically where only the mean change is 0. Its interval comes
  from the same flips and never disagrees with it.
- With several seeds, that is not enough: it speaks of these checkpoints. The mean must also stand out from what seeds
  do by chance, by Student's t with seeds and prompts both taken for random (`radpo.stats.mixed.over_seeds`). The
  p-value is the larger of the two (an intersection-union test, Berger 1982, which has the level of both), the interval
  reaches as far as either. Two seeds are hardly evidence, and the interval says so.
- Where seeds do not all have the same examples, their variance cannot be separated: the test is the first alone, and
  the kind says `these seeds only`.

One-sided p-values are those of the same test; the two-sided one is twice the smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.stats.estimates import cluster_codes, holm, mean, minimum_detectable_effect
from radpo.stats.mixed import FactorEstimate, SeedEstimate, over_runs
from radpo.stats.permutation import SignFlips, sign_flips

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from radpo.stats.estimates import Floats

ALPHA = 0.05
"""Adjusted p-values below this count as a difference."""
FLIPS = 20_000
"""Sign flips of a test, where there are more than so many: the standard error of a p-value of 0.05 is 0.0015."""
THESE_SEEDS = "these seeds only"
_AT_ONCE = 64


@dataclass(frozen=True)
class PairedEstimate:
    """The mean of paired differences, in their unit.

    Args:
        value: the mean difference.
        stderr: its standard error, None where there is none, or where all prompts changed alike (0 says only that the
            sample was too small to see any spread).
        degrees: of freedom of `stderr`.
        n, prompts, seeds: pairs, and of how many prompts and seeds; `changed` of the pairs differ.
        over: the estimate over seeds; None for one seed, and where seeds lack examples.
    """

    value: float
    stderr: float | None
    degrees: float
    n: int
    prompts: int
    seeds: int
    changed: int
    over: SeedEstimate | FactorEstimate | None


@dataclass(frozen=True)
class PairedTest:
    """The test of one sample of paired differences.

    Args:
        low, high: the 95% interval, None where the prompts are too few, or all alike.
    """

    estimate: PairedEstimate
    low: float | None
    high: float | None
    flips: SignFlips

    def less(self, at: float = 0.0) -> float:
        """The one-sided p-value of "the true difference is below `at`"."""
        return max(self.flips.less(at), self._over_seeds(self.estimate.value - at))

    def greater(self, at: float = 0.0) -> float:
        """The one-sided p-value of "the true difference is above `at`"."""
        return max(self.flips.greater(at), self._over_seeds(at - self.estimate.value))

    @property
    def p(self) -> float:
        """The two-sided p-value."""
        return min(1.0, 2 * min(self.less(), self.greater()))

    def _over_seeds(self, excess: float) -> float:
        """How rare so low a mean would be over seeds, were the true one higher by `excess` less than nothing."""
        from scipy.special import stdtr

        over = self.estimate.over
        if over is None:
            return 0.0
        if over.stderr <= 0:  # all seeds alike: no more than their signs is known
            return 0.5**self.estimate.seeds if excess < 0 else 1.0
        return float(stdtr(over.degrees, excess / over.stderr))


def paired_tests(
    changes: Floats,
    prompts: Any,
    seeds: Any,
    *,
    factors: Mapping[str, Any] | None = None,
    resamples: int = FLIPS,
    seed: int = 0,
) -> list[PairedTest | None]:
    """The test of every column of differences.

    Args:
        changes: shape (n, K), NaN where a pair is not whole; columns with the same pairs share their flips.
        prompts, seeds: shape (n,), labels of the rows.
        factors: what seeds are drawn by, as `radpo.stats.mixed.over_runs` takes them.
        resamples: sign flips a test; where all flips are fewer, it is exact.
        seed: of the flips. The same pairs in the same order give the same p-value.

    Returns:
        A test a column, None where it has no pair.
    """
    import numpy as np

    shared = np.isfinite(changes)
    prompts, seeds = np.asarray(prompts), np.asarray(seeds)
    patterns: dict[bytes, list[int]] = {}
    for column in range(changes.shape[1]):
        patterns.setdefault(shared[:, column].tobytes(), []).append(column)
    found: list[PairedTest | None] = [None] * changes.shape[1]
    for columns in patterns.values():
        rows = shared[:, columns[0]]
        if not rows.any():
            continue
        for start in range(0, len(columns), _AT_ONCE):
            chosen = columns[start : start + _AT_ONCE]
            levels = {name: np.asarray(each)[rows] for name, each in (factors or {}).items()}
            tests = _tests(changes[rows][:, chosen], prompts[rows], seeds[rows], levels, resamples, seed)
            for column, test in zip(chosen, tests, strict=True):
                found[column] = test
    return found


def _tests(
    changes: Floats, prompts: Any, seeds: Any, factors: Mapping[str, Any], resamples: int, seed: int
) -> list[PairedTest]:
    import numpy as np

    codes = cluster_codes(prompts, len(prompts))
    sums = np.column_stack([np.bincount(codes, weights=column) for column in changes.T]).astype(np.float64)
    sizes = np.bincount(codes).astype(np.float64)
    flips = sign_flips(sums, sizes, resamples=resamples, rng=np.random.default_rng(seed))
    return [_test(column, codes, seeds, factors, flip) for column, flip in zip(changes.T, flips, strict=True)]


def _test(changes: Floats, prompts: Any, seeds: Any, factors: Mapping[str, Any], flips: SignFlips) -> PairedTest:
    estimate = paired_estimate(changes, prompts, seeds, factors)
    ends = flips.interval() if estimate.stderr is not None else None
    if ends is not None and estimate.over is not None:
        ends = min(ends[0], estimate.over.low), max(ends[1], estimate.over.high)
    low, high = ends or (None, None)
    return PairedTest(estimate, low, high, flips)


def paired_estimate(
    changes: Floats, prompts: Any, seeds: Any, factors: Mapping[str, Any] | None = None
) -> PairedEstimate:
    """The mean difference and how sure it is: shape (n,) each, all finite; `factors` as `paired_tests` takes them."""
    import numpy as np

    codes = cluster_codes(prompts, len(changes))
    found = mean(changes, clusters=codes)
    different = len(set(np.asarray(seeds).tolist()))
    over = _over_seeds(changes, codes, seeds, factors or {}) if different > 1 else None
    stderr, degrees = (found.stderr, found.clusters - 1.0) if over is None else (over.stderr, over.degrees)
    # Equal changes leave a spread of a few last digits.
    if stderr is not None and stderr <= 1e-12 * abs(found.value):
        stderr = None
    changed = int(np.count_nonzero(changes))
    return PairedEstimate(found.value, stderr, degrees, found.n, found.clusters, different, changed, over)


def _over_seeds(
    changes: Floats, prompts: Any, seeds: Any, factors: Mapping[str, Any]
) -> SeedEstimate | FactorEstimate | None:
    """The mean over seeds and prompts, None where seeds lack prompts, or have more of one than of another.

    Also where seeds are drawn by several factors, and some but not all combinations of their levels are there.
    """
    import numpy as np

    codes = np.unique(seeds, return_inverse=True)[1]
    cells = codes * (int(prompts.max()) + 1) + prompts
    _, firsts, places, sizes = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
    if sizes.min() != sizes.max():
        return None
    try:
        means, levels = np.bincount(places, weights=changes) / sizes, {n: each[firsts] for n, each in factors.items()}
        return over_runs(means, codes[firsts], levels, {"prompt": prompts[firsts]})
    except DataError:
        return None


@dataclass(frozen=True)
class Difference:
    """A variant's figure minus a baseline's, with its 95% interval; no ends where there is nothing to say them from.

    Args:
        kind: `paired` (over the same examples), `against 50%` (against that very baseline, who has the figure 50% by
            definition), `unpaired` (from two standard errors), `identical` (every example scored the same under
            both), `these seeds only` (several seeds, of which some lack examples, so that they cannot be taken for
            random), `between groups` (of one group of examples minus of another).
        n: pairs, or the smaller of the two samples; `prompts` and `seeds`: of how many of each.
        stderr, degrees: the standard error and its degrees of freedom, None where there is none.
        p: two-sided, of the test that belongs to the interval; 1 where identical, None where there is no test.
        p_less, p_greater: its one-sided halves.
        p_holm: adjusted by Holm's method over a family of tests; see `adjusted`.
    """

    value: float
    low: float | None
    high: float | None
    kind: str
    n: int
    prompts: int | None = None
    seeds: int | None = None
    stderr: float | None = None
    degrees: float | None = None
    p: float | None = None
    p_less: float | None = None
    p_greater: float | None = None
    p_holm: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the adjusted test tells the difference from none."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def detectable(self) -> float | None:
        """The true difference that would have been found with power 0.8."""
        return None if self.stderr is None else minimum_detectable_effect(self.stderr)

    def mirrored(self) -> Difference:
        """The baseline's figure minus the variant's."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, value=-self.value, low=low, high=high, p_less=self.p_greater, p_greater=self.p_less)


def difference_of(test: PairedTest, kind: str) -> Difference | None:
    """What a paired test says; None where it rests on less than two pairs."""
    found = test.estimate
    if found.n < 2:
        return None
    sizes: dict[str, Any] = {"n": found.n, "prompts": found.prompts, "seeds": found.seeds}
    if not found.changed:
        return Difference(0.0, None, None, "identical", **sizes, p=1.0, p_less=1.0, p_greater=1.0)
    if found.seeds > 1 and found.over is None:
        kind = THESE_SEEDS
    if found.prompts < 2:
        return Difference(found.value, None, None, kind, **sizes)
    return Difference(
        found.value, test.low, test.high, kind, **sizes, stderr=found.stderr, degrees=found.degrees, p=test.p,
        p_less=test.less(), p_greater=test.greater(),
    )  # fmt: skip


def difference_from_errors(value: float, stderr: float, degrees: float, kind: str, n: int) -> Difference:
    """A difference by Student's t from a standard error, for figures that are no means of shared examples."""
    from scipy.special import stdtr, stdtrit

    if stderr <= 0 or degrees <= 0:
        return Difference(value, None, None, kind, n)
    half = float(stdtrit(degrees, 0.975)) * stderr
    less = float(stdtr(degrees, value / stderr))
    return Difference(
        value, value - half, value + half, kind, n, stderr=stderr, degrees=degrees,
        p=2 * float(stdtr(degrees, -abs(value) / stderr)), p_less=less,
        p_greater=float(stdtr(degrees, -value / stderr)),
    )  # fmt: skip


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """With Holm's p-values over all of them that were tested.

    Those in which no example differs have no part in it: nothing could have rejected them (Tarone 1990, Biometrics
    46:515).
    """
    tested = [place for place, one in enumerate(differences) if one.p is not None and one.kind != "identical"]
    ps = holm([p for place in tested if (p := differences[place].p) is not None]) if tested else []
    by_place = dict(zip(tested, ps, strict=True))
    return [
        replace(one, p_holm=by_place.get(place, 1.0 if one.kind == "identical" else None))
        for place, one in enumerate(differences)
    ]


@dataclass(frozen=True)
class Units:
    """One figure's examples, those of several variants side by side.

    Args:
        values: variant -> shape (units,), NaN where it has no such example; in the figure's own unit.
        seeds, prompts: shape (units,), labels; units of one prompt (turns, seeds, pairs) share it.
    """

    values: Mapping[str, Floats]
    seeds: np.ndarray[Any, Any]
    prompts: np.ndarray[Any, Any]
    seed_labels: np.ndarray[Any, Any]

    def levels(self, factors: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
        """The level of each factor in every unit, given the factors' levels by seed."""
        import numpy as np

        return {
            name: np.array([of[int(seed)] for seed in self.seed_labels])[self.seeds] for name, of in factors.items()
        }


def side_by_side(rows: pd.DataFrame, same: Sequence[str] = ()) -> Units | None:
    """Examples by variant; None where there is none, or one comes twice, so that which belong together is not known.

    Args:
        rows: variant, seed, subset, example_id, prompt_id, value (finite).
        same: further columns that examples must share to be the same.
    """
    import numpy as np
    import pandas as pd

    if rows.empty:
        return None
    keys = ["seed", "subset", "example_id", *same]
    # In the order of their keys, so that the same pairs meet the same flips, whatever order a table has them in.
    codes = rows.groupby(keys, sort=True, dropna=False, observed=True).ngroup().to_numpy()
    owners, members = pd.factorize(rows["variant"])
    table = np.full((len(members), int(codes.max()) + 1), np.nan)
    table[owners, codes] = rows["value"].to_numpy(dtype=float)
    if np.isfinite(table).sum() != len(rows):
        return None
    _, firsts = np.unique(codes, return_index=True)
    first = rows.iloc[firsts]
    prompts = [f"{part}\0{prompt}" for part, prompt in zip(first["subset"], first["prompt_id"], strict=True)]
    seeds, labels = pd.factorize(first["seed"])
    return Units(
        values={str(member): table[place] for place, member in enumerate(members)},
        seeds=seeds,
        prompts=np.array(prompts, dtype=object),
        seed_labels=np.asarray(labels),
    )
