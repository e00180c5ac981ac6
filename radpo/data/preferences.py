"""Scored preferences: a JSONL, Parquet or `datasets` file comes in, one checked table goes out, nothing silently lost.

The table's columns: id, prompt (role/content messages, the last one the user's), chosen and rejected (text),
score_chosen, score_rejected. A row that cannot be used is an error that says where it is and how to mend it; with
`on_error="skip"` it is left out and counted by reason.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

OnError = Literal["raise", "skip"]
COLUMNS = ("id", "prompt", "chosen", "rejected", "score_chosen", "score_rejected")
BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Preferences:
    """Checked pairs, how many rows were read, and how many were left out for which reason."""

    table: pa.Table
    rows_read: int
    dropped: Mapping[str, int]


class _BadRowError(Exception):
    """Why a row cannot be used: the column, a reason to count it under, and the mend."""

    def __init__(self, column: str, reason: str, mend: str) -> None:
        super().__init__(column, reason, mend)
        self.column, self.reason, self.mend = column, reason, mend


def schema() -> pa.Schema:
    """The Arrow schema of checked pairs."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("prompt", pa.list_(message)),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("score_chosen", pa.float64()),
            ("score_rejected", pa.float64()),
        ]
    )


def load_preferences(
    path: Path, *, scale: tuple[float, float] = (1.0, 10.0), on_error: OnError = "raise", swap: bool = False
) -> Preferences:
    """Read and check scored pairs.

    Args:
        path: a `.jsonl`, `.jsonl.gz` or `.parquet` file, or a folder that `datasets` saved (with several splits,
            `FOLDER/SPLIT`). Columns: prompt (text, or messages; may be missing where chosen and rejected are whole
            conversations), chosen and rejected (text, or messages that end with the assistant's), score_chosen,
            score_rejected, and id or source_index if wanted (else the row's number).
        scale: the lowest and the highest score there can be.
        on_error: stop at the first bad row, or leave bad rows out and count them.
        swap: let a pair whose chosen scores below its rejected change places, instead of counting it as bad.

    Raises:
        DataError: the file cannot be read, or a row is bad; the message names file, line, column and mend.
    """
    import pyarrow as pa

    good: list[dict[str, Any]] = []
    batches: list[pa.RecordBatch] = []
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    rows_read = 0
    for place, row in _rows(path):
        rows_read += 1
        try:
            if isinstance(row, _BadRowError):
                raise row
            checked = _checked(row, rows_read, scale, swap)
            if checked["id"] in seen:
                raise _BadRowError("id", "duplicate id", f"{checked['id']!r} was used before; give every pair its own")
        except _BadRowError as problem:
            if on_error == "raise":
                raise DataError(f"{path}, {place}, column {problem.column}: {problem.reason}; {problem.mend}") from None
            dropped[f"{problem.column}: {problem.reason}"] += 1
            continue
        seen.add(checked["id"])
        good.append(checked)
        if len(good) == BATCH_ROWS:
            batches.append(pa.RecordBatch.from_pylist(good, schema=schema()))
            good = []
    batches.append(pa.RecordBatch.from_pylist(good, schema=schema()))
    return Preferences(pa.Table.from_batches(batches, schema=schema()), rows_read, dict(dropped))


def write_preferences(table: pa.Table, path: Path) -> None:
    """Write pairs as `.jsonl` or `.parquet`; the file appears whole or not at all.

    Raises:
        DataError: the file's ending is neither.
    """
    import pyarrow.parquet as pq

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.suffix == ".parquet":
            pq.write_table(table, partial)
        elif path.suffix == ".jsonl":
            with partial.open("w", encoding="utf-8") as stream:
                for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                    stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
        else:
            raise DataError(f"{path}: unknown ending {path.suffix!r}; write to .jsonl or .parquet")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | _BadRowError]]:
    """Every row of a file with its place in words."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _json_rows(path)
    elif path.suffix == ".parquet":
        yield from _arrow_rows(_parquet_batches(path))
    elif path.is_dir() or path.parent.joinpath("dataset_dict.json").is_file():
        yield from _arrow_rows(_dataset_batches(path))
    elif not path.exists():
        raise DataError(f"{path}: no such file")
    else:
        raise DataError(f"{path}: unknown format; give a .jsonl, .jsonl.gz or .parquet file, or a `datasets` folder")


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | _BadRowError]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"line {number}", _parsed(line)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); the file is damaged or cut short") from error


def _parsed(line: bytes) -> dict[str, Any] | _BadRowError:
    mend = "every line must be one JSON object in UTF-8"
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return _BadRowError("(whole line)", "not JSON", mend)
    return row if isinstance(row, dict) else _BadRowError("(whole line)", "not a JSON object", mend)


def _arrow_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH_ROWS)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _dataset_batches(path: Path) -> Iterator[pa.RecordBatch]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a folder that `datasets` saved ({str(error).splitlines()[0]})") from error
    if isinstance(dataset, DatasetDict):
        splits = ", ".join(str(path / split) for split in dataset)
        raise DataError(f"{path}: holds several splits; name one of {splits}")
    yield from dataset.with_format("arrow").data.to_batches(BATCH_ROWS)


def _checked(row: Mapping[str, Any], number: int, scale: tuple[float, float], swap: bool) -> dict[str, Any]:
    """A row in the common form, or the first thing that is wrong with it."""
    chosen_context, chosen = _response(row, "chosen")
    rejected_context, rejected = _response(row, "rejected")
    prompt = _prompt(row, chosen_context, rejected_context)
    if chosen == rejected:
        raise _BadRowError("rejected", "identical responses", "a pair of equal responses prefers nothing; remove it")
    score_chosen, score_rejected = _score(row, "score_chosen", scale), _score(row, "score_rejected", scale)
    if score_chosen < score_rejected:
        if not swap:
            mend = "swap the two responses with their scores (--swap does so for all such pairs)"
            raise _BadRowError("score_chosen", "chosen scored below rejected", mend)
        chosen, rejected, score_chosen, score_rejected = rejected, chosen, score_rejected, score_chosen
    name = row.get("id", row.get("source_index"))
    return {
        "id": str(number if name is None else _text(str(name), "id")),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "score_chosen": score_chosen,
        "score_rejected": score_rejected,
    }


def _response(row: Mapping[str, Any], column: str) -> tuple[list[dict[str, str]] | None, str]:
    """The messages before a response (None where the row gives the response alone), and its text."""
    value = _present(row, column)
    context: list[dict[str, str]] | None = None
    if isinstance(value, list):
        messages = _messages(value, column)
        if messages[-1]["role"] != "assistant":
            raise _BadRowError(column, "does not end with the assistant", "its last message must be the response")
        context, value = messages[:-1] or None, messages[-1]["content"]
    if not isinstance(value, str):
        raise _BadRowError(column, f"wrong type {type(value).__name__}", "give text, or messages with role and content")
    if not value.strip():
        raise _BadRowError(column, "empty response", "give both responses, or remove the pair")
    return context, _text(value, column)


def _prompt(
    row: Mapping[str, Any], chosen: list[dict[str, str]] | None, rejected: list[dict[str, str]] | None
) -> list[dict[str, str]]:
    value = row.get("prompt")
    if chosen is not None and rejected is not None and chosen != rejected:
        raise _BadRowError("rejected", "another conversation", "chosen and rejected must answer the same prompt")
    context = chosen or rejected
    if value is None and context is None:
        _present(row, "prompt")
    if value is None:
        prompt = context or []
    elif isinstance(value, str):
        # UltraFeedback's way: the prompt again as the conversation's start, maybe after a system message.
        prompt = (
            context
            if context and context[-1]["content"] == value
            else [{"role": "user", "content": _text(value, "prompt")}]
        )
    elif isinstance(value, list):
        prompt = _messages(value, "prompt")
    else:
        raise _BadRowError(
            "prompt", f"wrong type {type(value).__name__}", "give text, or messages with role and content"
        )
    if context is not None and prompt != context:
        raise _BadRowError("prompt", "another conversation", "it must be what chosen and rejected begin with")
    if prompt[-1]["role"] != "user":
        raise _BadRowError("prompt", "does not end with the user", "its last message must be the user's")
    if not prompt[-1]["content"].strip():
        raise _BadRowError("prompt", "empty", "give the instruction, or remove the pair")
    return prompt


def _messages(value: list[Any], column: str) -> list[dict[str, str]]:
    mend = 'messages are objects with text "role" and "content"'
    if not value:
        raise _BadRowError(column, "no messages", mend)
    messages = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise _BadRowError(column, "a message without role or content", mend)
        messages.append({"role": _text(role, column), "content": _text(content, column)})
    return messages


def _score(row: Mapping[str, Any], column: str, scale: tuple[float, float]) -> float:
    value = _present(row, column)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _BadRowError(column, f"wrong type {type(value).__name__}", "give the score as a number")
    if not math.isfinite(value):
        raise _BadRowError(column, "not a finite number", "give the score, or remove the pair")
    if not scale[0] <= value <= scale[1]:
        mend = f"{value} is not on the scale {scale[0]:g}-{scale[1]:g}; rescale, or state the scale (--scale)"
        raise _BadRowError(column, "outside the scale", mend)
    return float(value)


def _present(row: Mapping[str, Any], column: str) -> Any:
    value = row.get(column)
    if value is None:
        raise _BadRowError(
            column, "missing", f"the row needs a value for {column}; it has {', '.join(map(str, row)) or 'none'}"
        )
    return value


def _text(value: str, column: str) -> str:
    """The text itself, if it can be written as UTF-8: a lone surrogate cannot, and would fail far from its cause."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _BadRowError(column, "a lone surrogate", "the text is not valid Unicode; mend or remove it") from None
    return value
