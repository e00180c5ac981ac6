"""Products in bfloat16 on CPUs that multiply float32 faster, as an Intel Xeon with avx512_bf16 and no AMX does.

A product in bfloat16 rounds its factors to bfloat16, sums in float32 and rounds the sum. Numbers of bfloat16 are
numbers of float32, so the same is had from the float32 units: the sums alone may be taken in another order, as they
may between any two machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from radpo.models.precision import quickest

GAIN = 1.2
"""How many times faster float32 has to be: factors and sums are rounded in passes of their own."""
_SECONDS = 0.02
"""What each of the two is measured for."""


@contextmanager
def quickest_products(device: torch.device) -> Iterator[None]:
    """Under bfloat16 autocast without gradients, have linear layers and attention multiply the faster way."""
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not float32_is_faster():
        yield
        return
    with _InFloat32():
        yield


@cache
def float32_is_faster() -> bool:
    """Whether this CPU multiplies matrices faster in float32 than in bfloat16, which is measured once a process."""
    states, weight = torch.ones(128, 576), torch.ones(576, 576)
    with torch.autocast("cpu", enabled=False):
        taken = [
            quickest(lambda kind=kind: torch.nn.functional.linear(states.to(kind), weight.to(kind)), _SECONDS)  # type: ignore[misc]
            for kind in (torch.float32, torch.bfloat16)
        ]
    return taken[1] > GAIN * taken[0]


class _InFloat32(TorchFunctionMode):  # type: ignore[misc]
    """Takes the place of products in bfloat16."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS or not all(_is_float(value) for value in args[:2]):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            found: torch.Tensor = func(
                *map(_rounded, args), **{name: _rounded(value) for name, value in kwargs.items()}
            )
            return found.bfloat16()


_PRODUCTS = frozenset({torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention})


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.bfloat16)


def _rounded(value: Any) -> Any:
    """A tensor of numbers as one in float32 whose numbers are those of bfloat16; anything else as it is."""
    return value.bfloat16().float() if _is_float(value) else value
