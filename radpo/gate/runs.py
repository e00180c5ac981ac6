"""The gate's view of two runs: primary metrics and paired examples."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import ConfigError, DataError
from radpo.core.run import Run, load_run
from radpo.core.suggestions import did_you_mean
from radpo.stats.weights import mean_values

if TYPE_CHECKING:
    import pandas as pd

MetricName = tuple[str, str, str, str]
"""variant, benchmark, subset, metric."""
METRIC = ["variant", "benchmark", "subset", "metric"]
_EXAMPLE = ["seed", "subset", "example_id"]
_PAIR = ["variant", "benchmark", "metric", *_EXAMPLE]
_TOLD = ["value", "prompt", "baseline_output", "prompt_id", "detail"]


def read_run(folder: Path) -> Run:
    """A run directory's scored examples and results.

    Raises:
        DataError: a file is missing or malformed, or an example is there twice.
    """
    run = load_run(folder)
    repeated = run.examples.duplicated(_PAIR)
    if repeated.any():
        row = run.examples.loc[repeated].iloc[0]
        raise DataError(
            f"{folder / 'examples.parquet'}: example {row['example_id']!r} of {row['benchmark']} is there twice for "
            f"variant {row['variant']!r}, seed {row['seed']}"
        )
    return replace(run, examples=run.examples[run.examples["value"].notna()])


def narrowed(run: Run, variants: Collection[str] | None) -> Run:
    """A run's figures and examples of some variants; of all where none is named."""
    if variants is None:
        return run
    results, examples = (frame[frame["variant"].isin(list(variants))] for frame in (run.results, run.examples))
    return replace(run, results=results, examples=examples)


def with_names(baseline: Run, candidate: Run, against: Mapping[str, str]) -> Run:
    """The baseline with its variants' figures and examples once more, under the candidate's names for them.

    Args:
        against: the baseline's variant by the candidate's; what the baseline had of the latter's name gives way.

    Raises:
        ConfigError: there is no such variant.
    """
    import pandas as pd

    for run, names in ((candidate, against), (baseline, against.values())):
        there = sorted(set(run.results["variant"]))
        for name in names:
            if name not in there:
                raise ConfigError(
                    f"--against: {run.sources[0].folder} has no variant {name!r}; there are {', '.join(there)}"
                    f"{did_you_mean(name, there)}"
                )

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        kept = frame[~frame["variant"].isin(list(against))]
        parts = [frame[frame["variant"] == other].assign(variant=name) for name, other in against.items()]
        return pd.concat([kept, *parts], ignore_index=True)

    return replace(baseline, results=renamed(baseline.results), examples=renamed(baseline.examples))


def primaries(baseline: Run, candidate: Run) -> dict[MetricName, bool | None]:
    """The primary metrics of either run with their direction, None where neither is better, in a fixed order."""
    import pandas as pd

    both = pd.concat([baseline.results, candidate.results])
    primary = both[both["primary"].fillna(False)].sort_values(METRIC, kind="stable").drop_duplicates(METRIC)
    names = primary[METRIC].itertuples(index=False, name=None)
    directions = [None if pd.isna(value) else bool(value) for value in primary["higher_is_better"]]
    return dict(zip(names, directions, strict=True))


def has_metric(run: Run, name: MetricName) -> bool:
    """Whether a run has a result of that name."""
    return bool((run.results[METRIC] == list(name)).all(axis=1).any())


def is_mean(run: Run, name: MetricName) -> bool:
    """Whether a figure is the mean of its examples: as its benchmark says, or where nobody does, as the numbers do."""
    variant, benchmark, subset, metric = name
    if run.describes(benchmark, metric):
        return True
    figure = run.results.loc[(run.results[METRIC] == list(name)).all(axis=1), "value"].mean()
    rows = run.examples[(run.examples[["variant", "benchmark", "metric"]] == [variant, benchmark, metric]).all(axis=1)]
    rows = rows if subset == "all" else rows[rows["subset"] == subset]
    return math.isclose(rows["value"].mean(), figure, rel_tol=1e-6, abs_tol=1e-9)


def paired(name: MetricName, baseline: Run, candidate: Run) -> pd.DataFrame:
    """Both runs' examples of a metric, in the metric's own unit, with the prompt each belongs to.

    Returns:
        columns seed, subset, example_id, cluster, and each of value, prompt, baseline_output and detail with _baseline
        and _candidate (missing where the other run alone has the example); sorted by seed, subset and example.
    """
    variant, benchmark, subset, metric = name
    described = candidate.metric(benchmark, metric)
    scale, offset = described.example_scale

    def chosen(run: Run) -> pd.DataFrame:
        found = run.examples_of(variant, benchmark, described.example_metric or "")
        found = found if subset == "all" else found[found["subset"] == subset]
        return found.assign(value=mean_values(found, described))[[*_EXAMPLE, *_TOLD]]

    # In the order in which one run's variants are compared, so that the same pairs give the same p-value.
    merged = chosen(baseline).merge(
        chosen(candidate), on=_EXAMPLE, how="outer", sort=True, suffixes=("_baseline", "_candidate")
    )
    prompts = merged["prompt_id_baseline"].fillna(merged["prompt_id_candidate"])
    return merged.assign(
        value_baseline=scale * merged["value_baseline"] + offset,
        value_candidate=scale * merged["value_candidate"] + offset,
        cluster=[f"{part}\0{prompt}" for part, prompt in zip(merged["subset"], prompts, strict=True)],
    )


def in_both(pairs: pd.DataFrame) -> pd.DataFrame:
    """The examples that both runs have."""
    return pairs[pairs["value_baseline"].notna() & pairs["value_candidate"].notna()]
