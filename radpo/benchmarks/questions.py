"""A benchmark's questions, read from files in any of the formats that benchmarks release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows
from radpo.preferences.questions import Question, checked_question, load_questions


def load_benchmark_questions(path: Path) -> list[Question]:
    """Read questions (`.jsonl` or `.json`, gzipped or not).

    A row has question_id and turns (texts), and maybe category; or uid and prompt, and maybe category; or instruction,
    and maybe index (else its place in the file is its id) and dataset.

    Raises:
        DataError: a row is malformed, or an id is used twice.
    """
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{path}: holds no questions")
    if "turns" in rows[0][1] and path.name.removesuffix(".gz").endswith(".jsonl"):
        return load_questions(path)
    questions: dict[str, Question] = {}
    for number, (place, row) in enumerate(rows):
        question = _question(place, number, row)
        if question.question_id in questions:
            raise DataError(f"{place}: a question_id is used twice: {question.question_id!r}")
        questions[question.question_id] = question
    return list(questions.values())


def _question(place: str, number: int, row: dict[str, Any]) -> Question:
    if isinstance(row.get("instruction"), str):
        found, name = row["instruction"], str(row.get("index", number))
        return Question(name, str(row.get("dataset", "")), (found,), ((),))
    if isinstance(row.get("prompt"), str) and "uid" in row:
        return Question(str(row["uid"]), str(row.get("category", "")), (row["prompt"],), ((),))
    if "turns" in row and "question_id" in row:
        return checked_question(row, place)
    raise DataError(f"{place}: a question needs instruction, or uid and prompt, or question_id and turns")
