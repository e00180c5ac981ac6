"""Shared rows on a CPU: no padding is read, and hardly any score that the mask would throw away is computed.

Rows are put behind one another, so that every layer's products are over tokens that count. A mask alone has the
CPU compute every score and throw away those that are masked, which for a pair is more than half of a row's. Here
what a row begins with and the first response attend causally as the one sequence that they are, and what else
continues it attends to it and itself; the sums are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from radpo.models.kernels.exponentials import exp_
from radpo.models.shared_prefix import SharedRows, model_inputs

MOST_TOKENS = 1 << 13
"""Rows of more tokens than these together stay padded: the mask of all of them would take over 64 MiB."""

QUERIES_AT_ONCE, SCORES_AT_ONCE = 64, 1 << 14
"""So many queries, or where they see few keys as many as have so many scores, whose scores stay in a core's cache."""

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
        scale = settings.get("scaling")
        return _BlockAttention.apply(
            query, key, value, contents, query.shape[3] ** -0.5 if scale is None else scale
        ), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend


class _BlockAttention(torch.autograd.Function):  # type: ignore[misc]
    """softmax(q k' scale) v, block by block, in float32.

    Some queries at a time, the heads that share keys multiplied with them together: torch's kernel for CPUs multiplies
    each head by itself, and is given the shared keys once for each. Probabilities are computed again in the backward
    pass, from their logarithmic sums (Dao 2023, arXiv 2307.08691).
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        contents: list[list[_Block]],
        scale: float,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: (rows, heads, width, size); key and value with as many heads or fewer, each serving several.
            contents: each row's blocks, which cover all but its padding.

        Returns:
            (rows, width, heads, size), zero at the padding.
        """
        rows, heads, width, size = query.shape
        attended = query.new_zeros(rows, width, heads, size)
        log_sums = torch.zeros(rows, heads, width)
        for part in _parts(query, key, value, contents, scale):
            top = part.scores.amax(-1, keepdim=True)
            weights = exp_(part.scores.sub_(top))
            total = weights.sum(-1, keepdim=True)
            log_sums[part.row, :, part.queries] = (top + total.log()).view(heads, -1)
            attended[part.row, part.queries] = _by_query(torch.bmm(weights, part.values).div_(total), heads)
        ctx.save_for_backward(query, key, value, log_sums)
        ctx.contents, ctx.scale = contents, scale
        return attended

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """To queries, keys and values."""
        query, key, value, log_sums = ctx.saved_tensors
        groups = key.shape[1]
        grad_query = torch.zeros_like(query)
        grad_key, grad_value = (torch.zeros(key.shape, dtype=torch.float32) for _ in range(2))
        outer = gradients[0].float()
        for part in _parts(query, key, value, ctx.contents, ctx.scale):
            weights = exp_(part.scores.sub_(log_sums[part.row, :, part.queries].reshape(groups, -1, 1)))
            wanted = _by_group(outer[part.row, part.queries].transpose(0, 1), groups)
            slopes = torch.bmm(wanted, part.values.transpose(1, 2))
            # Of what is attended to the sum is the same, but in bfloat16 it is rounded, and much cancels here.
            inner = (slopes * weights).sum(-1, keepdim=True)
            slopes.sub_(inner).mul_(weights).mul_(ctx.scale)
            found = torch.bmm(slopes, part.keys)
            grad_query[part.row, :, part.queries] = found.view(query.shape[1], -1, query.shape[3])
            for total, grown in (
                (grad_key, torch.bmm(slopes.transpose(1, 2), part.asked)),
                (grad_value, torch.bmm(weights.transpose(1, 2), wanted)),
            ):
                before = part.prefix.stop - part.prefix.start
                total[part.row, :, part.prefix] += grown[:, :before]
                total[part.row, :, part.own] += grown[:, before:]
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


@dataclass(frozen=True)
class _Part:
    """Some queries of a block with the keys that they see: those of `prefix`, then `own`, which are places in `row`.

    `asked`, (groups, heads of a group * queries, size); `keys` and `values`, (groups, keys, size); `scores`,
    (groups, heads of a group * queries, keys), -inf where a query does not see a key. In float32.
    """

    row: int
    queries: slice
    prefix: slice
    own: slice
    asked: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor


def _parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, contents: list[list[_Block]], scale: float
) -> Iterator[_Part]:
    for row, blocks in enumerate(contents):
        q, k, v = (states[row].float() for states in (query, key, value))
        groups, heads = k.shape[0], q.shape[0] // k.shape[0]
        for block in blocks:
            start, before = block.queries.start, block.prefix.stop - block.prefix.start
            keys, values = (
                torch.cat([states[:, block.prefix], states[:, block.queries]], dim=1)
                if before
                else states[:, block.queries]
                for states in (k, v)
            )
            at_once = max(QUERIES_AT_ONCE, SCORES_AT_ONCE // (before + block.queries.stop - start))
            for first in range(start, block.queries.stop, at_once):
                queries = slice(first, min(first + at_once, block.queries.stop))
                end = before + queries.stop - start  # none of these queries sees a key that comes after it
                asked = _by_group(q[:, queries], groups)
                # Scaled after the product, as torch's kernel does: queries that are scaled first are rounded once more.
                scores = torch.bmm(asked, keys[:, :end].transpose(1, 2)).mul_(scale)
                masked = scores.view(groups, heads, -1, end)
                if block.seen is None:
                    count = queries.stop - first
                    masked[..., first - start :].add_(torch.full((count, count), -torch.inf).triu_(1))
                else:
                    seen = block.seen[first - start : queries.stop - start, :end]
                    masked.add_(torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf))
                own = slice(start, queries.stop)
                yield _Part(row, queries, block.prefix, own, asked, keys[:, :end], values[:, :end], scores)


def _by_group(states: torch.Tensor, groups: int) -> torch.Tensor:
    """(heads, queries, size) as (groups, heads of a group * queries, size)."""
    return states.reshape(groups, -1, states.shape[2])


def _by_query(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(groups, heads of a group * queries, size) as (queries, heads, size)."""
    return states.view(heads, -1, states.shape[2]).transpose(0, 1)
