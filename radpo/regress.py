"""The regression verdict: two run directories come in, a paired test of every primary metric goes out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from radpo.analysis.permutation import sign_flip_test
from radpo.analysis.statistics import holm, paired_bootstrap
from radpo.errors import ConfigError, DataError
from radpo.results import EXAMPLE_DTYPES, RESULT_DTYPES

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["regression", "improvement", "no difference"]

# Where a benchmark's figure is no plain mean of its per-example figure, what that is called, and how one becomes the
# other: value = scale * example + offset.
_PER_EXAMPLE: dict[tuple[str, str], tuple[str, float, float]] = {
    ("alpaca-eval", "win_rate"): ("preference", 100.0, -100.0)
}
_PAIR = ["variant", "benchmark", "subset", "example_id", "seed", "metric"]
_METRIC = ["variant", "benchmark", "subset", "metric"]


@dataclass(frozen=True)
class Row:
    """The verdict on one primary metric, in its own unit. Differences are candidate minus baseline.

    Args:
        baseline, candidate: the means over the paired examples.
        low, high: the ends of the 95% paired bootstrap interval of the difference, None where one prompt is all.
        p_worse: how rare so bad a difference would be if the candidate were worse by the margin only (one-sided
            sign-flip test), Holm-adjusted over all rows; `p_better` the same for an improvement.
        pairs: how many examples were paired, on how many prompts; `unpaired` are in one of the runs only.
    """

    variant: str
    benchmark: str
    subset: str
    metric: str
    outcome: Outcome
    baseline: float
    candidate: float
    difference: float
    low: float | None
    high: float | None
    p_worse: float
    p_better: float
    pairs: int
    prompts: int
    unpaired: int


@dataclass(frozen=True)
class NotGated:
    """A primary metric that no test was made of, and why."""

    variant: str
    benchmark: str
    subset: str
    metric: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate run is worse than the baseline run, and on which metrics."""

    baseline: str
    candidate: str
    alpha: float
    margin: float
    rows: tuple[Row, ...]
    not_gated: tuple[NotGated, ...]

    @property
    def regressed(self) -> bool:
        """Whether any metric is significantly worse by more than the margin."""
        return any(row.outcome == "regression" for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The verdict as one JSON-serialisable document."""
        return {"regressed": self.regressed, **asdict(self)}

    def to_markdown(self) -> str:
        """The verdict as a Markdown table."""
        worse = sum(row.outcome == "regression" for row in self.rows)
        head = f"regression in {worse} of {len(self.rows)} metrics" if self.regressed else "no regression"
        lines = [
            f"## {_cell(self.candidate)} against {_cell(self.baseline)}: {head}",
            "",
            "| variant | benchmark | subset | metric | baseline | candidate | difference (95% interval) "
            "| p worse | pairs | verdict |",
            "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        for row in self.rows:
            names = [_cell(name) for name in (row.variant, row.benchmark, row.subset, row.metric)]
            verdict = f"**{row.outcome}**" if row.outcome == "regression" else row.outcome
            figures = [f"{row.baseline:.4g}", f"{row.candidate:.4g}", _difference(row), f"{row.p_worse:.3g}"]
            lines.append(f"| {' | '.join([*names, *figures, str(row.pairs), verdict])} |")
        lines += [
            "",
            f"p-values are adjusted for {len(self.rows)} metrics (Holm), alpha {self.alpha:g}, margin {self.margin:g}.",
        ]
        unpaired = sum(row.unpaired for row in self.rows)
        if unpaired:
            lines.append(f"{unpaired} per-example rows are in one of the runs only and were not compared.")
        lines += [f"Not gated: {_cell(_name(item))}, because {_cell(item.reason)}." for item in self.not_gated]
        return "\n".join(lines) + "\n"

    def to_junit(self) -> str:
        """The verdict as JUnit XML: a test case a metric, failed where it regressed, skipped where it was not gated."""
        suite = ElementTree.Element(
            "testsuite",
            name=_xml("radpo regress"),
            tests=str(len(self.rows) + len(self.not_gated)),
            failures=str(sum(row.outcome == "regression" for row in self.rows)),
            errors="0",
            skipped=str(len(self.not_gated)),
        )
        for row in self.rows:
            case = ElementTree.SubElement(suite, "testcase", classname=_xml(row.variant), name=_xml(_name(row)))
            message = (
                f"{row.baseline:.4g} to {row.candidate:.4g}: {_difference(row)}, p {row.p_worse:.3g}, {row.pairs} pairs"
            )
            if row.outcome == "regression":
                ElementTree.SubElement(case, "failure", message=_xml(message), type="regression")
            else:
                ElementTree.SubElement(case, "system-out").text = _xml(f"{row.outcome}: {message}")
        for item in self.not_gated:
            case = ElementTree.SubElement(suite, "testcase", classname=_xml(item.variant), name=_xml(_name(item)))
            ElementTree.SubElement(case, "skipped", message=_xml(item.reason))
        root = ElementTree.Element("testsuites")
        root.append(suite)
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def compare(
    baseline_dir: Path, candidate_dir: Path, *, alpha: float = 0.05, margin: float | None = None, seed: int = 0
) -> Verdict:
    """Compare two run directories example by example.

    For every primary metric the examples of both runs are paired by variant, benchmark, subset, example, seed and
    metric. A metric regresses where the mean difference is below -margin in the metric's worse direction and a
    one-sided sign-flip test rejects "worse by the margin at most" at `alpha` after Holm's correction over all metrics:
    of runs that do not differ, at most a share `alpha` is called a regression anywhere. Examples of one prompt (its
    seeds, the turns of one question) count as one cluster.

    Args:
        alpha: the significance level, between 0 and 1.
        margin: how much worse is tolerated, in the metric's own unit (percent for win_rate, nats for log-likelihoods);
            0 unless given.
        seed: of the bootstrap and of the sign flips.

    Raises:
        ConfigError: the runs are not comparable, nothing pairs, or an option is out of range.
        DataError: a run directory lacks a file or a file is malformed.
    """
    margin = 0.0 if margin is None else margin
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha {alpha}: must lie between 0 and 1")
    if not margin >= 0:
        raise ConfigError(f"margin {margin}: must be 0 or more")
    _check_comparable(baseline_dir, candidate_dir)
    results = {folder: _read(folder, "results.parquet", RESULT_DTYPES) for folder in (baseline_dir, candidate_dir)}
    examples = {folder: _examples(folder) for folder in (baseline_dir, candidate_dir)}
    tested: list[_Tested] = []
    not_gated: list[NotGated] = []
    primaries = _primaries(results[baseline_dir], results[candidate_dir])
    # A drawn p-value cannot fall below 1 / resamples, and Holm multiplies it by the number of metrics: draw so many
    # that a clear regression can still be called one.
    resamples = min(max(10_000, math.ceil(10 * len(primaries) / alpha)), 1_000_000)
    for name, higher_is_better in primaries.items():
        paired = _paired(name, examples[baseline_dir], examples[candidate_dir])
        reason = _why_not(name, higher_is_better, paired, results[baseline_dir], results[candidate_dir])
        if reason is not None:
            not_gated.append(NotGated(*name, reason))
            continue
        assert higher_is_better is not None
        tested.append(_test(name, higher_is_better, paired, margin, resamples, seed))
    if not tested:
        reasons = "; ".join(sorted({item.reason for item in not_gated})) or "neither has a primary metric"
        raise ConfigError(f"{baseline_dir} and {candidate_dir} have nothing to compare: {reasons}")
    rows = zip(tested, holm([t.p_worse for t in tested]), holm([t.p_better for t in tested]), strict=True)
    return Verdict(
        baseline=baseline_dir.resolve().name,
        candidate=candidate_dir.resolve().name,
        alpha=alpha,
        margin=margin,
        rows=tuple(_row(item, p_worse, p_better, alpha) for item, p_worse, p_better in rows),
        not_gated=tuple(not_gated),
    )


_Name = tuple[str, str, str, str]


@dataclass(frozen=True)
class _Tested:
    """One metric's figures before the correction for many metrics."""

    figures: dict[str, Any]
    p_worse: float
    p_better: float


def _check_comparable(baseline_dir: Path, candidate_dir: Path) -> None:
    baseline, candidate = _manifest(baseline_dir), _manifest(candidate_dir)
    differing = []
    theirs = candidate.get("data", {})
    for name, file in baseline.get("data", {}).items():
        if name in theirs and file.get("sha256") != theirs[name].get("sha256"):
            differing.append(f"{name} ({str(file.get('sha256'))[:19]} against {str(theirs[name].get('sha256'))[:19]})")
    if differing:
        raise ConfigError(
            f"{baseline_dir} and {candidate_dir} are not comparable: they were run on different data: "
            f"{', '.join(differing)}; run both on the same files"
        )
    if baseline.get("baseline") != candidate.get("baseline"):
        raise ConfigError(
            f"{baseline_dir} and {candidate_dir} are not comparable: win rates are against variant "
            f"{baseline.get('baseline')!r} in one and {candidate.get('baseline')!r} in the other"
        )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give a run directory as `radpo run` makes"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document


def _read(folder: Path, file: str, dtypes: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    path = folder / file
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
    frame = _read(folder, "examples.parquet", EXAMPLE_DTYPES)
    repeated = frame.duplicated(_PAIR)
    if repeated.any():
        row = frame.loc[repeated].iloc[0]
        raise DataError(
            f"{folder / 'examples.parquet'}: example {row['example_id']!r} of {row['benchmark']} is there twice for "
            f"variant {row['variant']!r}, seed {row['seed']}"
        )
    return frame[frame["value"].notna()]


def _primaries(baseline: pd.DataFrame, candidate: pd.DataFrame) -> dict[_Name, bool | None]:
    """The primary metrics of either run with their direction, None where neither is better, in a fixed order."""
    import pandas as pd

    both = pd.concat([baseline, candidate])
    primary = both[both["primary"].fillna(False)].sort_values(_METRIC, kind="stable").drop_duplicates(_METRIC)
    names = primary[_METRIC].itertuples(index=False, name=None)
    directions = [None if pd.isna(value) else bool(value) for value in primary["higher_is_better"]]
    return dict(zip(names, directions, strict=True))


def _paired(name: _Name, baseline: pd.DataFrame, candidate: pd.DataFrame) -> pd.DataFrame:
    """Both runs' values of the metric's examples, in the metric's own unit, with the prompt each belongs to.

    Returns:
        columns baseline, candidate (NaN where the other run alone has the example) and cluster, sorted by pair.
    """
    variant, benchmark, subset, metric = name
    example_metric, scale, offset = _PER_EXAMPLE.get((benchmark, metric), (metric, 1.0, 0.0))

    def chosen(frame: pd.DataFrame) -> pd.DataFrame:
        rows = frame["variant"].eq(variant) & frame["benchmark"].eq(benchmark) & frame["metric"].eq(example_metric)
        if subset != "all":
            rows &= frame["subset"].eq(subset)
        return frame.loc[rows, [*_PAIR, "value", "detail"]]

    merged = chosen(baseline).merge(chosen(candidate), on=_PAIR, how="outer", suffixes=("_baseline", "_candidate"))
    merged = merged.sort_values(_PAIR, ignore_index=True)
    details = merged["detail_baseline"].fillna(merged["detail_candidate"])
    prompts = [_prompt_of(detail, example) for detail, example in zip(details, merged["example_id"], strict=True)]
    return merged[["subset"]].assign(
        baseline=scale * merged["value_baseline"] + offset,
        candidate=scale * merged["value_candidate"] + offset,
        cluster=[f"{part}\0{prompt}" for part, prompt in zip(merged["subset"], prompts, strict=True)],
    )


def _prompt_of(detail: Any, example_id: str) -> str:
    """What an example shares with the others of its prompt: the question it is a turn of, else its own id."""
    try:
        document = json.loads(detail) if isinstance(detail, str) else None
    except ValueError:
        document = None
    return str(document.get("question_id", example_id)) if isinstance(document, dict) else example_id


def _why_not(
    name: _Name, higher_is_better: bool | None, paired: pd.DataFrame, baseline: pd.DataFrame, candidate: pd.DataFrame
) -> str | None:
    for frame, other in ((baseline, "baseline"), (candidate, "candidate")):
        if not (frame[_METRIC] == list(name)).all(axis=1).any():
            return f"the {other} run does not have it"
    if higher_is_better is None:
        return "neither direction is better"
    if paired.empty:
        return "it has no per-example rows"
    if paired[["baseline", "candidate"]].isna().any(axis=1).all():
        return "no example of one run is in the other (other seeds or other questions)"
    return None


def _test(
    name: _Name, higher_is_better: bool, paired: pd.DataFrame, margin: float, resamples: int, seed: int
) -> _Tested:
    import numpy as np

    both = paired.dropna()
    differences = (both["candidate"] - both["baseline"]).to_numpy(dtype=float)
    clusters = both["cluster"].to_numpy()
    estimate = paired_bootstrap(differences, clusters=clusters, rng=np.random.default_rng(seed))
    gains = differences if higher_is_better else -differences

    def p_value(values: Any, alternative: Literal["less", "greater"]) -> float:
        rng = np.random.default_rng(seed)
        return sign_flip_test(values, clusters=clusters, alternative=alternative, resamples=resamples, rng=rng)

    figures = {
        **dict(zip(_METRIC, name, strict=True)),
        "baseline": float(both["baseline"].mean()),
        "candidate": float(both["candidate"].mean()),
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "pairs": estimate.n,
        "prompts": estimate.clusters,
        "unpaired": len(paired) - len(both),
    }
    return _Tested(figures, p_worse=p_value(gains + margin, "less"), p_better=p_value(gains - margin, "greater"))


def _row(tested: _Tested, p_worse: float, p_better: float, alpha: float) -> Row:
    outcome: Outcome = "no difference"
    if p_worse <= alpha:
        outcome = "regression"
    elif p_better <= alpha:
        outcome = "improvement"
    return Row(outcome=outcome, p_worse=p_worse, p_better=p_better, **tested.figures)


def _name(item: Row | NotGated) -> str:
    return f"{item.variant} {item.benchmark} {item.subset} {item.metric}"


def _difference(row: Row) -> str:
    interval = "" if row.low is None or row.high is None else f" ({row.low:+.4g} to {row.high:+.4g})"
    return f"{row.difference:+.4g}{interval}"


def _cell(text: str) -> str:
    """Names come from files: they must not break out of a table cell or become markup."""
    return re.sub(r"([\\|`*_<>\[\]#])", r"\\\1", " ".join(text.split()))


def _xml(text: str) -> str:
    """Without the control characters that no XML document may hold."""
    return re.sub(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]", "?", text)
