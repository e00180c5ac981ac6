"""On-policy preferences: prompts -> a model's samples -> scored samples -> scored pairs, each step a file.

The judge may be any; the pairs are what `radpo.preferences.preferences` reads.
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
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import GradeRequest, Judge
from radpo.preferences.pairing import Rule, ScoredResponse, pair_up
from radpo.preferences.preferences import schema
from radpo.preferences.prompts import Prompt

if TYPE_CHECKING:
    import pyarrow as pa

Answer = Callable[[Sequence[Sequence[Mapping[str, str]]], int], list[str]]
"""Answers conversations with a seed."""

SAME_SCORES, SAME_TEXTS = "prompts whose samples all score the same", "prompts with identical samples"


@dataclass(frozen=True)
class Pairs:
    """Scored pairs (the schema of `radpo.preferences.preferences`), and how many samples or prompts gave none, why."""

    table: pa.Table
    dropped: Mapping[str, int]


def sample(
    prompts: Sequence[Prompt],
    answer: Answer,
    out: Path,
    *,
    per_prompt: int,
    seed: int,
    chunk: int = 64,
    made_by: str = "",
    progress: Progress = no_progress,
) -> None:
    """Draw `per_prompt` answers to every prompt and write them to `out`, a line each.

    Work goes chunk by chunk into `out` under a temporary name; interrupted, the same call goes on after the last whole
    chunk. Every chunk has its own seed, so the result does not depend on where it was interrupted.

    Args:
        made_by: what the answers depend on besides prompts and seed, such as the model and its temperature. What an
            interrupted call left is taken up only by a call with the same prompts, seed, chunk and `made_by`.
    """
    wanted = [(prompt, number) for prompt in prompts for number in range(per_prompt)]
    asked = [(prompt.prompt_id, list(prompt.messages), list(prompt.constraints)) for prompt in prompts]

    def drawn(start: int) -> list[dict[str, Any]]:
        batch = wanted[start : start + chunk]
        responses = answer([prompt.messages for prompt, _ in batch], seed * 1_000_003 + start)
        return [
            {
                "prompt_id": prompt.prompt_id,
                "sample": number,
                "prompt": list(prompt.messages),
                "response": response,
                "constraints": [dict(constraint) for constraint in prompt.constraints],
            }
            for (prompt, number), response in zip(batch, responses, strict=True)
        ]

    keys = [(prompt.prompt_id, number) for prompt, number in wanted]
    _in_chunks(out, json.dumps([asked, per_prompt, seed, chunk, made_by], sort_keys=True), keys, chunk, drawn, progress)


def score(
    samples: Path,
    judge: Judge,
    out: Path,
    *,
    chunk: int = 64,
    made_by: str = "",
    progress: Progress = no_progress,
) -> None:
    """Have a judge grade every sample; `out` gets the samples' lines with `score`, `reason` and `judge` added.

    Works chunk by chunk and goes on after an interruption, as `sample` does.

    Args:
        made_by: what the scores depend on besides the samples and the judge's name, such as its settings.

    Raises:
        DataError: the samples file is malformed, or a sample lacks what the judge needs.
        ServiceError: the judge could not be reached; what it has graded by then is kept for the next call.
    """
    rows = list(_read(samples, ("prompt_id", "prompt", "response")))
    requests = [
        GradeRequest(row["prompt"], row["response"], {"constraints": row.get("constraints", [])}) for row in rows
    ]

    def graded(start: int) -> list[dict[str, Any]]:
        batch = slice(start, start + chunk)
        grades = judge.grade(requests[batch], lambda done, _: progress(start + done, len(rows)))
        return [
            {**row, "score": grade.score, "reason": grade.reason, "judge": judge.name}
            for row, grade in zip(rows[batch], grades, strict=True)
        ]

    keys = [(row["prompt_id"], row.get("sample")) for row in rows]
    _in_chunks(out, json.dumps([rows, judge.name, chunk, made_by], sort_keys=True), keys, chunk, graded, progress)


def pair(scored: Path, rule: Rule, seed: int) -> Pairs:
    """Make the scored pairs of every prompt's samples that a rule asks for.

    Ties are broken at random. Counted as dropped: samples that say nothing or that the judge could not score, prompts
    whose samples all score the same, and prompts whose worse samples are the best one's very text (which a judge that
    is not a program may score differently).

    Raises:
        DataError: the file is malformed, or samples of one prompt_id answer different prompts.
    """
    import pyarrow as pa

    samples: dict[str, list[dict[str, Any]]] = {}
    dropped: Counter[str] = Counter()
    for row in _read(scored, ("prompt_id", "prompt", "response", "score")):
        group = samples.setdefault(str(row["prompt_id"]), [])
        if group and group[0]["prompt"] != row["prompt"]:
            raise DataError(f"{scored}: samples of prompt_id {row['prompt_id']!r} answer different prompts")
        if not row["response"].strip():
            dropped["empty samples"] += 1
        elif row["score"] is None:
            dropped["samples without a score"] += 1
        else:
            group.append(row)
    rows = []
    for prompt_id, group in samples.items():
        responses = [ScoredResponse(row["response"], float(row["score"])) for row in group]
        places = pair_up(responses, rule, random.Random(f"{seed}:{prompt_id}"))
        if group and not places:
            dropped[SAME_SCORES if len({response.score for response in responses}) == 1 else SAME_TEXTS] += 1
        for chosen, rejected in places:
            rows.append(
                {
                    "id": f"{prompt_id}/{chosen}-{rejected}" if rule in ("adjacent", "all") else prompt_id,
                    "prompt": group[chosen]["prompt"],
                    "chosen": responses[chosen].text,
                    "rejected": responses[rejected].text,
                    "score_chosen": responses[chosen].score,
                    "score_rejected": responses[rejected].score,
                }
            )
    return Pairs(pa.Table.from_pylist(rows, schema=schema()), dict(dropped))


def _in_chunks(
    out: Path,
    run: str,
    keys: Sequence[tuple[Any, Any]],
    chunk: int,
    make: Callable[[int], list[dict[str, Any]]],
    progress: Progress,
) -> None:
    """Write rows chunk by chunk, going on where a call for the same run was interrupted.

    Args:
        run: all that the rows depend on, in words.
        keys: every row's prompt_id and sample.
        make: makes the chunk of rows that starts at a place.
    """
    partial = out.with_name(f".{out.name}.{hashlib.sha256(run.encode()).hexdigest()[:12]}.partial")
    try:
        done = _whole_chunks(partial, keys, chunk)
        # A lone surrogate, which UTF-8 lacks, is replaced by what is its escape in JSON.
        with partial.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            for start in range(done, len(keys), chunk):
                rows = make(start)
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                stream.flush()
                os.fsync(stream.fileno())
                progress(start + len(rows), len(keys))
        partial.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error


def _whole_chunks(partial: Path, keys: Sequence[tuple[Any, Any]], chunk: int) -> int:
    """How many rows an interrupted run left in whole chunks; what follows them, or is torn, is cut off."""
    if not partial.exists():
        return 0
    kept: list[bytes] = []
    for line, key in zip(partial.read_bytes().splitlines(keepends=True), keys, strict=False):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or (row.get("prompt_id"), row.get("sample")) != key:
            break
        kept.append(line)
    whole = len(kept) if len(kept) == len(keys) else len(kept) // chunk * chunk
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
