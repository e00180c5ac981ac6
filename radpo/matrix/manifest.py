"""The manifest: everything that it takes to know, and to make again, what a run directory shows."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from radpo.benchmarks.registry import benchmarks
from radpo.core.machine import describe_machine
from radpo.core.metrics import metrics_to_json
from radpo.core.named_data import name_of
from radpo.core.optional import installed_version
from radpo.engine.graph import Stage, in_order
from radpo.engine.schedule import Done
from radpo.engine.sources import Source
from radpo.engine.store import Store
from radpo.matrix.choosing import BENCHMARK as TUNING
from radpo.matrix.choosing import Choice, described, tuning_notes
from radpo.matrix.expand import Cell, Plan
from radpo.models.precision import settled
from radpo.preferences.hub import parse_hub

PACKAGES = ("radpo", "torch", "transformers", "trl", "accelerate", "datasets", "peft")
"""Whose versions a manifest tells in any case, beside those that its stages' functions name."""
MORE_PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "plotly")

PUBLISHED = "published.csv"
"""A run directory's copy of the published figures."""


def manifest(
    plan: Plan,
    model: Source,
    store: Store,
    done: Sequence[Done],
    key: str,
    seconds: float,
    choices: Mapping[str, Choice] | None = None,
) -> dict[str, Any]:
    """The manifest of one model's run directory.

    Args:
        done: how each of the plan's stages was had.
        key: the identity of what the run directory shows.
        seconds: wall time of this run.
        choices: what was chosen for the model's tuned variants.
    """
    matrix, cells, tuned = plan.matrix_of(model), plan.cells_of(model), plan.tuning
    tried = () if tuned is None else [cell for cell in tuned.cells if cell.model == model.location]
    stages = in_order(stage for cell in (*cells, *tried) for stage in cell.wanted)
    metrics = {name: benchmarks()[name].metrics for name in matrix.benchmarks.named()}
    if tuned is not None:
        metrics[TUNING] = described(tuned.figure)
    given = {cell.variant: cell.given for cell in cells}
    keys, seeds = {stage.key for stage in stages}, sorted({cell.seed for cell in cells})
    return {
        "name": matrix.name,
        "key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "radpo": version("radpo"),
        "git_commit": _git_commit(),
        "platform": {"python": platform.python_version(), **describe_machine()},
        "packages": {name: found for name in _packages(stages) if (found := installed_version(name)) is not None},
        "models": {each.location: _model(each) for each in plan.members.get(model.location, ())},
        "data": {_name(source): {"sha256": source.identity} for source in plan.files.values()},
        "pairs": _pair_counts(stages, store),
        "seeds": seeds,
        "baseline": matrix.baseline,
        "variants": {
            name: {
                "method": matrix.method_of(name),
                "training": settled(matrix.training_for(name).model_dump(mode="json"), plan.auto_precision),
                **given[name],
            }
            for name in matrix.variants
            if name in given
        },
        "metrics": metrics_to_json(metrics),
        "notes": [
            *_notes(plan, cells, len(seeds), store),
            *([] if tuned is None else tuning_notes(tuned, choices or {})),
        ],
        "stages": [_stage(item, store) for item in done if item.stage.key in keys],
        "wall_seconds": seconds,
    }


def _name(source: Source) -> str:
    """What a file is called wherever it is: published data by its name, a data set of the Hub with its commit."""
    if parse_hub(source.read_from) is not None:
        return source.read_from
    path = Path(source.location)
    return name_of(path) or path.name


def _model(model: Source) -> dict[str, str]:
    commit = {"commit": model.pinned.rpartition("@")[2]} if model.pinned else {}
    return {"fingerprint": model.identity, **commit}


def _packages(stages: Sequence[Stage]) -> list[str]:
    named = sorted({package for stage in stages for package in stage.function.packages})
    return list(dict.fromkeys((*PACKAGES, *named, *MORE_PACKAGES)))


def _stage(item: Done, store: Store) -> dict[str, Any]:
    record, usage = store.record(item.stage.key), store.open(item.stage) / "judge_usage.json"
    return {
        "name": item.stage.name,
        "key": item.stage.key,
        "inputs": sorted(stage.key for stage in item.stage.inputs.values()),
        "seconds": item.seconds,
        "resumed": record.get("resumed"),
        "from_store": item.from_store,
        "peak_mib": item.peak_mib,
        "started": record.get("started"),
        "machine": record.get("machine"),
        **({"judge": json.loads(usage.read_text(encoding="utf-8"))} if usage.exists() else {}),
    }


def _pair_counts(stages: Sequence[Stage], store: Store) -> dict[str, Any]:
    """What was read, dropped and used of every set of pairs, by relabeling stage."""
    relabeled = [stage for stage in stages if stage.function_name == "relabel"]
    return {s.name: json.loads((store.open(s) / "counts.json").read_text(encoding="utf-8")) for s in relabeled}


def _notes(plan: Plan, cells: Sequence[Cell], seeds: int, store: Store) -> list[str]:
    """What the benchmarks say they did not do, each sentence once."""
    notes: dict[str, None] = {}
    for cell in cells:
        for stage in (*cell.benchmarks.values(), *([cell.train] if cell.train else [])):
            notes.update(dict.fromkeys(json.loads((store.open(stage) / "notes.json").read_text(encoding="utf-8"))))
    notes.update(dict.fromkeys(pair_notes(plan.stages, store)))
    if seeds == 1:
        notes["One seed was run: differences between variants include the luck of that seed."] = None
    missing = [name for name in benchmarks() if name not in plan.matrix.benchmarks.named()]
    if missing:
        notes[f"Not run, because the matrix does not ask for it: {', '.join(missing)}."] = None
    return list(notes)


def pair_notes(stages: Sequence[Stage], store: Store) -> list[str]:
    """What was left out of every file of scored pairs, and what is to be known of the rest."""
    notes = []
    for stage in (stage for stage in stages if stage.function_name == "pairs"):
        counts = json.loads((store.open(stage) / "counts.json").read_text(encoding="utf-8"))
        name, rows = _name(stage.settings["pairs"]), counts["rows_read"]
        notes += [f"{name}: {count} of {rows} rows were left out ({why})." for why, count in counts["dropped"].items()]
        notes += [f"{name}: {count} times in {rows} rows, {what}." for what, count in counts["noted"].items()]
    return notes


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


def resolved(plan: Plan, model: Source | None = None) -> dict[str, Any]:
    """The matrix with every default written out, `precision: auto` as it was settled, and settings as they were chosen.

    Files are there by their names, since where they lay says nothing elsewhere.

    Args:
        model: whose settings, where they were chosen for each; the first unless given.
    """
    document: dict[str, Any] = settled(
        plan.matrix_of(model or plan.models[0]).model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"size_hints"}
        ),
        plan.auto_precision,
    )
    if plan.matrix.published is not None:
        document["published"] = PUBLISHED
    names = {location: _name(source) for location, source in plan.files.items()}

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shortened(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    shortened_document: dict[str, Any] = shortened(document)
    return shortened_document
