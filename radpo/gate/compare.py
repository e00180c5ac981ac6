"""The gate's comparison of two run directories: a paired test of every primary metric, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import ConfigError
from radpo.core.run import Run
from radpo.gate.comparable import differing_examples, differing_settings, remarks, same_models
from radpo.gate.gate import Finding, Tested, judge
from radpo.gate.margins import OFF, Margins, check_margins, find_margin
from radpo.gate.minutes import seconds_by_benchmark
from radpo.gate.runs import (
    MetricName,
    has_metric,
    in_both,
    is_mean,
    narrowed,
    paired,
    primaries,
    read_run,
    with_names,
)
from radpo.gate.verdict import NotGated, Row, Verdict
from radpo.stats.paired import FLIPS, paired_tests

if TYPE_CHECKING:
    import pandas as pd


def compare(
    baseline_dir: Path,
    candidate_dir: Path,
    *,
    alpha: float = 0.05,
    margins: Margins | None = None,
    variants: Collection[str] | None = None,
    against: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Verdict:
    """Compare two run directories example by example.

    For every primary metric the examples of both runs are paired by variant, benchmark, subset, example, seed and
    metric, and tested as `radpo.stats.paired` tests all differences; examples of one prompt (the turns of one question)
    count as one cluster, and several seeds are taken for random. What fails, and what that promises, is explained in
    `radpo.gate.gate`. With one seed it is a verdict on these checkpoints: what another training seed would have made of
    them, it does not know.

    Args:
        alpha: the chance of a false alarm over all metrics, between 0 and 1.
        margins: by metric (see `radpo.gate.margins`), the drop that is to be found, in the metric's own unit
            (percent for win_rate, nats for log-likelihoods).
        variants: those to look at; all, unless given.
        against: by variant of the candidate, the variant of the baseline that it is to be compared with: a new one with
            the one that it is to beat.
        seed: of the sign flips.

    Raises:
        ConfigError: an option is out of range.
        DataError: a run directory lacks a file or a file is malformed.
    """
    margins = margins or {}
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha {alpha}: must lie between 0 and 1")
    baseline, candidate = read_run(baseline_dir), read_run(candidate_dir)
    if against:
        baseline = with_names(baseline, candidate, against)
    baseline, candidate = (narrowed(run, variants) for run in (baseline, candidate))
    metrics = primaries(baseline, candidate)
    if metrics:
        check_margins(margins, [name[1:] for name in metrics])
    pairs, not_gated = _gated(metrics, margins, baseline, candidate)
    differences = differing_settings(baseline, candidate, dict.fromkeys(benchmark for _, benchmark, *_ in pairs))
    notes = [f"{name} is compared with the baseline's {other}." for name, other in (against or {}).items()]
    notes += remarks(baseline, candidate)
    same_model = same_models(baseline, candidate)
    for name, frame in pairs.items():
        for said, forbids in differing_examples(name, frame, same_model):
            kept, sentence = (differences, said) if forbids else (notes, f"{said}.")
            if sentence not in kept:
                kept.append(sentence)
    if not pairs:
        reasons = "; ".join(sorted({item.reason for item in not_gated})) or "neither run has a primary metric"
        differences.append(f"they have nothing to compare: {reasons}")
    of = {name: _margin(margins, name, candidate) or 0.0 for name in pairs}
    rows = [] if differences else _rows(pairs, metrics, of, alpha, seed, candidate.factors)
    return Verdict(
        baseline=baseline_dir.resolve().name,
        candidate=candidate_dir.resolve().name,
        alpha=alpha,
        rows=tuple(rows),
        not_gated=tuple(not_gated),
        differences=tuple(differences),
        notes=tuple(notes),
        seconds=seconds_by_benchmark(candidate.manifest, dict.fromkeys(row.benchmark for row in rows)),
    )


def _margin(margins: Margins, name: MetricName, run: Run) -> float | None:
    _, benchmark, subset, metric = name
    return find_margin(margins, benchmark, subset, run.metric(benchmark, metric))


def _gated(
    metrics: dict[MetricName, bool | None], margins: Margins, baseline: Run, candidate: Run
) -> tuple[dict[MetricName, pd.DataFrame], list[NotGated]]:
    """The pairs of every metric that can be tested, and the reasons for those that cannot."""
    pairs: dict[MetricName, pd.DataFrame] = {}
    not_gated = []
    for name, higher_is_better in metrics.items():
        frame = paired(name, baseline, candidate)
        reason = "it is left out by --margin" if _margin(margins, name, candidate) is OFF else None
        reason = reason or _incomparable_reason(name, higher_is_better, frame, baseline, candidate)
        if reason is None:
            pairs[name] = frame
        else:
            not_gated.append(NotGated(*name, reason))
    return pairs, not_gated


def _incomparable_reason(
    name: MetricName, higher_is_better: bool | None, pairs: pd.DataFrame, baseline: Run, candidate: Run
) -> str | None:
    for run, which in ((baseline, "baseline"), (candidate, "candidate")):
        if not has_metric(run, name):
            return f"the {which} run does not have it"
    if higher_is_better is None:
        return "neither direction is better"
    if pairs.empty:
        return "it has no per-example rows"
    if in_both(pairs).empty:
        return "no example of one run is in the other (other seeds or other questions)"
    if not (is_mean(baseline, name) and is_mean(candidate, name)):
        return "no Metric describes it, and it is not the mean of its examples"
    return None


def _rows(
    pairs: dict[MetricName, pd.DataFrame],
    metrics: dict[MetricName, bool | None],
    margins: Mapping[MetricName, float],
    alpha: float,
    seed: int,
    factors: Mapping[str, Mapping[int, int]],
) -> list[Row]:
    import numpy as np

    # A drawn p-value cannot fall below 1 / resamples, and Holm multiplies it by the number of metrics: draw so many
    # that a clear regression can still be called one.
    resamples = min(max(FLIPS, math.ceil(10 * len(pairs) / alpha)), 1_000_000)
    both = {name: in_both(frame) for name, frame in pairs.items()}
    tests: dict[MetricName, Tested] = {}
    for names in _with_the_same_pairs(both):
        columns = [both[name]["value_candidate"] - both[name]["value_baseline"] for name in names]
        changes, first = np.column_stack(columns).astype(float), both[names[0]]
        prompts, seeds = first["cluster"].to_numpy(), first["seed"].to_numpy()
        levels = {factor: [of[int(one)] for one in seeds] for factor, of in factors.items()}
        found = paired_tests(changes, prompts, seeds, factors=levels, resamples=resamples, seed=seed)
        for name, test in zip(names, found, strict=True):
            assert test is not None
            tests[name] = Tested(test, margins[name], bool(metrics[name]))
    findings = judge([tests[name] for name in pairs], alpha=alpha)
    return [
        _row(name, both[name], len(frame) - len(both[name]), tests[name], finding)
        for (name, frame), finding in zip(pairs.items(), findings, strict=True)
    ]


def _with_the_same_pairs(both: Mapping[MetricName, pd.DataFrame]) -> list[list[MetricName]]:
    """The metrics that are of the same prompts and seeds in the same order, so that one drawing of flips is for all."""
    import pandas as pd

    found: dict[tuple[bytes, bytes], list[MetricName]] = {}
    for name, rows in both.items():
        key = pd.util.hash_array(rows["cluster"].to_numpy(dtype=object)).tobytes(), rows["seed"].to_numpy().tobytes()
        found.setdefault(key, []).append(name)
    return list(found.values())


def _row(name: MetricName, both: pd.DataFrame, unpaired: int, tested: Tested, finding: Finding) -> Row:
    estimate = tested.test.estimate
    variant, benchmark, subset, metric = name
    return Row(
        variant=variant,
        benchmark=benchmark,
        subset=subset,
        metric=metric,
        margin=tested.margin,
        baseline=float(both["value_baseline"].mean()),
        candidate=float(both["value_candidate"].mean()),
        difference=estimate.value,
        low=tested.test.low,
        high=tested.test.high,
        p=tested.test.p if estimate.prompts > 1 else None,
        pairs=estimate.n,
        prompts=estimate.prompts,
        unpaired=unpaired,
        changed=estimate.changed,
        seeds=estimate.seeds,
        fell_most=_fell_most(both, tested.up),
        **asdict(finding),
    )


def _fell_most(both: pd.DataFrame, up: bool, most: int = 3) -> tuple[str, ...]:
    """The ids of the examples that lost most, over all seeds; none that did not lose."""
    gains = (both["value_candidate"] - both["value_baseline"]) * (1 if up else -1)
    lost = gains.groupby(both["example_id"], sort=True).mean().sort_values(kind="stable").head(most)
    return tuple(str(name) for name in lost[lost < 0].index)
