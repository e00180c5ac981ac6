"""Reading run directories: their tables and manifests come in, one checked `Run` of them all goes out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.published import COLUMNS as PUBLISHED
from radpo.core.results import EXAMPLE_DTYPES, RESULT_DTYPES

if TYPE_CHECKING:
    import pandas as pd

LIKELIHOODS = ("variant", "seed", "pair_id", "response", "goal", "score", "tokens", "logp_policy", "logp_reference")
TRAINING = ("variant", "seed", "step", "metric", "value")
TRAJECTORY = ("variant", "seed", "step", "id", "side", "goal", "logp", "tokens")
MANIFEST: Mapping[str, type | tuple[type, ...]] = {
    "name": str, "created": str, "radpo": str, "git_commit": (str, type(None)), "platform": dict, "packages": dict,
    "models": dict, "data": dict, "seeds": list, "baseline": str, "variants": dict, "notes": list, "stages": list,
    "wall_seconds": (int, float),
}  # fmt: skip
STAGE = ("name", "key", "seconds", "from_store", "peak_mib")
JUDGE = ("answered", "from_cache", "failed", "prompt_tokens", "completion_tokens", "cost", "unclear_cost")


@dataclass(frozen=True)
class Source:
    """One run directory of those that a report shows.

    Args:
        label: what it is called in the report: its matrix's name, or where several share one, its folder's.
        names: what its variants are called in the report, by their own names.
    """

    label: str
    manifest: dict[str, Any]
    matrix: str | None
    names: dict[str, str]

    @property
    def baseline(self) -> str:
        """The variant that its win rates are against, as the report calls it."""
        return self.names[str(self.manifest["baseline"])]


@dataclass(frozen=True)
class Run:
    """The tables of one or several run directories, one below the other; optional ones are None where none has them.

    Every table has its directory's columns; `results` also `run` (the directory's place, from 0) and `row` (the row's
    place in its results.parquet, from 0). With several directories a variant is called LABEL/VARIANT.
    """

    sources: tuple[Source, ...]
    results: pd.DataFrame
    examples: pd.DataFrame
    likelihoods: pd.DataFrame | None
    training: pd.DataFrame | None
    trajectory: pd.DataFrame | None
    published: pd.DataFrame | None

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

    @cached_property
    def figures(self) -> dict[tuple[str, str, str, str], pd.DataFrame]:
        """The rows of results with a value, by variant, benchmark, subset and metric."""
        rows = self.results[self.results["value"].notna()]
        keys = ["variant", "benchmark", "subset", "metric"]
        return {tuple(map(str, key)): part for key, part in rows.groupby(keys, sort=False)}  # type: ignore[misc]

    @cached_property
    def upward(self) -> dict[tuple[str, str, str], bool]:
        """Whether more is better, by benchmark, subset and metric; figures of which neither way is are not there."""
        known = self.results[self.results["higher_is_better"].notna()]
        first = known.drop_duplicates(["benchmark", "subset", "metric"])
        keys = zip(first["benchmark"], first["subset"], first["metric"], strict=True)
        return dict(zip(keys, map(bool, first["higher_is_better"]), strict=True))

    def opponent(self, variant: str, benchmark: str) -> str | None:
        """Whose answers a variant's were compared with: a variant or another model; None where nobody says.

        The examples tell; where they do not, it is the directory's baseline if that has no figure of its own.
        """
        return self._opponents.get((variant, benchmark))

    @cached_property
    def _opponents(self) -> dict[tuple[str, str], str | None]:
        told = self.examples[self.examples["baseline_output"].notna()].drop_duplicates(["variant", "benchmark"])
        found: dict[tuple[str, str], str | None] = {}
        for variant, benchmark in self.results[["variant", "benchmark"]].drop_duplicates().itertuples(index=False):
            baseline = self.sources[self.source_of[variant]].baseline
            own = (self.results["variant"] == baseline) & (self.results["benchmark"] == benchmark)
            found[str(variant), str(benchmark)] = None if own.any() else baseline
        for row in told.to_dict("records"):
            name = _named_opponent(row["detail"])
            if name is not None:
                names = self.sources[self.source_of[row["variant"]]].names
                found[str(row["variant"]), str(row["benchmark"])] = names.get(name, name)
        return found

    def comparable(self, one: str, other: str) -> bool:
        """Whether two variants answered the same data: of one directory, or of two with no file that differs."""
        first, second = self.source_of[one], self.source_of[other]
        return first == second or not differing_data(self.sources[first], self.sources[second])


def differing_data(one: Source, other: Source) -> list[str]:
    """The data files that both directories name and that differ between them."""
    mine, theirs = one.manifest["data"], other.manifest["data"]
    return [name for name in mine if name in theirs and mine[name].get("sha256") != theirs[name].get("sha256")]


def _named_opponent(detail: str) -> str | None:
    """Whose answer an example was compared with, as AlpacaEval (`generator_1`) and Arena-Hard (`baseline`) say it."""
    try:
        found = json.loads(detail)
    except (ValueError, RecursionError, TypeError):
        return None
    name = found.get("generator_1", found.get("baseline")) if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def load_run(run_dir: Path) -> Run:
    """Read one run directory; see `load_runs`."""
    return load_runs([run_dir])


def load_runs(run_dirs: Sequence[Path]) -> Run:
    """Read run directories, to be shown side by side.

    Raises:
        DataError: a file that the report needs is missing or malformed, or a table lacks a column.
    """
    manifests = [_manifest(run_dir / "manifest.json") for run_dir in run_dirs]
    results = [_table(run_dir / "results.parquet", tuple(RESULT_DTYPES)) for run_dir in run_dirs]
    examples = [_table(run_dir / "examples.parquet", tuple(EXAMPLE_DTYPES)) for run_dir in run_dirs]
    labels = _labels(run_dirs, manifests)
    sources = []
    for place, (run_dir, manifest, label) in enumerate(zip(run_dirs, manifests, labels, strict=True)):
        tables = (results[place], examples[place])
        known = [*manifest["variants"], *(name for table in tables for name in table["variant"].unique())]
        names = {
            str(name): str(name) if len(run_dirs) == 1 else f"{label}/{name}" for name in [*known, manifest["baseline"]]
        }
        sources.append(Source(label, manifest, _text(run_dir / "matrix.yaml"), names))
    results = [table.assign(run=place, row=range(len(table))) for place, table in enumerate(results)]
    optional = {
        name: [_optional(run_dir / f"{name}.parquet", columns) for run_dir in run_dirs]
        for name, columns in (("likelihoods", LIKELIHOODS), ("training", TRAINING), ("trajectory", TRAJECTORY))
    }
    joined = {name: _joined(tables, sources) for name, tables in optional.items()}
    whole_results, whole_examples = _joined(results, sources), _joined(examples, sources)
    assert whole_results is not None
    assert whole_examples is not None
    return Run(
        sources=tuple(sources),
        results=whole_results,
        examples=whole_examples,
        likelihoods=joined["likelihoods"],
        training=joined["training"],
        trajectory=joined["trajectory"],
        published=_joined([_published(run_dir / "published.csv") for run_dir in run_dirs], sources),
    )


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


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}), so its folder is no finished run; run the matrix"
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
        if not isinstance(judge, dict) or not all(isinstance(judge.get(key), int | float) for key in JUDGE):
            raise DataError(f"{path}: stages[{number}].judge is not what a judge was asked; run the matrix again")
    return manifest


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the matrix again") from error
    lacking = [column for column in columns if column not in frame.columns]
    if lacking:
        raise DataError(f"{path}: lacks the column(s) {', '.join(lacking)}; run the matrix again")
    return frame.reset_index(drop=True)


def _optional(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    if not path.exists():
        return None
    frame = _table(path, columns)
    return None if frame.empty else frame
