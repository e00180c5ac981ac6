"""What the harness files share: a model's answers come in from a file, checked against the questions they go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows

if TYPE_CHECKING:
    from radpo.preferences.questions import Question

Answers = Mapping[str, tuple[str, ...]]
"""A model's answer to every turn, by question_id."""


def load_answers(path: Path, questions: Sequence[Question]) -> dict[str, tuple[str, ...]]:
    """Read an answers file (JSON Lines, `.gz` or plain: question_id, turns) and keep what the questions ask for.

    Raises:
        DataError: the file or a row is malformed, or a question or one of its turns has no answer.
    """
    answers: dict[str, tuple[str, ...]] = {}
    for place, row in read_rows(path):
        question_id, turns = row.get("question_id"), row.get("turns")
        if question_id is None or not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise DataError(f"{place}: an answer needs question_id and turns, a list of texts, one for each turn")
        if str(question_id) in answers:
            raise DataError(f"{place}: question {question_id!r} is answered a second time; keep one of the rows")
        answers[str(question_id)] = tuple(turns)
    check_answers(questions, answers, str(path))
    return {question.question_id: answers[question.question_id] for question in questions}


def check_answers(questions: Sequence[Question], answers: Answers, where: str) -> None:
    """Raise a DataError that names the questions without an answer to every turn; `where` says whose answers."""
    if not questions:
        raise DataError(f"{where}: there are no questions to match answers with")
    lacking = [q.question_id for q in questions if len(answers.get(q.question_id, ())) != len(q.turns)]
    if lacking:
        shown = ", ".join(repr(question_id) for question_id in lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise DataError(
            f"{where}: {len(lacking)} of {len(questions)} questions lack an answer to each of their turns: {shown}; "
            "generate the answers from the same questions file"
        )
