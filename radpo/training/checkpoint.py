"""Checkpoints: the finished Hugging Face folder of a policy, and where an interrupted training run can go on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMPLETE = "complete"
"""Name of the empty file that marks a resumable checkpoint as written to its end."""


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat_template: str, folder: Path) -> None:
    """Write a policy as an ordinary Hugging Face folder (safetensors), usable by any tool with no radpo installed."""
    model.save_pretrained(folder)
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
