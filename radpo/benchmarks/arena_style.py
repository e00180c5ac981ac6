"""Arena-Hard's questions and answers: files of either release, or of radpo, come in, texts and their style go out.

v0.1 writes question_id, model_id and choices, later uid, model and messages; v2.0 adds metadata with token counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]

FEATURES = ("length", "headers", "lists", "bold")


@dataclass(frozen=True)
class Answer:
    """A model's answer; `tokens` as its file counts them, None where it does not."""

    text: str
    tokens: int | None


@dataclass(frozen=True)
class ArenaAnswers:
    """One model's answers by question_id."""

    model: str
    answers: Mapping[str, Answer]


def load_arena_answers(path: Path) -> ArenaAnswers:
    """Read one model's answers, in any of the formats that the module's first lines name.

    Raises:
        DataError: a row is malformed, or models are mixed in one file.
    """
    answers: dict[str, Answer] = {}
    models: set[str] = set()
    for place, row in read_rows(path):
        question_id = row.get("uid", row.get("question_id"))
        text, tokens = _answer(row)
        if question_id is None or text is None:
            raise DataError(f"{place}: an answer needs uid and messages, or question_id and choices, or turns")
        if str(question_id) in answers:
            raise DataError(f"{place}: question {question_id!r} is answered a second time; keep one of the rows")
        models.add(str(row.get("model", row.get("model_id", path.name.removesuffix(".gz").removesuffix(".jsonl")))))
        answers[str(question_id)] = Answer(text, tokens)
    if len(models) != 1:
        raise DataError(f"{path}: answers of {len(models)} models; give one model a file")
    return ArenaAnswers(next(iter(models)), answers)


def load_answer_folder(folder: Path) -> dict[str, ArenaAnswers]:
    """Every model's answers in a model_answer folder, by model.

    Raises:
        DataError: as `load_arena_answers`, or the folder holds none.
    """
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    if not files:
        raise DataError(f"{folder}: no .jsonl files of answers in the folder")
    return {found.model: found for found in map(load_arena_answers, files)}


def style_features(frame: pd.DataFrame, baseline: str, answers: Mapping[str, ArenaAnswers]) -> tuple[Floats, str]:
    """How the two answers of every game differ in style, standardised, as v2.0's style control has it.

    Length: (a - b) / (a + b). Headers, list items, bold texts: their number per unit of length, a and b, as
    (a - b) / (a + b + 1). Each is then standardised over all games, a strong verdict counting three times.

    Args:
        frame: the games, as `radpo.benchmarks.arena_hard.Battles` has them.
        answers: of every model in the battles and of the baseline, by model.

    Returns:
        shape (games, 4) in the order of `FEATURES`, and a sentence about the unit of length: tokens where all files
        count them, else characters.

    Raises:
        DataError: a model or a question has no answer.
    """
    import numpy as np

    pairs = [
        (_one(answers, model, question_id), _one(answers, baseline, question_id))
        for model, question_id in zip(frame["model"], frame["question_id"], strict=True)
    ]
    tokens = all(answer.tokens is not None for pair in pairs for answer in pair)
    counted = np.array([[_style(answer, tokens) for answer in pair] for pair in pairs], dtype=np.float64)
    ours, theirs = counted[:, 0], counted[:, 1]
    length = (ours[:, :1] - theirs[:, :1]) / np.maximum(ours[:, :1] + theirs[:, :1], 1)
    a, b = (side[:, 1:] / np.maximum(side[:, :1], 1) for side in (ours, theirs))
    features = np.hstack([length, (a - b) / (a + b + 1)])
    weight = frame["weight"].to_numpy(dtype=np.float64)
    centre = np.average(features, axis=0, weights=weight)
    spread = np.sqrt(np.average((features - centre) ** 2, axis=0, weights=weight))
    unit = "tokens, as the answer files count them" if tokens else "characters, because not all answers count tokens"
    note = f"arena-hard: style is controlled for length and Markdown (headers, lists, bold); length is in {unit}."
    return (features - centre) / np.where(spread > 0, spread, 1.0), note


def markdown_counts(text: str) -> tuple[int, int, int]:
    """How many headers, list items and bold texts there are outside of code blocks, counted as arena-hard-auto does."""
    # Blank lines before an item are not taken with it, as they are there: the count is the same, and the time linear.
    plain = re.sub(r"```[^`]*```", "", text)
    return (
        len(re.findall(r"^#{1,6}\s", plain, re.MULTILINE)),
        len(re.findall(r"^[^\S\n]*(?:\d+\.|[-*+])\s", plain, re.MULTILINE)),
        len(re.findall(r"\*\*[^*\n]+\*\*", plain)) + len(re.findall(r"__[^_\n]+__", plain)),
    )


def _style(answer: Answer, tokens: bool) -> tuple[int, int, int, int]:
    return (answer.tokens or 0 if tokens else len(answer.text), *markdown_counts(answer.text))


def _one(answers: Mapping[str, ArenaAnswers], model: str, question_id: str) -> Answer:
    if model not in answers:
        raise DataError(f"style control needs the answers of {model}; there are those of {', '.join(sorted(answers))}")
    found = answers[model].answers.get(question_id)
    if found is None:
        raise DataError(f"style control: {model} has no answer to question {question_id}")
    return found


def _answer(row: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The text and its token count, None where the row has none."""
    metadata = row.get("metadata")
    tokens = metadata.get("token_len") if isinstance(metadata, dict) else None
    content: Any = None
    if isinstance(row.get("messages"), list) and row["messages"]:
        last = row["messages"][-1]
        content = last.get("content") if isinstance(last, dict) else None
        content = content.get("answer") if isinstance(content, dict) else content
    elif isinstance(row.get("choices"), list) and row["choices"]:
        turns = row["choices"][0].get("turns") if isinstance(row["choices"][0], dict) else None
        first = turns[0] if isinstance(turns, list) and turns else None
        content = first.get("content") if isinstance(first, dict) else first
        tokens = first.get("token_len") if isinstance(first, dict) else tokens
    elif isinstance(row.get("turns"), list) and row["turns"]:
        content = row["turns"][0]
    return content if isinstance(content, str) else None, tokens if isinstance(tokens, int) else None
