"""Running a matrix: its stages are computed, and its run directories get tables, manifest and report."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from radpo.core.files import replace_file, replace_json, sha256
from radpo.core.run_files import MANIFEST, REPORT, whole_manifest, write_checkpoints, write_manifest
from radpo.engine.graph import Stage
from radpo.engine.schedule import Done, Observer, Pool, run_stages
from radpo.engine.sources import Source
from radpo.engine.store import Store
from radpo.matrix.choosing import CHOICES, Choice, choices_json, choose, result_rows
from radpo.matrix.expand import Plan
from radpo.matrix.manifest import PUBLISHED, manifest, resolved
from radpo.matrix.settings import Matrix
from radpo.matrix.spending import spending
from radpo.matrix.tables import gather, known_tables

OCCASION = "occasion.txt"
"""Tells what this run directory's endpoints answered from what the same names answer on another occasion."""


@dataclass(frozen=True)
class Finished:
    """What a run came to: a report for each model, and whether everything was there already."""

    reports: tuple[Path, ...]
    unchanged: bool

    @property
    def run_dirs(self) -> tuple[Path, ...]:
        """The run directories that the reports are in."""
        return tuple(report.parent for report in self.reports)


def run_matrix(
    plan: Plan,
    out: Path,
    store: Store,
    missing: Sequence[Stage],
    observer: Observer,
    make_pool: Callable[[], Pool],
    write_report: Callable[[Path], object],
    *,
    keep_going: bool = False,
    weights: Mapping[str, float] | None = None,
    notes: Mapping[str, Mapping[str, Any]] | None = None,
    on_failure: Callable[[], object] = lambda: None,
    before: Sequence[Done] = (),
) -> Finished:
    """Compute what the store lacks and write the run directory; where nothing changed, do nothing.

    Args:
        out: the run directory: gets matrix.yaml, results.parquet, examples.parquet, comparisons.parquet,
            likelihoods.parquet, training.parquet, manifest.json and report.html. A matrix of several models gets a run
            directory for each within it, because variants are compared with the baseline of their own model.
        missing: the plan's stages that the store lacks.
        make_pool: called once there is something to compute.
        write_report: puts report.html into a run directory that has everything else.
        keep_going, weights, notes, on_failure: as `radpo.engine.schedule.run_stages` takes them.
        before: how the stages were had that tried settings.

    Raises:
        StageError: a stage failed.
    """
    start = time.perf_counter()
    folders = _folders(plan, out)
    keys = {model: _run_key(plan, model) for model in plan.models}
    reports = tuple(folder / REPORT for folder in folders.values())
    if not missing and is_current(plan, out):
        with suppress(OSError):  # a run directory that cannot be written is finished all the same
            _name_checkpoints(plan, folders, store)
        return Finished(reports, unchanged=True)
    done = run_stages(
        plan.reported, store, make_pool(), observer,
        keep_going=keep_going, weights=weights, notes=notes, on_failure=on_failure,
    )  # fmt: skip
    tried = {item.stage.key: item for item in (*done, *before) if not item.from_store}
    done = list({item.stage.key: tried.get(item.stage.key, item) for item in (*before, *done)}.values())
    choices = {} if plan.tuning is None else choose(plan.tuning, store)
    with store.translate_disk_full():
        for model, folder in folders.items():
            if not _is_current(folder, keys[model]):
                own = choices.get(model.location, {})
                seconds = round(time.perf_counter() - start, 3)
                document = manifest(plan, model, store, done, keys[model], seconds, own)
                if (spent := spending(plan.matrix, out)) is not None:
                    document["spending"] = spent
                _write_run(plan, model, folder, store, document, write_report, own)
        _name_checkpoints(plan, folders, store)
    return Finished(reports, unchanged=False)


def _name_checkpoints(plan: Plan, folders: Mapping[Source, Path], store: Store) -> None:
    """Have every run directory say where its checkpoints are."""
    for model, folder in folders.items():
        trained = [(cell.variant, cell.seed, cell.train.key) for cell in plan.cells_of(model) if cell.train]
        write_checkpoints(folder, store.place, trained, store.root / "stages")


def is_current(plan: Plan, out: Path) -> bool:
    """Whether a plan's run directories show what they should: with every stage in the store, nothing is to do."""
    return all(_is_current(folder, _run_key(plan, model)) for model, folder in _folders(plan, out).items())


def _folders(plan: Plan, out: Path) -> dict[Source, Path]:
    """The run directory of each model."""
    return {model: out / plan.labels[model.location] for model in plan.models}


def occasion_of(matrix: Matrix, out: Path, *, begin: bool = False) -> str:
    """What answers of endpoints without a version are known by: they are of this run directory, and of no other.

    Args:
        begin: note it in the run directory where it is new, so that an interrupted run resumes from its answers.
    """
    endpoints = [variant.endpoint for variant in matrix.variants.values() if variant.endpoint is not None]
    if all(endpoint.version is not None or endpoint.is_served for endpoint in endpoints):
        return ""
    path = out / OCCASION
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = uuid.uuid4().hex
    if begin:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda partial: partial.write_text(found, encoding="utf-8"))
    return found


def _write_run(
    plan: Plan,
    model: Source,
    out: Path,
    store: Store,
    document: Mapping[str, Any],
    write_report: Callable[[Path], object],
    choices: Mapping[str, Choice],
) -> None:
    """Write a run directory's files and, last of all, the manifest that has their checksums."""
    from radpo.core.run import COMPARISONS, load_run
    from radpo.stats.comparison import comparisons

    out.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, REPORT):  # until both are back, the directory does not count as whole
        (out / name).unlink(missing_ok=True)
    tried = [] if plan.tuning is None else result_rows(plan.tuning, model.location, choices)
    levels = None if plan.matrix.draws is None else plan.matrix.levels
    tables = gather(plan.cells_of(model), store, tried, levels)
    for stale in {*known_tables(), COMPARISONS} - tables.keys():
        (out / stale).unlink(missing_ok=True)
    for name, frame in tables.items():
        replace_file(out / name, lambda path, frame=frame: frame.to_parquet(path, index=False))  # type: ignore[misc]
    if plan.tuning is None:
        (out / CHOICES).unlink(missing_ok=True)
    else:
        replace_json(out / CHOICES, choices_json(plan.tuning, choices))
    text = yaml.safe_dump(resolved(plan, model), sort_keys=False, allow_unicode=True)
    replace_file(out / "matrix.yaml", lambda path: path.write_text(text, encoding="utf-8"))
    copied = [*_copy_published(plan, out), *([] if plan.tuning is None else [CHOICES])]
    replace_json(out / MANIFEST, document)  # still without checksums, for what reads the directory
    compared = comparisons(load_run(out))
    replace_file(out / COMPARISONS, lambda path: compared.to_parquet(path, index=False))
    write_report(out)
    write_manifest(out, document, (*tables, COMPARISONS, "matrix.yaml", *copied, REPORT))


def leave_files(files: Mapping[str, Path], out: Path) -> None:
    """Copies of stages' files and folders in a run directory, by the name they get there; what is the same stays."""
    for name, found in files.items():
        target = out / name
        if found.is_file():
            if not target.is_file() or sha256(target) != sha256(found):
                replace_file(target, lambda path, found=found: shutil.copyfile(found, path))  # type: ignore[misc]
        elif found.is_dir():
            if target.is_symlink():  # to what is not this directory's
                target.unlink()
            for stale in [path for path in target.rglob("*") if not (found / path.relative_to(target)).exists()]:
                if stale.is_file():
                    stale.unlink()
            for path in sorted(found.rglob("*")):
                if path.is_file():
                    (target / path.relative_to(found)).parent.mkdir(parents=True, exist_ok=True)
                    leave_files({path.relative_to(found).as_posix(): path}, target)


def _copy_published(plan: Plan, out: Path) -> list[str]:
    """The published figures beside the run's own, under one name; an old copy goes where there are none."""
    published = plan.matrix.published
    if published is None:
        (out / PUBLISHED).unlink(missing_ok=True)
        return []
    replace_file(out / PUBLISHED, lambda path: shutil.copyfile(published, path))
    return [PUBLISHED]


def _run_key(plan: Plan, model: Source) -> str:
    """The identity of all that a run directory shows."""
    cells = [
        [cell.variant, cell.seed, cell.train and cell.train.key, {n: s.key for n, s in cell.benchmarks.items()}]
        for cell in plan.cells_of(model)
    ]
    shown: list[Any] = [version("radpo"), plan.matrix.name, plan.matrix.baseline, cells]
    if plan.tuning is not None:
        tried = [cell for cell in plan.tuning.cells if cell.model == model.location]
        scored = [[cell.variant, cell.seed, {n: s.key for n, s in cell.benchmarks.items()}] for cell in tried]
        shown.append([str(plan.tuning.figure), asdict(plan.tuning.prompts), scored])
    if plan.matrix.published is not None:
        shown.append(sha256(plan.matrix.published))
    document = json.dumps(shown, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:32]


def _is_current(out: Path, key: str) -> bool:
    """Whether a run directory shows what it should, all its files being as they were written."""
    found = whole_manifest(out)
    return found is not None and found.get("key") == key
