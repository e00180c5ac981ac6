"""Running a matrix: a plan and a store come in, a run directory with tables, manifest and report goes out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from radpo.matrix.executors import Done, Observer, run_local
from radpo.matrix.expand import Cell, Plan
from radpo.matrix.graph import in_order
from radpo.matrix.store import Store

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
PACKAGES = (
    "radpo", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "lm-eval", "alpaca-eval",
    "numpy", "pandas", "pyarrow", "scipy", "plotly",
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """What a run came to: the report, and whether everything was there already."""

    report: Path
    unchanged: bool


def run_matrix(plan: Plan, out: Path, store: Store, observer: Observer) -> Finished:
    """Compute what the store lacks and write the run directory; where nothing changed, do nothing.

    Args:
        out: the run directory: gets matrix.yaml, results.parquet, examples.parquet, likelihoods.parquet,
            training.parquet, manifest.json and report.html.
    """
    from radpo.report.build import build_report

    key, report = _run_key(plan), out / "report.html"
    if _is_current(out, key) and all(store.has(stage) for stage in in_order(plan.wanted)):
        return Finished(report, unchanged=True)
    start = time.perf_counter()
    done = run_local(plan.wanted, store, observer)
    out.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, report.name):  # until both are back, the directory does not count as whole
        (out / name).unlink(missing_ok=True)
    for name, frame in _tables(plan, store).items():
        _write(out / name, lambda path, frame=frame: frame.to_parquet(path, index=False))  # type: ignore[misc]
    resolved = yaml.safe_dump(_resolved(plan), sort_keys=False, allow_unicode=True)
    _write(out / "matrix.yaml", lambda path: path.write_text(resolved, encoding="utf-8"))
    manifest = _manifest(plan, store, done, key, round(time.perf_counter() - start, 3))
    document = json.dumps(manifest, indent=1, ensure_ascii=False)
    _write(out / MANIFEST, lambda path: path.write_text(document, encoding="utf-8"))
    return Finished(build_report(out), unchanged=False)


def _run_key(plan: Plan) -> str:
    """The identity of all that a run directory shows."""
    cells = [
        [cell.variant, cell.seed, cell.train and cell.train.key, {n: s.key for n, s in cell.benchmarks.items()}]
        for cell in plan.cells
    ]
    document = json.dumps([version("radpo"), plan.matrix.name, plan.matrix.baseline, cells], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:32]


def _is_current(out: Path, key: str) -> bool:
    names = ("results.parquet", "examples.parquet", "matrix.yaml", "report.html")
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(manifest.get("key") == key) and all((out / name).is_file() for name in names)


def _tables(plan: Plan, store: Store) -> dict[str, pd.DataFrame]:
    """The run directory's tables, put together from the stages' folders."""
    import pandas as pd

    from radpo.results import examples_frame, results_frame

    results: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    likelihoods: list[pd.DataFrame] = []
    training: list[pd.DataFrame] = []
    for cell in plan.cells:
        place = {"variant": cell.variant, "model": plan.matrix.model, "seed": cell.seed}
        for stage in cell.benchmarks.values():
            folder = store.folder(stage)
            results += _placed(pd.read_parquet(folder / "results.parquet"), place)
            examples += _placed(pd.read_parquet(folder / "examples.parquet"), place)
        if "unlearning" in cell.benchmarks:
            frame = pd.read_parquet(store.folder(cell.benchmarks["unlearning"]) / "likelihoods.parquet")
            likelihoods.append(frame.assign(variant=cell.variant, seed=cell.seed))
        if cell.train is not None:
            folder = store.folder(cell.train)
            training.append(pd.read_parquet(folder / "training.parquet").assign(variant=cell.variant, seed=cell.seed))
            results += _heldout_results(
                json.loads((folder / "heldout.json").read_text(encoding="utf-8")), place, cell, store
            )
    tables = {"results.parquet": results_frame(results), "examples.parquet": examples_frame(examples)}
    if likelihoods:
        tables["likelihoods.parquet"] = pd.concat(likelihoods, ignore_index=True)
    if training:
        tables["training.parquet"] = pd.concat(training, ignore_index=True)
    return tables


def _placed(frame: pd.DataFrame, place: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**{str(key): value for key, value in row.items()}, **place} for row in frame.to_dict("records")]


def _heldout_results(
    metrics: dict[str, float], place: dict[str, Any], cell: Cell, store: Store
) -> list[dict[str, Any]]:
    """What TRL itself measured on the held-out training pairs once training was done, under TRL's own names."""
    import pyarrow.parquet as pq

    assert cell.train is not None
    n = pq.read_metadata(store.folder(cell.train.inputs["heldout_pairs"]) / "pairs.parquet").num_rows
    return [
        {
            **place,
            "benchmark": "training",
            "subset": "heldout",
            "metric": metric,
            "value": value,
            "stderr": None,
            "n": n,
            "higher_is_better": True if metric == "rewards/accuracies" else None,
            "primary": False,
        }
        for metric, value in metrics.items()
    ]


def _resolved(plan: Plan) -> dict[str, Any]:
    """The matrix with every default written out; files by their names, since where they lay says nothing elsewhere."""
    document: dict[str, Any] = plan.matrix.model_dump(mode="json", by_alias=True, exclude_none=True)
    names = {location: Path(location).name for location in plan.files}

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shortened(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    shortened_document: dict[str, Any] = shortened(document)
    return shortened_document


def _manifest(plan: Plan, store: Store, done: Sequence[Done], key: str, seconds: float) -> dict[str, Any]:
    """Everything that it takes to know, and to make again, what a run directory shows."""
    matrix = plan.matrix
    return {
        "name": matrix.name,
        "key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "radpo": version("radpo"),
        "git_commit": _git_commit(),
        "platform": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "packages": {package: found for package in PACKAGES if (found := _version(package)) is not None},
        "models": {matrix.model: {"fingerprint": plan.model.identity}},
        "data": {Path(source.location).name: {"sha256": source.identity} for source in plan.files.values()},
        "pairs": _pair_counts(plan, store),
        "seeds": list(matrix.seeds),
        "baseline": matrix.baseline,
        "variants": {
            name: {"method": settings.method or name, "training": matrix.training_for(settings).model_dump()}
            for name, settings in matrix.variants.items()
        },
        "notes": _notes(plan, store),
        "stages": [
            {
                "name": item.stage.name,
                "key": item.stage.key,
                "seconds": item.seconds,
                "from_store": item.from_store,
                "peak_mib": item.peak_mib,
            }
            for item in done
        ],
        "wall_seconds": seconds,
    }


def _pair_counts(plan: Plan, store: Store) -> dict[str, Any]:
    """What was read, dropped and used of every set of pairs, by relabeling stage."""
    stages = [stage for stage in in_order(plan.wanted) if stage.function_name == "relabel"]
    return {s.name: json.loads((store.folder(s) / "counts.json").read_text(encoding="utf-8")) for s in stages}


def _notes(plan: Plan, store: Store) -> list[str]:
    """What the benchmarks say they did not do, each sentence once."""
    notes: dict[str, None] = {}
    for cell in plan.cells:
        for stage in cell.benchmarks.values():
            notes.update(dict.fromkeys(json.loads((store.folder(stage) / "notes.json").read_text(encoding="utf-8"))))
    if len(plan.matrix.seeds) == 1:
        notes["One seed was run: differences between variants include the luck of that seed."] = None
    missing = [name for name, value in plan.matrix.benchmarks.named().items() if value is None]
    if missing:
        notes[f"Not run, because the matrix does not ask for it: {', '.join(missing)}."] = None
    return list(notes)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def _git_commit() -> str | None:
    """The commit of the checkout that radpo runs from, with `+` where files were changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return f"{commit}+" if _git(here, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then put it in place in one step."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    partial.replace(path)
