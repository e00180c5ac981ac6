"""Run directories as the gate reads them: a folder comes in; tables, settings and paired examples go out."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from radpo.core.errors import DataError
from radpo.core.results import EXAMPLE_DTYPES, RESULT_DTYPES

if TYPE_CHECKING:
    import pandas as pd

MetricName = tuple[str, str, str, str]
"""variant, benchmark, subset, metric."""
METRIC = ["variant", "benchmark", "subset", "metric"]
# Where a benchmark's figure is no plain mean of its per-example figure, what that is called, and how one becomes the
# other: value = scale * example + offset.
_PER_EXAMPLE: dict[tuple[str, str], tuple[str, float, float]] = {
    ("alpaca-eval", "win_rate"): ("preference", 100.0, -100.0)
}
_PAIR = ["variant", "benchmark", "subset", "example_id", "seed", "metric"]


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds. `matrix` is None where there is no matrix.yaml."""

    folder: Path
    manifest: Mapping[str, Any]
    matrix: Mapping[str, Any] | None
    results: pd.DataFrame
    examples: pd.DataFrame


def read_run(folder: Path, variants: Collection[str] | None = None) -> RunFiles:
    """A run directory, with all its variants unless some are named.

    Raises:
        DataError: a file is missing or malformed, or an example is there twice.
    """
    manifest = _document(folder / "manifest.json", json.loads)
    matrix = _document(folder / "matrix.yaml", yaml.safe_load) if (folder / "matrix.yaml").is_file() else None
    results, examples = _table(folder / "results.parquet", RESULT_DTYPES), _examples(folder)
    if variants is not None:
        results, examples = (frame[frame["variant"].isin(list(variants))] for frame in (results, examples))
    return RunFiles(folder, manifest, matrix, results, examples)


def _document(path: Path, parse: Any) -> dict[str, Any]:
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give a run directory as `radpo run` makes"
        ) from error
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a mapping, found {type(document).__name__}")
    return document


def _table(path: Path, dtypes: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); give a run directory as `radpo run` makes") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: no Parquet file: {error}") from error
    missing = [name for name in dtypes if name not in frame.columns]
    if missing:
        raise DataError(f"{path}: lacks the column(s) {', '.join(missing)}")
    return frame.astype(dict(dtypes))


def _examples(folder: Path) -> pd.DataFrame:
    frame = _table(folder / "examples.parquet", EXAMPLE_DTYPES)
    repeated = frame.duplicated(_PAIR)
    if repeated.any():
        row = frame.loc[repeated].iloc[0]
        raise DataError(
            f"{folder / 'examples.parquet'}: example {row['example_id']!r} of {row['benchmark']} is there twice for "
            f"variant {row['variant']!r}, seed {row['seed']}"
        )
    return frame[frame["value"].notna()]


def primaries(baseline: RunFiles, candidate: RunFiles) -> dict[MetricName, bool | None]:
    """The primary metrics of either run with their direction, None where neither is better, in a fixed order."""
    import pandas as pd

    both = pd.concat([baseline.results, candidate.results])
    primary = both[both["primary"].fillna(False)].sort_values(METRIC, kind="stable").drop_duplicates(METRIC)
    names = primary[METRIC].itertuples(index=False, name=None)
    directions = [None if pd.isna(value) else bool(value) for value in primary["higher_is_better"]]
    return dict(zip(names, directions, strict=True))


def has_metric(run: RunFiles, name: MetricName) -> bool:
    """Whether a run has a result of that name."""
    return bool((run.results[METRIC] == list(name)).all(axis=1).any())


def paired(name: MetricName, baseline: RunFiles, candidate: RunFiles) -> pd.DataFrame:
    """Both runs' examples of a metric, in the metric's own unit, with the prompt each belongs to.

    Returns:
        columns example_id, cluster, and each of value, prompt, baseline_output and detail with _baseline and _candidate
        (missing where the other run alone has the example); sorted by pair.
    """
    variant, benchmark, subset, metric = name
    example_metric, scale, offset = _PER_EXAMPLE.get((benchmark, metric), (metric, 1.0, 0.0))

    def chosen(frame: pd.DataFrame) -> pd.DataFrame:
        rows = frame["variant"].eq(variant) & frame["benchmark"].eq(benchmark) & frame["metric"].eq(example_metric)
        if subset != "all":
            rows &= frame["subset"].eq(subset)
        return frame.loc[rows, [*_PAIR, "value", "prompt", "baseline_output", "detail"]]

    ours, theirs = chosen(baseline.examples), chosen(candidate.examples)
    merged = ours.merge(theirs, on=_PAIR, how="outer", suffixes=("_baseline", "_candidate"))
    merged = merged.sort_values(_PAIR, ignore_index=True)
    details = merged["detail_baseline"].fillna(merged["detail_candidate"])
    prompts = [_prompt_of(detail, example) for detail, example in zip(details, merged["example_id"], strict=True)]
    return merged.assign(
        value_baseline=scale * merged["value_baseline"] + offset,
        value_candidate=scale * merged["value_candidate"] + offset,
        cluster=[f"{part}\0{prompt}" for part, prompt in zip(merged["subset"], prompts, strict=True)],
    )


def in_both(pairs: pd.DataFrame) -> pd.DataFrame:
    """The examples that both runs have."""
    return pairs[pairs["value_baseline"].notna() & pairs["value_candidate"].notna()]


def detail_of(text: Any) -> dict[str, Any]:
    """An example's detail, empty where it is no JSON object."""
    try:
        document = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}


def _prompt_of(detail: Any, example_id: str) -> str:
    """What an example shares with the others of its prompt: the question it is a turn of, else its own id."""
    return str(detail_of(detail).get("question_id", example_id))
