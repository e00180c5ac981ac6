"""Checkpoints: the finished Hugging Face folder of a policy, and where an interrupted training run can go on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETE = "complete"
"""Name of the empty file that marks a resumable checkpoint as written to its end."""


def save_policy(
    trainer: Any, tokenizer: PreTrainedTokenizerBase, chat_template: str, folder: Path, adapter: Path
) -> None:
    """Write a trainer's policy as an ordinary Hugging Face folder (safetensors), usable by any tool without radpo.

    Every process calls it, as the parts of a sharded model are gathered; the first one writes. LoRA adapters are
    written to `adapter` as peft does, and merged into the policy's weights.
    """
    accelerator = trainer.accelerator
    state = accelerator.get_state_dict(trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model)
    if not accelerator.is_main_process:
        return
    model = accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(adapter, state_dict=state)
        model, state = model.merge_and_unload(), None
    model.save_pretrained(folder, state_dict=state)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)


def last_complete(folder: Path) -> Path | None:
    """The newest resumable checkpoint under `folder` that was written to its end; a torn one has no mark."""
    found = {}
    for mark in folder.glob(f"checkpoint-*/{COMPLETE}"):
        step = re.fullmatch(r"checkpoint-(\d+)", mark.parent.name)
        if step:
            found[int(step[1])] = mark.parent
    return found[max(found)] if found else None
