"""The least that a model's matrix products take here: what is to be computed over how fast this machine computes it.

Every linear layer is counted for every token that it has to read: real tokens, no padding, a shared prompt once; the
language-model head where a token is predicted. Each shape is measured in its precision, the way the time that is to be
compared is taken: CPU seconds on a CPU, at its best of many times. Attention, norms and activations are left out, so
that the share of the limit that a program reaches cannot be 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import takewhile
from typing import Any

from radpo.models.loading import torch_dtype
from radpo.models.speeds import product_speed

ROWS = 1024
"""Tokens that are multiplied together, about as many as a micro-batch has."""


def least_seconds(model: Any, tokens: int, predicted: int, precision: str, passes: int) -> float:
    """Seconds of one core, or of the GPU, that the model's products take at the machine's best.

    Args:
        tokens: that go through the layers.
        predicted: at which the head is applied.
        passes: 1 forward, 3 forward and backward.
    """
    import torch

    head = model.get_output_embeddings()
    shapes = Counter(
        (layer.in_features, layer.out_features)
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    )
    body = sum(number * tokens * _seconds_a_token(*shape, precision) for shape, number in shapes.items())
    columns, inside = head.weight.shape
    return passes * (body + predicted * _seconds_a_token(inside, columns, precision))


def needed_tokens(sequences: Iterable[Sequence[int]]) -> int:
    """Tokens that have to be read of sequences, what several begin with once."""
    total, before = 0, tuple[int, ...]()
    for sequence in sorted(set(map(tuple, sequences))):
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(before, sequence, strict=False))
        total += len(sequence) - sum(1 for _ in alike)
        before = sequence
    return total


@cache
def _seconds_a_token(inside: int, columns: int, precision: str) -> float:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return 2 * inside * columns / product_speed(ROWS, inside, columns, torch_dtype(precision), device)
    finally:
        torch.set_num_threads(threads)
