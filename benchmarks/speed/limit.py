"""The least that a model's matrix products take here: what is to be computed over how fast this machine computes it.

Every linear layer is counted for every token that it has to read: real tokens, no padding, a shared prompt once; the
language-model head where a token is predicted; attention's two products for every token and each that it sees. Each
shape is measured in its precision, the way the time that is to be compared is taken: CPU seconds on a CPU, at its best
of many times. Norms, activations, softmax and the optimiser are left out, so that the share of the limit that a program
reaches cannot be 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

from radpo.models.loading import torch_dtype
from radpo.models.precision import quickest
from radpo.models.speeds import product_speed

ROWS = 1024
"""Tokens that are multiplied together, about as many as a micro-batch has."""
QUERIES, KEYS = 64, 256
"""Of attention's products, each head's."""


@dataclass(frozen=True)
class Needed:
    """What has to be read: `tokens`, pairs of one and a token that it sees, and at how many a token is predicted."""

    tokens: int
    seen: int
    predicted: int

    def __add__(self, other: Needed) -> Needed:
        return Needed(self.tokens + other.tokens, self.seen + other.seen, self.predicted + other.predicted)


def least_seconds(model: Any, needed: Needed, precision: str, passes: int) -> float:
    """Seconds of one core, or of the GPU, that the model's products take at the machine's best.

    Args:
        passes: 1 forward, 3 forward and backward.
    """
    import torch

    head, config = model.get_output_embeddings(), model.config.get_text_config()
    shapes = Counter(
        (layer.in_features, layer.out_features)
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    )
    body = sum(number * needed.tokens * _seconds_a_token(*shape, precision) for shape, number in shapes.items())
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = config.num_hidden_layers * needed.seen * _seconds_a_key(heads, groups, size, precision)
    columns, inside = head.weight.shape
    return passes * (body + attention + needed.predicted * _seconds_a_token(inside, columns, precision))


def needed(items: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Needed:
    """What has to be read for prompts and responses: each token once, and what several begin with once."""
    total, before = Needed(0, 0, 0), tuple[int, ...]()
    asked = {(*prompt, *response[:-1]): len(response) for prompt, response in items}
    for sequence, predicted in sorted(asked.items()):
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, sequence, strict=False)))
        length = len(sequence)
        total += Needed(length - alike, (length * (length + 1) - alike * (alike + 1)) // 2, predicted)
        before = sequence
    return total


@cache
def _seconds_a_key(heads: int, groups: int, size: int, precision: str) -> float:
    """Of a token that sees one key, with all heads, in one layer: the two products."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        queries, keys = (
            torch.randn(groups, rows, size, device=device).to(torch_dtype(precision))
            for rows in (heads // groups * QUERIES, KEYS)
        )
        scores = torch.bmm(queries, keys.transpose(1, 2))
        first, second = (
            quickest(lambda: torch.bmm(queries, keys.transpose(1, 2))), quickest(lambda: torch.bmm(scores, keys))
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return (first + second) / (QUERIES * KEYS)


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
