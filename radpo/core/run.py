"""The one reader of run directories: tables, manifests and settings as one checked `Run`.

Report, gate, exports and `radpo.load_run` all read through it, so that what old runs lack is made up for here alone.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.metrics import Metric, find_metric, fits, metrics_from_json
from radpo.core.published import COLUMNS as PUBLISHED
from radpo.core.results import COMPARISON_DTYPES, EXAMPLE_DTYPES, FACTOR_COLUMNS, RESULT_DTYPES
from radpo.core.yaml_text import parse_yaml

if TYPE_CHECKING:
    import pandas as pd

LIKELIHOODS = ("variant", "seed", "pair_id", "response", "goal", "score", "tokens", "logp_policy", "logp_reference")
TRAINING = ("variant", "seed", "step", "metric", "value")
PANEL = (
    "variant", "seed", "benchmark", "request", "prompt", "first", "second", "judge", "verdict", "reason", "decided",
)  # fmt: skip
TRAJECTORY = ("variant", "seed", "step", "id", "side", "goal", "logp", "tokens")
MANIFEST: Mapping[str, type | tuple[type, ...]] = {
    "name": str, "created": str, "radpo": str, "git_commit": (str, type(None)), "platform": dict, "packages": dict,
    "models": dict, "data": dict, "seeds": list, "baseline": str, "variants": dict, "notes": list, "stages": list,
    "wall_seconds": (int, float),
}  # fmt: skip
STAGE = ("name", "key", "seconds", "from_store", "peak_mib")
JUDGE = ("answered", "from_cache", "failed", "prompt_tokens", "completion_tokens", "cost", "unclear_cost")
COMPARISONS = "comparisons.parquet"
MAX_RESOLVED = 1_000_000
"""Values that a run's own matrix.yaml may have: it has every default of every variant written out."""
_ADDED = ("prompt_id", "opponent")
"""Columns of examples.parquet that runs of earlier releases lack."""


@dataclass(frozen=True)
class Source:
    """One run directory of those that a report shows.

    Args:
        label: what it is called in the report: its matrix's name, or where several share one, its folder's.
        names: what its variants are called in the report, by their own names.
        folder: where it is.
    """

    label: str
    manifest: dict[str, Any]
    matrix: str | None
    names: dict[str, str]
    folder: Path

    @property
    def baseline(self) -> str:
        """The variant that its win rates are against, as the report calls it."""
        return self.names[str(self.manifest["baseline"])]

    @cached_property
    def settings(self) -> dict[str, Any] | None:
        """matrix.yaml as a mapping; None where there is none.

        Raises:
            ConfigError, DataError: it is no YAML, or no mapping.
        """
        if self.matrix is None:
            return None
        path = self.folder / "matrix.yaml"
        document = parse_yaml(self.matrix, str(path), max_nodes=MAX_RESOLVED)
        if not isinstance(document, dict):
            raise DataError(f"{path}: expected a mapping, found {type(document).__name__}")
        return document

    def section(self, benchmark: str) -> Mapping[str, Any]:
        """A benchmark's settings in matrix.yaml, empty where there are none."""
        sections = (self.settings or {}).get("benchmarks")
        found = sections.get(benchmark) if isinstance(sections, dict) else None
        return found if isinstance(found, dict) else {}

    @cached_property
    def metrics(self) -> dict[str, tuple[Metric, ...]]:
        """What the run's own manifest says of its metrics, by benchmark; nothing in runs of earlier releases.

        Raises:
            DataError: the manifest's `metrics` are malformed.
        """
        try:
            return metrics_from_json(self.manifest.get("metrics") or {})
        except (ValueError, TypeError, AttributeError) as error:
            path = self.folder / "manifest.json"
            raise DataError(f"{path}: metrics is malformed ({error}); run the matrix again") from error


@dataclass(frozen=True)
class Run:
    """The tables of one or several run directories as tidy pandas frames, one below the other.

    With several directories a variant is called LABEL/VARIANT. Optional tables are None where no directory has them.

    Attributes:
        results: a row a figure. variant, model, seed; benchmark, subset (a part of the benchmark, or `all`), metric;
            value, in the metric's own unit; stderr, its standard error in the same unit (missing where there is none);
            n, how many examples it rests on; higher_is_better (missing where neither is better); primary, whether it is
            one of the few that sum the benchmark up. Besides `run` (the directory's place, from 0) and `row` (the row's
            place in its results.parquet, from 0). Runs whose matrix has `draws` have the level of each factor in
            seed_model, seed_data, seed_order and seed_sampling.
        examples: a row a scored example. variant, seed, benchmark, subset, example_id, prompt, output, baseline_output
            (what the output was compared with), metric, value; prompt_id, the question that the example is a turn, a
            seed or a pair of (never missing: the example's own id where it stands alone); opponent, whose answer
            baseline_output is (missing where nobody says); detail, a JSON document.
        comparisons: a row a variant, a baseline and a figure; see `radpo.stats.comparison.comparisons`. value, variant
            minus baseline in the metric's own unit, with the ends low and high of its 95% interval; stderr and degrees
            (of freedom); kind, how it was found; n pairs, prompts, seeds; p, two-sided, with its one-sided halves
            p_less (is the variant lower?) and p_greater; family (`primary` or `secondary`) and p_holm, p adjusted
            within one baseline's family; detectable, the difference that would have been found with power 0.8. None for
            runs of earlier releases and several directories: `radpo.stats.comparison.compared` works it out.
        likelihoods: a row a variant, seed, held-out pair, response (chosen, rejected) and goal: score, tokens,
            logp_policy and logp_reference (nats, summed over tokens), and in new runs prompt_id.
        training: TRL's figures. variant, seed, step, metric, value.
        trajectory: log-likelihoods of tracked pairs while training went on. variant, seed, step, id, side, goal, logp
            (nats), tokens.
        verdicts: what every judge of a panel said. variant, seed, benchmark, request (its number in the stage), prompt
            (the user's last message), first and second (the responses; second is missing where one was graded by
            itself), judge, verdict (from 1, the first is better, to 2 where two were compared, else a grade from 1 to
            10; missing where there was none), reason, decided (the panel's own).
        published: published figures to show beside the run's own. variant, benchmark, subset, metric, value, source.
    """

    sources: tuple[Source, ...]
    results: pd.DataFrame
    examples: pd.DataFrame
    likelihoods: pd.DataFrame | None
    training: pd.DataFrame | None
    trajectory: pd.DataFrame | None
    published: pd.DataFrame | None
    comparisons: pd.DataFrame | None = None
    verdicts: pd.DataFrame | None = None
    _metrics: dict[tuple[str, str], Metric] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        """A line: a notebook would show whole manifests and tables else."""
        return (
            f"<Run {self.title!r}: {len(self.variants)} variants, {len(self.results)} results, "
            f"{len(self.examples)} examples>"
        )

    @property
    def manifest(self) -> dict[str, Any]:
        """The first directory's manifest."""
        return self.sources[0].manifest

    @property
    def title(self) -> str:
        """What the report is called."""
        return " and ".join(source.label for source in self.sources)

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with unless a reader chooses another: the first directory's."""
        return self.sources[0].baseline

    @property
    def variants(self) -> list[str]:
        """The variants in the matrices' order, then those that only the results or examples know."""
        return list(dict.fromkeys(name for source in self.sources for name in source.names.values()))

    @cached_property
    def source_of(self) -> dict[str, int]:
        """The place of every variant's directory."""
        return {name: place for place, source in enumerate(self.sources) for name in source.names.values()}

    def setting(self, benchmark: str, key: str, default: Any) -> Any:
        """A setting of a benchmark in the first directory that states it."""
        for source in self.sources:
            if key in source.section(benchmark):
                return source.section(benchmark)[key]
        return default

    @property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest score of the data, as the first matrix that states them does, else 1 and 10."""
        for source in self.sources:
            data = (source.settings or {}).get("data")
            scale = data.get("scale") if isinstance(data, dict) else None
            if isinstance(scale, list) and len(scale) == 2:
                return float(scale[0]), float(scale[1])
        return 1.0, 10.0

    def with_setting(self, benchmark: str, key: str, value: Any) -> Run:
        """The run as if its matrix had said otherwise, for what is worked out from its tables."""
        import yaml

        sources = []
        for source in self.sources:
            settings = dict(source.settings or {})
            sections = dict(settings.get("benchmarks") or {})
            sections[benchmark] = {**source.section(benchmark), key: value}
            text = yaml.safe_dump({**settings, "benchmarks": sections})
            sources.append(replace(source, matrix=text))
        return replace(self, sources=tuple(sources), comparisons=None)

    def of_seed(self, seed: int) -> Run:
        """The run with the figures of one seed alone; the comparisons stay those of all."""
        return replace(self, results=self.results[self.results["seed"] == seed])

    def metric(self, benchmark: str, metric: str) -> Metric:
        """What a metric is: as the runs' manifests say, else as the installed benchmark of that name does."""
        key = benchmark, metric
        if key not in self._metrics:
            self._metrics[key] = find_metric(self._described(benchmark), metric)
        return self._metrics[key]

    def describes(self, benchmark: str, metric: str) -> bool:
        """Whether anybody says what a metric is."""
        return any(fits(described, metric) for described in self._described(benchmark))

    def _described(self, benchmark: str) -> Iterable[Metric]:
        for source in self.sources:
            if benchmark in source.metrics:
                return source.metrics[benchmark]
        return installed_metrics().get(benchmark, ())

    @cached_property
    def benchmarks(self) -> list[str]:
        """The benchmarks with results, in the order in which their metrics are described, then of appearance."""
        described = [name for source in self.sources for name in source.metrics]
        there = dict.fromkeys(map(str, self.results["benchmark"].unique()))
        return [name for name in dict.fromkeys([*described, *installed_metrics(), *there]) if name in there]

    @cached_property
    def figures(self) -> dict[tuple[str, str, str, str], pd.DataFrame]:
        """The rows of results with a value, by variant, benchmark, subset and metric."""
        rows = self.results[self.results["value"].notna()]
        keys = ["variant", "benchmark", "subset", "metric"]
        return {tuple(map(str, key)): part for key, part in rows.groupby(keys, sort=False)}  # type: ignore[misc]

    def examples_of(self, variant: str, benchmark: str, metric: str) -> pd.DataFrame:
        """The examples of one metric, in all subsets; none where there are none."""
        return self._examples_by_metric.get((variant, benchmark, metric), self.examples.head(0))

    @cached_property
    def _examples_by_metric(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        parts = self.examples.groupby(["variant", "benchmark", "metric"], sort=False)
        return {tuple(map(str, key)): part for key, part in parts}  # type: ignore[misc]

    @cached_property
    def upward(self) -> dict[tuple[str, str, str], bool]:
        """Whether more is better, by benchmark, subset and metric; figures of which neither way is are not there."""
        known = self.results[self.results["higher_is_better"].notna()]
        first = known.drop_duplicates(["benchmark", "subset", "metric"])
        keys = zip(first["benchmark"], first["subset"], first["metric"], strict=True)
        return dict(zip(keys, map(bool, first["higher_is_better"]), strict=True))

    @cached_property
    def factors(self) -> dict[str, dict[int, int]]:
        """The random factors that seeds stand for (model, data, order, sampling), each with its level by seed.

        Only those of several levels; none where a seed is one number for all, or not the same in all directories.
        """
        columns = [column for column in FACTOR_COLUMNS if column in self.results.columns]
        rows = self.results[["seed", *columns]].dropna(subset=["seed"]).drop_duplicates()
        if rows["seed"].duplicated().any():
            return {}
        several = [column for column in columns if rows[column].notna().all() and rows[column].nunique() > 1]
        seeds = [int(seed) for seed in rows["seed"]]
        levels = {column: list(map(int, rows[column])) for column in several}
        return {column.removeprefix("seed_"): dict(zip(seeds, found, strict=True)) for column, found in levels.items()}

    def opponent(self, variant: str, benchmark: str) -> str | None:
        """Whose answers a variant's were compared with: a variant or another model; None where nobody says.

        The examples tell; where they do not, it is the directory's baseline if that has no figure of its own.
        """
        return self._opponents.get((variant, benchmark))

    @cached_property
    def _opponents(self) -> dict[tuple[str, str], str | None]:
        told = self.examples[self.examples["opponent"].notna()].drop_duplicates(["variant", "benchmark"])
        found: dict[tuple[str, str], str | None] = {}
        for variant, benchmark in self.results[["variant", "benchmark"]].drop_duplicates().itertuples(index=False):
            baseline = self.sources[self.source_of[variant]].baseline
            own = (self.results["variant"] == baseline) & (self.results["benchmark"] == benchmark)
            found[str(variant), str(benchmark)] = None if own.any() else baseline
        for variant, benchmark, name in told[["variant", "benchmark", "opponent"]].itertuples(index=False):
            names = self.sources[self.source_of[variant]].names
            found[str(variant), str(benchmark)] = names.get(name, name)
        return found

    def comparable(self, one: str, other: str) -> bool:
        """Whether two variants answered the same data: of one directory, or of two with no file that differs."""
        first, second = self.source_of[one], self.source_of[other]
        return first == second or not differing_data(self.sources[first], self.sources[second])


def differing_data(one: Source, other: Source) -> list[str]:
    """The data files that both directories name and that differ between them."""
    mine, theirs = one.manifest["data"], other.manifest["data"]
    return [name for name in mine if name in theirs and mine[name].get("sha256") != theirs[name].get("sha256")]


@cache
def installed_metrics() -> dict[str, tuple[Metric, ...]]:
    """The metrics of the installed benchmarks by benchmark, for runs whose manifest does not describe its own."""
    from radpo.core.plugins import load_plugins

    found = load_plugins("radpo.benchmarks", object)
    ordered = sorted(found.items(), key=lambda item: (getattr(item[1], "place", math.inf), item[0]))
    return {name: tuple(getattr(benchmark, "metrics", ())) for name, benchmark in ordered}


def load_run(run_dir: str | PathLike[str]) -> Run:
    """Read one run directory; see `Run` for its tables.

    Args:
        run_dir: the folder, as `radpo run` makes it.

    Raises:
        DataError: a file of the run is missing or malformed, or a table lacks a column.

    >>> run = load_run("reports/quickstart")
    >>> run.variants
    ['base', 'dpo', 'ra-dpo']
    """
    return load_runs([Path(run_dir)])


def load_runs(run_dirs: Sequence[Path]) -> Run:
    """Read run directories, to be shown side by side.

    Raises:
        DataError: a file that the report needs is missing or malformed, or a table lacks a column.
    """
    manifests = [_manifest(run_dir / "manifest.json") for run_dir in run_dirs]
    results = [_results(run_dir / "results.parquet") for run_dir in run_dirs]
    likelihoods = [_optional(run_dir / "likelihoods.parquet", LIKELIHOODS) for run_dir in run_dirs]
    examples = [
        _examples(run_dir / "examples.parquet", told) for run_dir, told in zip(run_dirs, likelihoods, strict=True)
    ]
    labels = _labels(run_dirs, manifests)
    sources = []
    for place, (run_dir, manifest, label) in enumerate(zip(run_dirs, manifests, labels, strict=True)):
        tables = (results[place], examples[place])
        known = [*manifest["variants"], *(name for table in tables for name in table["variant"].unique())]
        names = {
            str(name): str(name) if len(run_dirs) == 1 else f"{label}/{name}" for name in [*known, manifest["baseline"]]
        }
        sources.append(Source(label, manifest, _text(run_dir / "matrix.yaml"), names, run_dir))
    # Runs of earlier releases have 0 where all examples came out alike.
    results = [table.assign(stderr=table["stderr"].where(table["stderr"] > 0)) for table in results]
    results = [table.assign(run=place, row=range(len(table))) for place, table in enumerate(results)]
    optional = {
        name: [_optional(run_dir / f"{name}.parquet", columns) for run_dir in run_dirs]
        for name, columns in (("training", TRAINING), ("trajectory", TRAJECTORY), ("verdicts", PANEL))
    }
    joined = {name: _joined(tables, sources) for name, tables in optional.items()}
    whole_results, whole_examples = _joined(results, sources), _joined(examples, sources)
    assert whole_results is not None
    assert whole_examples is not None
    return Run(
        sources=tuple(sources),
        results=whole_results,
        examples=whole_examples,
        likelihoods=_joined(likelihoods, sources),
        training=joined["training"],
        trajectory=joined["trajectory"],
        published=_joined([_published(run_dir / "published.csv") for run_dir in run_dirs], sources),
        comparisons=_comparisons(run_dirs),
        verdicts=joined["verdicts"],
    )


def _comparisons(run_dirs: Sequence[Path]) -> pd.DataFrame | None:
    """Of one directory alone: two know nothing of each other's variants."""
    path = run_dirs[0] / COMPARISONS
    return _table(path, COMPARISON_DTYPES) if len(run_dirs) == 1 and path.exists() else None


def _examples(path: Path, likelihoods: pd.DataFrame | None) -> pd.DataFrame:
    """examples.parquet with `prompt_id` and `opponent` in every row that tells them, in whatever way."""
    import pandas as pd

    required = {name: dtype for name, dtype in EXAMPLE_DTYPES.items() if name not in _ADDED}
    frame = _table(path, required)
    for name in _ADDED:
        frame[name] = frame[name].astype("string") if name in frame.columns else pd.array([None] * len(frame), "string")
    _tell(frame, "prompt_id", frame["prompt_id"].isna(), "question_id")
    _tell(frame, "opponent", frame["opponent"].isna() & frame["baseline_output"].notna(), "generator_1", "baseline")
    if likelihoods is not None and "prompt_id" in likelihoods.columns:
        of_pair = likelihoods.drop_duplicates("pair_id").set_index("pair_id")["prompt_id"].astype("string")
        pairs = frame["example_id"].where(frame["output"].isna()).map(of_pair)
        frame["prompt_id"] = frame["prompt_id"].fillna(pairs.astype("string"))
    # A turn's id was the question's id and /turn-N before the question had a column of its own.
    frame["prompt_id"] = frame["prompt_id"].fillna(frame["example_id"].str.split("/turn-").str[0])
    return frame[list(EXAMPLE_DTYPES)]


def _tell(frame: pd.DataFrame, column: str, untold: pd.Series[bool], *names: str) -> None:
    """Fill a column, in rows that do not have it, by what their details call one of these names."""
    quoted = "|".join(f'"{name}"' for name in names)
    details = frame.loc[untold & frame["detail"].str.contains(quoted, na=False), "detail"]  # most need no reading
    frame.loc[details.index, column] = [_of(detail_of(text), *names) for text in details]


def detail_of(text: Any) -> dict[str, Any]:
    """An example's detail, empty where it is no JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _of(detail: Mapping[str, Any], *names: str) -> str | None:
    """The first of these that is a text or a whole number."""
    return next((str(detail[name]) for name in names if isinstance(detail.get(name), str | int)), None)


def _labels(run_dirs: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each directory, no two alike."""
    found = [str(manifest["name"]) for manifest in manifests]
    if len(set(found)) < len(found):
        found = [run_dir.resolve().name for run_dir in run_dirs]
    counts, seen = Counter(found), Counter[str]()
    labels = []
    for name in found:
        seen[name] += 1
        labels.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return labels


def _joined(tables: Sequence[pd.DataFrame | None], sources: Sequence[Source]) -> pd.DataFrame | None:
    """The tables one below the other, variants by their names in the report."""
    import pandas as pd

    pairs = [(table, source) for table, source in zip(tables, sources, strict=True) if table is not None]
    if not pairs:
        return None
    if len(sources) == 1:
        return pairs[0][0]
    renamed = [
        table.assign(variant=table["variant"].map(lambda name, source=source: source.names.get(str(name), str(name))))
        for table, source in pairs
    ]
    return pd.concat(renamed, ignore_index=True)


def _published(path: Path) -> pd.DataFrame | None:
    """Published figures to show beside the run's own."""
    import pandas as pd

    if not path.exists():
        return None
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(set(PUBLISHED) - {"value"}, "string"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    lacking = [column for column in PUBLISHED if column not in frame.columns]
    if lacking:
        raise DataError(f"{path}: lacks the column(s) {', '.join(lacking)}; it needs {', '.join(PUBLISHED)}")
    if not pd.api.types.is_numeric_dtype(frame["value"]) or frame["value"].isna().any():
        raise DataError(f"{path}: value must be a number in every row")
    return frame.assign(subset=frame["subset"].fillna("all"))


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _why(error: Exception) -> str:
    """Why a file cannot be read; of one that is not there pandas says no more than its name."""
    return "no such file" if isinstance(error, FileNotFoundError) else str(error)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({_why(error)}), so its folder is no finished run; run the matrix"
        ) from error
    if not isinstance(manifest, dict):
        raise DataError(f"{path}: a manifest is a JSON object, this is {type(manifest).__name__}; run the matrix again")
    for key, kind in MANIFEST.items():
        if key not in manifest:
            raise DataError(f"{path}: key {key} is missing; run the matrix again")
        if not isinstance(manifest[key], kind):
            raise DataError(f"{path}: {key} is {str(manifest[key])[:60]!r}, of the wrong type; run the matrix again")
    for number, stage in enumerate(manifest["stages"]):
        lacking = [key for key in STAGE if not isinstance(stage, dict) or key not in stage]
        if lacking:
            raise DataError(f"{path}: stages[{number}] lacks {', '.join(lacking)}; run the matrix again")
        judge = stage.get("judge", dict.fromkeys(JUDGE, 0))
        members = judge.get("judges", {}) if isinstance(judge, dict) else None
        if not isinstance(members, dict) or not all(map(_is_usage, (judge, *members.values()))):
            raise DataError(f"{path}: stages[{number}].judge is not what a judge was asked; run the matrix again")
    return manifest


def _is_usage(judge: Any) -> bool:
    return isinstance(judge, dict) and all(isinstance(judge.get(key), int | float) for key in JUDGE)


def _table(path: Path, columns: Iterable[str] | Mapping[str, str]) -> pd.DataFrame:
    """A table with these columns, and where their types are given, of these types."""
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: no Parquet file ({error}); run the matrix again") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({_why(error)}); give a run directory as `radpo run` makes, "
            "or run the matrix again"
        ) from error
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise DataError(f"{path}: lacks the column(s) {', '.join(lacking)}; run the matrix again")
    if isinstance(columns, Mapping):
        try:
            frame = frame.astype(dict(columns))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: a column is of the wrong type ({error}); run the matrix again") from error
    return frame.reset_index(drop=True)


def _results(path: Path) -> pd.DataFrame:
    """A table of results, with the levels of random factors where it has them."""
    frame = _table(path, RESULT_DTYPES)
    there = {column: "Int64" for column in FACTOR_COLUMNS if column in frame.columns}
    return _table(path, {**RESULT_DTYPES, **there}) if there else frame


def _optional(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    if not path.exists():
        return None
    frame = _table(path, columns)
    return None if frame.empty else frame
