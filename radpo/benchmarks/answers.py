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
    answers = Collected(path)
    for place, row in read_rows(path):
        question_id, turns = row.get("question_id"), row.get("turns")
        if question_id is None or not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise DataError(f"{place}: an answer needs question_id and turns, a list of texts, one for each turn")
        answers.add(place, str(question_id), tuple(turns), str(row.get("model", row.get("model_id", ""))))
    check_answers(questions, answers.by_id, str(path))
    return {question.question_id: answers.by_id[question.question_id] for question in questions}


class Collected:
    """The answers of one model as they are read from a file, each question's once."""

    def __init__(self, path: Path) -> None:
        self.by_id: dict[str, tuple[str, ...]] = {}
        self._path, self._model = path, ""

    def add(self, place: str, question: str, turns: tuple[str, ...], model: str) -> None:
        """Take up a row.

        Raises:
            DataError: the question was answered before, or by another model; of two answers none is the right one.
        """
        if self._model and model and model != self._model:
            raise DataError(f"{place}: answers of {model} after those of {self._model}; give one model a file")
        self._model = self._model or model
        if question in self.by_id:
            raise DataError(f"{place}: question {question[:80]!r} is answered a second time; keep one of the rows")
        self.by_id[question] = turns


def check_names(model: str, baseline: str, where: str) -> None:
    """Raise a DataError where what is compared has one name, which figures and files could not tell apart."""
    if model == baseline:
        raise DataError(
            f"{where}: the baseline's answers are called {baseline}, as the model's are; use --name, or give the "
            "variant or the baseline's file another name"
        )


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
