"""Shared rows on a CPU: no padding is read, and no response's scores against another one are computed at all.

Rows are put behind one another, so that every layer's products are over tokens that count. A mask alone has the
CPU compute every score and throw away those that are masked, which for a pair is more than half of a row's. Here
prompt and first response attend causally as the one sequence that they are, and every further response to the prompt
and itself; the sums are the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from radpo.models.shared_prefix import SharedRows, model_inputs

MOST_TOKENS = 1 << 13
"""Rows of more tokens than these together stay padded: the mask of all of them would take over 64 MiB."""

Lengths = list[list[int]]
"""Of every row the prompt's length and then each response's, in positions."""

_CONTENTS = "radpo_contents"
"""The attribute of a mask that has what `_attend` goes by."""


def reading(rows: SharedRows, config: Any, dtype: torch.dtype) -> tuple[SharedRows, dict[str, Any]]:
    """Rows laid out as a model on this device reads them best, and what its forward is given.

    The positions that are no padding come in the same order as in `rows`. Layers whose attention is not transformers'
    sdpa read the mask, which says all that is needed.

    Args:
        config: the model's (text) configuration.
        dtype: of the model's activations.
    """
    inputs = model_inputs(rows, config, dtype)
    mask = inputs["attention_mask"]
    windowed = not isinstance(mask, dict) and getattr(config, "sliding_window", None) is not None
    full = None if windowed else mask["full_attention"] if isinstance(mask, dict) else mask
    if rows.branch.device.type != "cpu" or not isinstance(full, torch.Tensor) or full.dtype != torch.bool:
        return rows, inputs
    lengths = [torch.bincount(row[row >= 0]).tolist() for row in rows.branch]
    contents = [[row] for row in lengths]
    if (not isinstance(mask, dict) or len(mask) == 1) and sum(map(sum, lengths)) <= MOST_TOKENS:
        rows, full = _end_to_end(rows, full, lengths)
        shared: Any = {"full_attention": full} if isinstance(mask, dict) else full
        inputs = {"input_ids": rows.input_ids, "position_ids": rows.position_ids, "attention_mask": shared}
        contents = [lengths]
    _attend_by_lengths()
    setattr(full, _CONTENTS, contents)
    return rows, inputs


def _end_to_end(rows: SharedRows, mask: torch.Tensor, lengths: Lengths) -> tuple[SharedRows, torch.Tensor]:
    """All rows behind one another in a single one, (1, tokens), and their mask, (1, 1, tokens, tokens)."""
    real = rows.branch >= 0
    ids, places, branch, labels = (getattr(rows, name)[real][None] for name in SharedRows.__dataclass_fields__)
    widths = [sum(row) for row in lengths]
    blocks = torch.block_diag(*(row[0, :width, :width] for row, width in zip(mask, widths, strict=True)))
    return SharedRows(ids, places, branch, labels), blocks.to(torch.bool)[None, None]


@cache
def _attend_by_lengths() -> None:
    """Have transformers' sdpa attention go by the lengths wherever its mask brings them.

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
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, contents: list[Lengths], scale: Any
) -> torch.Tensor:
    """softmax(q k / sqrt(d)) v of every prompt and its responses.

    Args:
        query: (rows, heads, width, size); key and value with as many heads or fewer, each serving several.
        contents: the prompts, with their responses, that stand in each row behind one another.

    Returns:
        (rows, width, heads, size), zero at the padding.
    """
    from transformers.integrations.sdpa_attention import repeat_kv

    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    found = []
    for row, shared in enumerate(contents):
        q, k, v = (states[row : row + 1] for states in (query, key, value))
        parts, start = [], 0
        for prompt, *responses in shared:
            end = start + prompt + sum(responses[:1])
            first = slice(start, end)
            parts.append(_sdpa(q[:, :, first], k[:, :, first], v[:, :, first], scale, is_causal=True))
            for length in responses[1:]:
                before, here = slice(start, start + prompt), slice(end, end + length)
                keys, values = (torch.cat([s[:, :, before], s[:, :, here]], dim=2) for s in (k, v))
                seen = torch.ones(length, prompt + length, dtype=torch.bool).tril(prompt)
                parts.append(_sdpa(q[:, :, here], keys, values, scale, attn_mask=seen))
                end += length
            start = end
        if start < query.shape[2]:
            parts.append(torch.zeros_like(q[:, :, start:]))
        found.append(torch.cat(parts, dim=2))
    return torch.cat(found).transpose(1, 2).contiguous()


def _sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Any, **mask: Any) -> torch.Tensor:
    attended: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale, **mask)
    return attended
