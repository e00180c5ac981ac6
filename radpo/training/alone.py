"""One training run outside a matrix: a pairs file comes in, a checkpoint's folder goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from radpo.data.goals import detect_placement, goal_aware_template, original_template
from radpo.data.preferences import Reading, load_preferences
from radpo.data.relabel import relabel
from radpo.errors import ConfigError
from radpo.judges.base import Progress, no_progress
from radpo.models.loading import load_tokenizer, resolve_model
from radpo.training.reference import reference_log_likelihoods
from radpo.training.settings import TrainingSettings
from radpo.training.variants import find_variant


def parse_settings(assignments: Sequence[str]) -> TrainingSettings:
    """Training settings from `key=value` texts; what is not set is the default.

    Raises:
        ConfigError: an assignment is none, or names no setting, or gives a value that the setting does not take.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write it as KEY=VALUE")
        values[key.strip()] = value.strip()
    try:
        return TrainingSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        allowed = ", ".join(TrainingSettings.model_fields)
        key = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigError(f"--set {key}: {first['msg']}; settings are {allowed}") from error


def train_alone(
    pairs_file: Path,
    out: Path,
    *,
    method: str,
    model: str,
    settings: TrainingSettings,
    scale: tuple[float, float],
    seed: int,
    save_every: int,
    reference_progress: Progress = no_progress,
    progress: Progress = no_progress,
) -> Path:
    """Relabel, measure the reference, train. Called again on an interrupted run's folder, it goes on there.

    Returns:
        The checkpoint's folder, `out/policy`.

    Raises:
        ConfigError: the method trains nothing, or the folder holds a run with other settings.
    """
    import json

    import pyarrow.parquet as pq

    from radpo.training.trainer import train

    variant = find_variant(method)
    if variant.data is None:
        raise ConfigError(f"method {method!r} trains nothing; give dpo or ra-dpo")
    folder = resolve_model(model)
    template = original_template(str(load_tokenizer(folder).chat_template))
    placement = detect_placement(template)
    pairs = relabel(load_preferences(pairs_file, Reading(scale)).table, variant.data, placement=placement).table
    out.mkdir(parents=True, exist_ok=True)
    asked: Mapping[str, Any] = {
        "method": method, "model": model, "seed": seed, "scale": list(scale), "pairs": pairs.num_rows,
        "training": settings.model_dump(),
    }  # fmt: skip
    _same_run(out / "run.json", json.dumps(asked, indent=1))
    kept = out / "reference.parquet"
    if not kept.exists():
        reference = reference_log_likelihoods(
            folder, pairs, max_length=settings.max_length, precision=settings.precision, progress=reference_progress
        )
        partial = kept.with_suffix(".partial")
        pq.write_table(reference, partial)
        partial.replace(kept)
    if variant.conditioned:
        template = goal_aware_template(template, best=scale[1], placement=placement)
    if not (out / "policy").exists():
        train(
            folder,
            pairs,
            pq.read_table(kept),
            out,
            settings,
            seed=seed,
            chat_template=template,
            save_every=save_every,
            progress=progress,
        )
    return out / "policy"


def _same_run(record: Path, asked: str) -> None:
    """Going on with other settings would mix two runs in one checkpoint."""
    if record.exists() and record.read_text(encoding="utf-8") != asked:
        raise ConfigError(f"{record.parent}: holds a run with other settings (run.json); give a new folder")
    record.write_text(asked, encoding="utf-8")
