"""The one comparison of a run's variants: differences of figures, tested against every possible baseline.

It is computed once, when a run ends, and kept as comparisons.parquet; report, `radpo analyze compare` and gate read it,
or call the same functions. How a difference is tested is explained in `radpo.stats.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.results import comparisons_frame
from radpo.stats.contrasts import BENCHMARK, HIGH_SCORE, between_groups, likelihood_examples
from radpo.stats.estimates import holm
from radpo.stats.paired import (
    ALPHA,
    Difference,
    Units,
    adjusted,
    difference_from_errors,
    difference_of,
    paired_tests,
    side_by_side,
)
from radpo.stats.quantities import (
    Name,
    Quantity,
    is_reference,
    measure,
    names_of,
    of,
    primary_names,
    quantile_of_t,
    upward,
)
from radpo.stats.weights import mean_values

if TYPE_CHECKING:
    import pandas as pd

    from radpo.core.run import Run

PRIMARY, SECONDARY = "primary", "secondary"
"""The families over which p-values are adjusted: the figures that sum the benchmarks up, and the others."""

Compared = dict[tuple[str, Name], Difference]
"""One baseline's differences, by variant and figure."""


def compared(run: Run) -> dict[str, Compared]:
    """The primary figures' differences by baseline: as comparisons.parquet has them, else worked out."""
    if run.comparisons is None:
        return compare_all(run, primary_names(run))
    return from_frame(of(run.comparisons, family=PRIMARY), run.variants)


def comparisons(run: Run) -> pd.DataFrame:
    """Everything of a run that is compared: what comparisons.parquet holds, see `radpo.core.run.Run`.

    Primary figures are compared for every variant as the baseline, the others with the run's own baseline only.
    """
    import pandas as pd

    primary = compare_all(run, primary_names(run))
    return pd.concat(
        [_frame(primary, PRIMARY), _frame({run.baseline: secondary(run, run.baseline)}, SECONDARY)], ignore_index=True
    )


def with_comparisons(run: Run) -> Run:
    """The run with everything compared that its directory does not hold."""
    return run if run.comparisons is not None else replace(run, comparisons=comparisons(run))


def against(run: Run, baseline: str, *, high_score: float | None = None) -> pd.DataFrame:
    """All figures' differences from one baseline, the rows of comparisons.parquet where it has them.

    Args:
        high_score: from which score on a response counts as high, where that is not to be the run's own setting.

    Raises:
        DataError: there is no such variant, or it is the only one.
    """
    import pandas as pd

    if baseline not in run.variants:
        raise DataError(f"there is no variant {baseline!r} to compare with; there are {', '.join(run.variants)}")
    if len(run.variants) < 2:
        raise DataError(f"{baseline!r} is the only variant, so there is nothing to compare")
    if high_score is not None and high_score != high_score_of(run):
        # The examples were sorted into high and low when the run was made; the likelihoods can be sorted anew.
        kept = run.examples[run.examples["benchmark"] != BENCHMARK]
        run = replace(run.with_setting(BENCHMARK, "high_score", high_score), examples=kept)
    if run.comparisons is not None and baseline == run.baseline:
        return of(run.comparisons, baseline=baseline).reset_index(drop=True)
    rest = _frame({baseline: secondary(run, baseline)}, SECONDARY)
    return pd.concat([_frame({baseline: compared(run)[baseline]}, PRIMARY), rest], ignore_index=True)


def secondary(run: Run, baseline: str) -> Compared:
    """The differences of all figures but the primary ones that are means of examples, from one baseline."""
    scored = _scored(run)
    primary = set(primary_names(run))
    held_out = [
        Name(BENCHMARK, str(goal), metric)
        for (benchmark, metric), rows in scored.items()
        if benchmark == BENCHMARK
        for goal in rows["subset"].unique()
    ]
    known = dict.fromkeys([*names_of(run.results), *held_out])
    names = [name for name in known if name not in primary and _rows(run, name, scored) is not None]
    found = _compare(run, names, [baseline], scored)[baseline]
    if run.likelihoods is not None:
        found |= _between_groups(run, baseline, run.likelihoods)
    return dict(zip(found, adjusted(list(found.values())), strict=True))


def _between_groups(run: Run, baseline: str, likelihoods: pd.DataFrame) -> Compared:
    known = {variant for variant in likelihoods["variant"].unique() if run.comparable(variant, baseline)}
    if baseline not in known:
        return {}
    there = likelihoods[likelihoods["variant"].isin(list(known))]
    return {
        (variant, Name(BENCHMARK, goal, metric)): change
        for (variant, goal, metric), change in between_groups(there, baseline, high_score=high_score_of(run)).items()
    }


def high_score_of(run: Run) -> float:
    """From which score on the run's unlearning counts a response as high-scored."""
    return float(run.setting(BENCHMARK, "high_score", HIGH_SCORE))


def compare_all(run: Run, names: Sequence[Name], baselines: Sequence[str] | None = None) -> dict[str, Compared]:
    """For every variant (or those given) as the baseline, the others' differences, Holm-adjusted together."""
    return _compare(run, names, run.variants if baselines is None else baselines, _scored(run))


def _compare(run: Run, names: Sequence[Name], baselines: Sequence[str], scored: Scored) -> dict[str, Compared]:
    found: dict[str, Compared] = {variant: {} for variant in run.variants if variant in baselines}
    pairs = [pair for pair in combinations(run.variants, 2) if not found.keys().isdisjoint(pair)]
    for name in names:
        for (baseline, variant), change in _differences(run, name, pairs, scored).items():
            if baseline in found:
                found[baseline][variant, name] = change
            if variant in found:
                found[variant][baseline, name] = change.mirrored()
    return {
        baseline: dict(zip(differences, adjusted(list(differences.values())), strict=True))
        for baseline, differences in found.items()
    }


def leaders(run: Run, names: Sequence[Name], compared: dict[str, Compared]) -> dict[Name, str]:
    """Of each figure the one variant that tests tell from every other, Holm-adjusted over the others."""
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


def from_frame(frame: pd.DataFrame, variants: Sequence[str]) -> dict[str, Compared]:
    """Rows of comparisons.parquet as differences by baseline."""
    found: dict[str, Compared] = {variant: {} for variant in variants}
    fields = [name for name in Difference.__dataclass_fields__ if name in frame.columns]
    whole = frame.astype(object).where(frame.notna(), None)
    for row in whole.to_dict("records"):
        name = Name(*(str(row[key]) for key in Name._fields))
        change = Difference(**{key: row[key] for key in fields})
        found.setdefault(str(row["baseline"]), {})[str(row["variant"]), name] = change
    return found


def _frame(compared: Mapping[str, Compared], family: str) -> pd.DataFrame:
    return comparisons_frame(
        {**asdict(change), **name._asdict(), "variant": variant, "baseline": baseline, "family": family,
         "detectable": change.detectable}
        for baseline, differences in compared.items()
        for (variant, name), change in differences.items()
    )  # fmt: skip


Scored = Mapping[tuple[str, str], "pd.DataFrame"]
"""Examples with a value, by benchmark and metric."""


def _scored(run: Run) -> Scored:
    """The run's examples, and of held-out responses, whose examples are log-likelihoods, those of every group."""
    import numpy as np

    columns = [
        "variant",
        "seed",
        "benchmark",
        "subset",
        "example_id",
        "prompt_id",
        "baseline_output",
        "metric",
        "value",
        "detail",
    ]
    rows = run.examples[columns]
    rows = rows[np.isfinite(rows["value"].to_numpy(dtype=float, na_value=np.nan))]
    found = {(str(b), str(m)): part for (b, m), part in rows.groupby(["benchmark", "metric"], sort=False)}
    if run.likelihoods is not None:
        responses = likelihood_examples(run.likelihoods, high_score=high_score_of(run))
        parts = responses.groupby("metric", sort=False)
        found = {**{(BENCHMARK, str(m)): part.assign(baseline_output=None) for m, part in parts}, **found}
    return found


def _rows(run: Run, name: Name, scored: Scored) -> pd.DataFrame | None:
    """The examples that a figure is the mean of, in its own unit; None where there are none."""
    metric = run.metric(name.benchmark, name.metric)
    rows = None if metric.example_metric is None else scored.get((name.benchmark, metric.example_metric))
    if rows is None:
        return None
    rows = rows if name.subset == "all" else of(rows, subset=name.subset)
    scale, offset = metric.example_scale
    return None if rows.empty else rows.assign(value=scale * mean_values(rows, metric) + offset)


def _units(run: Run, name: Name, figures: Mapping[str, Quantity], scored: Scored) -> Units | None:
    """A figure's examples side by side.

    Of a metric against an opponent, and of one that nobody describes, only those of variants whose figure is exactly
    the mean of their examples.
    """
    import numpy as np

    rows = _rows(run, name, scored)
    # Answers that were compared with different answers are not the same example, whatever their id.
    units = None if rows is None else side_by_side(rows, same=["baseline_output"])
    if units is None:
        return None
    if run.describes(name.benchmark, name.metric) and run.metric(name.benchmark, name.metric).even is None:
        return units
    kept = {
        variant: values
        for variant, values in units.values.items()
        if variant in figures and math.isclose(np.nanmean(values), figures[variant].value, rel_tol=1e-6, abs_tol=1e-9)
    }
    return replace(units, values=kept)


def _differences(
    run: Run, name: Name, pairs: Sequence[tuple[str, str]], scored: Scored
) -> dict[tuple[str, str], Difference]:
    """(baseline, variant) -> how the variant's figure differs from the baseline's.

    Pairs of which either side was not measured, or that did not do the same, are left out.
    """
    import numpy as np

    figures = {variant: quantity for variant in run.variants if (quantity := measure(run, variant, name))}
    units = _units(run, name, figures, scored)
    found: dict[tuple[str, str], Difference] = {}
    samples: dict[tuple[str, str], tuple[Any, str]] = {}
    for baseline, variant in pairs:
        for own, base in ((variant, baseline), (baseline, variant)):
            change = _one(run, name, own, base, figures, units)
            if isinstance(change, Difference):
                found[base, own] = change
            elif change is not None:
                samples[base, own] = change
            if change is not None:
                break
    if samples and units is not None:
        changes = np.column_stack([changes for changes, _ in samples.values()])
        tests = paired_tests(changes, units.prompts, units.seeds, factors=units.levels(run.factors))
        for (pair, (_, kind)), test in zip(samples.items(), tests, strict=True):
            if test is not None and (tested := difference_of(test, kind)) is not None:
                found[pair] = tested
    # As asked for: the other way round where only the baseline has a figure.
    return {pair: found[pair] if pair in found else found[pair[::-1]].mirrored() for pair in pairs
            if pair in found or pair[::-1] in found}  # fmt: skip


def _one(
    run: Run, name: Name, own: str, base: str, figures: Mapping[str, Quantity], units: Units | None
) -> Difference | tuple[Any, str] | None:
    """A variant's figure minus another's: from standard errors, or as the pairs' changes and what they are called."""
    import numpy as np

    even = run.metric(name.benchmark, name.metric).even
    mine, theirs = figures.get(own), figures.get(base)
    my_values, their_values = (None if units is None else units.values.get(side) for side in (own, base))
    if mine is not None and theirs is None and their_values is None and even is not None:
        if run.opponent(own, name.benchmark) != base:
            return None
        kind = f"against {even:g}{'%' if even == 50 else ''}"
        if my_values is not None and np.isfinite(my_values).sum() > 1:
            return my_values - even, kind
        return difference_from_errors(mine.value - even, _stderr(mine), mine.degrees, kind, mine.n)
    if not run.comparable(own, base):
        return None
    if my_values is not None and their_values is not None and np.isfinite(my_values - their_values).sum() > 1:
        return my_values - their_values, "paired"
    if mine is None or theirs is None or run.source_of[own] != run.source_of[base]:
        return None
    return _unpaired(mine, theirs, [is_reference(run, side, name) for side in (own, base)])


def _unpaired(own: Quantity, base: Quantity, exact: Sequence[bool]) -> Difference:
    """From two standard errors; `exact` says whose figure holds by definition and needs none."""
    errors = (_stderr(own), _stderr(base))
    known = all(error > 0 or sure for error, sure in zip(errors, exact, strict=True))
    used = [side.degrees for side, error in zip((own, base), errors, strict=True) if error > 0]
    stderr = math.hypot(*errors) if known else 0.0
    n = min(own.n, base.n)
    return difference_from_errors(own.value - base.value, stderr, min(used, default=0), "unpaired", n)


def _stderr(quantity: Quantity) -> float:
    """The standard error that a quantity's interval amounts to, 0 where it has none."""
    return 0.0 if quantity.half is None else quantity.half / quantile_of_t(quantity.degrees)
