"""Log-probabilities of given next tokens, without the logits of all positions at once.

TRL has this for GPUs, in Triton. On CPUs its stand-in walks over tiles far larger than any cache, projects
positions that predict nothing, and multiplies gradients in float32; there the function of this module takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from radpo.core.errors import ModelError

TILE_NUMBERS = 1 << 22
"""Numbers in a tile of logits: 16 MiB in float32, which stays in cache and below what malloc asks the system for."""

TILE_ROWS = 1024
"""Positions that are multiplied with a part of the vocabulary at a time."""

GRADIENT_NUMBERS = 1 << 27
"""Numbers in a block of the logits' gradient: 256 MiB in bfloat16. Its product is rounded once, as autograd's is."""


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
            chunk_size: not used; the tiles' size follows from the vocabulary.
            softcap: the bound c of logits z as c tanh(z / c), None for none.
            outputs: which of log_probs, entropy, log_sum_sq_probs, mean_logits and is_top1 are wanted.

        Returns:
            log p in nats; the entropy in nats; log sum p^2; the mean logit; whether the target is the most likely
            token; each (positions,), None where not wanted. In float32, the last in bool.
        """
        shape = (logit_scale, softcap, 1 / temperature)
        dtype = _compute_dtype(hidden)
        wanted = {name: torch.empty(len(targets), dtype=torch.float32) for name in outputs}
        log_z = torch.empty(len(targets), dtype=torch.float32)
        for part, z in _tiles(hidden, weight, bias, shape, dtype):
            top, place = z.max(-1)
            target = z.gather(-1, targets[part, None]).squeeze(-1)
            if "mean_logits" in wanted:
                wanted["mean_logits"][part] = z.mean(-1)
            if "is_top1" in wanted:
                wanted["is_top1"][part] = (place == targets[part]).float()
            e = (z - top[:, None]).exp_()
            total = e.sum(-1)
            log_z[part] = top + total.log()
            if "entropy" in wanted:
                wanted["entropy"][part] = log_z[part] - _dot(e, z) / total
            if "log_sum_sq_probs" in wanted:
                wanted["log_sum_sq_probs"][part] = _dot(e, e).log() - 2 * total.log()
            wanted["log_probs"][part] = target - log_z[part]
        ctx.save_for_backward(hidden, weight, bias, targets, log_z)
        ctx.shape, ctx.dtype = shape, dtype
        top1 = wanted.get("is_top1")
        found = (
            wanted["log_probs"],
            wanted.get("entropy"),
            wanted.get("log_sum_sq_probs"),
            wanted.get("mean_logits"),
            None if top1 is None else top1.bool(),
        )
        ctx.mark_non_differentiable(*(value for value in found[1:] if value is not None))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """d log p / d z_j = [j is the target] - p_j, through what shapes z, to hidden states and head."""
        hidden, weight, bias, targets, log_z = ctx.saved_tensors
        scale, softcap, inverse = ctx.shape
        outer = gradients[0]
        assert outer is not None
        grad_hidden = torch.empty(hidden.shape, dtype=hidden.dtype)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros(weight.shape[0]) if bias is not None and ctx.needs_input_grad[2] else None
        cast = weight.to(ctx.dtype)
        rows = max(GRADIENT_NUMBERS // weight.shape[0], 1)
        for start in range(0, len(targets), rows):
            block = slice(start, min(start + rows, len(targets)))
            states = hidden[block].to(ctx.dtype)
            gradient = torch.empty(len(states), weight.shape[0], dtype=ctx.dtype)
            for part, z in _tiles(states, weight, bias, ctx.shape, ctx.dtype, cast):
                here = slice(start + part.start, start + part.stop)
                slope = None if softcap is None else 1 - (z / (softcap * inverse)).square_()
                g = outer[here, None]
                z.sub_(log_z[here, None]).exp_().mul_(-g).scatter_add_(-1, targets[here, None], g.expand(-1, 1))
                if slope is not None:
                    z.mul_(slope)
                gradient[part] = z.mul_(scale * inverse) if scale * inverse != 1 else z
            grad_hidden[block] = gradient @ cast
            if grad_weight is not None:
                grad_weight += gradient.t() @ states
            if grad_bias is not None:
                grad_bias += gradient.sum(0, dtype=torch.float32)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            *[None] * 6,
        )


def _tiles(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    shape: tuple[float, float | None, float],
    dtype: torch.dtype,
    cast: torch.Tensor | None = None,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Logits in float32, some positions at a time; a tile is overwritten by the next."""
    scale, softcap, inverse = shape
    cast = weight.to(dtype) if cast is None else cast
    rows = max(TILE_NUMBERS // weight.shape[0], 1)
    buffer = torch.empty(min(rows, len(hidden)), weight.shape[0], dtype=torch.float32)
    for start in range(0, len(hidden), rows):
        part = slice(start, min(start + rows, len(hidden)))
        product = torch.nn.functional.linear(hidden[part].to(dtype), cast, None if bias is None else bias.to(dtype))
        z = _shaped(buffer[: part.stop - part.start].copy_(product), scale, softcap)
        if inverse != 1:
            z.mul_(inverse)
        yield part, z


def _shaped(z: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    """Logits as a family shapes them, in place."""
    if scale != 1:
        z.mul_(scale)
    if softcap is not None:
        z.div_(softcap).tanh_().mul_(softcap)
    return z


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Row by row scalar products, without the products in between."""
    return torch.bmm(one[:, None, :], other[:, :, None]).flatten()


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
    if hidden.device.type == "cpu":
        return _by_vocabulary(hidden, head.weight, head.bias, targets, scale, softcap)
    wanted, function = ("log_probs", "is_top1"), _triton_log_probs()
    found = function.apply(hidden, head.weight, head.bias, targets, 1.0, 1 << 15, softcap, scale, wanted)
    return found[0], found[4]


def _by_vocabulary(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scale: float,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`target_log_probs` without gradients, many positions and a part of the vocabulary at a time.

    Products of few positions with the whole vocabulary, as in `TokenLogProbs`, read the head anew for each few: on a
    CPU they are slower by a third. Of each part the greatest logit and the sum of exponentials are kept, as in Milakov
    and Gimelshein 2018 (arXiv 1805.02867).
    """
    dtype, found = _compute_dtype(hidden), []
    for states, wanted in zip(hidden.to(dtype).split(TILE_ROWS), targets.split(TILE_ROWS), strict=True):
        top, total = torch.full((len(wanted),), -torch.inf), torch.zeros(len(wanted))
        own, likeliest = torch.empty(len(wanted)), torch.empty(len(wanted), dtype=torch.bool)
        columns = max(TILE_NUMBERS // max(len(wanted), 1), 1)
        for first in range(0, weight.shape[0], columns):
            part = slice(first, first + columns)
            shift = None if bias is None else bias[part].to(dtype)
            z = _shaped(torch.nn.functional.linear(states, weight[part].to(dtype), shift).float(), scale, softcap)
            higher = torch.maximum(top, z.amax(-1))
            inside = ((wanted >= first) & (wanted < first + z.shape[1])).nonzero().squeeze(-1)
            at, z_inside = wanted[inside] - first, z[inside]
            own[inside] = z_inside.gather(-1, at[:, None]).squeeze(-1)
            # Of like logits, which bfloat16 often has, the first counts as the likeliest.
            likeliest[inside] = (z_inside.argmax(-1) == at) & (own[inside] > top[inside])
            total = total * (top - higher).exp() + z.sub_(higher[:, None]).exp_().sum(-1)
            top = higher
        found.append((own - top - total.log(), likeliest & (own == top)))
    logps, greedy = zip(*found, strict=True)
    return torch.cat(logps), torch.cat(greedy)


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
