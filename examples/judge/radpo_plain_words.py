"""A judge that is a program: the fewer of a response's sentences have jargon in them, the better its grade."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from radpo import JudgeKind
from radpo.core.errors import ConfigError
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import Grade, GradeRequest


class Settings(BaseModel):
    """What a matrix file may say beside `kind: plain-words`.

    `words` is a path, so its content counts in the keys of what is judged; `shown` cannot change a grade.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: Path = Field(description="A text file of jargon, a word or phrase a line.")
    strictness: float = Field(1.0, gt=0, description="Above 1, a few sentences with jargon cost more.")
    shown: int = Field(5, ge=0, description="How many of the words found a grade's reason names.")


class PlainWords:
    """Grades on 1-10: 1 + 9 * (1 - share of sentences with jargon) ** strictness."""

    name = "plain-words"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def _jargon(self) -> re.Pattern[str]:
        """Read at the first request: a plan makes the judge, too, and needs no words."""
        lines = self.settings.words.read_text(encoding="utf-8").splitlines()
        words = [re.escape(line.strip()) for line in lines if line.strip()]
        if not words:
            raise ConfigError(f"judge plain-words, words: {self.settings.words} has no words")
        return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        """Grade every response, in order; one that says nothing gets the lowest grade."""
        grades = []
        for number, request in enumerate(requests, start=1):
            sentences = [text for text in re.split(r"[.!?]+\s+", request.response) if text.strip()]
            found = [word for text in sentences for word in self._jargon.findall(text)[:1]]
            plain = 1 - len(found) / len(sentences) if sentences else 0.0
            named = ", ".join(dict.fromkeys(found[: self.settings.shown])) or "none"
            reason = f"jargon in {len(found)} of {len(sentences)} sentences: {named}"
            grades.append(Grade(1 + 9 * plain**self.settings.strictness, reason))
            progress(number, len(requests))
        return grades


KIND = JudgeKind(Settings, PlainWords, hints=frozenset({"shown"}))
