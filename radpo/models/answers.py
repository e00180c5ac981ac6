"""Answers to whole sets of questions, turn after turn, kept in `answers.jsonl`.

Finished answers are noted in `turns.jsonl` as they come; a killed run, run again, resumes from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.files import append_journal, open_journal, read_journal, replace_file, replace_json
from radpo.core.progress import Progress, no_progress
from radpo.core.reasoning import Reply, reasoning_notes, split_reasoning
from radpo.core.texts import with_reasons
from radpo.models.backends import check_unanswered, notes_of, unanswered_of
from radpo.models.decoding import Sampling

if TYPE_CHECKING:
    from radpo.models.backends import Backend
    from radpo.preferences.questions import Question

ANSWERS, TURNS, NOTES = "answers.jsonl", "turns.jsonl", "answer_notes.json"

SamplingOf = Callable[["Question", int], Sampling]
"""How a question's turn (0, 1, …) is to be sampled."""


def answer_questions(
    questions: Sequence[Question],
    open_backend: Callable[[], Backend],
    sampling_of: SamplingOf,
    out: Path,
    *,
    keep_reasoning: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Have every turn of every question answered, later turns after the earlier ones' answers.

    What a reasoning model thinks before it answers is no part of an answer: later turns do not see it, it is not judged
    and its length does not count.

    Args:
        open_backend: called once, and not where the answers are there already.
        out: a folder that is this call's own; what an interrupted call of the same arguments left there is taken up.
        keep_reasoning: leave reasoning in the answers.

    Returns:
        `answers.jsonl` in it: question_id; turns, the answers to each; and reasoning, what was cut off each (null where
        nothing), in rows that have any. `answer_notes.json` beside it has sentences for a record.

    Raises:
        DataError: `turns.jsonl` there is not of these questions.
    """
    path, journal = out / ANSWERS, out / TURNS
    if path.exists():
        return path
    out.mkdir(parents=True, exist_ok=True)
    finished, backend = _read_turns(journal, questions), open_backend()
    conversations: list[list[dict[str, str]]] = [[] for _ in questions]
    replies: list[list[Reply]] = [[] for _ in questions]
    unanswered: dict[str, str] = {}
    total, before = sum(len(question.turns) for question in questions), 0
    with open_journal(journal) as stream:
        for turn in range(max(len(question.turns) for question in questions)):
            groups: dict[Sampling, list[int]] = {}
            for place, question in enumerate(questions):
                if turn < len(question.turns) and question.question_id not in unanswered:
                    conversations[place].append({"role": "user", "content": question.turns[turn]})
                    groups.setdefault(sampling_of(question, turn), []).append(place)
            for sampling, places in groups.items():

                def keep(fresh: Mapping[int, str], places: list[int] = places, turn: int = turn) -> None:
                    rows = [
                        {"question_id": questions[places[index]].question_id, "turn": turn, "answer": text}
                        for index, text in fresh.items()
                    ]
                    append_journal(stream, rows)

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
                for index, why in unanswered_of(backend).items():
                    unanswered.setdefault(questions[places[index]].question_id, why)
                check_unanswered(backend, list(unanswered.values()), len(questions))
                for place, text in zip(places, answers, strict=True):
                    reply = Reply(None, text) if keep_reasoning else split_reasoning(text)
                    replies[place].append(reply)
                    conversations[place].append({"role": "assistant", "content": reply.answer})
    notes = [
        *notes_of(backend),
        *reasoning_notes(reply for turns in replies for reply in turns),
        *_unanswered_notes(unanswered, len(questions)),
    ]
    replace_json(out / NOTES, notes)
    text = "".join(json.dumps(row) + "\n" for row in _rows(questions, replies, unanswered))
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    journal.unlink()
    return path


def _read_turns(journal: Path, questions: Sequence[Question]) -> dict[tuple[str, int], str]:
    """What an interrupted call finished."""
    rows = list(read_journal(journal))
    known = {question.question_id for question in questions}
    if not {row["question_id"] for row in rows} <= known:
        raise DataError(f"{journal}: begun with other questions; remove it, or give another folder")
    return {(row["question_id"], row["turn"]): row["answer"] for row in rows}


def answer_notes(folder: Path) -> tuple[str, ...]:
    """The sentences that `answer_questions` left in a folder on how its answers came about."""
    path = folder / NOTES
    return tuple(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ()


def unanswered_questions(path: Path) -> dict[str, str]:
    """The questions of `answers.jsonl` that could not be answered, and why; they count in no score."""
    with path.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream if '"unanswered"' in line]
    return {row["question_id"]: row["unanswered"] for row in rows if "unanswered" in row}


def _unanswered_notes(unanswered: Mapping[str, str], total: int) -> list[str]:
    if not unanswered:
        return []
    shown = with_reasons(list(unanswered.items()))
    return [f"{len(unanswered)} of {total} questions have no answer and are left out: {shown}."]


def _rows(
    questions: Sequence[Question], replies: Sequence[Sequence[Reply]], unanswered: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for question, turns in zip(questions, replies, strict=True):
        answers = [reply.answer for reply in turns] + [""] * (len(question.turns) - len(turns))
        row: dict[str, Any] = {"question_id": question.question_id, "turns": answers}
        if question.question_id in unanswered:
            row["unanswered"] = unanswered[question.question_id]
        if any(reply.reasoning is not None for reply in turns):
            row["reasoning"] = [reply.reasoning for reply in turns]
        yield row
