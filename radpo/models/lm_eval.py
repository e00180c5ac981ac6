"""lm-eval's own transformers model, which reads what requests have in common once, and says what it cut off prompts.

Imports lm-eval: import it where a model is about to be run.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.registry import register_model
from lm_eval.loggers.utils import get_commit_from_path
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from radpo.core.errors import ModelError
from radpo.models.chat_template import held_control_tokens, placement_of
from radpo.models.decoding import own_settings_aside
from radpo.models.likelihood import TokenizedResponse, reads_several_in_a_row, scored
from radpo.models.loading import without_adapters
from radpo.models.prompt_cuts import Asked, Cut
from radpo.preferences.goals import join_goal_text

if TYPE_CHECKING:
    import torch


def ask_git_quietly() -> None:
    """Have lm-eval's own question for a commit keep git's `fatal: not a git repository` to itself."""
    from lm_eval import evaluator

    def commit() -> str | None:
        try:
            done = subprocess.run(
                ["git", "describe", "--always"], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return get_commit_from_path(Path.cwd())  # type: ignore[no-any-return]
        return done.stdout.strip()

    evaluator.get_git_commit_hash = commit


def ask_environment_once() -> None:
    """Have lm-eval's account of the machine and its packages, which takes seconds, made once a process."""
    from torch.utils import collect_env

    if not hasattr(collect_env.get_pretty_env_info, "cache_info"):
        collect_env.get_pretty_env_info = cache(collect_env.get_pretty_env_info)


TOKENS = 512
"""Tokens that are read together for each prompt of a batch."""

AUTO_BATCH_SIZE = 16
"""Where lm-eval would look for the largest batch that fits; half of what is read has no logits here."""


@register_model("radpo")
class SharedPrefixHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's `hf`, which reads what log-likelihood requests begin with once.

    The answers to one question share a row in which the question is read once, and so do questions after the same
    examples (`radpo.models.shared_prefix`); equal requests, as of two tasks about the same questions, are one. The
    tokens, where they are cut and the flags of greedy answers are `hf`'s, and so are the values, up to rounding. All
    else is `hf`'s own.

    Models that cannot be read so (their attention takes no mask, they stand on several devices, ...) are read one
    request at a time, and lm-eval's log says why.
    """

    @cached_property
    def one_at_a_time(self) -> str | None:
        """Why requests are read one at a time; None where what they have in common is read once."""
        if self.backend != "causal":
            return "it has an encoder"
        if self.mixed_precision_dtype is not None:
            return "it runs in mixed precision"
        if len({parameter.device for parameter in self.model.parameters()}) > 1:
            return "it stands on several devices"
        if getattr(getattr(self.model, "active_peft_config", None), "is_prompt_learning", False):
            return "its adapter puts tokens of its own before every prompt"
        try:
            shared = reads_several_in_a_row(without_adapters(self.model))
            return None if shared else "its attention takes no mask of several responses"
        except ModelError as error:
            return str(error)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if self.one_at_a_time is not None:
            logging.getLogger(__name__).warning("log-likelihoods one request at a time: %s", self.one_at_a_time)
            own: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
            return own
        at_once = override_bs or (self.batch_size if isinstance(self.batch_size, int) else AUTO_BATCH_SIZE)
        items = [self._item(context, continuation) for _, context, continuation in requests]
        answers: dict[int, tuple[float, bool]] = {}
        with tqdm(
            total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests"
        ) as bar:
            for batch in scored(self.model, items, batch_tokens=at_once * TOKENS):
                for place, found in batch.items():
                    answers[place] = (found.logp, found.greedy)
                    if requests[place][0] is not None:  # parts of a longer text have no name of their own
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], answers[place])
                bar.update(len(batch))
        return [answers[place] for place in range(len(requests))]

    def _item(self, context: list[int], continuation: list[int]) -> TokenizedResponse:
        """A request, cut from the left as `hf` cuts it: the model reads all but the last token."""
        kept = (context + continuation)[-(self.max_length + 1) :]
        return TokenizedResponse(tuple(kept[: -len(continuation)]), tuple(continuation))


class Noting:
    """Beside a model of lm-eval's: notes what is cut off prompts, and has system messages in every template.

    lm-eval cuts a prompt that does not fit the context from the left, with a line in its log only; here every cut is
    kept in `cuts`.
    """

    beyond_context = 0
    """By how many tokens a prompt with its continuation may exceed `max_length`."""
    tokenizer: Any
    max_length: int

    def __init__(self, **settings: Any) -> None:
        self.cuts: dict[Asked, Cut] = {}
        self._rendered = self._joined = self._holding = 0
        super().__init__(**settings)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As lm-eval's, but a system message (a task's description) goes where the template takes one.

        lm-eval leaves it out where a template refuses it, and templates that ignore it leave it out without a word.
        """
        conversation = chat_history
        self._rendered += 1
        if conversation and conversation[0]["role"] == "system" and placement_of(self.tokenizer) == "user":
            self._joined += 1
            conversation = join_goal_text(
                [dict(message) for message in conversation[1:]], conversation[0]["content"], "user"
            )
        self._holding += bool(held_control_tokens(self.tokenizer, (message["content"] for message in conversation)))
        rendered: str = super().apply_chat_template(conversation, add_generation_prompt)  # type: ignore[misc]
        return rendered

    def template_notes(self) -> list[str]:
        """Sentences on prompts that the chat template renders otherwise than they are written."""
        notes = []
        if self._joined:
            notes.append(
                f"The chat template has no place for a system message: in {self._joined} of {self._rendered} prompts "
                "the task's description opens the user's first message."
            )
        if self._holding:
            notes.append(
                f"{self._holding} of {self._rendered} prompts hold the tokenizer's own control tokens in their texts, "
                "which lm-eval's prompts do not distinguish from those of the chat template."
            )
        return notes

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        for asked, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise ModelError(
                    f"the model's context of {self.max_length} tokens is shorter than what a task asks the likelihood "
                    f"of ({len(continuation)} tokens: {str(asked and asked[1])[:60]!r}); leave the task out"
                )
            over = len(context) + len(continuation) - self.max_length - self.beyond_context
            if over > 0 and asked is not None:
                self.note_cut(asked, context, over)
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)  # type: ignore[misc]
        return found

    def note_cut(self, asked: Asked, tokens: list[int], over: int) -> None:
        """Keep what is read of a prompt that loses `over` of its tokens."""
        self.cuts[asked] = Cut(over, len(tokens), self.tokenizer.decode(tokens[over:], skip_special_tokens=False))


class CountingHFLM(Noting, SharedPrefixHFLM):
    """lm-eval's `HFLM`, its values unchanged, with what `Noting` adds, and no settings of the checkpoint's own.

    `generate` fills what a task leaves open from the checkpoint's generation_config.json (repetition_penalty, ...),
    which differs between variants; here it finds only token ids there.
    """

    beyond_context = 1  # the last token is predicted and not read

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As lm-eval's, which `generate_until` reads its prompts with."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len is None or ids.shape[1] <= left_truncate_len:
            return ids, mask
        for text, length, kept in zip(strings, mask.sum(1).tolist(), ids[:, -left_truncate_len:], strict=True):
            if length > left_truncate_len:
                read = self.tok_decode(kept.tolist(), skip_special_tokens=False)
                self.cuts[text, None] = Cut(length - left_truncate_len, length, read)
        return ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]

    def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with own_settings_aside(self.model, self.tokenizer):
            return super()._model_generate(*args, **kwargs)


def check_generation_room(tasks: Mapping[str, Any], context: int | None) -> None:
    """Refuse tasks that may generate as many tokens as the context (in tokens, None if unknown) has, or more.

    lm-eval would find it out when it gets there.

    Raises:
        ModelError: names the task and both numbers.
    """
    for name, task in tasks.items():
        if context is None or task.OUTPUT_TYPE != "generate_until":
            continue
        most = normalize_gen_kwargs(task.config.generation_kwargs or {})["max_gen_toks"]
        if most >= context:
            raise ModelError(
                f"task {name}: it generates up to {most} tokens, and the model's context of {context} tokens leaves no "
                "room for a prompt; leave the task out, or set max_gen_toks in its generation_kwargs"
            )
