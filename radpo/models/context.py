"""How many tokens a model can read, whether it can compute beyond that, and how much room prompts leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")
"""What configurations call their length, the usual name first."""
_EXTENDED = frozenset({"default", "llama3", "longrope", "su", "mrope", "proportional"})
"""Kinds of rotary embedding whose configuration states the length after extension already, as vLLM reads them."""
_UNSTATED = 10**9
"""Tokenizers state a length beyond this where they have none."""


@dataclass(frozen=True)
class Context:
    """A model's context.

    Args:
        tokens: its length; None where neither configuration nor tokenizer states one.
        absolute: whether positions are a table of learned vectors, so that beyond the length nothing can be computed.
            Rotary and relative positions can, but the model was not trained for it.
    """

    tokens: int | None
    absolute: bool = False

    def check(self, length: int, what: str) -> None:
        """Refuse what the model cannot compute.

        Args:
            length: tokens of the longest sequence.
            what: whose length it is, and how to make it shorter.

        Raises:
            ModelError: the sequence is longer than a table of learned positions.
        """
        if self.absolute and self.tokens is not None and length > self.tokens:
            raise ModelError(
                f"the model has learned positions for {self.tokens} tokens, and {length} are needed: {what}"
            )

    def limit(self, max_length: int) -> int:
        """Tokens of prompt and response together that are read: `max_length`, or the context where it is shorter.

        Beyond it a table of positions has nothing, and rotary positions were not trained.
        """
        return max_length if self.tokens is None else min(max_length, self.tokens)

    def cut_note(self, lengths: Sequence[int], max_length: int, what: str) -> list[str]:
        """One sentence if the context, and not max_length, cuts some of these sequences (lengths in tokens)."""
        if self.tokens is None or self.tokens >= max_length:
            return []
        lost = [min(length, max_length) - self.tokens for length in lengths if length > self.tokens]
        if not lost:
            return []
        return [
            f"{len(lost)} of {len(lengths)} {what} were cut at the model's context of {self.tokens} tokens, which is "
            f"shorter than max_length ({max_length}), by up to {max(lost)} tokens."
        ]


def context_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Context:
    """The context of a loaded model (bare, or wrapped by adapters)."""
    tokens = context_tokens(model.config, tokenizer)
    return Context(tokens, tokens is not None and _has_position_table(model, tokens))


def saved_context(folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Context:
    """The context of a Hugging Face folder, whose weights are not read, so a table of positions is not looked for."""
    from transformers import AutoConfig

    return Context(context_tokens(AutoConfig.from_pretrained(folder), tokenizer))


def context_tokens(config: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> int | None:
    """The context length that a configuration states, else the tokenizer's; None where neither does.

    The text part of a configuration counts. Rotary scaling counts as vLLM counts it: `yarn` multiplies the original
    length, `linear` and `dynamic` the stated one, and the other kinds state the extended length already.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for part in (text, config):
        for name in _LENGTHS:
            stated = getattr(part, name, None)
            if isinstance(stated, int) and stated > 0:
                return _scaled(stated, part)
    stated = getattr(tokenizer, "model_max_length", None)
    return int(stated) if isinstance(stated, int | float) and 0 < stated < _UNSTATED else None


def _scaled(stated: int, config: Any) -> int:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [part for part in rope.values() if isinstance(part, dict)] or [rope]  # one for each kind of layer, or one
    found = []
    for part in kinds:
        kind = part.get("rope_type", part.get("type", "default"))
        factor = 1.0 if kind in _EXTENDED else float(part.get("factor") or 1.0)
        base = part.get("original_max_position_embeddings") if kind == "yarn" else None
        found.append(max(stated if kind == "yarn" else 0, int((base or stated) * factor)))
    # Layers of a sliding window look no further than their window, so the longest range decides.
    return max(found)


def _has_position_table(model: Any, tokens: int) -> bool:
    """Whether the model has a learned vector for every position (OPT's table has two rows more than its length)."""
    import torch

    return any(
        isinstance(module, torch.nn.Embedding)
        and tokens <= module.num_embeddings <= tokens + 2
        and any(mark in name.rpartition(".")[2] for mark in ("wpe", "position", "pos_emb"))
        for name, module in model.named_modules()
    )


@dataclass
class Room:
    """What the context leaves for answers, and how many answers had less than the sampling allows.

    The same limit holds with transformers and with vLLM, which ends an answer at the context's end by itself.
    """

    context: Context
    asked: int = 0
    without: int = 0
    shortest: int | None = None
    """Tokens of the shortest prompt."""
    limited: list[int] = field(default_factory=list)
    """The room, in tokens, of every answer that had less than it was allowed."""

    def for_answers(self, prompts: Sequence[int], max_new_tokens: int) -> list[int]:
        """Tokens that each answer may take; 0 where the prompt (its length is given) fills the context."""
        if self.context.tokens is None:
            return [max_new_tokens] * len(prompts)
        rooms = [max(min(max_new_tokens, self.context.tokens - length), 0) for length in prompts]
        self.shortest = min([*prompts, *([] if self.shortest is None else [self.shortest])], default=None)
        self.asked += len(rooms)
        self.without += rooms.count(0)
        self.limited += [room for room in rooms if 0 < room < max_new_tokens]
        return rooms

    def check(self) -> None:
        """Refuse answers of which there is none: then nothing was generated, either.

        Raises:
            ModelError: no prompt left room for an answer.
        """
        if self.asked and self.without == self.asked:
            raise ModelError(
                f"every prompt fills the model's context of {self.context.tokens} tokens (the shortest has "
                f"{self.shortest}), so there is no room for an answer; take a model with a longer context"
            )

    def notes(self) -> list[str]:
        """A sentence on prompts without room and one on answers with less, where there were any.

        Raises:
            ModelError: as `check`.
        """
        self.check()
        tokens, found = self.context.tokens, []
        if self.without:
            found.append(
                f"{self.without} of {self.asked} prompts fill the model's context of {tokens} tokens: "
                "their answers are empty."
            )
        if self.limited:
            found.append(
                f"{len(self.limited)} of {self.asked} answers had room for fewer tokens than max_new_tokens in the "
                f"model's context of {tokens} tokens ({min(self.limited)} to {max(self.limited)})."
            )
        return found
