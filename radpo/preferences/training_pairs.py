"""Training pairs that `radpo data relabel` wrote, read as they are: nothing is relabeled a second time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.preferences.rows import BadRowError
from radpo.preferences.sources import chunks

if TYPE_CHECKING:
    import pyarrow as pa

MARKS = frozenset({"source_id", "side", "chosen"})
"""Columns that training pairs have, and scored pairs do not."""
SIDES = ("plain", "chosen", "rejected")


def are_training_pairs(path: Path) -> bool:
    """Whether a file holds training pairs; one that cannot be read is for the reader of scored pairs to speak of."""
    try:
        first = next(_rows(path), None)
    except DataError:
        return False
    return first is not None and first[1].keys() >= MARKS


def have_goals(path: Path) -> bool:
    """Whether training pairs ask for goals, so that a policy trained on them takes one."""
    return any(row.get("side") != "plain" for _, row in _rows(path))


def load_training_pairs(path: Path, limit: int | None = None) -> pa.Table:
    """Training pairs in the columns that `radpo.preferences.relabel.training_schema` describes.

    Args:
        limit: take only the first so many.

    Raises:
        DataError: a row lacks something or holds what it may not; the message names its place and the column.
    """
    import pyarrow as pa

    from radpo.preferences.preferences import schema

    checked: list[dict[str, Any]] = []
    attributes: dict[str, None] = {}
    for number, row in _rows(path):
        if limit is not None and len(checked) == limit:
            break
        checked.append(_checked(row, f"{path}, row {number}"))
        attributes |= dict.fromkeys(checked[-1].get("goal_attributes") or {})
    if not checked:
        raise DataError(f"{path}: holds no training pairs")
    if len({row["id"] for row in checked}) != len(checked):
        raise DataError(f"{path}: an id is used twice; make the file anew with `radpo data relabel`")
    prompt = schema().field("prompt").type
    names = ("id", "source_id", "side", "goal", "prompt", "chosen", "rejected", "score_chosen", "score_rejected")
    kinds = dict.fromkeys(names, pa.string()) | dict.fromkeys(("goal", "score_chosen", "score_rejected"), pa.float64())
    fields = list((kinds | {"prompt": prompt}).items())
    if attributes:
        fields.append(("goal_attributes", pa.struct([(name, pa.float64()) for name in attributes])))
    return pa.Table.from_pylist(checked, schema=pa.schema(fields))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their numbers; a DataError where one cannot be read."""
    before = 0
    for chunk in chunks(path, lambda columns: columns):
        numbered = chunk if isinstance(chunk, list) else list(enumerate(chunk.to_pylist(), start=before + 1))
        before += len(numbered)
        for number, row in numbered:
            if isinstance(row, BadRowError):
                raise DataError(f"{path}, row {number}, {row.column}: {row.reason}; {row.fix}")
            yield number, dict(row)


def _checked(row: dict[str, Any], place: str) -> dict[str, Any]:
    found: dict[str, Any] = {name: row.get(name) for name in ("id", "source_id", "side")}
    for name, value in found.items():
        if not isinstance(value, str):
            raise DataError(f"{place}, {name}: {str(value)[:80]!r} is no text")
    if found["side"] not in SIDES:
        raise DataError(f"{place}, side: {found['side'][:80]!r} is none of {', '.join(SIDES)}")
    prompt = row.get("prompt")
    if not isinstance(prompt, list) or not prompt or not all(map(_is_message, prompt)):
        raise DataError(f"{place}, prompt: must be a list of messages with role and content")
    found["prompt"] = [{"role": message["role"], "content": message["content"]} for message in prompt]
    for name in ("chosen", "rejected"):
        found[name] = _text(row.get(name))
        if found[name] is None:
            raise DataError(f"{place}, {name}: must be a text, or one message of the assistant")
    for name in ("goal", "score_chosen", "score_rejected"):
        value = row.get(name)
        if value is not None and not _is_number(value):
            raise DataError(f"{place}, {name}: {str(value)[:80]!r} is no finite number")
        found[name] = value
    goals = row.get("goal_attributes")
    if goals is not None:
        if not isinstance(goals, dict) or not all(value is None or _is_number(value) for value in goals.values()):
            raise DataError(f"{place}, goal_attributes: must hold a finite number for each attribute")
        found["goal_attributes"] = goals
    return found


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(response: Any) -> str | None:
    if isinstance(response, list) and len(response) == 1 and _is_message(response[0]):
        response = response[0]["content"]
    return response if isinstance(response, str) else None
