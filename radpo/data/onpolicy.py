"""On-policy preferences: prompts -> a model's samples -> graded samples -> scored pairs, each step a file.

The judge may be any; the pairs are what `radpo.data.preferences` reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.data.preferences import schema
from radpo.data.questions import Question
from radpo.errors import DataError
from radpo.judges.base import GradeRequest, Judge, Progress, no_progress

if TYPE_CHECKING:
    import pyarrow as pa

Rule = Literal["best-random", "best-worst"]
"""`best-random`: the best sample against a random worse one, as in the paper. `best-worst`: against the worst."""

Answer = Callable[[Sequence[Sequence[Mapping[str, str]]], int], list[str]]
"""Answers conversations with a seed."""


@dataclass(frozen=True)
class Pairs:
    """Scored pairs (the schema of `radpo.data.preferences`), and how many prompts gave none for which reason."""

    table: pa.Table
    dropped: Mapping[str, int]


def sample(
    questions: Sequence[Question],
    answer: Answer,
    out: Path,
    *,
    per_prompt: int,
    seed: int,
    chunk: int = 64,
    made_by: str = "",
    progress: Progress = no_progress,
) -> None:
    """Draw `per_prompt` answers to every question's first turn and write them to `out`, a line each.

    Work goes chunk by chunk into `out` under a temporary name; interrupted, the same call goes on after the last whole
    chunk. Every chunk has its own seed, so the result does not depend on where it was interrupted.

    Args:
        made_by: what the answers depend on besides questions and seed, such as the model and its temperature. What an
            interrupted call left is taken up only by a call with the same questions, seed, chunk and `made_by`.
    """
    wanted = [(question, number) for question in questions for number in range(per_prompt)]
    asked = [(question.question_id, question.turns[0], question.constraints[0]) for question in questions]
    run = json.dumps([asked, per_prompt, seed, chunk, made_by], sort_keys=True)
    partial = out.with_name(f".{out.name}.{hashlib.sha256(run.encode()).hexdigest()[:12]}.partial")
    done = _whole_chunks(partial, wanted, chunk)
    with partial.open("a", encoding="utf-8") as stream:
        for start in range(done, len(wanted), chunk):
            batch = wanted[start : start + chunk]
            prompts = [[{"role": "user", "content": question.turns[0]}] for question, _ in batch]
            responses = answer(prompts, seed * 1_000_003 + start)
            for (question, number), prompt, response in zip(batch, prompts, responses, strict=True):
                row = {
                    "prompt_id": question.question_id,
                    "sample": number,
                    "prompt": prompt,
                    "response": response,
                    "constraints": [dict(constraint) for constraint in question.constraints[0]],
                }
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            progress(start + len(batch), len(wanted))
    partial.replace(out)


def score(samples: Path, judge: Judge, out: Path, *, progress: Progress = no_progress) -> None:
    """Have a judge grade every sample; `out` gets the samples' lines with `score`, `reason` and `judge` added.

    Raises:
        DataError: the samples file is malformed, or a sample lacks what the judge needs.
    """
    rows = list(_read(samples, ("prompt_id", "prompt", "response")))
    requests = [
        GradeRequest(row["prompt"], row["response"], {"constraints": row.get("constraints", [])}) for row in rows
    ]
    grades = judge.grade(requests, progress)
    graded = (
        {**row, "score": grade.score, "reason": grade.reason, "judge": judge.name}
        for row, grade in zip(rows, grades, strict=True)
    )
    _write(out, graded)


def pair(scored: Path, rule: Rule, seed: int) -> Pairs:
    """Make at most one scored pair of every prompt's samples: the best against a worse one.

    Ties for the best are broken at random. Counted as dropped: samples that say nothing or that the judge could not
    score, prompts whose samples all score the same, and prompts whose worse samples are the best one's very text (which
    a judge that is not a program may score differently).

    Raises:
        DataError: the file is malformed.
    """
    import pyarrow as pa

    samples: dict[str, list[dict[str, Any]]] = {}
    dropped: Counter[str] = Counter()
    for row in _read(scored, ("prompt_id", "prompt", "response", "score")):
        if not row["response"].strip():
            dropped["empty samples"] += 1
        elif row["score"] is None:
            dropped["samples without a score"] += 1
        else:
            samples.setdefault(str(row["prompt_id"]), []).append(row)
    rows = []
    for prompt_id, group in samples.items():
        rng = random.Random(f"{seed}:{prompt_id}")
        best = rng.choice([row for row in group if row["score"] == max(other["score"] for other in group)])
        lower = [row for row in group if row["score"] < best["score"]]
        worse = [row for row in lower if row["response"] != best["response"]]
        if not worse:
            dropped["prompts whose samples all score the same" if not lower else "prompts with identical samples"] += 1
            continue
        rejected = rng.choice(worse) if rule == "best-random" else min(worse, key=lambda row: float(row["score"]))
        rows.append(
            {
                "id": prompt_id,
                "prompt": best["prompt"],
                "chosen": best["response"],
                "rejected": rejected["response"],
                "score_chosen": float(best["score"]),
                "score_rejected": float(rejected["score"]),
            }
        )
    return Pairs(pa.Table.from_pylist(rows, schema=schema()), dict(dropped))


def _whole_chunks(partial: Path, wanted: Sequence[tuple[Question, int]], chunk: int) -> int:
    """How many samples an interrupted run left in whole chunks; what follows them, or is torn, is cut off."""
    if not partial.exists():
        return 0
    kept: list[bytes] = []
    for line, (question, number) in zip(partial.read_bytes().splitlines(keepends=True), wanted, strict=False):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or (row.get("prompt_id"), row.get("sample")) != (question.question_id, number):
            break
        kept.append(line)
    whole = len(kept) if len(kept) == len(wanted) else len(kept) // chunk * chunk
    partial.write_bytes(b"".join(kept[:whole]))
    return whole


def _read(path: Path, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                yield _checked(line, columns, f"{path}, line {number}")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as JSON Lines ({error})") from error


def _checked(line: str, columns: Iterable[str], place: str) -> dict[str, Any]:
    """One row of a samples file whose columns are there and are what they must be."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error})") from error
    missing = [column for column in columns if not isinstance(row, dict) or column not in row]
    if missing:
        raise DataError(f"{place}: lacks {', '.join(missing)}")
    for column in (*columns, "constraints"):
        must_be, fits = _COLUMNS[column]
        if column in row and not fits(row[column]):
            raise DataError(f"{place}, {column}: must be {must_be}, not {str(row[column])[:80]!r}")
    return dict(row)


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(
            isinstance(message, dict)
            and message.keys() == {"role", "content"}
            and all(isinstance(text, str) for text in message.values())
            for message in value
        )
    )


_COLUMNS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "prompt_id": ("a text or a whole number", lambda v: type(v) in (str, int)),
    "prompt": ("a list of messages with role and content", _is_conversation),
    "response": ("a text", lambda v: isinstance(v, str)),
    "score": ("a number, or null where there is none", lambda v: v is None or _is_finite(v)),
    "constraints": ("a list", lambda v: isinstance(v, list)),
}


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.replace(path)
