"""Questions: a JSON Lines file of one- or many-turn prompts, read and checked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radpo.core.errors import DataError
from radpo.core.json_rows import opened
from radpo.core.lines import whole


@dataclass(frozen=True)
class Question:
    """What a model is asked: the user's message of every turn, and what a judge may check each answer by.

    Args:
        constraints: for every turn, the constraints of `radpo.judges.verifier` (none where another judge is meant).
    """

    question_id: str
    category: str
    turns: tuple[str, ...]
    constraints: tuple[tuple[Mapping[str, Any], ...], ...]


def load_questions(path: Path) -> list[Question]:
    """Read questions (`.jsonl`, gzipped or not).

    A row has question_id, category, turns (texts), and maybe constraints (a list for every turn).

    Raises:
        DataError: the file cannot be read or a row is malformed; the message names file, line, field and fix.
    """
    try:
        with opened(path) as stream:
            lines = whole(stream, str(path)).split("\n")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    questions: list[Question] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question = _question(line, f"{path}, line {number}")
        if question.question_id in seen:
            raise DataError(f"{path}, line {number}, question_id: {question.question_id!r} was used before")
        seen.add(question.question_id)
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: holds no questions")
    return questions


def _question(line: str, place: str) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: every line must be a JSON object")
    return checked_question(row, place)


def checked_question(row: Mapping[str, Any], place: str) -> Question:
    """A row as a question, with the constraints that it may have.

    Raises:
        DataError: a field is missing or malformed; the message names it with the place.
    """
    turns, question_id = row.get("turns"), row.get("question_id")
    if not isinstance(question_id, str | int):
        raise DataError(f"{place}, question_id: missing; give every question its own")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise DataError(f"{place}, turns: must be a list of texts, one for every turn")
    constraints = row.get("constraints", [[] for _ in turns])
    if not isinstance(constraints, list) or len(constraints) != len(turns):
        raise DataError(f"{place}, constraints: must be a list of {len(turns)} lists, one for every turn")
    if not all(isinstance(turn, list) and all(isinstance(c, dict) for c in turn) for turn in constraints):
        raise DataError(f"{place}, constraints: every turn's must be a list of objects with a kind")
    return Question(str(question_id), str(row.get("category", "")), tuple(turns), tuple(map(tuple, constraints)))
