"""Checkpoints: the finished Hugging Face folder of a policy, and where an interrupted training run can go on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.files import broken_seal, replace_json, seal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETE = "complete"
"""Name of the file that marks a resumable checkpoint as written to its end; it holds its files' checksums."""


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


def mark_complete(folder: Path) -> None:
    """Note that a resumable checkpoint was written to its end, and what its files then were."""
    replace_json(folder / COMPLETE, seal(folder))


def last_complete(folder: Path) -> Path | None:
    """The newest resumable checkpoint under `folder` that is whole; a torn one has no mark, a hurt one another content.

    Going on from a hurt one would give another policy than an uninterrupted run, and nothing would show it.
    """
    found = {}
    for mark in folder.glob(f"checkpoint-*/{COMPLETE}"):
        step = re.fullmatch(r"checkpoint-(\d+)", mark.parent.name)
        if step and _is_whole(mark):
            found[int(step[1])] = mark.parent
    return found[max(found)] if found else None


def _is_whole(mark: Path) -> bool:
    try:
        seals = json.loads(mark.read_text(encoding="utf-8"))
        return broken_seal(mark.parent, seals, leave_out=frozenset({COMPLETE})) is None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
