"""The result tables of a run directory: what every benchmark returns, and what analysis and report read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

RESULT_DTYPES = {
    "variant": "string",
    "model": "string",
    "seed": "Int64",
    "benchmark": "string",
    "subset": "string",
    "metric": "string",
    "value": "float64",
    "stderr": "float64",
    "n": "Int64",
    "higher_is_better": "boolean",
    "primary": "boolean",
}
EXAMPLE_DTYPES = {
    "variant": "string",
    "seed": "Int64",
    "benchmark": "string",
    "subset": "string",
    "example_id": "string",
    "prompt": "string",
    "output": "string",
    "baseline_output": "string",
    "metric": "string",
    "value": "float64",
    "prompt_id": "string",
    "opponent": "string",
    "detail": "string",
}
COMPARISON_DTYPES = {
    "variant": "string",
    "baseline": "string",
    "benchmark": "string",
    "subset": "string",
    "metric": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "stderr": "float64",
    "degrees": "float64",
    "kind": "string",
    "n": "Int64",
    "prompts": "Int64",
    "seeds": "Int64",
    "p": "float64",
    "p_less": "float64",
    "p_greater": "float64",
    "family": "string",
    "p_holm": "float64",
    "detectable": "float64",
}


FACTORS = ("model", "data", "order", "sampling")
"""The random factors that runs can be drawn by, each apart."""
FACTOR_COLUMNS = tuple(f"seed_{factor}" for factor in FACTORS)
"""The columns of results.parquet that have their levels, where runs are drawn so."""


def known_stderr(stderr: float | None) -> float | None:
    """A standard error as results have it: None where it is 0 or no number.

    0 says that all examples came out alike, so that the sample was too small to see any spread; it is no certainty.
    """
    return stderr if stderr is not None and 0 < stderr < math.inf else None


@dataclasses.dataclass(frozen=True)
class Result:
    """One figure of one benchmark, before a matrix adds the cell it belongs to.

    Args:
        benchmark: the benchmark's name, such as `concise`.
        subset: a part of it (a category, a task, a score bin), or `all`.
        metric: the benchmark's own name for the figure, such as `win_rate`.
        value: the figure, in the benchmark's own unit.
        stderr: its standard error in the same unit, None where there is none; 0 becomes None (`known_stderr`).
        n: how many examples it rests on.
        higher_is_better: None where neither direction is better.
        primary: whether it is one of the few figures that sum the benchmark up.
    """

    benchmark: str
    subset: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool | None = True
    primary: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stderr", known_stderr(self.stderr))


@dataclasses.dataclass(frozen=True)
class Example:
    """One example of one benchmark: what was asked, what came back, how it was scored.

    Args:
        prompt: what the model was asked, as plain text.
        output: the model's answer, None where the benchmark has none (likelihoods).
        baseline_output: what it was compared with, None where nothing was.
        metric: the name of the per-example figure.
        value: that figure.
        detail: a JSON document with whatever else a reader wants to see (goal, constraints, scores, turn).
        prompt_id: the question that it is a turn, a seed or a pair of: examples that share one are not independent.
            None where the example stands alone.
        opponent: whose answer `baseline_output` is: a variant's or a model's name.
    """

    benchmark: str
    subset: str
    example_id: str
    prompt: str
    output: str | None
    baseline_output: str | None
    metric: str
    value: float
    detail: str = "{}"
    prompt_id: str | None = None
    opponent: str | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """What scoring one checkpoint on one benchmark gives.

    Args:
        notes: plain sentences on what was not done.
        figures: the benchmark's own document of its figures, under its own names: JSON values. `radpo eval` prints it;
            None prints the results by subset and metric.
    """

    results: tuple[Result, ...]
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Any] | None = None


def results_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A tidy frame with exactly the columns and types of `results.parquet`."""
    frame = _frame(rows, RESULT_DTYPES)
    return frame.assign(stderr=frame["stderr"].where(frame["stderr"] > 0))


def examples_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A tidy frame with exactly the columns and types of `examples.parquet`."""
    return _frame(rows, EXAMPLE_DTYPES)


def comparisons_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A tidy frame with exactly the columns and types of `comparisons.parquet`; see `radpo.core.run.Run`."""
    return _frame(rows, COMPARISON_DTYPES)


def write_scores(scores: Scores, folder: Path) -> None:
    """Write `results.parquet`, `examples.parquet` (without cell columns' values) and `notes.json` into `folder`.

    Where the benchmark has a document of its own figures, `figures.json` as well.
    """
    import json

    results_frame(map(dataclasses.asdict, scores.results)).to_parquet(folder / "results.parquet", index=False)
    examples_frame(map(dataclasses.asdict, scores.examples)).to_parquet(folder / "examples.parquet", index=False)
    (folder / "notes.json").write_text(json.dumps(list(scores.notes)), encoding="utf-8")
    if scores.figures is not None:
        (folder / FIGURES).write_text(json.dumps(scores.figures, ensure_ascii=False), encoding="utf-8")


def read_figures(folder: Path) -> dict[str, Any]:
    """What `write_scores` wrote, as one document: the benchmark's own, else its results by subset and metric."""
    import json

    import pandas as pd

    if (folder / FIGURES).exists():
        own: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        return own
    rows = pd.read_parquet(folder / "results.parquet").to_dict("records")
    named = {
        f"{row['subset']}/{row['metric']}": {
            "value": row["value"],
            "stderr": None if pd.isna(row["stderr"]) else row["stderr"],
            "n": int(row["n"]),
        }
        for row in rows
    }
    return {**named, "notes": json.loads((folder / "notes.json").read_text(encoding="utf-8"))}


FIGURES = "figures.json"
"""A benchmark's own document of its figures, in its stage's folder."""


def _frame(rows: Iterable[dict[str, Any]], dtypes: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(dtypes)).astype(dtypes)
