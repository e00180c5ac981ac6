"""Sizes that a matrix file states of what is not here yet, so that `radpo plan` needs no Hub and no data.

A model or file that is here is counted, whatever is stated of it. Nothing stated is part of a key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from radpo.benchmarks.section import Section

Tokens = Annotated[float, Field(ge=0)]


class StatedModel(Section):
    """A model's size."""

    parameters: float = Field(gt=0, description="Those that compute: without an input embedding that is not tied.")
    layers: int = Field(ge=1)


class StatedPairs(Section):
    """A file of scored pairs: its rows, and the mean tokens of their parts."""

    rows: int = Field(ge=1)
    prompt: Tokens
    chosen: Tokens
    rejected: Tokens


class StatedQuestions(Section):
    """A file of questions: its rows, their turns, the mean tokens of a turn, and of an answer to one."""

    rows: int = Field(ge=1)
    turns: int = Field(1, ge=1)
    prompt: Tokens
    answer: Tokens | None = Field(
        None, description="Tokens of an answer, also where the file is here; the longest that is allowed, if not given."
    )


class StatedTask(Section):
    """One of lm-eval's own tasks: its documents, the tokens read for one (all choices and shots), and those written."""

    rows: int = Field(ge=1)
    read: Tokens
    written: Tokens = 0


_Size = TypeVar("_Size", StatedPairs, StatedQuestions)


def _by_place(sizes: dict[str, _Size], info: ValidationInfo) -> dict[str, _Size]:
    """Paths begin at the matrix file's own folder, as they do where the files are named."""
    folder: Path = (info.context or {}).get("folder", Path())
    return {str(folder / Path(path).expanduser()): size for path, size in sizes.items()}


class Stated(Section):
    """Sizes by model, by file and by task, under the names that the matrix uses."""

    models: dict[str, StatedModel] = Field(default_factory=dict)
    pairs: Annotated[dict[str, StatedPairs], AfterValidator(_by_place)] = Field(default_factory=dict)
    questions: Annotated[dict[str, StatedQuestions], AfterValidator(_by_place)] = Field(default_factory=dict)
    tasks: dict[str, StatedTask] = Field(default_factory=dict)
