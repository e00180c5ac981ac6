"""Answers to conversations by a Hugging Face folder, through transformers.

`radpo.models.backends` has the other ways to answer, `radpo.models.answers` whole sets of questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import ModelError
from radpo.core.progress import Progress, no_progress
from radpo.core.reasoning import MARKS
from radpo.models.chat_template import render_tokens, template_of
from radpo.models.context import Room, context_of
from radpo.models.decoding import Sampling, generation_config, own_settings_aside
from radpo.models.loading import load_model, load_tokenizer
from radpo.models.precision import Precision
from radpo.preferences.goals import is_goal_aware

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Goal = float | None | Literal["default"]
"""The score asked for; `default` leaves it to the checkpoint's chat template, None asks for none."""

Conversation = Sequence[Mapping[str, str]]
Keep = Callable[[Mapping[int, str]], None]
"""Given finished answers by their place, as they come."""


def keep_nothing(answers: Mapping[int, str]) -> None:
    """The callback of a caller who waits for the end."""


def generate(
    model_folder: Path,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    *,
    goal: Goal = "default",
    batch_size: int = 32,
    precision: Precision = "auto",
    progress: Progress = no_progress,
) -> list[str]:
    """Load a model and answer every conversation with it; see `answer`."""
    model, tokenizer = load_model(model_folder, precision), load_tokenizer(model_folder)
    return answer(model, tokenizer, conversations, sampling, goal=goal, batch_size=batch_size, progress=progress)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    *,
    goal: Goal = "default",
    batch_size: int = 32,
    done: Mapping[int, str] | None = None,
    keep: Keep = keep_nothing,
    room: Room | None = None,
    progress: Progress = no_progress,
) -> list[str]:
    """Answer every conversation, in order, the last message of each being the user's.

    Prompts of like length share a batch, padded on the left. Each batch draws from a seed of its own, so that a call
    that resumes from an interrupted one's answers gives what the whole call would have given, on the same machine.
    An answer ends where the model's context does; a prompt that fills the context has an empty answer.

    Args:
        done: answers that an interrupted call of the same arguments had finished, by place.
        keep: called with every batch's answers as they come.
        room: counts the answers that the context leaves less room than the sampling allows; its owner asks it for
            them, and whether there was any room at all.

    Raises:
        ModelError: a goal is asked of a checkpoint whose chat template takes none, or every prompt fills the context
            and `room` is not given.
    """
    import torch

    prompts = render(tokenizer, conversations, goal)
    counted = Room(context_of(model, tokenizer)) if room is None else room
    rooms = counted.for_answers([len(prompt) for prompt in prompts], sampling.max_new_tokens)
    if room is None:
        counted.check()
    answers = dict(done or {})
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with torch.inference_mode(), torch.random.fork_rng(), own_settings_aside(model, tokenizer) as own:
        for start, batch in _batches(order, rooms, batch_size):
            if not all(index in answers for index in batch):
                found = [""] * len(batch)
                if most := rooms[batch[0]]:
                    torch.manual_seed(_batch_seed(sampling.seed, start))
                    config = generation_config(own, tokenizer, sampling, most)
                    found = _answer_batch(model, tokenizer, [prompts[index] for index in batch], config)
                fresh = dict(zip(batch, found, strict=True))
                answers |= fresh
                keep(fresh)
            progress(start + len(batch), len(order))
    return [answers[index] for index in range(len(prompts))]


def _batches(order: Sequence[int], rooms: Sequence[int], batch_size: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Where each batch starts in the order, and its places; only answers of equal room share one.

    A table of learned positions has none beyond the context, not even for an answer that waits for the others to end.
    """
    start = 0
    while start < len(order):
        end = min(start + batch_size, len(order))
        while end > start + 1 and rooms[order[end - 1]] != rooms[order[start]]:
            end -= 1
        yield start, order[start:end]
        start = end


def render(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], goal: Goal) -> list[list[int]]:
    """Every conversation's tokens up to where the answer begins, asking for the goal.

    Raises:
        ModelError: a goal is asked of a checkpoint whose chat template takes none, or it refuses a conversation.
    """
    template: dict[str, Any] = {} if goal == "default" else {"goal": goal}
    if template and goal is not None and not is_goal_aware(template_of(tokenizer)):
        raise ModelError(f"goal {goal} is asked of a checkpoint whose chat template takes no goal; ask for none")
    return [
        render_tokens(tokenizer, conversation, generation_prompt=True, name=f"conversation {number}", **template)
        for number, conversation in enumerate(conversations, start=1)
    ]


def _answer_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
) -> list[str]:
    inputs = tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, padding_side="left", return_tensors="pt")
    stops = {"tokenizer": tokenizer} if config.stop_strings else {}
    output = model.generate(**inputs.to(model.device), generation_config=config, **stops)
    ends = set(config.eos_token_id or ())
    texts = [
        # Not every end token is a special one that decoding leaves out.
        as_text(tokenizer, list(takewhile(lambda token: token not in ends, row)))
        for row in output[:, inputs["input_ids"].shape[1] :].tolist()
    ]
    return [_until_stop(text, config.stop_strings or ()).strip() for text in texts]


def as_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Generated tokens as text, without special tokens other than those that open and close a model's reasoning."""
    marks = {mark for pair in MARKS for mark in pair}
    hidden = {
        number
        for number, token in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        if token not in marks
    }
    if len(hidden) == len(tokenizer.all_special_ids):
        return str(tokenizer.decode(ids, skip_special_tokens=True))
    return str(tokenizer.decode([number for number in ids if number not in hidden]))


def _until_stop(text: str, stop: Sequence[str]) -> str:
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    return text[: min(ends)] if ends else text


def _batch_seed(seed: int, start: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{start}".encode()).digest()[:7], "big")
