"""One training run, from training pairs and their reference log-likelihoods to a policy's folder.

Interrupted at any moment, the same call on the same folder resumes from the last whole checkpoint and ends in the same
weights.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ConfigError, DataError
from radpo.core.optional import need_package
from radpo.core.progress import Progress, no_progress
from radpo.models.chat_template import DEFAULT, date_notes, placement_of
from radpo.models.context import Context, saved_context
from radpo.models.dropout import check_deterministic, disable_dropout
from radpo.models.loading import load_model, load_tokenizer, saved_template, torch_dtype
from radpo.models.weights import load_weights
from radpo.preferences.goals import (
    ATTRIBUTE_SCALE,
    Scale,
    attribute_goals,
    attributes_text,
    goal_aware_template,
    goal_wording,
    stated_scale,
    wording_between,
)
from radpo.training.checkpoint import (
    check_saving,
    companions,
    last_complete,
    mark_complete,
    save_policy,
)
from radpo.training.dataset import pair_notes, training_dataset
from radpo.training.reference import check_room, prompts_without_room
from radpo.training.reporting import NOWHERE, Reporting
from radpo.training.settings import TrainingSettings, loss_arguments

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig

    from radpo.training.trainer import PairLoss

log = logging.getLogger(__name__)

WORDINGS_TRIED = 100
"""So many pairs of prompts with different goals are looked at for how they ask."""

# Figures of TRL's log that describe the run and not the model: they differ between machines and after a resumption.
NOT_METRICS = {
    "epoch",
    "num_tokens",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
}


@dataclass(frozen=True)
class Tracked:
    """Held-out log-likelihoods to measure along training.

    Args:
        scored: scored pairs (`radpo.preferences.preferences`).
        scale: the lowest and the highest score there can be.
        every: optimiser steps from one measurement to the next.
        wording: how a goal is asked for; the paper's sentence unless given.
    """

    scored: pa.Table
    scale: Scale
    every: int
    wording: str | None = None


def train(
    model_folder: Path,
    pairs: pa.Table,
    reference: pa.Table,
    out: Path,
    settings: TrainingSettings,
    *,
    seed: int,
    chat_template: str | None = None,
    pair_loss: PairLoss | None = None,
    heldout: tuple[pa.Table, pa.Table] | None = None,
    tracked: Tracked | None = None,
    save_every: int = 50,
    report_to: Reporting = NOWHERE,
    progress: Progress = no_progress,
) -> None:
    """Train a policy on preference pairs, or resume where an interrupted run in the same folder stopped.

    Started by `accelerate launch`, the processes share each optimiser step's batch, and the first one writes.

    Args:
        model_folder: the model to start from, which is also the reference.
        pairs: a relabeled table (`radpo.preferences.relabel`).
        reference: `reference_log_likelihoods` of the same pairs under the same model, row for row.
        out: gets `policy/` (the checkpoint), `training.parquet` (step, metric, value), `adapter/` where LoRA is
            trained, `notes.json` (sentences on what was left out), and where asked for `heldout.json` (n, metrics)
            and `trajectory.parquet`.
        chat_template: the policy's chat template, where it is not the model's own (`goal_aware_template`).
        pair_loss: a loss of one's own instead of the settings'.
        heldout: relabeled pairs to evaluate on once training is done, and `reference_log_likelihoods` of them.
        tracked: held-out log-likelihoods to measure along training.
        save_every: optimiser steps between resumable checkpoints.
        report_to: the trackers that transformers also reports the training to.

    Raises:
        ConfigError: the processes do not divide the batch, a package that the settings need is not installed, or
            adapters are for modules that the model does not have, or for its head.
        DataError: no pair is left to train on, or prompts leave no room for a response.
        ModelError: the policy could not be saved, or is random in training; found out before the first step.
        RadpoError: the loss is no longer a number.
    """
    import pandas as pd
    from transformers import PrinterCallback
    from transformers.integrations import is_deepspeed_zero3_enabled

    from radpo.training.tracking import is_measured, tracked_responses, tracker, trajectory
    from radpo.training.trainer import SharedPrefixDPOTrainer

    notes = date_notes(model_folder)
    tokenizer = load_tokenizer(model_folder, with_goal=False)  # the goal, if any, is already in the prompts
    context = saved_context(model_folder, tokenizer)
    train_set = _with_room("training", training_dataset(pairs, reference), settings, context, notes)
    eval_set = None if heldout is None else _with_room("held-out", training_dataset(*heldout), settings, context, notes)
    notes += context.cut_note(_lengths(train_set), settings.max_length, "training responses")
    notes += pair_notes("training", pairs, train_set, tokenizer, context.limit(settings.max_length))
    settings = settings.model_copy(update={"max_length": context.limit(settings.max_length)})
    template, other_templates = saved_template(model_folder)
    if other_templates:
        notes.append(
            f"The tokenizer has several chat templates ({', '.join((DEFAULT, *other_templates))}): the default one is "
            "used, and the checkpoint has it alone."
        )
    work = out / "work"
    callbacks = [_watch(progress)]
    autocast = torch_dtype(settings.precision).itemsize == 2
    if tracked is not None:
        asked = tracked_responses(
            tokenizer, tracked.scored, scale=tracked.scale, wording=tracked.wording, max_length=settings.max_length
        )
        callbacks.append(tracker(asked, tracked.every, work / "trajectory", autocast=autocast))
    arguments = _arguments(settings, work, seed, save_every, report_to, 0 if eval_set is None else len(eval_set))
    model = _model(model_folder, settings)
    dropout = disable_dropout(model)  # before adapters, which have a dropout of their own
    if not is_deepspeed_zero3_enabled():  # there, a process holds a part of every weight
        check_deterministic(model)
    beside = companions(model, tokenizer, chat_template or template, model_folder)
    try:
        trainer = SharedPrefixDPOTrainer(
            model=model,
            args=arguments,
            train_dataset=train_set,
            eval_dataset=eval_set,
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=_adapters(settings),
            pair_loss=pair_loss,
            goals_together=settings.goals_together,
        )
    except ValueError as error:  # as TRL and peft refuse settings: targets that the model does not have, or its head
        raise ConfigError(f"training: {' '.join(str(error).split())[:400]}") from error
    if tracked is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise ConfigError("track: the model is in parts on several processes (FSDP, DeepSpeed); leave track out")
    trainer.remove_callback(PrinterCallback)  # it writes to standard output, which is for results
    if trainer.is_world_process_zero():
        check_saving(trainer.accelerator.unwrap_model(trainer.model), beside, out)
    checkpoint = last_complete(work)
    if tracked is not None and checkpoint is not None:
        reached = int(checkpoint.name.rpartition("-")[2])
        checkpoint = checkpoint if is_measured(work / "trajectory", tracked.every, reached) else None
    with report_to.begun():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        metrics = {} if eval_set is None else trainer.evaluate()
    partial = out / "policy.partial"
    if trainer.is_world_process_zero():
        (out / "notes.json").write_text(json.dumps(notes, indent=1), encoding="utf-8")
        if eval_set is not None:
            kept = {
                key.removeprefix("eval_"): value for key, value in metrics.items() if "/" in key or key == "eval_loss"
            }
            found = {"n": len(eval_set), "metrics": kept}
            (out / "heldout.json").write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
        rows = [
            {"step": log["step"], "metric": metric, "value": float(value)}
            for log in trainer.state.log_history
            for metric, value in sorted(log.items())
            if metric not in NOT_METRICS | {"step"} and not metric.startswith(("eval_", "train_"))
        ]
        pd.DataFrame(rows, columns=["step", "metric", "value"]).to_parquet(out / "training.parquet", index=False)
        if tracked is not None:
            trajectory(work / "trajectory").to_parquet(out / "trajectory.parquet", index=False)
        shutil.rmtree(partial, ignore_errors=True)
    dropout.restore_config()
    save_policy(trainer, beside, partial, out / "adapter")
    if trainer.is_world_process_zero():
        partial.rename(out / "policy")
        shutil.rmtree(work, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def policy_template(
    model_folder: Path, pairs: pa.Table, *, scale: Scale, attribute_scale: Scale = ATTRIBUTE_SCALE
) -> str:
    """The chat template of a policy that was trained with goals: rendered as usual it asks for the best.

    Args:
        pairs: the training pairs, whose goals are scores, or where they have `goal_attributes`, scores by attribute.
        scale: the lowest and the highest score, where the pairs' own goals do not state them.
        attribute_scale: the same of attributes' scores.
    """
    template, _ = saved_template(model_folder)
    placement = placement_of(load_tokenizer(model_folder, with_goal=False))
    if "goal_attributes" not in pairs.column_names:
        wording = _wording(pairs) or goal_wording(scale)
        best = (stated_scale(wording) or scale)[1]
        return goal_aware_template(template, best=best, placement=placement, template=wording)
    said = "\n".join(message["content"] for message in pairs["prompt"][0].as_py()) if pairs.num_rows else ""
    low, high = stated_scale(said) or attribute_scale
    asked = attribute_goals({field.name: high for field in pairs.schema.field("goal_attributes").type})
    return goal_aware_template(template, best=asked, placement=placement, template=attributes_text((low, high)))


def _wording(pairs: pa.Table) -> str | None:
    """How training pairs ask for their goals, as two goals of one scored pair show; None where none do.

    They may have been made for another scale, or with a wording of one's own (`radpo data relabel --goal-text`).
    """
    asked: dict[str, dict[str, Any]] = {}
    tried = 0
    for batch in pairs.select(["source_id", "goal", "prompt"]).to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            before = asked.setdefault(row["source_id"], row)
            if row["goal"] is None or before["goal"] is None or before["goal"] == row["goal"]:
                continue
            for one, other in zip(before["prompt"], row["prompt"], strict=False):
                if one["content"] != other["content"]:
                    found = wording_between(one["content"], other["content"], (before["goal"], row["goal"]))
                    tried += 1
                    if found is not None or tried == WORDINGS_TRIED:
                        return found
    return None


def _lengths(data: Dataset) -> list[int]:
    """Tokens of every prompt with its chosen, then with its rejected response."""
    import pyarrow.compute as pc

    columns = data.with_format("arrow")[:]
    prompt, *answers = (
        pc.list_value_length(columns[name]).to_numpy() for name in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    return [int(length) for answer in answers for length in prompt + answer]


def _with_room(what: str, data: Dataset, settings: TrainingSettings, context: Context, notes: list[str]) -> Dataset:
    """The pairs whose prompt leaves room for a response; TRL drops the others without a word, here a note is made."""
    import numpy as np
    import pyarrow.compute as pc

    if not len(data):
        raise DataError(f"no {what} pair is left; see what was dropped in relabeling (ties, gaps, bad rows)")
    lengths = pc.list_value_length(data.with_format("arrow")[:]["prompt_ids"]).to_numpy()
    limit = context.limit(settings.max_length)
    room = lengths < limit
    if room.all():
        return data
    if settings.overlong_prompts == "stop" or not room.any():
        check_room(what, lengths, limit, settings.max_length)
    notes.append(f"{prompts_without_room(what, lengths, limit, settings.max_length)}; they were dropped.")
    log.warning(notes[-1])
    return data.select(np.flatnonzero(room))


def _model(folder: Path, settings: TrainingSettings) -> Any:
    attention = None if settings.attention == "auto" else settings.attention
    if settings.lora is None or not settings.lora.four_bit:
        return load_model(folder, attention=attention)
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    need_package("bitsandbytes", "training.lora.four_bit", "bitsandbytes")
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch_dtype(settings.precision)
    )
    place = {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"}
    return load_weights(
        AutoModelForCausalLM, folder, quantization_config=quantised, device_map=place, attn_implementation=attention
    )


def _adapters(settings: TrainingSettings) -> Any:
    if settings.lora is None:
        return None
    from peft import LoraConfig

    lora = settings.lora
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )


def _arguments(
    settings: TrainingSettings, work: Path, seed: int, save_every: int, report_to: Reporting, eval_rows: int
) -> DPOConfig:
    import torch
    from accelerate import PartialState
    from trl import DPOConfig

    # TRL reports the mean of the batches' means, which is the mean over pairs only if all batches are of one size.
    eval_batch = max(size for size in range(1, 9) if eval_rows % size == 0)
    on_cpu = not torch.cuda.is_available()
    try:
        accumulation = settings.accumulation(PartialState(cpu=on_cpu).num_processes)
    except ValueError as error:
        raise ConfigError(f"training.batch_size: {error}") from error
    return DPOConfig(
        output_dir=str(work),
        seed=seed,
        data_seed=seed,
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_ratio,
        num_train_epochs=settings.num_train_epochs,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=accumulation,
        per_device_eval_batch_size=eval_batch,
        max_length=settings.max_length,
        bf16=torch_dtype(settings.precision) is torch.bfloat16,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=False,
        disable_dropout=False,  # done, and TRL would take the adapters' along
        gradient_checkpointing=settings.gradient_checkpointing,
        precompute_ref_log_probs=True,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=2,  # the one before stays until the next is whole
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        disable_tqdm=True,
        report_to=list(report_to.trackers) or "none",
        run_name=report_to.run_name,
        project=report_to.project,
        **loss_arguments(settings),
    )


def _watch(progress: Progress) -> TrainerCallback:
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Reports steps, and marks checkpoints as whole once they are."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                progress(state.global_step, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            PartialState().wait_for_everyone()  # each process writes its own random state
            if state.is_world_process_zero:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()
