"""Whole columns checked at once: the plainly good rows of an Arrow batch, in the common form.

What is decided here is only that a row is good. Every other row is left to `radpo.preferences.rows.check_row`, which
decides it and says what is wrong; the two agree on every row that this one takes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from radpo.preferences.rows import CONTROL, FALSE_TEN, LOG_LIKELIHOODS, TURNS_SUSPECTED, Rules
from radpo.preferences.turns import SUSPECTED, WRITTEN

Mask = npt.NDArray[np.bool_]

# Stricter than str.strip(), whose white space is a part of these classes.
_VISIBLE = r"[^\s\p{Z}\p{C}]"
_NEXT_FIELD, _NEXT_MESSAGE = "\x1f", "\x1e"  # in no good row's text, as they are control characters


@dataclass(frozen=True)
class _Side:
    """One response of every row: its text, and the messages before it with each row's in one text to compare by."""

    text: pa.Array
    context: pa.ListArray | None
    key: pa.Array | None
    good: Mask


def good_rows(batch: pa.RecordBatch, first: int, rules: Rules, schema: pa.Schema) -> tuple[pa.RecordBatch, Mask] | None:
    """The batch in the common form with a mask of its good rows, or None where its columns' types are not the usual.

    Args:
        first: the number of the batch's first row, for the ids of rows without one.
        schema: the common form's.
        rules: what a pair must be; `swap` plays no part, as rows the wrong way round are left to the row check.

    Returns:
        The rows' common form (arbitrary where the mask is False), and the mask, (rows,).
    """
    try:
        for column in batch.columns:
            column.validate(full=True)  # text that is not UTF-8, or offsets out of bounds, would fail later
        found = _common(batch, first, rules)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if found is None:
        return None
    columns, good = found
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema), good


def _common(batch: pa.RecordBatch, first: int, rules: Rules) -> tuple[dict[str, Any], Mask] | None:
    has = dict(zip(batch.schema.names, batch.columns, strict=True))
    if not {"chosen", "rejected", "score_chosen", "score_rejected"} <= has.keys():
        return None
    chosen, rejected = _side(has["chosen"], rules), _side(has["rejected"], rules)
    if chosen is None or rejected is None or (chosen.context is None) != (rejected.context is None):
        return None
    good = chosen.good & rejected.good
    if chosen.key is not None:
        good &= _true(pc.equal(chosen.key, rejected.key))
    if not rules.lenient:
        good &= ~_true(pc.equal(chosen.text, rejected.text))
    prompt = _prompt(has.get("prompt"), chosen, rules)
    if prompt is None:
        return None
    good &= prompt[1]
    columns = {"prompt": prompt[0], "chosen": chosen.text, "rejected": rejected.text}
    scores = {}
    for side in ("chosen", "rejected"):
        score = _numbers(has[f"score_{side}"])
        if score is None:
            return None
        columns[f"score_{side}"], scores[side], finite = score
        good &= finite & (scores[side] >= rules.scale[0]) & (scores[side] <= rules.scale[1])
        if rules.attributes:
            attributes = _attributes(has.get(f"attributes_{side}"), rules.attributes)
            if attributes is None:
                return None
            columns[f"attributes_{side}"], finite = attributes
            good &= finite
            if rules.false_tens != "keep":
                good &= ~_false_tens(scores[side], attributes[0], rules)
    if not rules.lenient:
        good &= scores["chosen"] >= scores["rejected"]
    for name in LOG_LIKELIHOODS if rules.log_likelihoods else ():
        values = _numbers(has[name]) if name in has else None
        if values is None:
            return None
        columns[name], _, finite = values
        good &= finite
    named = next((column for column in ("id", "source_index") if column in has), None)
    if named is None:
        columns["id"] = pa.array(range(first, first + batch.num_rows), pa.int64()).cast(pa.string())
    else:
        if not (pa.types.is_integer(has[named].type) or _is_text(has[named].type)):
            return None
        columns["id"] = has[named].cast(pa.string())
        good &= _true(columns["id"].is_valid()) & _clean(columns["id"])
    return columns, good


def noted(pairs: pa.RecordBatch, rules: Rules) -> Counter[str]:
    """What `Rules.note` gets for pairs in the common form, that often."""
    found = Counter[str]()
    texts = {"prompt": pairs.column("prompt").flatten().field("content")}
    texts |= {side: pairs.column(side) for side in ("chosen", "rejected")}
    for column, words in texts.items():
        found[f"{column}: {TURNS_SUSPECTED}"] += int(_true(_matches(words, SUSPECTED)).sum())
    for side in ("chosen", "rejected") if rules.attributes else ():
        overall = pairs.column(f"score_{side}").to_numpy(zero_copy_only=False)
        tens = _false_tens(overall, pairs.column(f"attributes_{side}"), rules)
        found[f"score_{side}: {FALSE_TEN}"] += int(tens.sum())
    return +found


def _false_tens(overall: npt.NDArray[Any], ratings: pa.StructArray, rules: Rules) -> Mask:
    """Where `radpo.preferences.rows.true_score` finds one."""
    if rules.scale != (1.0, 10.0):
        return np.zeros(len(overall), bool)
    each = np.stack([ratings.field(name).to_numpy(zero_copy_only=False).astype(float) for name in rules.attributes])
    found: Mask = (overall == 10) & ((each == 1) | np.isnan(each)).all(axis=0) & (each == 1).any(axis=0)
    return found


def _side(column: pa.Array, rules: Rules) -> _Side | None:
    if _is_text(column.type):
        text = column.cast(pa.string())
        return _Side(text, None, None, _response(text, rules))
    conversations = _conversations(column)
    if conversations is None:
        return None
    offsets, roles, contents, good = conversations
    lengths = np.diff(offsets)
    good &= lengths > 1  # a response without a prompt before it is the row check's
    last = np.maximum(offsets[1:] - 1, 0)
    if not len(roles):
        return None
    good &= _true(_is(roles.take(pa.array(last)), "assistant"))
    text = contents.take(pa.array(last))
    before = np.ones(len(roles), bool)
    before[last[lengths > 0]] = False
    kept = offsets - np.concatenate([[0], np.cumsum(lengths > 0)])
    mask = pa.array(before)
    context = _lists(kept, roles.filter(mask), contents.filter(mask))
    good &= _response(text, rules) & _clean_lists(context)
    return _Side(text, context, message_keys(context), good)


def _prompt(column: pa.Array | None, chosen: _Side, rules: Rules) -> tuple[pa.ListArray, Mask] | None:
    """Every row's prompt, and where it is plainly good."""
    if column is None or pa.types.is_null(column.type):
        if chosen.context is None:
            return None
        return chosen.context, _asked(chosen.context, rules)
    if _is_text(column.type):
        text = column.cast(pa.string())
        if chosen.context is None:
            roles = pa.repeat(pa.scalar("user"), len(text))
            prompt = _lists(np.arange(len(text) + 1), roles, text)
            one = ~_true(_matches(text, WRITTEN))  # turns in a text are the row check's to read
            return prompt, one & _true(text.is_valid()) & _clean(text) & _asked(prompt, rules)
        ends = chosen.context.offsets.to_numpy()
        if len(chosen.context.values) == 0:
            return None
        last = chosen.context.values.field("content").take(pa.array(np.maximum(ends[1:] - 1, 0)))
        return chosen.context, _true(pc.equal(last, text)) & _asked(chosen.context, rules)
    conversations = _conversations(column)
    if conversations is None:
        return None
    offsets, roles, contents, good = conversations
    prompt = _lists(offsets, roles, contents)
    good &= _clean_lists(prompt) & _asked(prompt, rules)
    if chosen.key is not None:
        good &= _true(pc.equal(message_keys(prompt), chosen.key))
    return prompt, good


def _conversations(column: pa.Array) -> tuple[npt.NDArray[Any], pa.Array, pa.Array, Mask] | None:
    """Lists of messages as offsets, roles and contents, with where a row's list is there; None for other types."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return None
    message = column.type.value_type
    if not pa.types.is_struct(message) or not {"role", "content"} <= {field.name for field in message}:
        return None
    flat = column.flatten()  # leaves out what a null row or a slice's ends may hide
    roles, contents = flat.field("role"), flat.field("content")
    if not (_is_text(roles.type) and _is_text(contents.type)):
        return None
    if flat.null_count or roles.null_count or contents.null_count:
        return None
    lengths = column.value_lengths().fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return offsets, roles.cast(pa.string()), contents.cast(pa.string()), _true(column.is_valid()) & (lengths > 0)


def _lists(offsets: npt.NDArray[Any], roles: pa.Array, contents: pa.Array) -> pa.ListArray:
    if isinstance(roles, pa.ChunkedArray):
        roles = roles.combine_chunks()
    messages = pa.StructArray.from_arrays([roles, contents], names=["role", "content"])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), messages)


def message_keys(lists: pa.ListArray) -> pa.Array:
    """Each row's messages as one text; equal for equal messages as long as no text holds the separators."""
    flat = lists.values
    each = pc.binary_join_element_wise(flat.field("role"), flat.field("content"), _NEXT_FIELD)
    return pc.binary_join(pa.ListArray.from_arrays(lists.offsets, each), _NEXT_MESSAGE)


def _asked(prompt: pa.ListArray, rules: Rules) -> Mask:
    """Where a prompt ends with the user's message, and something is in it."""
    offsets = prompt.offsets.to_numpy()
    if len(prompt.values) == 0:
        return np.zeros(len(prompt), bool)
    last = prompt.values.take(pa.array(np.maximum(offsets[1:] - 1, 0)))
    good: Mask = (np.diff(offsets) > 0) & _true(_is(last.field("role"), "user"))
    return good if rules.lenient else good & _true(_matches(last.field("content"), _VISIBLE))


def _response(text: pa.Array, rules: Rules) -> Mask:
    good = _true(text.is_valid()) & _clean(text)
    return good if rules.lenient else good & _true(_matches(text, _VISIBLE))


def _clean(text: pa.Array) -> Mask:
    """Where a text has no control character; a lenient reading asks too, as `message_keys` relies on it."""
    return ~_true(_matches(text, CONTROL))


def _clean_lists(lists: pa.ListArray) -> Mask:
    """Where no message of a row has a control character."""
    flat = lists.values
    bad = ~(_clean(flat.field("role")) & _clean(flat.field("content")))
    rows = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    found: Mask = np.bincount(rows[bad], minlength=len(lists)) == 0
    return found


def _numbers(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.float64], Mask] | None:
    """A column as floats, as an array without nulls, and where it is finite; None for other types."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return None
    floats = column.cast(pa.float64(), safe=False)
    values = floats.fill_null(np.nan).to_numpy(zero_copy_only=False)
    return floats, values, np.isfinite(values)


def _attributes(column: pa.Array | None, names: tuple[str, ...]) -> tuple[pa.StructArray, Mask] | None:
    """A struct of exactly these attributes as floats, with where every score is finite or missing."""
    if column is None or not pa.types.is_struct(column.type) or column.null_count:
        return None
    if {field.name for field in column.type} != set(names):
        return None
    arrays, good = [], np.ones(len(column), bool)
    for name in names:
        values = _numbers(column.field(name))
        if values is None:
            return None
        arrays.append(values[0])
        good &= values[2] | _true(column.field(name).is_null())
    return pa.StructArray.from_arrays(arrays, names=list(names)), good


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is(column: pa.Array, value: str) -> Any:
    return pc.equal(column, value)


def _matches(column: pa.Array, pattern: str) -> Any:
    return pc.match_substring_regex(column, pattern)


def _true(column: Any) -> Mask:
    """A boolean column as an array, null as False."""
    return np.asarray(column.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
