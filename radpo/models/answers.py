"""Answers to whole sets of questions: questions and a backend come in, `answers.jsonl` goes out, turn after turn.

Finished answers are noted in `turns.jsonl` as they come; a killed run, run again, goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.progress import Progress, no_progress
from radpo.models.generation import Sampling

if TYPE_CHECKING:
    from radpo.models.backends import Backend
    from radpo.preferences.questions import Question

ANSWERS, TURNS = "answers.jsonl", "turns.jsonl"

SamplingOf = Callable[["Question", int], Sampling]
"""How a question's turn (0, 1, …) is to be sampled."""


def answer_questions(
    questions: Sequence[Question],
    open_backend: Callable[[], Backend],
    sampling_of: SamplingOf,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Path:
    """Have every turn of every question answered, later turns after the earlier ones' answers.

    Args:
        open_backend: called once, and not where the answers are there already.
        out: a folder that is this call's own; what an interrupted call of the same arguments left there is taken up.

    Returns:
        `answers.jsonl` in it: question_id and turns, the answers to each.

    Raises:
        DataError: `turns.jsonl` there is not of these questions.
    """
    path, journal = out / ANSWERS, out / TURNS
    if path.exists():
        return path
    out.mkdir(parents=True, exist_ok=True)
    finished, backend = _read_turns(journal, questions), open_backend()
    conversations: list[list[dict[str, str]]] = [[] for _ in questions]
    total, before = sum(len(question.turns) for question in questions), 0
    with journal.open("a", encoding="utf-8") as stream:
        for turn in range(max(len(question.turns) for question in questions)):
            groups: dict[Sampling, list[int]] = {}
            for place, question in enumerate(questions):
                if turn < len(question.turns):
                    conversations[place].append({"role": "user", "content": question.turns[turn]})
                    groups.setdefault(sampling_of(question, turn), []).append(place)
            for sampling, places in groups.items():

                def keep(fresh: Mapping[int, str], places: list[int] = places, turn: int = turn) -> None:
                    rows = [
                        {"question_id": questions[places[index]].question_id, "turn": turn, "answer": text}
                        for index, text in fresh.items()
                    ]
                    stream.write("".join(_sealed(row) + "\n" for row in rows))
                    stream.flush()
                    os.fsync(stream.fileno())

                done = {
                    index: finished[questions[place].question_id, turn]
                    for index, place in enumerate(places)
                    if (questions[place].question_id, turn) in finished
                }
                answers = backend(
                    [conversations[place] for place in places], sampling, done, keep,
                    lambda now, _, before=before: progress(before + now, total),  # type: ignore[misc]
                )  # fmt: skip
                before += len(places)
                for place, text in zip(places, answers, strict=True):
                    conversations[place].append({"role": "assistant", "content": text})
    _write_answers(path, questions, conversations)
    journal.unlink()
    return path


def _read_turns(journal: Path, questions: Sequence[Question]) -> dict[tuple[str, int], str]:
    """What an interrupted call finished; a line that it was killed in counts for nothing and is cut off."""
    if not journal.exists():
        return {}
    whole, _, torn = journal.read_bytes().rpartition(b"\n")
    if torn:
        with journal.open("r+b") as stream:
            stream.truncate(len(whole) + 1 if whole else 0)
    rows = [row for line in whole.split(b"\n") if (row := _unsealed(line)) is not None]
    known = {question.question_id for question in questions}
    if not {row["question_id"] for row in rows} <= known:
        raise DataError(f"{journal}: begun with other questions; remove it, or give another folder")
    return {(row["question_id"], row["turn"]): row["answer"] for row in rows}


def _sealed(row: Mapping[str, Any]) -> str:
    """A line of the journal: its checksum and the row."""
    text = json.dumps(row)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}"


def _unsealed(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None where the line is not as it was written, so that the answer is had anew."""
    checksum, _, text = line.partition(b" ")
    if hashlib.sha256(text).hexdigest().encode() != checksum:
        return None
    row: dict[str, Any] = json.loads(text)
    return row


def _write_answers(path: Path, questions: Sequence[Question], conversations: Sequence[list[dict[str, str]]]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as stream:
        for question, conversation in zip(questions, conversations, strict=True):
            turns = [message["content"] for message in conversation[1::2]]
            stream.write(json.dumps({"question_id": question.question_id, "turns": turns}) + "\n")
    partial.replace(path)
