"""lm-eval's own transformers model, which also says what it cut off prompts and takes no settings from the checkpoint.

Imports lm-eval: import it where a model is about to be run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.loggers.utils import get_commit_from_path
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from radpo.core.errors import ModelError
from radpo.models.chat_template import held_control_tokens, placement_of
from radpo.models.decoding import own_settings_aside
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


class CountingHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's `HFLM`, its values unchanged, with two differences around them.

    lm-eval cuts a prompt that does not fit the context from the left, with a line in its log only; here every cut is
    kept in `cuts`. And `generate` fills what a task leaves open from the checkpoint's generation_config.json
    (repetition_penalty, ...), which differs between variants; here it finds only token ids there.
    """

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
        rendered: str = super().apply_chat_template(conversation, add_generation_prompt)
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
            over = len(context) + len(continuation) - self.max_length - 1
            if over > 0 and asked is not None:
                self.cuts[asked] = Cut(over, len(context), self.tok_decode(context[over:], skip_special_tokens=False))
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)
        return found

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
