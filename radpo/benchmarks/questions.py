"""The benchmarks' questions: files of AlpacaEval, MT-Bench, Arena-Hard or radpo come in, `Question`s go out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from radpo.benchmarks.length_control import HUB
from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows
from radpo.preferences.questions import Question, load_questions

BASELINE_ON_THE_HUB = "alpaca_eval_gpt4_baseline.json"


def load_benchmark_questions(path: Path) -> list[Question]:
    """Read questions, in any of four formats (`.jsonl` or `.json`, gzipped or not).

    AlpacaEval's rows have instruction (and dataset), in the order of the file; Arena-Hard's uid and prompt (and
    category); radpo's and FastChat's question_id and turns.

    Raises:
        DataError: a row is malformed, or an id is used twice.
    """
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{path}: holds no questions")
    if "turns" in rows[0][1] and path.suffix == ".jsonl":
        return load_questions(path)
    questions: dict[str, Question] = {}
    for number, (place, row) in enumerate(rows):
        question = _question(place, number, row)
        if question.question_id in questions:
            raise DataError(f"{place}: a question_id is used twice: {question.question_id!r}")
        questions[question.question_id] = question
    return list(questions.values())


def hub_baseline() -> Path:
    """AlpacaEval 2's 805 instructions with gpt4_1106_preview's answers, from the Hub or its cache.

    Raises:
        DataError: the file is not to be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(HUB, BASELINE_ON_THE_HUB, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{BASELINE_ON_THE_HUB} (from {HUB} on the Hub) is not to be had ({str(error).splitlines()[0]}); "
            "give questions and the baseline's answers as files"
        ) from error


def _question(place: str, number: int, row: dict[str, Any]) -> Question:
    if isinstance(row.get("instruction"), str):
        found, name = row["instruction"], str(row.get("index", number))
        return Question(name, str(row.get("dataset", "")), (found,), ((),))
    if isinstance(row.get("prompt"), str) and "uid" in row:
        return Question(str(row["uid"]), str(row.get("category", "")), (row["prompt"],), ((),))
    turns = row.get("turns")
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns) and "question_id" in row:
        return Question(str(row["question_id"]), str(row.get("category", "")), tuple(turns), ((),) * len(turns))
    raise DataError(f"{place}: a question needs instruction, or uid and prompt, or question_id and turns")


def load_outputs(path: Path, questions: list[Question]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A model's name and its answers by question_id, in any of the benchmarks' formats or radpo's.

    AlpacaEval's rows have instruction and output and are known by their instruction; the others by question_id or uid.

    Raises:
        DataError: a row is malformed, or a question has no answer.
    """
    from radpo.benchmarks.answers import Collected, check_answers, load_answers

    first = next(read_rows(path), None)
    if first is None:
        raise DataError(f"{path}: holds no answers")
    name = str(first[1].get("generator", first[1].get("model_id", first[1].get("model", _stem(path)))))
    if "output" in first[1]:
        answers = Collected(path)
        for place, row in read_rows(path):
            instruction, output = row.get("instruction"), row.get("output")
            if not isinstance(instruction, str) or not isinstance(output, str):
                raise DataError(f"{place}: an answer needs instruction and output, both texts")
            answers.add(place, instruction, (output,), str(row.get("generator", "")))
        found = {q.question_id: answers.by_id[q.turns[0]] for q in questions if q.turns[0] in answers.by_id}
    elif "choices" in first[1]:
        answers = Collected(path)
        for place, row in read_rows(path):
            try:
                given = [t["content"] if isinstance(t, dict) else t for t in row["choices"][0]["turns"]]
                question_id = str(row["question_id"])
            except (KeyError, IndexError, TypeError):
                raise DataError(f"{place}: an answer needs question_id and choices with turns") from None
            if not all(isinstance(turn, str) for turn in given):
                raise DataError(f"{place}: question {question_id!r}: a turn is no text")
            answers.add(place, question_id, tuple(given), str(row.get("model_id", row.get("model", ""))))
        found = answers.by_id
    elif "turns" in first[1]:
        return name, load_answers(path, questions)
    else:
        from radpo.benchmarks.arena_style import load_arena_answers

        found = {key: (of.text,) for key, of in load_arena_answers(path).answers.items()}
    check_answers(questions, found, str(path))
    return name, {question.question_id: found[question.question_id] for question in questions}


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
