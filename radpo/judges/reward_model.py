"""The reward model: a sequence classifier from transformers scores conversations, higher meaning better.

Models with one label (trained with the Bradley-Terry loss) are read off their logit; ArmoRM-style models off the
`score` of their output. A reward has no scale of its own, so grades from 1 to 10 need `raw_range`; comparisons do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from radpo.core.errors import ConfigError, ModelError
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import CompareRequest, Comparison, Grade, GradeRequest, JudgeKind
from radpo.judges.record import JudgeRecord, Said


class RewardModelSettings(BaseModel):
    """Which model, and how its rewards are read.

    Args:
        model: a folder or a Hub id (`@revision` pins it).
        raw_range: the rewards that count as 1 and as 10, linear between, cut beyond; None will do for comparisons.
        max_length: tokens; a conversation that is longer, or beyond the model's context, is not judged, and counted as
            such.
        trust_remote_code: run the model's own code, as ArmoRM needs; off unless you say so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    raw_range: tuple[float, float] | None = None
    max_length: int = Field(4096, ge=16)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False
    batch_size: int = Field(8, ge=1)


HINTS = frozenset({"batch_size"})


class RewardModelJudge:
    """Scores whole conversations; the order in which two are compared cannot sway it."""

    def __init__(self, settings: RewardModelSettings) -> None:
        if settings.raw_range is not None and not settings.raw_range[0] < settings.raw_range[1]:
            raise ConfigError(f"judge reward-model, raw_range: {settings.raw_range} does not rise")
        self.settings = settings
        self.record = JudgeRecord()

    @property
    def name(self) -> str:
        """The model's name without its folders and revision."""
        return self.settings.model.rstrip("/").rsplit("/", 1)[-1].partition("@")[0]

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        """Grade on 1-10 by `raw_range`.

        Raises:
            ConfigError: no `raw_range` says what the rewards mean.
            ModelError: the model cannot be loaded or is no reward model.
        """
        if self.settings.raw_range is None:
            raise ConfigError(
                "judge reward-model: grades from 1 to 10 need raw_range, the rewards that count as 1 and as 10"
            )
        low, high = self.settings.raw_range
        grades = []
        for reward in self._rewards([_conversation(r.prompt, r.response) for r in requests], progress):
            score = None if reward is None else 1 + 9 * min(max((reward - low) / (high - low), 0.0), 1.0)
            grades.append(Grade(score, self._reason(reward)))
        return grades

    def compare(self, requests: Sequence[CompareRequest], progress: Progress = no_progress) -> list[Comparison]:
        """Compare by the Bradley-Terry chance that the second is better: preference 1 + sigmoid(r_2 - r_1).

        Raises:
            ModelError: as `grade`.
        """
        from scipy.special import expit

        sides = [_conversation(r.prompt, r.first) for r in requests] + [
            _conversation(r.prompt, r.second) for r in requests
        ]
        rewards = self._rewards(sides, progress)
        found = []
        for first, second in zip(rewards[: len(requests)], rewards[len(requests) :], strict=True):
            known = first is not None and second is not None
            preference = 1 + float(expit(second - first)) if known else None  # type: ignore[operator]
            found.append(Comparison(preference, f"first: {self._reason(first)}; second: {self._reason(second)}"))
        return found

    def _reason(self, reward: float | None) -> str:
        return f"longer than {self._limit} tokens" if reward is None else f"reward {reward:.4f}"

    @property
    def _limit(self) -> int:
        """Tokens that a conversation may have: `max_length`, or the model's context where that is shorter."""
        from radpo.models.context import context_of

        return context_of(*self._loaded).limit(self.settings.max_length)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification

        from radpo.models.loading import load_tokenizer, resolve_model, torch_dtype
        from radpo.models.weights import check_own_code, load_weights

        folder = resolve_model(self.settings.model)
        if self.settings.trust_remote_code:
            check_own_code(folder)
        tokenizer = load_tokenizer(folder)
        model = load_weights(
            AutoModelForSequenceClassification,
            folder,
            dtype=torch_dtype(self.settings.precision),
            trust_remote_code=self.settings.trust_remote_code,
        )
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer

    def _rewards(self, conversations: Sequence[list[dict[str, str]]], progress: Progress) -> list[float | None]:
        """Every conversation's reward, read at its last token; None where it is too long."""
        from radpo.models.chat_template import held_control_tokens, render_tokens
        from radpo.models.classifier import last_token_values

        model, tokenizer = self._loaded
        tokens = [render_tokens(tokenizer, c) for c in conversations]
        fitting = [place for place, ids in enumerate(tokens) if len(ids) <= self._limit]
        values = last_token_values(
            model, [tokens[place] for place in fitting], self._read,
            batch_size=self.settings.batch_size, progress=progress,
        )  # fmt: skip
        found: dict[int, float] = dict(zip(fitting, values, strict=True))
        rewards = [found.get(place) for place in range(len(tokens))]
        for conversation, reward in zip(conversations, rewards, strict=True):
            reason, texts = self._reason(reward), [message["content"] for message in conversation]
            said = Said(None if reward is None else reason, False, reason)
            self.record.add(said, texts[-2] if len(texts) > 1 else "", frozenset(held_control_tokens(tokenizer, texts)))
        return rewards

    def _read(self, output: Any) -> list[float]:
        values = getattr(output, "score", None)
        if values is None:
            values = output.logits
        values = values.float().reshape(values.shape[0], -1)
        if values.shape[1] != 1:
            raise ModelError(
                f"reward model {self.settings.model}: it has {values.shape[1]} labels; "
                "a reward model has one, or its output a `score`"
            )
        rewards: list[float] = values[:, 0].tolist()
        return rewards


KIND = JudgeKind(
    RewardModelSettings,
    RewardModelJudge,
    hints=HINTS,
    models=frozenset({"model"}),
    packages=("tokenizers", "torch", "transformers"),
    free=True,
)


def _conversation(prompt: Sequence[Any], response: str) -> list[dict[str, str]]:
    return [*(dict(message) for message in prompt), {"role": "assistant", "content": response}]
