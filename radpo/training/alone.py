"""One training run outside a matrix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from radpo.core.errors import ConfigError
from radpo.core.files import write_json
from radpo.core.progress import Progress, no_progress
from radpo.models.chat_template import placement_of
from radpo.models.loading import load_tokenizer, resolve_model
from radpo.models.precision import settle
from radpo.preferences.preferences import Reading, load_preferences
from radpo.preferences.relabel import relabel
from radpo.training.reference import reference_log_likelihoods, with_log_likelihoods
from radpo.training.settings import TrainingSettings
from radpo.training.variants import Variant, find_variant, make_pairs, variant_code

if TYPE_CHECKING:
    import pyarrow as pa


COUNTS = "counts.json"
"""What was read of the pairs, what was left out and what noted."""


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
    pairs_file: str | Path,
    out: Path,
    *,
    method: str,
    model: str,
    settings: TrainingSettings,
    reading: Reading,
    seed: int,
    save_every: int,
    reference_progress: Progress = no_progress,
    progress: Progress = no_progress,
) -> Path:
    """Relabel, measure the reference, train. Called again on an interrupted run's folder, it goes on there.

    Started by `accelerate launch`, the first process prepares and writes, and all of them train.

    Returns:
        The checkpoint's folder, `out/policy`.

    Raises:
        ConfigError: the method trains nothing, or the folder holds a run with other settings or pairs.
    """
    import pyarrow.parquet as pq
    import torch
    from accelerate import PartialState

    from radpo.training.run import policy_template, train

    settings = settings.model_copy(update={"precision": settle(settings.precision)})
    variant = find_variant(method)
    if variant.data is None:
        raise ConfigError(f"method {method!r} trains nothing; give dpo or ra-dpo")
    folder = resolve_model(model)
    read, scale = load_preferences(pairs_file, reading), reading.scale
    scored = read.table
    asked: dict[str, Any] = {
        "method": method, "code": variant_code(method), "model": model, "seed": seed, "scale": list(scale),
        "pairs": _content_hash(scored), "training": settings.model_dump(mode="json"),
    }  # fmt: skip
    processes = PartialState(cpu=not torch.cuda.is_available())
    with processes.main_process_first():
        out.mkdir(parents=True, exist_ok=True)
        _same_run(out / "run.json", json.dumps(asked, indent=1))
        if processes.is_main_process:
            counts = {"rows_read": read.rows_read, "dropped": read.dropped, "noted": read.noted}
            write_json(out / COUNTS, {**counts, "checked": scored.num_rows})
    rewards = None
    if variant.rewards_from is not None:
        rewards = train_alone(
            pairs_file, out / "rewards", method=variant.rewards_from, model=model, settings=settings, reading=reading,
            seed=seed, save_every=save_every, reference_progress=reference_progress, progress=progress,
        )  # fmt: skip
    with processes.main_process_first():
        if not (out / "reference.parquet").exists():
            _prepare(scored, variant, folder, out, settings, scale, rewards, reference_progress)
    pairs = pq.read_table(out / "pairs.parquet")
    if not (out / "policy").exists():
        train(
            folder,
            pairs,
            pq.read_table(out / "reference.parquet"),
            out,
            settings,
            seed=seed,
            chat_template=policy_template(folder, pairs, scale=scale) if variant.conditioned else None,
            pair_loss=variant.loss,
            save_every=save_every,
            progress=progress,
        )
    return out / "policy"


def _prepare(
    scored: pa.Table,
    variant: Variant,
    folder: Path,
    out: Path,
    settings: TrainingSettings,
    scale: tuple[float, float],
    rewards: Path | None,
    progress: Progress,
) -> None:
    """Write `pairs.parquet`, the training pairs, and `reference.parquet`, their log-likelihoods."""
    length, precision = settings.max_length, settings.precision
    if rewards is not None:
        scored = with_log_likelihoods(
            scored, rewards, folder, max_length=length, precision=precision, progress=progress
        )
    placement = placement_of(load_tokenizer(folder, with_goal=False))
    assert variant.data is not None
    if callable(variant.data):
        pairs = make_pairs(variant.data, scored, placement, scale)
    else:
        pairs = relabel(scored, variant.data, placement=placement, scale=scale).table
    reference = reference_log_likelihoods(folder, pairs, max_length=length, precision=precision, progress=progress)
    _write(pairs, out / "pairs.parquet")
    _write(reference, out / "reference.parquet")


def _same_run(record: Path, asked: str) -> None:
    """Going on with other settings would mix two runs in one checkpoint."""
    if record.exists() and record.read_text(encoding="utf-8") != asked:
        raise ConfigError(f"{record.parent}: holds a run with other settings or pairs (run.json); give a new folder")
    record.write_text(asked, encoding="utf-8")


def _content_hash(table: pa.Table) -> str:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=10_000)
    return f"sha256:{hashlib.sha256(sink.getvalue()).hexdigest()}"


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    partial.replace(path)
