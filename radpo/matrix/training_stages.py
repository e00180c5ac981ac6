"""The stages up to a checkpoint: scored pairs -> training pairs -> reference log-likelihoods -> policy.

Raise a function's version when a change to it, or to what it calls, changes what it writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from radpo.benchmarks.pieces import NUMERICS, PAIRS, path_of, policy_folder
from radpo.benchmarks.protocol import Cost
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import GOAL_TOKENS, Work, of_model
from radpo.core.files import write_json
from radpo.core.optional import need_package
from radpo.engine.distributed import launch_distributed
from radpo.engine.graph import Function, Stage, Task
from radpo.training.reporting import Reporting, check_trackers
from radpo.training.settings import TrainingSettings


def _relabel(task: Task) -> None:
    """Scored pairs -> training pairs (`pairs.parquet`) and what was dropped on the way (`counts.json`)."""
    from dataclasses import asdict

    import pyarrow.parquet as pq

    from radpo.models.chat_template import placement_of
    from radpo.models.loading import load_tokenizer, resolve_model
    from radpo.preferences.goals import ATTRIBUTE_SCALE
    from radpo.preferences.relabel import relabel
    from radpo.training.variants import find_variant, make_pairs

    settings = task.stage.settings
    scale = tuple(settings["scale"])
    table = pq.read_table(task.inputs["scored" if "scored" in task.inputs else "pairs"] / PAIRS)
    placement = placement_of(load_tokenizer(resolve_model(settings["model"].read_from), with_goal=False))
    counts: dict[str, Any] = json.loads((task.inputs["pairs"] / "counts.json").read_text(encoding="utf-8"))
    if "method" in settings:
        made = make_pairs(find_variant(settings["method"]).data, table, placement, scale)  # type: ignore[arg-type]
        counts |= {"used": table.num_rows, "ties_dropped": 0}
    else:
        rated = tuple(settings.get("attribute_scale", ATTRIBUTE_SCALE))
        template = None if settings["kind"] == "attributes" else settings.get("goal_text")
        relabeled = relabel(
            table, settings["kind"], placement=placement, template=template, scale=scale, attribute_scale=rated
        )
        made = relabeled.table
        counts |= asdict(relabeled.counts) | {"used": table.num_rows}
    pq.write_table(made, task.out / PAIRS)
    write_json(task.out / "counts.json", counts | {"pairs": made.num_rows})


def _training_pairs(task: Task) -> None:
    """Training pairs as `radpo data relabel` wrote them -> the checked ones (`pairs.parquet`), and `counts.json`."""
    import pyarrow.parquet as pq

    from radpo.preferences.training_pairs import load_training_pairs

    table = load_training_pairs(path_of(task.stage.settings["pairs"]), task.stage.settings["limit"])
    pq.write_table(table, task.out / PAIRS)
    counts: dict[str, Any] = {"rows_read": table.num_rows, "dropped": {}, "noted": {}, "checked": table.num_rows}
    write_json(task.out / "counts.json", counts | {"used": table.num_rows, "pairs": table.num_rows})


def _training_pairs_cost(sizes: Sizes, stage: Stage) -> Work:
    return Work(disk_bytes=sizes.file_bytes(stage.settings))


def _implicit(task: Task) -> None:
    """A trained policy and scored pairs -> the pairs with log p under policy and reference (`pairs.parquet`)."""
    import pyarrow.parquet as pq

    from radpo.models.loading import resolve_model
    from radpo.training.reference import with_log_likelihoods

    settings = task.stage.settings
    found = with_log_likelihoods(
        pq.read_table(task.inputs["pairs"] / PAIRS),
        policy_folder(task),
        resolve_model(settings["model"].read_from),
        max_length=settings["max_length"],
        precision=settings["precision"],
        progress=task.progress,
    )
    pq.write_table(found, task.out / PAIRS)


def _reference(task: Task) -> None:
    """Training pairs -> their log-likelihoods under the model that training starts from (`reference.parquet`)."""
    import pyarrow.parquet as pq

    from radpo.models.loading import resolve_model
    from radpo.training.reference import reference_log_likelihoods

    settings = task.stage.settings
    table = reference_log_likelihoods(
        resolve_model(settings["model"].read_from),
        pq.read_table(task.inputs["pairs"] / PAIRS),
        max_length=settings["max_length"],
        precision=settings["precision"],
        stop_at_overlong=task.stage.hints.get("stop_at_overlong"),
        progress=task.progress,
    )
    pq.write_table(table, task.out / "reference.parquet")


def _train(task: Task) -> None:
    """Training pairs and references -> `policy/`, `training.parquet`, `heldout.json`, maybe `trajectory.parquet`.

    Where `resources` gives it several GPUs, this process starts one for each, which come here as well.
    """
    import torch

    gpus = int(task.stage.hints.get("resources", {}).get("gpus", 1))
    if gpus > 1 and torch.cuda.is_available() and "LOCAL_RANK" not in os.environ:
        launch_distributed(task, gpus)
    else:
        _train_here(task)


def _train_ready(stage: Stage) -> None:
    """Are the packages there that some settings need?"""
    lora = stage.settings["training"].get("lora")
    if lora is not None and lora.get("four_bit"):
        need_package("bitsandbytes", "training.lora.four_bit", "bitsandbytes")
    check_trackers(_reporting(stage).trackers)


def _reporting(stage: Stage) -> Reporting:
    asked = stage.hints["report_to"]
    return Reporting(tuple(asked["trackers"]), asked["project"], asked["run_name"])


def _train_here(task: Task) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    from radpo.models.heldout import heldout_reference
    from radpo.models.loading import resolve_model
    from radpo.preferences.goals import ATTRIBUTE_SCALE, asked_in
    from radpo.training.reference import known_log_likelihoods
    from radpo.training.run import Tracked, policy_template, train
    from radpo.training.variants import find_variant

    settings = task.stage.settings
    folder, scale = resolve_model(settings["model"].read_from), tuple(settings["scale"])
    pairs, watched = pq.read_table(task.inputs["pairs"] / PAIRS), None
    if "heldout_pairs" in task.inputs:
        heldout = pq.read_table(task.inputs["heldout_pairs"] / PAIRS)
    if "heldout_likelihoods" in task.inputs:
        measured = pd.read_parquet(task.inputs["heldout_likelihoods"] / "likelihoods.parquet")
        watched = (heldout, known_log_likelihoods(folder, heldout, heldout_reference(measured, heldout)))
    elif "heldout_reference" in task.inputs:
        watched = (heldout, pq.read_table(task.inputs["heldout_reference"] / "reference.parquet"))
    tracked = None
    if "track" in settings:
        tracked = Tracked(pq.read_table(task.inputs["tracked"] / PAIRS), scale, settings["track"], asked_in(settings))
    chat_template = None
    if settings["conditioned"]:
        rated = tuple(settings.get("attribute_scale", ATTRIBUTE_SCALE))
        chat_template = policy_template(folder, pairs, scale=scale, attribute_scale=rated)
    train(
        folder,
        pairs,
        pq.read_table(task.inputs["reference"] / "reference.parquet"),
        task.out,
        TrainingSettings.model_validate(settings["training"]),
        seed=settings["seed"],
        chat_template=chat_template,
        pair_loss=find_variant(settings["method"]).loss if "method" in settings else None,
        heldout=watched,
        tracked=tracked,
        save_every=task.stage.hints["save_every"],
        report_to=_reporting(task.stage),
        progress=task.progress,
    )


def _relabel_cost(sizes: Sizes, stage: Stage) -> Work:
    return Work(disk_bytes=4 * sizes.pairs(stage).sequences(2**30) * _copies(stage))


def _reference_cost(sizes: Sizes, stage: Stage) -> Work:
    tokens = _training_tokens(sizes, stage.inputs["pairs"], stage.settings["max_length"])
    relabel = stage.inputs["pairs"]
    pairs = sizes.pairs(relabel).number * _copies(relabel)
    return of_model(sizes, stage, prefill_tokens=tokens, disk_bytes=32 * pairs)


def _implicit_cost(sizes: Sizes, stage: Stage) -> Work:
    """Every scored pair is read by the policy and by the reference."""
    pairs = sizes.pairs(stage)
    tokens = 2 * pairs.sequences(stage.settings["max_length"])
    return of_model(sizes, stage, prefill_tokens=tokens, disk_bytes=4 * pairs.sequences(2**30))


def _train_cost(sizes: Sizes, stage: Stage) -> Work:
    settings = stage.settings["training"]
    length = settings["max_length"]
    trained = settings["num_train_epochs"] * _training_tokens(sizes, stage.inputs["pairs"], length)
    heldout = _training_tokens(sizes, stage.inputs["heldout_pairs"], length) if "heldout_pairs" in stage.inputs else 0
    again = trained if settings.get("gradient_checkpointing") else 0.0  # activations are computed a second time
    parameters = sizes.model(stage).parameters
    return of_model(
        sizes,
        stage,
        trained_tokens=trained,
        prefill_tokens=heldout + again,
        precision=settings["precision"],
        disk_bytes=4 * parameters,
        scratch_bytes=2 * 12 * parameters,  # two resumable checkpoints of weights and Adam's two moments
        memory_bytes=16 * parameters if settings.get("lora") is None else 4 * parameters,  # and gradients
    )


def _copies(relabel: Stage) -> int:
    """Training pairs that a scored pair becomes; at most, where a method makes them by code of its own."""
    return 1 if relabel.settings.get("kind") in ("plain", "half-ra") or relabel.function_name == "training-pairs" else 2


def _training_tokens(sizes: Sizes, relabel: Stage, max_length: int) -> float:
    given = relabel.settings.get("kind") == "plain" or relabel.function_name == "training-pairs"
    goal = 0 if given else GOAL_TOKENS
    return _copies(relabel) * sizes.pairs(relabel).sequences(max_length, goal)


FUNCTIONS: Mapping[str, Function] = {
    "relabel": Function(_relabel, version=3),
    "training-pairs": Function(_training_pairs, version=1, packages=("pyarrow",)),
    "reference": Function(_reference, version=4, packages=NUMERICS),
    "implicit": Function(_implicit, version=3, packages=NUMERICS),
    "train": Function(
        _train, version=7, packages=(*NUMERICS, "accelerate", "peft", "trl"), resumable=True, ready=_train_ready
    ),
}
COSTS: Mapping[str, Cost] = {
    "relabel": _relabel_cost,
    "training-pairs": _training_pairs_cost,
    "reference": _reference_cost,
    "implicit": _implicit_cost,
    "train": _train_cost,
}
