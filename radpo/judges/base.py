"""The judge protocol: a judge grades responses, and may compare two at once; else its grades compare them.

Each is registered in the entry point group `radpo.judges`, as a package's own are: a name, and the `JudgeKind` that it
points to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from radpo.core.progress import Progress, no_progress


@dataclasses.dataclass(frozen=True)
class GradeRequest:
    """One response to grade.

    Args:
        prompt: the conversation before the response, as role/content messages, the last one the user's.
        response: the response to grade.
        reference: what a judge may need besides the prompt: `constraints` for the verifier, `reference_answers` (one
            for each turn so far) for a model.
    """

    prompt: Sequence[Mapping[str, str]]
    response: str
    reference: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Grade:
    """A judge's word on one response: `score` on 1-10, None where there is no judgment; `reason` in text."""

    score: float | None
    reason: str


@dataclasses.dataclass(frozen=True)
class CompareRequest:
    """Two responses to compare, shown in this order; `prompt` and `reference` as in a GradeRequest."""

    prompt: Sequence[Mapping[str, str]]
    first: str
    second: str
    reference: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def swapped(self) -> CompareRequest:
        """The same with the responses in the other order."""
        return dataclasses.replace(self, first=self.second, second=self.first)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A judge's word on two responses.

    Args:
        preference: a scale: 1 the first is better … 2 the second, 1.5 neither; None where it could not be
            had.
        reason: in text.
        grades: of the first and the second, where the comparison follows from grades.
    """

    preference: float | None
    reason: str
    grades: tuple[Grade, Grade] | None = None


class Judge(Protocol):
    """Anything that grades responses on the scale 1-10."""

    @property
    def name(self) -> str:
        """A short name that the report prints."""
        ...

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        """Grade every response, in order.

        Raises:
            radpo.core.errors.DataError: a request lacks what this judge needs.
            radpo.core.errors.ServiceError: the judge could not be reached after its retries.
        """
        ...


@runtime_checkable
class ComparingJudge(Protocol):
    """A judge that also compares two responses at once, so that their order may sway it."""

    @property
    def name(self) -> str:
        """A short name that the report prints."""
        ...

    def compare(self, requests: Sequence[CompareRequest], progress: Progress = no_progress) -> list[Comparison]:
        """Compare every pair, in order. Raises as `Judge.grade`."""
        ...


@dataclasses.dataclass(frozen=True)
class JudgeKind:
    """One kind of judge.

    Args:
        settings: the pydantic model of what it may be given. Paths in it are files whose content can change a verdict.
        make: the judge with these settings. Whatever is slow (a model, a connection) waits for the first request.
        hints: the settings that cannot change a verdict (speed, limits, keys); no part of a stage's key.
        free: whether it computes here and costs nothing. Of others a run with a limit of dollars needs the price,
            by settings `price_in` and `price_out`.
        models: the settings that name a model as `radpo.models.loading` finds it; they count by the model's content.
        members: the settings that hold a list of judges, each a kind or a mapping of `kind` and its settings; all else
            that is to be known of them is known by their own kinds.
        packages: the packages whose versions can change a verdict, such as torch.
        finds: of settings that may name a folder, what finds the one file that is read of it or beside it.
        ready: what a judge with these settings lacks, such as a key, asked before the first stage of a run; None if
            nothing. May raise a RadpoError instead.
    """

    settings: type[BaseModel]
    make: Callable[[Any], Judge]
    hints: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()
    packages: tuple[str, ...] = ()
    finds: Mapping[str, Callable[[Path], Path | None]] = dataclasses.field(default_factory=dict)
    free: bool = False
    ready: Callable[[Any], str | None] | None = None


def compare(
    judge: Judge | ComparingJudge, requests: Sequence[CompareRequest], progress: Progress = no_progress
) -> list[Comparison]:
    """Compare every pair: by the judge itself if it compares, else by its grades; equal grades are a draw."""
    if isinstance(judge, ComparingJudge):
        return judge.compare(requests, progress)
    sides = [GradeRequest(r.prompt, r.first, r.reference) for r in requests]
    sides += [GradeRequest(r.prompt, r.second, r.reference) for r in requests]
    grades = judge.grade(sides, progress)
    return [_from_grades(a, b) for a, b in zip(grades[: len(requests)], grades[len(requests) :], strict=True)]


def _from_grades(first: Grade, second: Grade) -> Comparison:
    preference = None
    if first.score is not None and second.score is not None:
        preference = 1.5 if first.score == second.score else 1.0 if first.score > second.score else 2.0
    return Comparison(preference, f"first: {first.reason}\nsecond: {second.reason}", (first, second))
