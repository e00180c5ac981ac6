"""The trainer: TRL's `DPOTrainer`, reading every prompt once for both of its responses.

The mathematics stays TRL's: its loss, its metrics and its log are computed by its own code from the same per-token
log-probabilities, which are had at about half the cost.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import FusedCausalLMOutput

from radpo.core.allocator import keeping_freed_memory
from radpo.core.errors import RadpoError
from radpo.models.dropout import disable_dropout
from radpo.models.kernels.branch_attention import reading
from radpo.models.kernels.head import cpu_head
from radpo.models.loading import without_adapters
from radpo.models.shared_prefix import IGNORED, SharedRows, shared_prefix_unsupported_reason
from radpo.preferences.relabel import source_of
from radpo.training.collator import PAIR_GAPS, SharedPrefixCollator, StepGroupedSampler, take_rows

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

PairLoss = Callable[..., torch.Tensor]
"""A loss of one's own: the log-ratios log(pi/pi_ref) of chosen and of rejected responses, (pairs,) each, in nats, and
beta come in; every pair's loss goes out, (pairs,).

One that has a parameter `gap` is given each pair's score_chosen minus score_rejected, (pairs,), and one that has
`chosen_tokens` the number of tokens of each chosen response, (pairs,)."""

SORTED_LOSSES = {"aot", "aot_unpaired"}
"""Losses that compare the pairs of a micro-batch with each other, so that which ones share it changes the loss."""


class SharedPrefixDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's `DPOTrainer` with its arguments, losses, logged metrics and checkpoints, at about half the cost of a step.

    A pair is one row [prompt | chosen | rejected] in which the responses do not see each other; the language-model
    head is applied where a response's token is predicted; the pairs of an optimiser step are put into micro-batches by
    length. Where a model's attention cannot take the mask, TRL's own path is used, and the log says so and why.

    Reference log-likelihoods that the data set brings (`ref_chosen_logps`, `ref_rejected_logps`) are used as they are;
    a data set that brings token ids (`prompt_ids`, `chosen_ids`, `rejected_ids`) is not tokenised again.

    Args:
        pair_loss: used instead of `args.loss_type`, whose figures other than the loss are still logged.
        goals_together: keep the training pairs that were made of one scored pair in one optimiser step.
        everything else: as TRL's.

    Raises:
        RadpoError: in training, a loss or gradient that is no number; the message has the step and its pairs' ids.
    """

    def __init__(
        self, *args: Any, pair_loss: PairLoss | None = None, goals_together: bool = False, **kwargs: Any
    ) -> None:
        self.pair_loss, self.goals_together = pair_loss, goals_together
        self.unshared: str | None = None
        self._tried = False
        self._step, self._step_pairs = -1, list[str]()
        super().__init__(*args, **kwargs)
        if self.args.disable_dropout:  # TRL has switched off those that are modules
            disable_dropout(without_adapters(self.accelerator.unwrap_model(self.model)))
        self._share_prefixes()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does, in memory that is kept from step to step."""
        with keeping_freed_memory():
            return super().train(*args, **kwargs)

    def _share_prefixes(self) -> None:
        """Use our collator where TRL would use its own for text; one that a user gave stays."""
        collator: Any = getattr(self, "data_collator", None)
        if type(collator) is DataCollatorForPreference:
            theirs = vars(collator)
            if theirs["truncation_mode"] == "keep_start":
                self.data_collator = SharedPrefixCollator(**theirs)
            else:  # cut at their starts, the two sequences of a pair no longer begin alike
                self._fall_back("truncation_mode is keep_end")

    def _fall_back(self, reason: str) -> None:
        self.unshared, self._tried = reason, True
        log.warning("prompts are read twice, as TRL does: %s", reason)

    def _shares(self, model: Any) -> bool:
        if not self._tried:
            self._tried = True
            if self.aux_loss_enabled:
                reason: str | None = "the load-balancing loss counts every token"
            elif getattr(getattr(self.model, "active_peft_config", None), "is_prompt_learning", False):
                reason = "the adapter puts tokens of its own before the prompt"
            else:
                reason = shared_prefix_unsupported_reason(model)
            if reason is not None:
                self._fall_back(reason)
        return self.unshared is None

    def _reading(self, model: Any, rows: SharedRows | None) -> Any:
        """What TRL's code is given to call as its model: one that answers TRL's question from shared rows."""
        if rows is None or not self._shares(model):
            return model
        config = self.model.config.get_text_config()

        def read(*, labels: torch.Tensor, input_ids: Any, attention_mask: Any, **kwargs: Any) -> FusedCausalLMOutput:
            laid, asked = reading(rows, config, self.model.dtype)
            outputs = model(**asked, shift_labels=laid.labels, **kwargs)
            return _apart(outputs, laid, labels[:, 1:] != IGNORED)

        return read

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        rows, ids, inputs = take_rows(inputs)
        gaps = inputs.pop(PAIR_GAPS, None)
        reading, outputs = self._reading(model, rows), {}

        def remembering(**kwargs: Any) -> Any:
            outputs["fused"] = reading(**kwargs)
            return outputs["fused"]

        with cpu_head(self.accelerator.device):
            if return_outputs:
                return super()._compute_loss(model, inputs, return_outputs)
            loss = super()._compute_loss(remembering, inputs, False)
        if self.pair_loss is not None:
            if not self.precompute_ref_logps:
                raise RadpoError("a loss of one's own needs precompute_ref_log_probs")
            chosen, rejected = outputs["fused"].log_probs.sum(dim=1).chunk(2)
            ratios = chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]
            known = {"gap": gaps, "chosen_tokens": inputs["completion_mask"][:, 1:].sum(dim=1).chunk(2)[0]}
            asked = {name: known[name] for name in known if name in inspect.signature(self.pair_loss).parameters}
            if asked.get("gap", ...) is None:
                raise RadpoError(
                    "a loss that takes the gap in score needs training pairs with score_chosen and score_rejected"
                )
            loss = self.pair_loss(*ratios, self.beta, **asked).mean()
        if self.model.training:
            self._remember(ids)
            if not torch.isfinite(loss):
                self._stop(f"the loss is {loss.item()}", ids)
        return loss

    def _remember(self, ids: list[str]) -> None:
        """Which pairs this step has seen."""
        if self._step != self.state.global_step:
            self._step, self._step_pairs = self.state.global_step, []
        self._step_pairs += ids

    def _stop(self, what: str, ids: list[str]) -> None:
        raise RadpoError(
            f"training step {self._step + 1}: {what} on the pairs {', '.join(map(str, ids))}; "
            "lower learning_rate, or train in float32"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, unless the gradient is no longer a number."""
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            self._stop(f"the gradient's norm is {logs['grad_norm']}", self._step_pairs)
        super().log(logs, start_time)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """log p(chosen) and log p(rejected) under the reference, (pairs,) each, in nats."""
        rows, _, inputs = take_rows(inputs)
        with cpu_head(self.accelerator.device):
            return super().compute_ref_log_probs(self._reading(model, rows), inputs)

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        if {"prompt_ids", "chosen_ids", "rejected_ids"} <= set(getattr(dataset, "column_names", None) or ()):
            return dataset
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if {"ref_chosen_logps", "ref_rejected_logps"} <= set(dataset.column_names):
            return dataset
        self._share_prefixes()
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in ("id", "gap") if name not in self._signature_columns]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if (
            self.args.train_sampling_strategy != "random"
            or not hasattr(dataset, "with_format")
            or not hasattr(dataset, "__len__")
            or set(self.loss_types) & SORTED_LOSSES
        ):
            return super()._get_train_sampler(train_dataset)
        columns = dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]).with_format("arrow")[:]
        lengths = sum(columns[name].combine_chunks().value_lengths().to_numpy() for name in columns.column_names)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        groups = [source_of(name) for name in dataset["id"]] if self.goals_together else None
        return StepGroupedSampler(lengths.tolist(), step, seed, groups)


def _apart(outputs: FusedCausalLMOutput, rows: SharedRows, wanted: torch.Tensor) -> FusedCausalLMOutput:
    """What was computed on shared rows, as TRL has it: chosen rows, then rejected rows.

    Args:
        wanted: (2 pairs, TRL's width - 1), where a response's token is predicted.
    """
    halves = wanted.chunk(2)

    def spread(values: torch.Tensor | None) -> torch.Tensor | None:
        if values is None:
            return None
        return torch.cat(
            [
                values.new_zeros(half.shape).masked_scatter(half, values[rows.branch == number])
                for number, half in enumerate(halves, start=1)
            ]
        )

    names = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
    return FusedCausalLMOutput(**{name: spread(getattr(outputs, name)) for name in names})
