"""The judge protocol: a judge grades responses, with a score and a reason. Pairwise verdicts follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

Progress = Callable[[int, int], None]
"""Called with (done, total) while long work runs; library functions print nothing themselves."""


def no_progress(done: int, total: int) -> None:
    """The callback of a caller who does not want to watch."""


@dataclasses.dataclass(frozen=True)
class GradeRequest:
    """One response to grade.

    Args:
        prompt: the conversation before the response, as role/content messages, the last one the user's.
        response: the response to grade.
        reference: what a judge may need besides the prompt: constraints for the verifier, a reference answer
            for a model.
    """

    prompt: Sequence[Mapping[str, str]]
    response: str
    reference: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Grade:
    """A judge's word on one response: `score` on 1-10, None where the judgment could not be had; `reason` in text."""

    score: float | None
    reason: str


class Judge(Protocol):
    """Anything that grades responses on the scale 1-10."""

    @property
    def name(self) -> str:
        """A short name that the report prints."""
        ...

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        """Grade every response, in order.

        Raises:
            radpo.errors.DataError: a request lacks what this judge needs.
            radpo.errors.ServiceError: the judge could not be reached after its retries.
        """
        ...
