"""Cleaned scored pairs: what a reading left out is gone, what it repaired stays so, and prompts fit a chat template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.preferences.goals import join_goal_text
from radpo.preferences.preferences import PreferenceReader
from radpo.preferences.writing import check_target, write_tables

if TYPE_CHECKING:
    import pyarrow as pa

Messages = list[dict[str, str]]

SYSTEM_JOINED = "prompt: its system message put before the first user's message"
TURNS_JOINED = "prompt: neighbouring messages of one role joined"


def clean_to(
    reader: PreferenceReader, out: Path, *, join_system: bool = False, join_turns: bool = False
) -> tuple[int, Counter[str]]:
    """Write a source's checked pairs in the common form that every command reads.

    Args:
        out: a name with one of the endings of `radpo.preferences.writing.FORMATS`.
        join_system: put a system message before the first user's message, with a blank line between, for chat
            templates that refuse system messages or leave them out.
        join_turns: join neighbouring messages of one role, with a blank line between, for those that want user and
            assistant by turns.

    Returns:
        How many pairs were written, and how many prompts were changed in which way.

    Raises:
        DataError: the source cannot be read, a row is bad and is not to be left out, or the file cannot be written or
            is the source.
        ServiceError: the source is an address that cannot be read.
    """
    check_target(out)
    if out.exists() and Path(str(reader.source)).exists() and out.samefile(str(reader.source)):
        raise DataError(f"{out}: is the source itself, which is never changed; give the result another name")
    changed: Counter[str] = Counter()
    batches = iter(_joined(reader, join_system, join_turns, changed))
    first = next(batches)
    written = write_tables(chain([first], batches), first.schema, out)
    return written, changed


def without_system(prompt: Messages) -> Messages:
    """A prompt whose system message, if it has one, opens the first user's message."""
    if prompt[0]["role"] != "system":
        return prompt
    return join_goal_text(prompt[1:], prompt[0]["content"], "user")


def by_turns(prompt: Messages) -> Messages:
    """A prompt in which no two neighbouring messages have one role."""
    joined: Messages = []
    for message in prompt:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _joined(
    batches: Iterable[pa.RecordBatch], join_system: bool, join_turns: bool, changed: Counter[str]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    asked = [(SYSTEM_JOINED, without_system)] * join_system + [(TURNS_JOINED, by_turns)] * join_turns
    for batch in batches:
        if not asked:
            yield batch
            continue
        place = batch.schema.get_field_index("prompt")
        prompts = batch.column(place).to_pylist()
        for what, join in asked:
            made = [join(prompt) for prompt in prompts]
            changed[what] += sum(before != after for before, after in zip(prompts, made, strict=True))
            prompts = made
        field = batch.schema.field(place)
        yield batch.set_column(place, field, pa.array(prompts, field.type))
