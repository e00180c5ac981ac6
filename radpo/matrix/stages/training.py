"""The stages up to a checkpoint: scored pairs -> training pairs -> reference log-likelihoods -> policy."""

from __future__ import annotations

from radpo.matrix.graph import Function, Task
from radpo.matrix.stages.common import NUMERICS, path_of, write_json
from radpo.training.settings import TrainingSettings


def _relabel(task: Task) -> None:
    """Scored pairs -> training pairs (`pairs.parquet`) and what was dropped on the way (`counts.json`)."""
    import pyarrow.parquet as pq

    from radpo.data.goals import detect_placement, original_template
    from radpo.data.preferences import Reading, load_preferences
    from radpo.data.relabel import relabel
    from radpo.models.loading import load_tokenizer, resolve_model

    settings = task.stage.settings
    low, high = settings["scale"]
    preferences = load_preferences(path_of(settings["pairs"]), Reading((low, high)))
    table = preferences.table.slice(0, settings["limit"])
    tokenizer = load_tokenizer(resolve_model(settings["model"].location))
    placement = detect_placement(original_template(str(tokenizer.chat_template)))
    relabeled = relabel(table, settings["kind"], placement=placement)
    pq.write_table(relabeled.table, task.out / "pairs.parquet")
    counts = {
        "rows_read": preferences.rows_read,
        "dropped": dict(preferences.dropped),
        "used": table.num_rows,
        "ties_dropped": relabeled.ties_dropped,
        "pairs": relabeled.table.num_rows,
    }
    write_json(task.out / "counts.json", counts)


def _reference(task: Task) -> None:
    """Training pairs -> their log-likelihoods under the model that training starts from (`reference.parquet`)."""
    import pyarrow.parquet as pq

    from radpo.models.loading import resolve_model
    from radpo.training.reference import reference_log_likelihoods

    settings = task.stage.settings
    table = reference_log_likelihoods(
        resolve_model(settings["model"].location),
        pq.read_table(task.inputs["pairs"] / "pairs.parquet"),
        max_length=settings["max_length"],
        precision=settings["precision"],
        progress=task.progress,
    )
    pq.write_table(table, task.out / "reference.parquet")


def _train(task: Task) -> None:
    """Training pairs and references -> `policy/`, `training.parquet`, `heldout.json`."""
    import pandas as pd
    import pyarrow.parquet as pq

    from radpo.data.goals import detect_placement, goal_aware_template, original_template
    from radpo.models.heldout import heldout_reference
    from radpo.models.loading import load_tokenizer, resolve_model
    from radpo.training.trainer import train

    settings = task.stage.settings
    folder = resolve_model(settings["model"].location)
    template = original_template(str(load_tokenizer(folder).chat_template))
    if settings["conditioned"]:
        template = goal_aware_template(template, best=settings["best"], placement=detect_placement(template))
    heldout = pq.read_table(task.inputs["heldout_pairs"] / "pairs.parquet")
    measured = pd.read_parquet(task.inputs["heldout_reference"] / "likelihoods.parquet")
    train(
        folder,
        pq.read_table(task.inputs["pairs"] / "pairs.parquet"),
        pq.read_table(task.inputs["reference"] / "reference.parquet"),
        task.out,
        TrainingSettings.model_validate(settings["training"]),
        seed=settings["seed"],
        chat_template=template,
        heldout=heldout,
        heldout_reference=heldout_reference(measured, heldout),
        save_every=task.stage.hints["save_every"],
        progress=task.progress,
    )


TRAINING = {
    "relabel": Function(_relabel, version=1),
    "reference": Function(_reference, version=1, packages=NUMERICS),
    "train": Function(_train, version=1, packages=(*NUMERICS, "trl", "accelerate"), resumable=True),
}
