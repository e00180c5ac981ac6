"""Shared rows on a CPU: no padding is read, and hardly any score that the mask would throw away is computed.

Rows are put behind one another, so that every layer's products are over tokens that count. A mask alone has the
CPU compute every score and throw away those that are masked, which for a pair is more than half of a row's. Here
what a row begins with and the first response attend causally as the one sequence that they are, and what else
continues it attends to it and itself; the sums are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from radpo.models.shared_prefix import SharedRows, model_inputs

MOST_TOKENS = 1 << 13
"""Rows of more tokens than these together stay padded: the mask of all of them would take over 64 MiB."""

QUERIES_AT_ONCE = 64
"""Their scores stay in a core's cache."""

LEAST_QUERIES = 64
"""Neighbours of no more tokens than these together are read in one call."""


@dataclass(frozen=True)
class _Block:
    """Neighbouring queries and the keys that they see: what their row begins with, and themselves.

    `seen`, (queries, keys), says which; None where the block is a sequence from its row's beginning, read causally.
    """

    queries: slice
    prefix: slice
    seen: torch.Tensor | None


_CONTENTS = "radpo_contents"
"""The attribute of a mask that has what `_attend` goes by: the blocks of every row."""


def reading(rows: SharedRows, config: Any, dtype: torch.dtype) -> tuple[SharedRows, dict[str, Any]]:
    """Rows laid out as a model on this device reads them best, and what its forward is given.

    The positions that are no padding come in the same order as in `rows`. Layers whose attention is not transformers'
    sdpa read the mask, which says all that is needed.

    Args:
        config: the model's (text) configuration.
        dtype: of the model's activations.
    """
    real = rows.branch >= 0
    kinds = set(getattr(config, "layer_types", None) or ())
    windowed = getattr(config, "sliding_window", None) is not None and not kinds
    processor = rows.branch.device.type == "cpu" and config._attn_implementation == "sdpa"
    ends = [[length] for length in real.sum(1).tolist()]
    if processor and not windowed and kinds <= {"full_attention"} and int(real.sum()) <= MOST_TOKENS:
        rows, ends = _end_to_end(rows, real), [real.sum(1).cumsum(0).tolist()]
    inputs = model_inputs(rows, config, dtype)
    mask = inputs["attention_mask"]
    full = mask.get("full_attention") if isinstance(mask, dict) else mask
    if processor and not windowed and isinstance(full, torch.Tensor):
        _attend_by_blocks()
        contents = [
            [block for start, stop in pairwise([0, *stops]) for block in _blocks(until, start, stop, seen[0])]
            for until, stops, seen in zip(rows.until.tolist(), ends, full, strict=True)
        ]
        setattr(full, _CONTENTS, contents)
    return rows, inputs


def _end_to_end(rows: SharedRows, real: torch.Tensor) -> SharedRows:
    """All rows behind one another in a single one, (1, tokens)."""
    lengths = real.sum(1)
    moved = rows.until + (lengths.cumsum(0) - lengths)[:, None]
    return SharedRows(
        *(values[real][None] for values in (rows.input_ids, rows.position_ids, rows.branch, moved, rows.labels))
    )


def _blocks(until: list[int], start: int, stop: int, mask: torch.Tensor) -> list[_Block]:
    """The blocks of one row's tokens, which stand from `start` to `stop`.

    Short neighbours share a block: it is quicker to compute some scores that the mask throws away than to call again.
    """
    prefix = start
    while prefix < stop and until[prefix] == stop - 1:
        prefix += 1
    begun = slice(start, prefix)
    if prefix < stop and min(until[prefix : until[prefix] + 1]) == until[prefix]:
        prefix = until[prefix] + 1  # one response alone, or a prompt with one
    blocks = [_Block(slice(start, prefix), slice(start, start), None)] if prefix > start else []
    most = max(LEAST_QUERIES, (begun.stop - start) // 4)
    while prefix < stop:
        end = until[prefix] + 1
        while end < stop and until[end] + 1 - prefix <= most:
            end = until[end] + 1
        queries = slice(prefix, end)
        seen = torch.cat([mask[queries, begun], mask[queries, queries]], dim=1)
        blocks.append(_Block(queries, begun, seen))
        prefix = end
    return blocks


@cache
def _attend_by_blocks() -> None:
    """Have transformers' sdpa attention go by the blocks wherever its mask brings them.

    For the rest of the process: layers that are computed again in the backward pass must find the same function.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> Any:
        contents = getattr(attention_mask, _CONTENTS, None)
        if contents is None or settings.get("softcap") is not None or settings.get("dropout"):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return _attend(module, query, key, value, contents, settings.get("scaling")), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, contents: list[list[_Block]], scale: Any
) -> torch.Tensor:
    """softmax(q k / sqrt(d)) v, block by block.

    Args:
        query: (rows, heads, width, size); key and value with as many heads or fewer, each serving several.
        contents: each row's blocks, which cover all but its padding.

    Returns:
        (rows, width, heads, size), zero at the padding.
    """
    from transformers.integrations.sdpa_attention import repeat_kv

    by_groups = (
        torch.is_inference_mode_enabled() and query.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
    )
    if not by_groups:
        groups = getattr(module, "num_key_value_groups", 1)
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    found = []
    for row, blocks in enumerate(contents):
        q, k, v = (states[row : row + 1] for states in (query, key, value))
        parts, end = [], 0
        for block in blocks:
            end = block.queries.stop
            own, keys, values = (states[:, :, block.queries] for states in (q, k, v))
            if block.seen is not None:
                keys, values = (torch.cat([s[:, :, block.prefix], s[:, :, block.queries]], dim=2) for s in (k, v))
            parts.append((_attend_by_groups if by_groups else _sdpa)(own, keys, values, block.seen, scale))
        if end < query.shape[2]:
            parts.append(torch.zeros_like(q[:, :, end:]))
        found.append(torch.cat(parts, dim=2))
    return torch.cat(found).transpose(1, 2).contiguous()


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None, scale: Any
) -> torch.Tensor:
    attended: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scale
    )
    return attended


def _attend_by_groups(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None, scale: Any
) -> torch.Tensor:
    """As `_sdpa`, some queries at a time, the heads that share keys multiplied with them together.

    On a CPU that takes a quarter less time than torch's kernel, which multiplies each head by itself.
    """
    groups, keys, size = key.shape[1], key.shape[2], query.shape[3]
    heads, queries = query.shape[1] // groups, query.shape[2]
    query, scale = query.view(groups, heads, queries, size), size**-0.5 if scale is None else scale
    turned, found = key[0].transpose(1, 2), []
    for start in range(0, queries, QUERIES_AT_ONCE):
        stop = min(start + QUERIES_AT_ONCE, queries)
        end = keys - queries + stop  # none of these sees a key that comes after it
        count = stop - start
        asked = query[:, :, start:stop].reshape(groups, heads * count, size)
        # Scaled after the product, as torch's kernel does: queries that are scaled first are rounded once more.
        scores = torch.bmm(asked, turned[:, :, :end]).mul_(scale).view(groups, heads, count, end)
        if seen is None:
            scores[..., start:].add_(torch.full((count, count), -torch.inf).triu_(1))
        else:
            scores.add_(torch.zeros(count, end).masked_fill_(~seen[start:stop, :end], -torch.inf))
        attended = torch.bmm(scores.softmax(-1).view(groups, heads * count, end), value[0, :, :end])
        found.append(attended.view(groups * heads, count, -1))
    return torch.cat(found, dim=1)[None]
