"""On-policy preferences: prompts -> a model's samples -> scored samples -> scored pairs, each step a file.

Any judge scores them (`radpo.judges.samples`); the pairs are what `radpo.preferences.preferences` reads.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.files import append_journal, open_journal, read_journal, replace_file
from radpo.core.json_rows import ENCODING
from radpo.core.progress import Progress, no_progress
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

    Work goes chunk by chunk into `out` under a temporary name; interrupted, the same call resumes after the last whole
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
    run = json.dumps([asked, per_prompt, seed, chunk, made_by], sort_keys=True)
    write_in_chunks(out, run, keys, chunk, drawn, progress)


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
    for row in read_samples(scored, ("prompt_id", "prompt", "response", "score")):
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


def write_in_chunks(
    out: Path,
    run: str,
    keys: Sequence[tuple[Any, Any]],
    chunk: int,
    make: Callable[[int], list[dict[str, Any]]],
    progress: Progress,
) -> None:
    """Write rows to a JSON Lines file, chunk by chunk, resuming where a call for the same run was interrupted.

    Args:
        run: all that the rows depend on, in words.
        keys: every row's prompt_id and sample.
        make: makes the chunk of rows that starts at a place.

    Raises:
        DataError: the file cannot be written.
    """
    journal = out.with_name(f".{out.name}.{hashlib.sha256(run.encode()).hexdigest()[:12]}.partial")
    try:
        done = _whole_chunks(journal, keys, chunk)
        with open_journal(journal) as stream:
            for start in range(done, len(keys), chunk):
                rows = make(start)
                append_journal(stream, rows)
                progress(start + len(rows), len(keys))
        replace_file(out, lambda partial: _write_rows(partial, read_journal(journal)))
        journal.unlink()
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error


def _whole_chunks(journal: Path, keys: Sequence[tuple[Any, Any]], chunk: int) -> int:
    """How many rows an interrupted call left in whole chunks; what follows them is cut off."""
    fitting = found = 0
    for row in read_journal(journal):
        if fitting == found and fitting < len(keys) and (row.get("prompt_id"), row.get("sample")) == keys[fitting]:
            fitting += 1
        found += 1
    whole = fitting if fitting == len(keys) else fitting // chunk * chunk
    if whole < found:
        replace_file(journal, lambda partial: _copy_rows(journal, partial, whole))
    return whole


def _copy_rows(journal: Path, copy: Path, number: int) -> None:
    with open_journal(copy) as stream:
        append_journal(stream, itertools.islice(read_journal(journal), number))


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    # A lone surrogate, which UTF-8 lacks, is replaced by what is its escape in JSON.
    with path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_samples(path: Path, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file of samples, checked.

    Raises:
        DataError: the file cannot be read, or a row lacks one of the columns or has something else in it.
    """
    try:
        with path.open(encoding=ENCODING) as stream:
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
