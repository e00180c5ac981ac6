"""What is computed another way on a CPU: the head part by part, attention by groups, freed memory kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from radpo.core import allocator
from radpo.models.kernels import head
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
