"""Generation: conversations come in, one answer each goes out, from a Hugging Face folder through transformers.

`radpo.models.backends` has the other ways to answer, `radpo.models.answers` whole sets of questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import ModelError
from radpo.core.progress import Progress, no_progress
from radpo.models.loading import Precision, load_model, load_tokenizer
from radpo.preferences.goals import is_goal_aware

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Goal = float | None | Literal["default"]
"""The score asked for; `default` leaves it to the checkpoint's chat template, None asks for none."""

Conversation = Sequence[Mapping[str, str]]
Keep = Callable[[Mapping[int, str]], None]
"""Given finished answers by their place, as they come."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: greedily at temperature 0, else from the nucleus of probability `top_p`.

    Args:
        stop: texts at which an answer ends, not part of it; the checkpoint's own end tokens end it in any case.
    """

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


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
    progress: Progress = no_progress,
) -> list[str]:
    """Answer every conversation, in order, the last message of each being the user's.

    Prompts of like length share a batch, padded on the left. Each batch draws from a seed of its own, so that a call
    that goes on from an interrupted one's answers gives what the whole call would have given, on the same machine.

    Args:
        done: answers that an interrupted call of the same arguments had finished, by place.
        keep: told every batch's answers as they come.

    Raises:
        ModelError: a goal is asked of a checkpoint whose chat template takes none.
    """
    import torch

    prompts = render(tokenizer, conversations, goal)
    answers = dict(done or {})
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with torch.inference_mode(), torch.random.fork_rng():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            if not all(index in answers for index in batch):
                torch.manual_seed(_batch_seed(sampling.seed, start))
                found = _answer_batch(model, tokenizer, [prompts[index] for index in batch], sampling)
                fresh = dict(zip(batch, found, strict=True))
                answers |= fresh
                keep(fresh)
            progress(start + len(batch), len(order))
    return [answers[index] for index in range(len(prompts))]


def render(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], goal: Goal) -> list[list[int]]:
    """Every conversation's tokens up to where the answer begins, asking for the goal.

    Raises:
        ModelError: a goal is asked of a checkpoint whose chat template takes none.
    """
    template: dict[str, Any] = {} if goal == "default" else {"goal": goal}
    if template and goal is not None and not is_goal_aware(str(tokenizer.chat_template)):
        raise ModelError(f"goal {goal} is asked of a checkpoint whose chat template takes no goal; ask for none")
    return [
        tokenizer.apply_chat_template(
            [dict(message) for message in conversation], add_generation_prompt=True, return_dict=False, **template
        )
        for conversation in conversations
    ]


def _answer_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> list[str]:
    draw: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        # top_k: transformers would otherwise cut to its own default of 50, which nobody asked for.
        draw = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    if sampling.stop:
        draw |= {"stop_strings": list(sampling.stop), "tokenizer": tokenizer}
    inputs = tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, padding_side="left", return_tensors="pt")
    output = model.generate(
        **inputs.to(model.device),
        **draw,
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [_until_stop(text, sampling.stop).strip() for text in texts]


def _until_stop(text: str, stop: Sequence[str]) -> str:
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    return text[: min(ends)] if ends else text


def _batch_seed(seed: int, start: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{start}".encode()).digest()[:7], "big")
