"""Finished results of other tools as the variants of a run directory, which report, gate and exports then read."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from radpo.benchmarks.protocol import Whose
from radpo.benchmarks.registry import benchmarks
from radpo.core.errors import ConfigError, DataError
from radpo.core.files import replace_file, replace_json, sha256
from radpo.core.machine import describe_machine
from radpo.core.metrics import metrics_to_json
from radpo.core.results import Scores, examples_frame, results_frame
from radpo.core.run import COMPARISONS, load_run
from radpo.core.run_files import MANIFEST, REPORT, whole_manifest, write_manifest

SEED = 0
"""The seed of what comes from elsewhere, which says none."""


def import_results(
    out: Path,
    files: Mapping[str, Sequence[Path]],
    write_report: Callable[[Path], object],
    *,
    baseline: str | None = None,
    only: str | None = None,
) -> Path:
    """Write a run directory of results that others computed; every figure is the file's own.

    Args:
        out: the run directory, which must be new or one that was imported.
        files: the result files of each variant.
        write_report: puts report.html into a run directory that has everything else.
        baseline: the variant that the others are compared with; the first unless given.
        only: the model whose rows count, where a file has several models'; else the one that is called as the variant.

    Returns:
        The report.

    Raises:
        ConfigError: the folder holds something else, there is no such baseline, or a file is of no known kind.
        DataError: a file is malformed, or two files give one figure.
    """
    from radpo.stats.comparison import comparisons

    first = baseline or next(iter(files))
    if first not in files:
        raise ConfigError(f"--baseline {first!r}: must be one of {', '.join(files)}")
    known = whole_manifest(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and (known is None or not known.get("imported")):
        raise ConfigError(f"{out}: has files that `radpo import` did not write; give another folder")
    results: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    notes: dict[str, None] = {"The results were computed by other tools and imported as they are.": None}
    for variant, paths in files.items():
        place = {"variant": variant, "model": "none", "seed": SEED}
        seen: dict[tuple[str, str, str], Path] = {}
        for path in paths:
            found = read_results(path, Whose(only, variant))
            notes.update(dict.fromkeys(found.notes))
            for row in found.results:
                figure = (row.benchmark, row.subset, row.metric)
                if figure in seen:
                    raise DataError(f"{path}: {'/'.join(figure)} of {variant} is in {seen[figure]}, too")
                seen[figure] = path
                results.append({**asdict(row), **place})
            examples += [{**asdict(row), **place} for row in found.examples]
    named = {row["benchmark"] for row in results}
    data = {path.name: {"sha256": f"sha256:{sha256(path)}"} for paths in files.values() for path in paths}
    document = {
        "name": out.resolve().name, "imported": True, "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "key": hashlib.sha256(json.dumps([data, list(files), first], sort_keys=True).encode()).hexdigest()[:32],
        "radpo": version("radpo"), "git_commit": None, "packages": {}, "models": {}, "data": data, "pairs": {},
        "platform": {"python": platform.python_version(), **describe_machine()},
        "seeds": [SEED], "baseline": first, "notes": list(notes), "stages": [], "wall_seconds": 0.0,
        "variants": {name: {"results": [path.name for path in paths]} for name, paths in files.items()},
        "metrics": metrics_to_json({name: one.metrics for name, one in benchmarks().items() if name in named}),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    tables = {"results.parquet": results_frame(results), "examples.parquet": examples_frame(examples)}
    for name, frame in tables.items():
        replace_file(out / name, lambda path, frame=frame: frame.to_parquet(path, index=False))  # type: ignore[misc]
    text = yaml.safe_dump({"name": document["name"], "baseline": first, "variants": document["variants"]})
    replace_file(out / "matrix.yaml", lambda path: path.write_text(text, encoding="utf-8"))
    replace_json(out / MANIFEST, document)  # still without checksums, for what reads the directory
    compared = comparisons(load_run(out))
    replace_file(out / COMPARISONS, lambda path: compared.to_parquet(path, index=False))
    write_report(out)
    write_manifest(out, document, (*tables, COMPARISONS, "matrix.yaml", REPORT))
    return out / REPORT


def read_results(path: Path, whose: Whose) -> Scores:
    """The scores that a file holds, by the first benchmark that knows its kind. Raises as `import_results`."""
    for benchmark in benchmarks().values():
        found = None if benchmark.imports is None else benchmark.imports(path, whose)
        if found is not None:
            return found
    kinds = ", ".join(name for name, one in benchmarks().items() if one.imports is not None)
    raise ConfigError(
        f"{path}: no results that a benchmark knows ({kinds}); answers that nobody has judged yet go into a matrix as "
        "variants: {NAME: {answers: FILE}}"
    )
