"""Goals put into whole columns of prompts, as Arrow arrays.

They are, row by row, what `radpo.preferences.goals.join_goal_text` gives, without a Python object for any message.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from radpo.preferences.arrow import concatenated, taken
from radpo.preferences.goals import Placement

Places = npt.NDArray[np.int64]


def condition_prompts(prompts: pa.ListArray, texts: list[pa.Array], placement: Placement) -> pa.ListArray:
    """Every prompt conditioned on each of its goal sentences.

    Args:
        prompts: lists of role/content messages, (rows,).
        texts: arrays of goal sentences, (rows,) each.
        placement: where the sentences go.

    Returns:
        (rows * len(texts),): the first prompt with its sentence of each array, the second prompt with its, and so on.
    """
    rows, each = len(prompts), len(texts)
    messages = prompts.flatten()
    roles, contents = (messages.field(name).cast(pa.string()) for name in ("role", "content"))
    lengths = prompts.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if rows else np.zeros(0, np.int64)
    joined, inserts = _joined_at(roles, starts, lengths, placement)
    row = np.repeat(np.arange(rows), each)  # of every conditioned prompt
    which = np.tile(np.arange(each), rows)
    inserted = inserts[row]
    new_lengths = lengths[row] + inserted
    offsets = np.concatenate([[0], np.cumsum(new_lengths)]).astype(np.int64)
    # Where every message of the result comes from: a place among the old messages, then among the sentences, by
    # themselves or joined with the message they open.
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], new_lengths)
    source = np.repeat(starts[row] - inserted, new_lengths) + within
    new_role = source.copy()
    first = offsets[:-1][inserted == 1]
    sentence = which * rows + row  # in the sentences of all arrays, one array after the other
    source[first] = len(contents) + sentence[inserted == 1]
    new_role[first] = len(roles)
    opened = joined[row] >= 0
    source[offsets[:-1][opened] + (joined[row] - starts[row])[opened]] = (
        len(contents) + each * rows + np.arange(int(opened.sum()))
    )
    sentences = concatenated(texts)
    opening = pc.binary_join_element_wise(
        taken(sentences, sentence[opened]), taken(contents, joined[row][opened]), "\n\n"
    )
    all_roles = concatenated([roles, pa.array(["system"], pa.string())])
    all_contents = concatenated([contents, sentences, opening])
    columns = [taken(all_roles, new_role), taken(all_contents, source)]
    made = pa.StructArray.from_arrays(columns, names=["role", "content"])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), made)


def _joined_at(roles: Any, starts: Places, lengths: Places, placement: Placement) -> tuple[Places, Places]:
    """For every row the message (among all) that its sentence opens or -1, and 1 where it becomes a message itself."""
    of_role = np.asarray(pc.equal(roles, placement).fill_null(False).to_numpy(zero_copy_only=False), bool)
    if placement == "system":
        opened = np.full(len(starts), -1, np.int64)
        there = lengths > 0
        leads = there.copy()
        leads[there] = of_role[starts[there]]
        opened[leads] = starts[leads]
        return opened, (~leads).astype(np.int64)
    places = np.flatnonzero(of_role)
    next_one = np.searchsorted(places, starts)
    found = np.append(places, len(of_role))[next_one]
    return np.where(found < starts + lengths, found, -1).astype(np.int64), np.zeros(len(starts), np.int64)
