"""How two answers differ in style, as Arena-Hard's style control has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.benchmarks.answers import Answered, ModelAnswers, load_model_answers
from radpo.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]

FEATURES = ("length", "headers", "lists", "bold")


def load_answer_folder(folder: Path) -> dict[str, ModelAnswers]:
    """Every model's answers in a model_answer folder, by model.

    Raises:
        DataError: as `radpo.benchmarks.answers.load_model_answers`; the folder holds none, or two files of one model.
    """
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    if not files:
        raise DataError(f"{folder}: no .jsonl files of answers in the folder")
    answers: dict[str, ModelAnswers] = {}
    for file in files:
        found = load_model_answers(file)
        if found.model in answers:
            raise DataError(f"{file}: another file of the folder holds answers of {found.model}, too; keep one of them")
        answers[found.model] = found
    return answers


def style_features(frame: pd.DataFrame, baseline: str, answers: Mapping[str, ModelAnswers]) -> tuple[Floats, str]:
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


def _style(answer: Answered, tokens: bool) -> tuple[int, int, int, int]:
    return (answer.tokens or 0 if tokens else len(answer.turns[0]), *markdown_counts(answer.turns[0]))


def _one(answers: Mapping[str, ModelAnswers], model: str, question_id: str) -> Answered:
    if model not in answers:
        raise DataError(f"style control needs the answers of {model}; there are those of {', '.join(sorted(answers))}")
    found = answers[model].by_question.get(question_id)
    if found is None:
        raise DataError(f"style control: {model} has no answer to question {question_id}")
    return found
