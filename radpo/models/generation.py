"""Generation: conversations come in, one answer each goes out, from a Hugging Face folder through transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.data.goals import is_goal_aware
from radpo.errors import ModelError
from radpo.judges.base import Progress, no_progress
from radpo.models.loading import Precision, load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Goal = float | None | Literal["default"]
"""The score asked for; `default` leaves it to the checkpoint's chat template, None asks for none."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: greedily at temperature 0, else from the nucleus of probability `top_p`."""

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0


def generate(
    model_folder: Path,
    conversations: Sequence[Sequence[Mapping[str, str]]],
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
    conversations: Sequence[Sequence[Mapping[str, str]]],
    sampling: Sampling,
    *,
    goal: Goal = "default",
    batch_size: int = 32,
    progress: Progress = no_progress,
) -> list[str]:
    """Answer every conversation, in order, the last message of each being the user's.

    Prompts of like length share a batch, padded on the left. The same inputs and seed give the same answers on the
    same machine.

    Raises:
        ModelError: a goal is asked of a checkpoint whose chat template takes none.
    """
    import torch

    template: dict[str, Any] = {} if goal == "default" else {"goal": goal}
    if template and goal is not None and not is_goal_aware(str(tokenizer.chat_template)):
        raise ModelError(f"goal {goal} is asked of a checkpoint whose chat template takes no goal; ask for none")
    prompts: list[list[int]] = [
        tokenizer.apply_chat_template(
            [dict(message) for message in conversation], add_generation_prompt=True, return_dict=False, **template
        )
        for conversation in conversations
    ]
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    draw: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        # top_k: transformers would otherwise cut to its own default of 50, which nobody asked for.
        draw = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(sampling.seed)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = tokenizer.pad(
                {"input_ids": [prompts[index] for index in batch]}, padding_side="left", return_tensors="pt"
            )
            output = model.generate(
                **inputs.to(model.device),
                **draw,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
            texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text.strip()
            progress(start + len(batch), len(order))
    return answers
