"""Sequence classifiers read at each conversation's last token, whatever it is and however the batch is padded.

transformers' classifiers find the last token as the last one that is not `config.pad_token_id`. That is another token
where the padding token is the end token and the template ends in it; and where tokenizer and config name different
padding tokens it depends on the batch, and in padded rows it is padding. Here rows are padded with a token that none of
them contains, and the config gets that token, so that the last one that is not padding is the last real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from radpo.core.progress import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Read = Callable[[Any], list[float]]
"""The value of every row, from a model's output."""


def last_token_values(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    read: Read,
    *,
    batch_size: int,
    progress: Progress = no_progress,
) -> list[float]:
    """What a sequence classifier says of every sequence, as of each one alone and unpadded.

    Sequences of like length share a batch, padded on the right, so that positions are counted from the first token. A
    model whose values change by padding (its own code looks for its last token in another way) has a batch for each.

    Args:
        sequences: token ids.
        read: takes a value a row out of the model's output.

    Returns:
        Values in the order of `sequences`.
    """
    import torch

    order = sorted(range(len(sequences)), key=lambda place: -len(sequences[place]))
    lengths = {len(ids) for ids in sequences}
    values = [0.0] * len(sequences)
    with torch.inference_mode():
        if batch_size > 1 and len(lengths) > 1 and not _heeds_padding(model, sequences[order[-1]], read):
            batch_size = 1
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for place, value in zip(batch, _batch(model, [sequences[place] for place in batch], read), strict=True):
                values[place] = value
            progress(start + len(batch), len(order))
    return values


def _batch(model: PreTrainedModel, rows: Sequence[Sequence[int]], read: Read, width: int = 0) -> list[float]:
    """One pass; where every token of the vocabulary occurs, and none is left to pad with, a pass for each row."""
    import torch

    width = max(width, *(len(row) for row in rows))
    unused = _unused_token(model, rows)
    if unused is None and len(rows) > 1:
        return [value for row in rows for value in _batch(model, [row], read)]
    filled = [[*row, *[unused or 0] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    configs = [model.config, model.config.get_text_config()]
    kept = [config.pad_token_id for config in configs]
    for config in configs:
        config.pad_token_id = unused
    try:
        return read(
            model(
                input_ids=torch.tensor(filled, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
            )
        )
    finally:
        for config, pad_token_id in zip(configs, kept, strict=True):
            config.pad_token_id = pad_token_id


def _unused_token(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> int | None:
    """A token that no row contains, the config's own padding token if it is one; None where there is none."""
    seen = {token for row in rows for token in row}
    own = model.config.get_text_config().pad_token_id
    known = model.get_input_embeddings().num_embeddings
    if own is not None and 0 <= own < known and own not in seen:
        return int(own)
    return next((token for token in range(known - 1, -1, -1) if token not in seen), None)


def _heeds_padding(model: PreTrainedModel, sequence: Sequence[int], read: Read) -> bool:
    """Whether a sequence has the same value alone and padded."""
    import torch

    (alone,), (padded,) = (_batch(model, [sequence], read, width) for width in (0, len(sequence) + 8))
    rounding = 1e-3 if next(model.parameters()).dtype is torch.float32 else 0.05
    return abs(alone - padded) <= rounding * max(1.0, abs(alone))
