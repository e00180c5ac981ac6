"""Prompts to sample answers for, from a file of questions or of preferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radpo.core.errors import DataError
from radpo.preferences.layouts import Numbered
from radpo.preferences.rows import BadRowError, Rules, conversation
from radpo.preferences.sources import chunks, shown

IDS = ("question_id", "prompt_id", "id", "source_index")
WHERE = ("turns", "prompt", "instruction")


@dataclass(frozen=True)
class Prompt:
    """A conversation to be answered, and what the verifier may check the answer by."""

    prompt_id: str
    messages: Sequence[Mapping[str, str]]
    constraints: Sequence[Mapping[str, Any]] = ()


def load_prompts(source: str | Path) -> list[Prompt]:
    """Read prompts from any source of `radpo.preferences.sources.chunks`.

    Of questions (question_id, turns, maybe constraints) the first turn is asked; other rows have a prompt or an
    instruction, as text or as messages, and maybe an id.

    Raises:
        DataError: the source cannot be read, a row is malformed, or there are none.
        ServiceError: an address or the Hub cannot be read.
    """
    prompts: list[Prompt] = []
    seen: set[str] = set()
    rows = 0
    for chunk in chunks(source, lambda names: [name for name in names if name in (*IDS, *WHERE, "constraints")]):
        numbered: Sequence[Numbered] = chunk if isinstance(chunk, list) else list(_rows(chunk, rows + 1))
        for number, row in numbered:
            rows += 1
            try:
                prompt = _prompt(row, number)
                if prompt.prompt_id in seen:
                    raise BadRowError("id", "duplicate id", f"{prompt.prompt_id[:80]!r} was used before")
            except BadRowError as problem:
                place = f"{shown(source)}, row {number}, column {problem.column}"
                raise DataError(f"{place}: {problem.reason}; {problem.fix}") from None
            seen.add(prompt.prompt_id)
            prompts.append(prompt)
    if not prompts:
        raise DataError(f"{shown(source)}: holds no prompts")
    return prompts


def _rows(batch: Any, first: int) -> Sequence[Numbered]:
    try:
        return list(enumerate(batch.to_pylist(), start=first))
    except ValueError:
        raise DataError(f"rows {first}-{first + batch.num_rows - 1} hold text that is not UTF-8") from None


def _prompt(row: Mapping[str, Any] | BadRowError, number: int) -> Prompt:
    if isinstance(row, BadRowError):
        raise row
    turns, constraints = row.get("turns"), row.get("constraints") or ()
    name = next((str(row[key]) for key in IDS if row.get(key) is not None), str(number))
    if turns is not None:
        if not isinstance(turns, list) or not turns:
            raise BadRowError("turns", "no list of texts", "give a text for every turn")
        row = {"prompt": turns[0]}
        constraints = constraints[0] if isinstance(constraints, list) and constraints else ()
    messages = conversation(row, "instruction" if row.get("prompt") is None else "prompt", Rules())
    if not isinstance(constraints, list | tuple) or not all(isinstance(item, dict) for item in constraints):
        raise BadRowError("constraints", "no list of objects", "each constraint is an object with a kind")
    return Prompt(name, messages, constraints)
