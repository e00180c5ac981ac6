"""Checkpoints: the finished Hugging Face folder of a policy, and where an interrupted training run can go on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.files import broken_seal, replace_json, seal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMPLETE = "complete"
"""Name of the file that marks a resumable checkpoint as written to its end; it holds its files' checksums."""


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat_template: str, folder: Path) -> None:
    """Write a policy as an ordinary Hugging Face folder (safetensors), usable by any tool with no radpo installed."""
    model.save_pretrained(folder)
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
