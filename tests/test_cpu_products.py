"""What is computed another way on a CPU: the head part by part, attention by groups, bfloat16 by float32's units."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from radpo.core import allocator
from radpo.models.kernels import head, products
from radpo.models.kernels.branch_attention import _attend_by_groups, _sdpa


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
    logps, likeliest = head._by_vocabulary(hidden, weight, shift, targets, scale, softcap)
    expected = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    assert likeliest.tolist() == (logits.argmax(-1) == targets).tolist()
    assert likeliest[:2].tolist() == [True, False]
    assert head._by_vocabulary(hidden[:0], weight, shift, targets[:0], scale, softcap)[0].shape == (0,)


@pytest.mark.parametrize("queries", [3, 64, 150])
@pytest.mark.parametrize("before", [0, 40])
def test_attention_by_groups_is_torchs(queries: int, before: int) -> None:
    """A block sees all before it and itself: causally, or as a mask has it."""
    torch.manual_seed(0)
    keys = before + queries
    query, key, value = (torch.randn(1, heads, n, 8) for heads, n in ((6, queries), (2, keys), (2, keys)))
    seen = (torch.arange(before, keys)[:, None] >= torch.arange(keys)) if before else None
    if seen is not None:
        seen[queries // 2 :, before : before + queries // 2] = False  # the second of two responses
    for scale in (None, 0.3):
        repeated = [states.repeat_interleave(3, dim=1) for states in (key, value)]
        expected = _sdpa(query, *repeated, seen, scale)
        torch.testing.assert_close(_attend_by_groups(query, key, value, seen, scale), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_products_by_float32s_units_are_bfloat16s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal but for sums taken in another order, which here and there are rounded to the neighbouring number."""
    monkeypatch.setattr(products, "float32_is_faster", lambda: True)
    torch.manual_seed(0)
    layer, states = torch.nn.Linear(96, 64), torch.randn(2, 7, 96)
    query, key, value = (torch.randn(1, 4, 20, 16) for _ in range(3))
    cpu = torch.device("cpu")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        native = layer(states), scaled_dot_product_attention(query, key, value, is_causal=True)
        with products.quickest_products(cpu):
            found = layer(states), scaled_dot_product_attention(query, key, value, is_causal=True)
        assert torch.is_autocast_enabled("cpu")
    for one, other in zip(found, native, strict=True):
        assert one.dtype is other.dtype is torch.bfloat16
        torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-7)
    assert float((found[0] == native[0]).float().mean()) > 0.95
    factors = states.bfloat16().double(), layer.weight.bfloat16().double(), layer.bias.bfloat16().double()
    assert float((found[0] == linear(*factors).bfloat16()).double().mean()) > 0.99, "factors are rounded, sums are not"


@pytest.mark.parametrize("faster", [False, True])
def test_float32s_units_are_used_where_they_are_faster_and_bfloat16_is_asked_for(faster: bool) -> None:
    used = []

    def spy(mode: Any, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        used.append(function)
        return function(*arguments, **(named or {}))

    with (
        patch.object(products, "float32_is_faster", lambda: faster),
        patch.object(products._InFloat32, "__torch_function__", spy),
        torch.inference_mode(),
    ):
        for asked in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=asked), products.quickest_products(torch.device("cpu")):
                linear(torch.ones(2, 3), torch.ones(4, 3))
            assert (linear in used) is (faster and asked)


def test_which_units_are_faster_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 1.3, 1.0, 1.1])
    monkeypatch.setattr(products, "quickest", lambda work, least: (work(), next(seconds))[1])
    products.float32_is_faster.cache_clear()
    try:
        assert [products.float32_is_faster(), products.float32_is_faster()] == [True, True]
        products.float32_is_faster.cache_clear()
        assert products.float32_is_faster() is False
    finally:
        products.float32_is_faster.cache_clear()


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
