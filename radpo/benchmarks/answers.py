"""A model's answers to a benchmark's questions, read from files in any of the formats that benchmarks release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows

if TYPE_CHECKING:
    from radpo.preferences.questions import Question

FAILED = "$ERROR$"
"""What FastChat and benchmarks after it write for an answer that they could not get."""
Answers = Mapping[str, tuple[str, ...]]
"""A model's answer to every turn, by question_id."""


@dataclass(frozen=True)
class Answered:
    """A model's answer to every turn of a question; `tokens` as the file counts them, None where it does not."""

    turns: tuple[str, ...]
    tokens: int | None = None


@dataclass(frozen=True)
class ModelAnswers:
    """One model's answers by question_id, or by the question itself where the file gives that."""

    model: str
    by_question: Mapping[str, Answered]


def load_model_answers(path: Path) -> ModelAnswers:
    """Read one model's answers (`.json` or `.jsonl`, gzipped or not), in any of the formats that benchmarks release.

    A row has instruction and output; or question_id (or uid) and one of turns (texts), choices (of which the first has
    turns) and messages (of which the last is the answer).

    Raises:
        DataError: a row is malformed, a question is answered twice, or models are mixed in one file.
    """
    answers: dict[str, Answered] = {}
    model = ""
    for place, row in read_rows(path):
        question, answered = _answered(place, row)
        named = str(row.get("generator", row.get("model_id", row.get("model", ""))))
        if model and named and named != model:
            raise DataError(f"{place}: answers of {named} after those of {model}; give one model a file")
        model = model or named
        if question in answers:
            raise DataError(f"{place}: question {question[:80]!r} is answered a second time; keep one of the rows")
        answers[question] = answered
    if not answers:
        raise DataError(f"{path}: holds no answers")
    return ModelAnswers(model or _stem(path), answers)


def load_answers(path: Path, questions: Sequence[Question]) -> dict[str, tuple[str, ...]]:
    """A model's answers to these questions, in any format that `load_model_answers` reads.

    Raises:
        DataError: as `load_model_answers`; or a question or one of its turns has no answer.
    """
    return load_outputs(path, questions)[1]


def load_outputs(path: Path, questions: Sequence[Question]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A model's name and its answers by question_id. Raises as `load_answers`."""
    found = load_model_answers(path)
    answers = {
        question.question_id: answered.turns
        for question in questions
        for key in (question.question_id, question.turns[0])
        if (answered := found.by_question.get(key)) is not None
    }
    check_answers(questions, answers, str(path))
    return found.model, answers


def _answered(place: str, row: Mapping[str, Any]) -> tuple[str, Answered]:
    """The question that a row answers, and the answer."""
    if "output" in row:
        if not isinstance(row.get("instruction"), str) or not isinstance(row["output"], str):
            raise DataError(f"{place}: an answer needs instruction and output, both texts")
        return row["instruction"], Answered((row["output"],))
    metadata = row.get("metadata")
    tokens = metadata.get("token_len") if isinstance(metadata, dict) else None
    parts: Any = row.get("turns")
    if isinstance(row.get("messages"), list):
        parts = row["messages"][-1:]
    elif isinstance(row.get("choices"), list):
        first = row["choices"][0] if row["choices"] else None
        parts = first.get("turns") if isinstance(first, dict) else None
        if isinstance(parts, list) and parts and isinstance(parts[0], dict):
            tokens = parts[0].get("token_len")
    question = row.get("question_id", row.get("uid"))
    turns = tuple(map(_text, parts)) if isinstance(parts, list) else None
    if question is not None and turns is not None and None in turns:
        raise DataError(f"{place}: question {str(question)[:80]!r}: a turn is no text")
    if question is None or turns is None:
        raise DataError(
            f"{place}: an answer needs question_id and choices with turns, or turns, or messages, texts all; "
            "or instruction and output"
        )
    return str(question), Answered(turns, tokens if isinstance(tokens, int) else None)  # type: ignore[arg-type]


def _text(part: Any) -> str | None:
    """The text of a turn, which some files wrap in `content`, and some of those in `answer`."""
    for key in ("content", "answer"):
        part = part.get(key) if isinstance(part, dict) else part
    return part if isinstance(part, str) else None


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")


def check_names(model: str, baseline: str, where: str) -> None:
    """Raise a DataError where what is compared has one name, which figures and files could not distinguish."""
    if model == baseline:
        raise DataError(
            f"{where}: the baseline's answers are called {baseline}, as the model's are; use --name, or give the "
            "variant or the baseline's file another name"
        )


def fault_notes(benchmark: str, outputs: Iterable[str | None], baseline_outputs: Iterable[str | None]) -> list[str]:
    """Sentences on judged answers that are none: empty ones, and the text that harnesses write where a call failed.

    Args:
        outputs, baseline_outputs: all that were judged, whatever became of the judgments.
    """
    notes = []
    for whose, texts in (("", outputs), ("the baseline: ", baseline_outputs)):
        said = [text.strip() for text in texts if text is not None]
        for what, count in (
            ("are empty", said.count("")),
            (f"are {FAILED}, which stands for a missing answer,", said.count(FAILED)),
        ):
            if count:
                notes.append(f"{benchmark}: {whose}{count} of {len(said)} answers {what} and were judged as they are.")
    return notes


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
