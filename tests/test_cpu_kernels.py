"""What is computed another way on a CPU: the head part by part, attention by blocks, freed memory kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import linear
from torch.nn.functional import scaled_dot_product_attention as sdpa

from radpo.core import allocator
from radpo.core.errors import ModelError
from radpo.models.kernels import head
from radpo.models.kernels.branch_attention import _Block, _BlockAttention
from radpo.models.kernels.exponentials import exp_


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, 3.0)])
@pytest.mark.parametrize(("rows", "numbers"), [(5, 35), (64, 1 << 22)])
def test_the_head_part_by_part_is_the_log_softmax_of_all(
    monkeypatch: pytest.MonkeyPatch, bias: bool, scale: float, softcap: float | None, rows: int, numbers: int
) -> None:
    monkeypatch.setattr(head, "TILE_ROWS", rows)
    monkeypatch.setattr(head, "TILE_NUMBERS", numbers)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(23, 16), torch.randn(50, 16), torch.randint(50, (23,))
    weight[40] = weight[3]  # two tokens that are always as likely as each other: the first is the likeliest
    targets[:2] = torch.tensor([3, 40])
    hidden[:2] = 4 * weight[3]
    shift = torch.randn(50) * 0.1 if bias else None
    if shift is not None:
        shift[40] = shift[3]
    logits = scale * linear(hidden, weight, shift)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    model = SimpleNamespace(
        get_output_embeddings=lambda: SimpleNamespace(weight=weight, bias=shift),
        config=SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(final_logit_softcapping=softcap, logit_scale=scale)
        ),
    )
    logps, likeliest = head.target_log_probs(model, hidden, targets)
    expected = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    assert likeliest.tolist() == (logits.argmax(-1) == targets).tolist()
    assert likeliest[:2].tolist() == [True, False]
    assert head.target_log_probs(model, hidden[:0], targets[:0])[0].shape == (0,)
    with pytest.raises(ModelError, match="the token 50 is not among the 50 that the model predicts"):
        head.target_log_probs(model, hidden[:1], torch.tensor([50]))


@pytest.mark.parametrize("queries", [3, 64, 150])
@pytest.mark.parametrize("before", [0, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_by_blocks_and_its_gradients_are_torchs(queries: int, before: int, dtype: torch.dtype) -> None:
    """Two rows, one of them padded: a sequence of its own, then two that see it and themselves."""
    torch.manual_seed(0)
    width = before + queries
    # Scores as far apart as in a real model, where float32's exponentials come to nothing.
    states = [(spread * torch.randn(2, heads, width, 8)).to(dtype) for heads, spread in ((6, 30), (2, 1), (2, 1))]
    upstream = torch.randn(2, width, 6, 8)
    seen = torch.ones(width, width, dtype=torch.bool).tril()
    seen[before + queries // 2 :, before : before + queries // 2] = False  # the second of two responses
    whole = [_Block(slice(0, before), slice(0, 0), None)] if before else []
    rest = slice(before, width)
    whole.append(_Block(rest, slice(0, before), torch.cat([seen[rest, :before], seen[rest, rest]], dim=1)))
    short = [_Block(slice(0, width - 2), slice(0, 0), None)]
    for scale in (8**-0.5, 0.3):
        ours, theirs = ([part.to(kind).requires_grad_() for part in states] for kind in (dtype, torch.float64))
        found = _BlockAttention.apply(*ours, [whole, short], scale)
        query, *keys = theirs
        key, value = (part.repeat_interleave(3, dim=1) for part in keys)
        expected = torch.cat(
            [
                sdpa(query[:1], key[:1], value[:1], attn_mask=seen, scale=scale),
                torch.nn.functional.pad(
                    sdpa(*(s[1:, :, : width - 2] for s in (query, key, value)), is_causal=True, scale=scale),
                    (0, 0, 0, 2),
                ),
            ]
        ).transpose(1, 2)
        rounding = 1e-4 if dtype is torch.float32 else 1e-2  # scores of about a hundred are themselves rounded
        for value_found, value_expected in zip(
            [found, *torch.autograd.grad(found, ours, upstream.to(dtype))],
            [expected, *torch.autograd.grad(expected, theirs, upstream.to(dtype).double())],
            strict=True,
        ):
            assert value_found.dtype is dtype
            apart = float((value_found.double() - value_expected).detach().abs().max())
            assert apart <= rounding * max(1.0, float(value_expected.detach().abs().max()))


def test_exponentials_of_what_is_far_below_leave_nothing_that_counts() -> None:
    differences = torch.tensor([0.0, -1.0, -49.0, -60.0, -100.0, -torch.inf])
    found = exp_(differences.clone())
    torch.testing.assert_close(found[:3], differences[:3].exp())
    assert found[3:].tolist() == [found[3].item()] * 3
    assert 1e-30 < found[3] < 1e-20, "a gradient times it is not below float32's normal range, a row's sum not above 1"


def test_freed_memory_is_kept_meanwhile_and_given_back_then(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __init__(self) -> None:
            self.calls: list[tuple[Any, ...]] = []

        def mallopt(self, *arguments: int) -> None:
            self.calls.append(arguments)

        def malloc_trim(self, pad: int) -> None:
            self.calls.append(("trim", pad))

        def gnu_get_libc_version(self) -> None: ...

    library = Library()
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
    with allocator.keeping_freed_memory():
        assert library.calls == [(-3, 32 << 20), (-1, 2**31 - 1)]
    assert library.calls[2:] == [(-1, 64 << 20), ("trim", 0)]
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    with allocator.keeping_freed_memory():
        pass
