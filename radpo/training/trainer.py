"""The trainer: relabeled pairs and their reference log-likelihoods come in, a policy as a Hugging Face folder goes out.

The mathematics is TRL's `DPOTrainer`; this file gives it precomputed references, exact resumption and plain outputs.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.data.goals import original_template
from radpo.data.relabel import to_trl
from radpo.errors import DataError, RadpoError
from radpo.judges.base import Progress, no_progress
from radpo.models.loading import load_model, load_tokenizer, torch_dtype
from radpo.training.checkpoint import last_complete, mark_complete, save_policy
from radpo.training.settings import TrainingSettings

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig

# Figures of TRL's log that describe the run and not the model: they differ between machines and after a resumption.
NOT_METRICS = {
    "epoch",
    "num_tokens",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
}


def train(
    model_folder: Path,
    pairs: pa.Table,
    reference: pa.Table,
    out: Path,
    settings: TrainingSettings,
    *,
    seed: int,
    chat_template: str | None = None,
    heldout: pa.Table | None = None,
    heldout_reference: pa.Table | None = None,
    save_every: int = 50,
    progress: Progress = no_progress,
) -> None:
    """Train a policy on preference pairs, or go on where an interrupted run in the same folder stopped.

    Args:
        model_folder: the model to start from, which is also the reference.
        pairs: a relabeled table (`radpo.data.relabel`).
        reference: `reference_log_likelihoods` of the same pairs under the same model, row for row.
        out: gets `policy/` (the checkpoint), `training.parquet` (step, metric, value) and `heldout.json`.
        chat_template: the policy's chat template, where it is not the model's own (`goal_aware_template`).
        heldout: relabeled pairs to evaluate on once training is done, with their reference log-likelihoods.
        save_every: optimiser steps between resumable checkpoints.

    Raises:
        DataError: no pair is left to train on.
        RadpoError: the loss is no longer a number.
    """
    import pandas as pd
    from transformers import PrinterCallback
    from trl import DPOTrainer

    class PrecomputedReferenceTrainer(DPOTrainer):  # type: ignore[misc]
        """TRL's trainer, reading the reference log-likelihoods from the data set instead of computing them again."""

        def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
            return dataset

    train_set = _dataset(pairs, reference)
    eval_set = None if heldout is None or heldout_reference is None else _dataset(heldout, heldout_reference)
    tokenizer = load_tokenizer(model_folder)
    template = original_template(str(tokenizer.chat_template))
    tokenizer.chat_template = template  # the goal, if any, is already in the prompts
    work = out / "work"
    trainer = PrecomputedReferenceTrainer(
        model=load_model(model_folder),
        args=_arguments(settings, work, seed, save_every, eval_rows=0 if eval_set is None else len(eval_set)),
        train_dataset=train_set,
        eval_dataset=eval_set,
        processing_class=tokenizer,
        callbacks=[_watch(progress)],
    )
    trainer.remove_callback(PrinterCallback)  # it writes to standard output, which is for results
    _forbid_silent_loss("training", len(train_set), len(trainer.train_dataset), settings.max_length)
    if eval_set is not None:
        _forbid_silent_loss("held-out", len(eval_set), len(trainer.eval_dataset), settings.max_length)
    checkpoint = last_complete(work)
    with _head_at_responses_only():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        metrics = {} if eval_set is None else trainer.evaluate()
    if metrics:
        kept = {key.removeprefix("eval_"): value for key, value in metrics.items() if "/" in key or key == "eval_loss"}
        (out / "heldout.json").write_text(json.dumps(kept, indent=1, sort_keys=True), encoding="utf-8")
    rows = [
        {"step": log["step"], "metric": metric, "value": float(value)}
        for log in trainer.state.log_history
        for metric, value in sorted(log.items())
        if metric not in NOT_METRICS | {"step"} and not metric.startswith(("eval_", "train_"))
    ]
    pd.DataFrame(rows, columns=["step", "metric", "value"]).to_parquet(out / "training.parquet", index=False)
    partial = out / "policy.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_policy(trainer.accelerator.unwrap_model(trainer.model), tokenizer, chat_template or template, partial)
    partial.rename(out / "policy")
    shutil.rmtree(work, ignore_errors=True)


def _dataset(pairs: pa.Table, reference: pa.Table) -> Dataset:
    """TRL's data set of the pairs, with the reference log-likelihoods as columns."""
    if pairs["id"].to_pylist() != reference["id"].to_pylist():
        raise DataError(
            "the reference log-likelihoods belong to other pairs: their ids differ from the training pairs'"
        )
    dataset = to_trl(pairs)
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        dataset = dataset.add_column(column, reference[column].to_pylist())
    return dataset


def _forbid_silent_loss(what: str, before: int, after: int, max_length: int) -> None:
    """TRL drops a pair whose prompt alone fills max_length without a word; here that stops the run."""
    if after < before:
        raise DataError(
            f"{before - after} of {before} {what} pairs have a prompt of max_length ({max_length}) tokens or more, "
            "which leaves no response to learn from; raise max_length or leave those pairs out"
        )


def _arguments(settings: TrainingSettings, work: Path, seed: int, save_every: int, eval_rows: int) -> DPOConfig:
    import torch
    from trl import DPOConfig

    # TRL reports the mean of the batches' means, which is the mean over pairs only if all batches are of one size.
    eval_batch = max(size for size in range(1, 9) if eval_rows % size == 0)
    return DPOConfig(
        output_dir=str(work),
        seed=seed,
        data_seed=seed,
        beta=settings.beta,
        loss_type=[settings.loss],
        label_smoothing=settings.label_smoothing,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_share,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        per_device_eval_batch_size=eval_batch,
        max_length=settings.max_length,
        bf16=torch_dtype(settings.precision) is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=2,  # the one before stays until the next is whole
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        disable_tqdm=True,
        report_to="none",
    )


@contextmanager
def _head_at_responses_only() -> Iterator[None]:
    """Have TRL project onto the vocabulary only the positions whose log-probability it uses.

    TRL 1.16 does so where Triton runs. Elsewhere it projects every position, prompts and padding too, for the sake of
    compilers that need fixed shapes, and masks the rest afterwards. Without a compiler that changes no figure and takes
    more than half of a step's time on a processor with SmolLM2's vocabulary.
    """
    from unittest.mock import patch

    with patch("trl.trainer.utils._use_triton", lambda device: True):
        yield


def _watch(progress: Progress) -> TrainerCallback:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Reports steps, marks checkpoints as whole once they are, and stops at a loss that is no number."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
        ) -> None:
            if logs and not math.isfinite(logs.get("loss", 0.0)):
                raise RadpoError(
                    f"training step {state.global_step}: the loss is {logs['loss']}; "
                    "lower learning_rate, or train in float32"
                )

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()
