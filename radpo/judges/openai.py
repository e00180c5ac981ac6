"""The judge behind an OpenAI-compatible endpoint, asked with published prompts.

FastChat's prompts grade; alpaca-eval's annotators, FastChat's pairwise prompts or Arena-Hard's compare.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from radpo.clients.chat import Chat, ChatRequest, LazyRequests
from radpo.clients.endpoint import RESULT_FIELDS, Endpoint
from radpo.clients.probe import probe
from radpo.clients.replies import ChatReply
from radpo.core.cache import cache_folder
from radpo.core.errors import ConfigError
from radpo.core.progress import Progress, no_progress
from radpo.judges.annotator import annotate_pairs
from radpo.judges.arena import arena_compare, load_arena_config
from radpo.judges.base import CompareRequest, Comparison, Grade, GradeRequest, JudgeKind
from radpo.judges.fastchat import (
    OPTIONS,
    OWN,
    RESPONSE_FORMAT,
    Prompt,
    Rule,
    grading,
    load_prompts,
    pairing,
    prompts_file,
    rating,
    structured_rating,
    winner,
)
from radpo.judges.record import JudgeRecord, Said, read_reply, says_nothing, texts_of
from radpo.judges.structure import acting_marks

Verdict = TypeVar("Verdict")
Request = TypeVar("Request", GradeRequest, CompareRequest)


class OpenAISettings(Endpoint):
    """An endpoint, and how it is to judge.

    Args:
        prompts: FastChat's judge_prompts.jsonl, or its folder, for grading; radpo's own short prompt without it.
        annotator: whose prompt and parser comparisons use: an annotator of alpaca-eval, or `fastchat` (with prompts).
        arena_config: Arena-Hard's judge_config.yaml, whose prompt and labels comparisons then use instead.
        temperature, max_tokens: for FastChat's and radpo's own prompts; FastChat's.
        structured: with radpo's own prompt, have the endpoint hold the judge to a JSON schema (`response_format`),
            where it offers that: an explanation, then the rating.
        verdict: which of several verdicts in a reply to FastChat's prompts counts: `fastchat` as its released judgments
            were read, `last` the final one; `auto` takes the last of a judge that reasons, FastChat's of others. In
            replies to radpo's own prompt the last always counts.
    """

    prompts: Path | None = None
    annotator: str = "weighted_alpaca_eval_gpt4_turbo"
    arena_config: Path | None = None
    temperature: float = Field(float(OPTIONS["temperature"]), ge=0)
    max_tokens: int = Field(int(OPTIONS["max_tokens"]), ge=1)
    structured: bool = Field(False, exclude_if=operator.not_)
    verdict: Literal["auto", "fastchat", "last"] = "auto"

    @model_validator(mode="after")
    def _own_prompt_is_structured(self) -> OpenAISettings:
        if self.structured and self.prompts is not None:
            raise ValueError("structured: is for radpo's own prompt, and prompts are published ones, read as they were")
        return self

    def endpoint(self) -> Endpoint:
        """The endpoint alone."""
        return Endpoint(**{name: getattr(self, name) for name in Endpoint.model_fields})


COMPARISON_SETTINGS = frozenset({"annotator", "arena_config"})
"""The settings that choose the prompt by which two answers are compared."""
HINTS = frozenset(set(Endpoint.model_fields) - RESULT_FIELDS)


class OpenAIJudge:
    """Asks a chat model. Answers are cached on disk by content; `chat.usage` tells what was spent."""

    def __init__(self, settings: OpenAISettings, cache: Path | None = None) -> None:
        self.settings = settings
        self.chat = Chat(settings.endpoint(), cache or cache_folder() / "chat.sqlite")
        self.record = JudgeRecord()
        self._expected = 0

    @property
    def name(self) -> str:
        """The model's name."""
        return self.settings.model

    def expect(self, total: int, *, begun: bool) -> None:
        """Know that requests come in parts.

        Args:
            total: how many there are in all, of which `max_unanswered` is the share.
            begun: whether earlier ones were answered, so that these need not show that the endpoint is of use.
        """
        self._expected = total
        self.chat.useful |= begun

    @cached_property
    def _prompts(self) -> dict[str, Prompt] | None:
        return None if self.settings.prompts is None else load_prompts(self.settings.prompts)

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        """Grade by [[rating]]; a judgment without one has no score, and its text as the reason.

        Raises:
            DataError: the prompts lack the one that is needed.
            ServiceError: the endpoint could not be reached after its retries, or a limit is reached.
        """
        self._begin(requests)
        options = {**self._options, **({"response_format": RESPONSE_FORMAT} if self.settings.structured else {})}
        shown = partial(grading, self._prompts, structured=self.settings.structured)
        grades = []
        for request, prompt, reply in self._asked(requests, shown, options, progress):
            said = self._read(request, prompt, reply)
            score = None if said.answer is None else self._rating(prompt, said)
            grades.append(Grade(score, said.reason))
        self._check_unanswered()
        return grades

    def _asked(
        self,
        requests: Sequence[Request],
        shown: Callable[[Request], tuple[Prompt, list[dict[str, str]]]],
        options: Mapping[str, Any],
        progress: Progress,
    ) -> Iterator[tuple[Request, Prompt, ChatReply]]:
        """Every request with its prompt and the reply to it; prompts are filled anew each time that they are needed."""
        asked = LazyRequests(len(requests), lambda place: ChatRequest(shown(requests[place])[1], options))
        replies = self.chat.replies(asked, progress, unusable=says_nothing)
        for request, reply in zip(requests, replies, strict=True):
            yield request, shown(request)[0], reply

    def _rating(self, prompt: Prompt, said: Said) -> float | None:
        assert said.answer is not None
        if self.settings.structured:
            return structured_rating(said.answer)
        return self._verdict(prompt, said, partial(rating, said.answer))

    def compare(self, requests: Sequence[CompareRequest], progress: Progress = no_progress) -> list[Comparison]:
        """Compare by Arena-Hard's, FastChat's or an annotator's prompt, as the settings say. Raises as `grade`."""
        self._begin(requests)
        found = self._compare(requests, progress)
        self._check_unanswered()
        return found

    def _compare(self, requests: Sequence[CompareRequest], progress: Progress) -> list[Comparison]:
        if self.settings.arena_config is not None:
            return arena_compare(
                self.chat, load_arena_config(self.settings.arena_config), requests, progress, self.record
            )
        if self.settings.annotator != "fastchat":
            return annotate_pairs(self.chat, self.settings.annotator, requests, progress, self.record)
        if self._prompts is None:
            raise ConfigError("judge openai: annotator fastchat needs prompts, FastChat's folder of judge prompts")
        preferences = {"A": 1.0, "B": 2.0, "tie": 1.5, "error": None}
        comparisons = []
        for request, prompt, reply in self._asked(requests, partial(pairing, self._prompts), self._options, progress):
            said = self._read(request, prompt, reply)
            verdict = (
                "error"
                if said.answer is None
                else self._verdict(prompt, said, partial(winner, said.answer, prompt.output_format))
            )
            comparisons.append(Comparison(preferences[verdict], said.reason))
        return comparisons

    def _begin(self, requests: Sequence[object]) -> None:
        self.chat.expected = max(self._expected, self.record.replies + len(requests))

    def _check_unanswered(self) -> None:
        """The share that may stay without an answer is of all requests, in however many parts they come."""
        self.chat.check_unanswered([reason for _, reason in self.record.unanswered], self.chat.expected)

    def _read(self, request: GradeRequest | CompareRequest, prompt: Prompt, reply: ChatReply) -> Said:
        """A reply to one of FastChat's prompts or radpo's own, counted."""
        said = read_reply(reply)
        self.record.unreferenced += bool(request.reference.get("lacks_reference"))
        self.record.add(said, request.prompt[-1]["content"], acting_marks(texts_of(request), prompt.frame))
        return said

    def _verdict(self, prompt: Prompt, said: Said, read: Callable[[Rule], Verdict]) -> Verdict:
        """The verdict in a reply that counts."""
        last = read("last")
        if prompt.name == OWN.name:
            return last
        published, choice = read("fastchat"), self.settings.verdict
        take_last = choice == "last" or (choice == "auto" and said.reasoned)
        self.record.add_verdicts(published, last, take_last=take_last)
        return last if take_last else published

    @property
    def _options(self) -> dict[str, float | int]:
        return {"temperature": self.settings.temperature, "max_tokens": self.settings.max_tokens}


def _ready(settings: OpenAISettings) -> None:
    probe(settings.endpoint())


KIND = JudgeKind(OpenAISettings, OpenAIJudge, hints=HINTS, finds={"prompts": prompts_file}, ready=_ready)
