"""Variants against each other: tested differences from every possible baseline.

All p-values are of the tests that belong to the printed intervals, so that the two never disagree: before Holm's
adjustment, p is below 0.05 where the 95% interval excludes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from radpo.stats.quantities import Name, Quantity, is_duel, is_reference, measure, of, quantile_of_t, upward

if TYPE_CHECKING:
    import numpy as np

    from radpo.core.run import Run

ALPHA = 0.05
"""Adjusted p-values below this count as a difference."""


@dataclass(frozen=True)
class Difference:
    """A variant's figure minus a baseline's, with its 95% interval; no ends where there is nothing to say them from.

    Args:
        kind: `paired` (over the same examples), `against 50%` (a win rate against that very baseline), `unpaired` (from
            two standard errors), `identical` (every example scored the same under both), `these seeds only` (several
            seeds, of which some lack examples, so that they cannot be taken for random).
        n: pairs, or the smaller of the two samples.
        p: of the two-sided t test that belongs to the interval; 1 where identical, None where there is no test.
        p_holm: adjusted by Holm's method over all of one baseline's tests.
    """

    value: float
    low: float | None
    high: float | None
    kind: str
    n: int
    p: float | None = None
    p_holm: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the adjusted test tells the difference from none."""
        return self.p_holm is not None and self.p_holm < ALPHA


Compared = dict[tuple[str, Name], Difference]
"""One baseline's differences, by variant and figure."""


def compare_all(run: Run, names: Sequence[Name]) -> dict[str, Compared]:
    """For every variant as the baseline, the others' differences in the named figures, Holm-adjusted together."""
    found: dict[str, Compared] = {variant: {} for variant in run.variants}
    for name in names:
        figures = {variant: quantity for variant in run.variants if (quantity := measure(run, variant, name))}
        examples = _examples(run, name, figures)
        for baseline, variant in combinations(run.variants, 2):
            change = _differ(run, variant, baseline, name, figures, examples)
            if change is None and (other := _differ(run, baseline, variant, name, figures, examples)) is not None:
                change = _mirror(other)
            if change is not None:
                found[baseline][variant, name] = change
                found[variant][baseline, name] = _mirror(change)
    return {baseline: _adjusted(differences) for baseline, differences in found.items()}


def leaders(run: Run, names: Sequence[Name], compared: dict[str, Compared]) -> dict[Name, str]:
    """Of each figure the one variant that tests tell from every other, Holm-adjusted over the others."""
    from radpo.stats.estimates import holm

    found = {}
    for name in names:
        up = upward(run, name)
        if up is None:
            continue
        sign = 1 if up else -1
        scored = {
            variant: sign * quantity.value
            for variant in run.variants
            if (quantity := measure(run, variant, name)) and not is_reference(run, variant, name)
        }
        if len(scored) < 2:
            continue
        first = max(scored, key=lambda variant: scored[variant])
        # The baseline of a win rate has none of its own, and the reference no change: rivals all the same.
        rivals = [v for v in run.variants if v != first and (measure(run, v, name) or (first, name) in compared[v])]
        tests = [compared[rival].get((first, name)) for rival in rivals]
        ps = [test.p for test in tests if test is not None and test.p is not None and sign * test.value > 0]
        if len(ps) == len(rivals) and max(holm(ps)) < ALPHA:
            found[name] = first
    return found


@dataclass(frozen=True)
class _Examples:
    """A figure's examples side by side.

    Args:
        values: variant -> shape (units,), NaN where it has no such example; in the figure's own unit.
        seeds, questions: shape (units,); units of one question (the turns of a conversation) share it.
    """

    values: dict[str, np.ndarray[Any, Any]]
    seeds: np.ndarray[Any, Any]
    questions: np.ndarray[Any, Any]


def _examples(run: Run, name: Name, figures: dict[str, Quantity]) -> _Examples | None:
    """The examples that a figure is the mean of, for those variants whose figure is exactly that."""
    import numpy as np
    import pandas as pd

    metric, scale, offset = ("preference", 100.0, -100.0) if name.metric == "win_rate" else (name.metric, 1.0, 0.0)
    rows = of(run.examples, benchmark=name.benchmark, metric=metric)
    rows = rows if name.subset == "all" else of(rows, subset=name.subset)
    values = scale * rows["value"].to_numpy(dtype=float, na_value=np.nan) + offset
    rows, values = rows[np.isfinite(values)], values[np.isfinite(values)]
    if rows.empty:
        return None
    # Answers that were compared with different answers are not the same example, whatever their id.
    keys = ["seed", "subset", "example_id", "baseline_output"]
    codes, units = pd.factorize(pd.MultiIndex.from_frame(rows[keys].astype("string").fillna("")))
    owners, members = pd.factorize(rows["variant"])
    table = np.full((len(members), len(units)), np.nan)
    table[owners, codes] = values
    if np.isfinite(table).sum() != len(values):
        return None  # an example comes twice, and which belongs to which cannot be said
    means = {str(member): table[place] for place, member in enumerate(members)}
    kept = {
        variant: found
        for variant, found in means.items()
        if variant in figures and math.isclose(np.nanmean(found), figures[variant].value, rel_tol=1e-6, abs_tol=1e-9)
    }
    seeds, subset, identity = (np.asarray(units.get_level_values(level), dtype=object) for level in range(3))
    # The turns of one MT-Bench question share the id before /turn-N: they are no independent facts.
    questions = [f"{part}\0{one.split('/turn-')[0]}" for part, one in zip(subset, identity, strict=True)]
    return _Examples(kept, pd.factorize(seeds)[0], pd.factorize(np.array(questions, dtype=object))[0])


def _differ(
    run: Run, variant: str, baseline: str, name: Name, figures: dict[str, Quantity], examples: _Examples | None
) -> Difference | None:
    """One difference; None where either side was not measured, or the two did not do the same."""
    own, base = figures.get(variant), figures.get(baseline)
    own_values, base_values = (None if examples is None else examples.values.get(v) for v in (variant, baseline))
    if own is not None and base is None and is_duel(name):
        if run.opponent(variant, name.benchmark) != baseline:
            return None
        if examples is not None and own_values is not None:
            return _over_examples(own_values - 50, examples, "against 50%")
        return _tested(own.value - 50, _stderr(own), own.degrees, "against 50%", own.n)
    if own is None or base is None or not run.comparable(variant, baseline):
        return None
    if examples is not None and own_values is not None and base_values is not None:
        paired = _over_examples(own_values - base_values, examples, "paired")
        if paired is not None:
            return paired
    if run.source_of[variant] != run.source_of[baseline]:
        return None
    exact = [is_reference(run, side, name) for side in (variant, baseline)]
    return _unpaired(own, base, exact)


def _over_examples(changes: Any, examples: _Examples, kind: str) -> Difference | None:
    """The mean change: with one seed clustered by question, with several, seeds too taken for random.

    Args:
        changes: shape (units,), NaN where an example is not shared.
    """
    import numpy as np

    from radpo.core.errors import DataError
    from radpo.stats.estimates import mean
    from radpo.stats.mixed import over_seeds

    shared = np.isfinite(changes)
    changes, seeds, questions = changes[shared], examples.seeds[shared], examples.questions[shared]
    if len(changes) < 2:
        return None
    if not changes.any():
        return Difference(0.0, None, None, "identical", len(changes), p=1.0)
    if len(set(seeds)) > 1:
        cells = seeds * (questions.max() + 1) + questions
        _, firsts, places, sizes = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
        try:
            if sizes.min() == sizes.max():
                means = np.bincount(places, weights=changes) / sizes
                estimate = over_seeds(means, seeds[firsts], questions[firsts])
                return _tested(estimate.value, estimate.stderr, estimate.degrees, kind, len(changes))
        except DataError:
            pass  # not every seed has every question
        kind = "these seeds only"
    found = mean(changes, clusters=questions)
    return _tested(found.value, found.stderr or 0.0, found.clusters - 1, kind, found.n)


def _unpaired(own: Quantity, base: Quantity, exact: Sequence[bool]) -> Difference:
    """From two standard errors; `exact` says whose figure holds by definition and needs none."""
    errors = (_stderr(own), _stderr(base))
    known = all(error > 0 or sure for error, sure in zip(errors, exact, strict=True))
    used = [side.degrees for side, error in zip((own, base), errors, strict=True) if error > 0]
    degrees = min(used, default=0)
    change, n = own.value - base.value, min(own.n, base.n)
    return _tested(change, math.hypot(*errors) if known else 0.0, degrees, "unpaired", n)


def _stderr(quantity: Quantity) -> float:
    """The standard error that a quantity's interval amounts to, 0 where it has none."""
    return 0.0 if quantity.half is None else quantity.half / quantile_of_t(quantity.degrees)


def _tested(value: float, stderr: float, degrees: float, kind: str, n: int) -> Difference:
    from scipy.special import stdtr

    if stderr <= 0 or degrees <= 0:
        return Difference(value, None, None, kind, n)
    half = quantile_of_t(degrees) * stderr
    return Difference(value, value - half, value + half, kind, n, p=2 * float(stdtr(degrees, -abs(value) / stderr)))


def _mirror(change: Difference) -> Difference:
    low, high = (None if end is None else -end for end in (change.high, change.low))
    return replace(change, value=-change.value, low=low, high=high)


def _adjusted(differences: Compared) -> Compared:
    from radpo.stats.estimates import holm

    tested = [key for key, change in differences.items() if change.p is not None]
    adjusted = holm([p for key in tested if (p := differences[key].p) is not None]) if tested else []
    return {
        **differences,
        **{key: replace(differences[key], p_holm=p) for key, p in zip(tested, adjusted, strict=True)},
    }
