"""Log-probabilities of given next tokens, without the logits of all positions at once.

TRL has this for GPUs, in Triton. On CPUs its stand-in walks over tiles far larger than any cache, projects
positions that predict nothing, and multiplies gradients in float32; there the function of this module takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from radpo.core.errors import ModelError
from radpo.models.kernels.exponentials import exp_

TILE_ROWS = 1024
"""Positions that are multiplied with a part of the vocabulary at a time: with few, the head is read anew for each."""

TILE_NUMBERS = 1 << 20
"""Numbers in a tile of logits: 4 MiB in float32, which stays in cache."""

KEPT_NUMBERS = 1 << 27
"""Numbers of logits that are kept for the backward pass, 512 MiB in float32; others are computed again."""

LOWEST = -1e30
"""Below any logit, and finite, so that nothing of it is left when it is scaled by the exponential of itself."""

Shape = tuple[float, float | None, float]
"""What logits are multiplied by, the bound c of logits z as c tanh(z / c) or None, and what multiplies them then."""


class TokenLogProbs(torch.autograd.Function):  # type: ignore[misc]
    """log p of each target token, and figures of the distributions that they come from.

    Takes and gives what TRL's `ChunkedLogProbFunction` does, and can stand in its place. Only log p has a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float = 1.0,
        chunk_size: int = 0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = ("log_probs",),
    ) -> tuple[torch.Tensor | None, ...]:
        """Project tile by tile.

        Args:
            hidden: (positions, size), the last layer's output.
            weight: (vocabulary, size), the head's; `bias`, (vocabulary,), may be None.
            targets: (positions,), the token that each position predicts.
            chunk_size: not used; the tiles' size follows from the positions.
            softcap: the bound c of logits z as c tanh(z / c), None for none.
            outputs: which of log_probs, entropy, log_sum_sq_probs, mean_logits and is_top1 are wanted.

        Returns:
            log p in nats; the entropy in nats; log sum p^2; the mean logit; whether the target is the most likely
            token; each (positions,), None where not wanted. In float32, the last in bool.
        """
        ctx.shape, ctx.dtype = (logit_scale, softcap, 1 / temperature), _compute_dtype(hidden)
        ctx.kept = {} if ctx.needs_input_grad[0] else None  # without gradients, the weights still ask for theirs
        found, log_z = _figures(hidden, weight, bias, targets, ctx.shape, ctx.dtype, outputs, ctx.kept)
        ctx.save_for_backward(hidden, weight, bias, targets, log_z)
        ctx.mark_non_differentiable(*(value for value in found[1:] if value is not None))
        return found

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """d log p / d z_j = [j is the target] - p_j, through what shapes z, to hidden states and head."""
        hidden, weight, bias, targets, log_z = ctx.saved_tensors
        scale, softcap, inverse = ctx.shape
        outer = gradients[0]
        assert outer is not None
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros(weight.shape[0]) if bias is not None and ctx.needs_input_grad[2] else None
        for tile in _tiles(hidden, weight, bias, ctx.dtype, ctx.kept):
            g, z = outer[tile.rows, None], _shaped(tile.products, ctx.shape)
            slope = None if softcap is None else 1 - (z / (softcap * inverse)).square_()
            z = exp_(z - log_z[tile.rows, None]).mul_(-g)
            inside, at = tile.targets(targets)
            z[inside, at] += g[inside, 0]
            if slope is not None:
                z.mul_(slope)
            gradient = (z.mul_(scale * inverse) if scale * inverse != 1 else z).to(ctx.dtype)
            _add_product(grad_hidden[tile.rows], gradient, tile.weight)
            if grad_weight is not None:
                _add_product(grad_weight[tile.columns], gradient.t(), tile.states)
            if grad_bias is not None:
                grad_bias[tile.columns] += gradient.sum(0, dtype=torch.float32)
        return (
            grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            *[None] * 6,
        )


@dataclass(frozen=True)
class _Tile:
    """Some positions' logits of a part of the vocabulary, as the product has them, and what was multiplied."""

    rows: slice
    columns: slice
    products: torch.Tensor
    states: torch.Tensor
    weight: torch.Tensor

    def targets(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of which positions in the tile the target is in this part of the vocabulary, and its place there."""
        here = targets[self.rows] - self.columns.start
        inside = ((here >= 0) & (here < self.products.shape[1])).nonzero().squeeze(-1)
        return inside, here[inside]


def _tiles(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    kept: dict[tuple[int, int], torch.Tensor] | None = None,
) -> Iterator[_Tile]:
    """Tiles of logits, all of a position's one after another.

    Args:
        kept: products of a pass before, by where they begin; each is let go of once its tile was seen.
    """
    hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    for top in range(0, len(hidden), TILE_ROWS):
        rows = slice(top, min(top + TILE_ROWS, len(hidden)))
        width = max(TILE_NUMBERS // (rows.stop - rows.start), 1)
        for first in range(0, weight.shape[0], width):
            columns = slice(first, min(first + width, weight.shape[0]))
            states, part = hidden[rows], weight[columns]
            products = (kept or {}).pop((top, first), None)
            if products is None:
                products = torch.nn.functional.linear(states, part, None if bias is None else bias[columns])
            yield _Tile(rows, columns, products, states, part)


def _figures(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    shape: Shape,
    dtype: torch.dtype,
    outputs: tuple[str, ...],
    kept: dict[tuple[int, int], torch.Tensor] | None = None,
) -> tuple[tuple[torch.Tensor | None, ...], torch.Tensor]:
    """What `TokenLogProbs` gives, and the logarithm of the sum of exponentials, (positions,).

    Of the parts of a position's logits that were seen, the greatest and the sum of exponentials are kept, as in Milakov
    and Gimelshein 2018 (arXiv 1805.02867), and so is what the other figures are made of.

    Args:
        kept: gets the products of tiles, up to `KEPT_NUMBERS`.

    Raises:
        ModelError: a target is no token of the head's.
    """
    count = len(targets)
    if count and int(targets.max()) >= weight.shape[0]:
        raise ModelError(f"the token {int(targets.max())} is not among the {weight.shape[0]} that the model predicts")
    top, total, own = torch.full((count,), LOWEST), torch.zeros(count), torch.full((count,), LOWEST)
    first_of_all = torch.zeros(count, dtype=torch.bool)
    weighted, squares, plain = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    for tile in _tiles(hidden, weight, bias, dtype):
        rows = tile.rows
        if kept is not None and (len(kept) + 1) * TILE_NUMBERS <= KEPT_NUMBERS:
            kept[rows.start, tile.columns.start] = tile.products
        z, before = _shaped(tile.products, shape), top[rows]
        higher = torch.maximum(before, z.amax(-1))
        inside, at = tile.targets(targets)
        targeted, logits = rows.start + inside, z[inside, at]
        own[targeted] = logits
        if "is_top1" in outputs:
            # Of like logits, which bfloat16 often has, the first counts as the likeliest.
            leading = (logits == higher[inside]) & (logits > before[inside])
            first_of_all[targeted[leading]] = z[inside[leading]].argmax(-1) == at[leading]
        if "mean_logits" in outputs:
            plain[rows] += z.sum(-1)
        z = z - higher[:, None]
        e = exp_(z.clone() if "entropy" in outputs else z)
        shrunk = (before - higher).exp()
        if "entropy" in outputs:
            weighted[rows] = shrunk * (weighted[rows] + (before - higher) * total[rows]) + z.mul_(e).sum(-1)
        total[rows] = shrunk * total[rows] + e.sum(-1)
        if "log_sum_sq_probs" in outputs:
            squares[rows] = shrunk.square() * squares[rows] + e.square_().sum(-1)
        top[rows] = higher
    log_z = top + total.log()
    found = {
        "log_probs": own - log_z,
        "entropy": total.log() - weighted / total,
        "log_sum_sq_probs": squares.log() - 2 * total.log(),
        "mean_logits": plain / weight.shape[0],
        "is_top1": first_of_all & (own == top),
    }
    return tuple(value if name in outputs else None for name, value in found.items()), log_z


def _shaped(products: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Logits in float32, as a family shapes them; the products stay as they are."""
    scale, softcap, inverse = shape
    z = products.float()
    if scale != 1:
        z = z * scale
    if softcap is not None:
        z = (z / softcap).tanh_().mul_(softcap)
    return z if inverse == 1 else z * inverse


def _add_product(total: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> None:
    """Add a product to a sum in float32."""
    if one.dtype is torch.float32:
        total.addmm_(one, other)
    else:
        total += one @ other


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


@contextmanager
def cpu_head(device: torch.device) -> Iterator[None]:
    """On a CPU, have TRL's language-model head use this module, at the positions that predict something only.

    TRL 1.16 leaves out the others only where Triton runs; elsewhere it projects every position, prompts and padding
    too, for the sake of compilers that need fixed shapes, and masks the rest afterwards.
    """
    from unittest.mock import patch

    if device.type != "cpu":
        yield
        return
    with (
        patch("trl.trainer.utils._use_triton", lambda device: True),
        patch("trl.trainer.utils._ChunkedLogProbFunction", TokenLogProbs),
    ):
        yield


def target_log_probs(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target token under a model's head: its log p in nats, in float32, and whether it is the likeliest.

    Args:
        hidden: (positions, size), the last layer's output where a token is predicted.
        targets: (positions,), the tokens predicted.

    Returns:
        Both (positions,).
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    softcap, scale = getattr(config, "final_logit_softcapping", None), _logit_scale(config)
    wanted = ("log_probs", "is_top1")
    if hidden.device.type == "cpu":
        shape, dtype = (scale, softcap, 1.0), _compute_dtype(hidden)
        found = _figures(hidden, head.weight, head.bias, targets, shape, dtype, wanted)[0]
    else:
        found = _triton_log_probs().apply(hidden, head.weight, head.bias, targets, 1.0, 1 << 15, softcap, scale, wanted)
    logps, likeliest = found[0], found[4]
    assert logps is not None
    assert likeliest is not None
    return logps, likeliest


def _logit_scale(config: Any) -> float:
    """What a family multiplies its logits by, under the names that TRL's head knows, too."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere; Muse Glimmer; Falcon-H1
        scale = getattr(config, name, None)
        if scale is not None:
            return float(scale)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1 / float(scaling)  # Granite, MiniCPM3 divide


def check_head(model: Any) -> None:
    """Try out, on twelve tokens, that `target_log_probs` has the model's own log-probabilities.

    Raises:
        ModelError: the model's family shapes its logits in a way not known here.
    """
    device = next(model.parameters()).device
    ids = (torch.arange(12, device=device) % min(model.config.get_text_config().vocab_size, 97))[None]
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
        found, expected = target_log_probs(model, hidden, ids[0, 1:])[0], own.gather(-1, ids[0, 1:, None])[:, 0]
    rounding = 1e-3 if model.dtype is torch.float32 else 0.1
    apart = float((found - expected).abs().max())
    if apart > rounding * max(1.0, float(expected.abs().max())):
        raise ModelError(
            f"{type(model).__name__} shapes its logits in a way that is not known here (log-probabilities are off by "
            f"{apart:.2g} nats), so its log-likelihoods cannot be measured"
        )


def _triton_log_probs() -> Any:
    from trl.kernels import ChunkedLogProbFunction

    return ChunkedLogProbFunction
