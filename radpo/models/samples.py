"""Samples from a policy, with their log-likelihoods under it and under its reference.

Answers are drawn at temperature 1 from the whole distribution, and scored on the very tokens that were drawn, so that
means over them are unbiased estimates of expectations under the policy: of KL(policy || reference), of its entropy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ModelError
from radpo.core.progress import Progress, no_progress
from radpo.models.chat_template import placement_of, render_tokens
from radpo.models.context import context_of
from radpo.models.decoding import Sampling, end_tokens, generation_config, own_settings_aside
from radpo.models.generation import Goal, as_text
from radpo.models.kernels.chunked import write_chunks
from radpo.models.likelihood import TokenizedResponse, log_likelihoods
from radpo.models.loading import load_model, load_tokenizer
from radpo.preferences.goals import DEFAULT_GOAL_TEXT, condition

if TYPE_CHECKING:
    import pyarrow as pa

    from radpo.preferences.questions import Question

COLUMNS = ("prompt_id", "goal", "sample", "text", "tokens", "ended", "logp_policy", "logp_reference")


@dataclass(frozen=True)
class SampleConfig:
    """What to draw.

    Args:
        goals: the scores to ask for, in the same words of every checkpoint; None asks for none, and `default` leaves it
            to the checkpoint's own chat template, as its users do.
        per_prompt: samples of each prompt and goal.
        max_new_tokens: a sample that has not ended by then is cut there, and says so (`ended` is false).
        batch_size: sequences that are drawn at once.
        wording: how a goal is asked for, `{g}` standing for the score.
    """

    goals: tuple[Goal, ...]
    per_prompt: int
    max_new_tokens: int
    seed: int = 0
    batch_size: int = 32
    wording: str = DEFAULT_GOAL_TEXT


def write_samples(
    policy_folder: Path,
    reference_folder: Path | None,
    questions: Sequence[Question],
    out: Path,
    config: SampleConfig,
    *,
    key: str = "",
    progress: Progress = no_progress,
) -> Path:
    """Draw answers to every question's first turn from the policy, and score them under policy and reference.

    Interrupted, the same call resumes where it stopped.

    Args:
        reference_folder: None where only the answers are wanted; logp_reference is null then.
        out: a Parquet file: prompt_id, goal, sample (its number), text, tokens (drawn, the end included), ended,
            logp_policy and logp_reference (nats, given the same prompt, goal included).
        key: the stage's, which names models, questions and settings; chunks of another are not taken up.

    Raises:
        ModelError: a prompt and max_new_tokens together are more than a model's context.
    """
    jobs = [(question, goal) for question in questions for goal in config.goals for _ in range(config.per_prompt)]
    done = 0

    def chunks() -> Iterator[list[_Job]]:
        numbered = [(q, g, number % config.per_prompt) for number, (q, g) in enumerate(jobs)]
        for start in range(0, len(numbered), config.batch_size):
            yield numbered[start : start + config.batch_size]

    def finished(chunk: list[_Job]) -> None:
        nonlocal done
        done += len(chunk)
        progress(done, len(jobs))

    loaded: list[_Models] = []  # when the first chunk needs them

    def rows(number: int, chunk: list[_Job]) -> list[dict[str, Any]]:
        if not loaded:
            loaded.append(_Models(policy_folder, reference_folder, config.wording))
            loaded[0].check_room(questions, config)
        return loaded[0].rows(chunk, config.max_new_tokens, seed=config.seed * 1_000_003 + number)

    write_chunks(out, _schema(), key, chunks(), rows, finished)
    return out


_Job = tuple["Question", Goal, int]


class _Models:
    """The policy with its tokenizer, and the reference."""

    def __init__(self, policy_folder: Path, reference_folder: Path | None, wording: str) -> None:
        self._tokenizer = load_tokenizer(policy_folder)
        self._plain = load_tokenizer(policy_folder, with_goal=False)
        self._placement = placement_of(self._plain)
        self._wording = wording
        self._policy = load_model(policy_folder)
        self._reference = None if reference_folder is None else load_model(reference_folder)

    def check_room(self, questions: Sequence[Question], config: SampleConfig) -> None:
        """Refuse samples that would be cut by the context: their lengths and log-likelihoods would be of the cut."""
        asked = {q.question_id: max(len(self._prompt(q, goal)) for goal in config.goals) for q in questions}
        longest = max(asked, key=lambda name: asked[name])
        for model in (self._policy, self._reference):
            tokens = None if model is None else context_of(model, self._tokenizer).tokens
            if tokens is not None and asked[longest] + config.max_new_tokens > tokens:
                raise ModelError(
                    f"question {longest!r}: its prompt of {asked[longest]} tokens and max_new_tokens "
                    f"{config.max_new_tokens} are more than the model's context of {tokens} tokens; "
                    "lower max_new_tokens, or leave the question out"
                )

    def rows(self, jobs: Sequence[_Job], max_new_tokens: int, seed: int) -> list[dict[str, Any]]:
        prompts = [self._prompt(question, goal) for question, goal, _ in jobs]
        drawn = self._draw(prompts, max_new_tokens, seed)
        items = [TokenizedResponse(tuple(p), tuple(ids)) for p, (ids, _) in zip(prompts, drawn, strict=True)]
        policy = [found.logp for found in log_likelihoods(self._policy, items)]
        reference: list[float | None] = [None] * len(items)
        if self._reference is not None:
            reference = [found.logp for found in log_likelihoods(self._reference, items)]
        return [
            {
                "prompt_id": question.question_id, "goal": None if goal == "default" else goal, "sample": sample,
                "text": as_text(self._tokenizer, ids).strip(),
                "tokens": len(ids), "ended": ended, "logp_policy": ours, "logp_reference": theirs,
            }
            for (question, goal, sample), (ids, ended), ours, theirs in zip(
                jobs, drawn, policy, reference, strict=True
            )
        ]  # fmt: skip

    def _prompt(self, question: Question, goal: Goal) -> list[int]:
        messages, tokenizer = [{"role": "user", "content": question.turns[0]}], self._tokenizer
        if goal != "default":
            messages, tokenizer = condition(messages, goal, self._placement, self._wording), self._plain
        return render_tokens(tokenizer, messages, generation_prompt=True, name=f"question {question.question_id!r}")

    def _draw(self, prompts: Sequence[list[int]], max_new_tokens: int, seed: int) -> list[tuple[list[int], bool]]:
        """The drawn tokens of every prompt, up to and with the one that ends it, and whether one did."""
        import torch

        inputs = self._tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt")
        sampling = Sampling(max_new_tokens, temperature=1.0)
        with (
            torch.inference_mode(),
            torch.random.fork_rng(),
            own_settings_aside(self._policy, self._tokenizer) as own,
        ):
            torch.manual_seed(seed)
            config = generation_config(own, self._tokenizer, sampling, max_new_tokens)
            output = self._policy.generate(**inputs.to(self._policy.device), generation_config=config)
            ends = end_tokens(own, self._tokenizer)
        drawn = []
        for row in output[:, inputs["input_ids"].shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in ends), None)
            drawn.append((row if end is None else row[: end + 1], end is not None))
        return drawn


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int64()
    kinds = [text, number, count, text, count, pa.bool_(), number, number]
    return pa.schema(list(zip(COLUMNS, kinds, strict=True)))
