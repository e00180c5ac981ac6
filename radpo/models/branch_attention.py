"""Attention over shared rows on a processor: no response's scores against another one are computed at all.

A mask alone has the processor compute every score of a row and throw away those that are masked, which for a pair is
more than half of them. Here prompt and first response attend causally as the one sequence that they are, and every
further response to the prompt and itself; the sums are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from radpo.models.shared_prefix import SharedRows


@contextmanager
def branch_attention(rows: SharedRows, mask: Any, config: Any) -> Iterator[None]:
    """Have transformers' sdpa attention do so wherever it is given just this mask, on a processor.

    Args:
        mask: `radpo.models.shared_prefix.attention_mask` of the rows; layers with a sliding window, whose mask is
            another, attend as they always do.
        config: the model's (text) configuration, which says whether all layers have one.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    windowed = not isinstance(mask, dict) and getattr(config, "sliding_window", None) is not None
    full = None if windowed else mask["full_attention"] if isinstance(mask, dict) else mask
    if rows.branch.device.type != "cpu" or not isinstance(full, torch.Tensor) or full.dtype != torch.bool:
        yield
        return
    lengths = _lengths(rows.branch)

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> Any:
        if attention_mask is not full or settings.get("softcap") is not None or settings.get("dropout"):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return _attend(module, query, key, value, lengths, settings.get("scaling")), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def _lengths(branch: torch.Tensor) -> list[list[int]]:
    """Of every row the prompt's length and then each response's, in positions."""
    return [torch.bincount(row[row >= 0]).tolist() for row in branch]


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[list[int]], scale: Any
) -> torch.Tensor:
    """softmax(q k / sqrt(d)) v of every row's prompt and responses.

    Args:
        query: (rows, heads, width, size); key and value with as many heads or fewer, each serving several.

    Returns:
        (rows, width, heads, size), zero at the padding.
    """
    from transformers.integrations.sdpa_attention import repeat_kv

    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    found = []
    for row, (prompt, *responses) in enumerate(lengths):
        q, k, v = (states[row : row + 1] for states in (query, key, value))
        end = prompt + sum(responses[:1])
        parts = [_sdpa(q[:, :, :end], k[:, :, :end], v[:, :, :end], scale, is_causal=True)]
        for length in responses[1:]:
            here = slice(end, end + length)
            keys, values = (torch.cat([s[:, :, :prompt], s[:, :, here]], dim=2) for s in (k, v))
            seen = torch.ones(length, prompt + length, dtype=torch.bool).tril(prompt)
            parts.append(_sdpa(q[:, :, here], keys, values, scale, attn_mask=seen))
            end += length
        if end < query.shape[2]:
            parts.append(torch.zeros_like(q[:, :, end:]))
        found.append(torch.cat(parts, dim=2))
    return torch.cat(found).transpose(1, 2).contiguous()


def _sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Any, **mask: Any) -> torch.Tensor:
    attended: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale, **mask)
    return attended
