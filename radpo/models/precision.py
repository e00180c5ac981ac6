"""What `precision: auto` comes to on a machine, settled before keys are made, so that a store mixes no two of them.

A GPU takes bfloat16 where it has it. A CPU takes what a short measurement shows to be faster: having the instruction
does not say so (an Intel Xeon with avx512_bf16 and no AMX multiplies matrices at 245 GFLOP/s in float32 and 140 in
bfloat16; on an AMD EPYC it is the other way round).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from radpo.core.cache import cache_folder
from radpo.core.errors import ConfigError
from radpo.core.files import replace_json
from radpo.core.machine import describe_machine
from radpo.core.optional import package_version

Precision = Literal["auto", "float32", "bfloat16"]
Settled = Literal["float32", "bfloat16"]

VARIABLE = "RADPO_PRECISION"
"""The environment variable that says what `auto` is, in place of a measurement."""
FILE = "precision.json"
"""In the cache folder: what was measured, by machine."""
GAIN = 1.1
"""How many times faster bfloat16 has to be on a CPU: float32 is the exact one of the two."""
_SECONDS = 0.4
"""What each of the two is measured for."""


@dataclass(frozen=True)
class Arithmetic:
    """What `auto` is on a machine, and why."""

    precision: Settled
    reason: str

    def __str__(self) -> str:
        return f"{self.precision} ({self.reason})"


def settle(precision: Precision) -> Settled:
    """A precision that is one; `auto` as `arithmetic` has it."""
    return arithmetic().precision if precision == "auto" else precision


def settled(document: Any, auto: Callable[[], Settled]) -> Any:
    """Settings in which every `precision: auto`, however deep, is what `auto` says; asked only where there is one."""
    if isinstance(document, dict):
        return {
            key: auto() if key == "precision" and value == "auto" else settled(value, auto)
            for key, value in document.items()
        }
    if isinstance(document, list):
        return [settled(value, auto) for value in document]
    return document


def arithmetic() -> Arithmetic:
    """What `auto` is here: as `RADPO_PRECISION` says, else as was measured on this machine, once (`FILE`).

    Raises:
        ConfigError: the environment variable is neither float32 nor bfloat16.
    """
    from filelock import FileLock

    requested = os.environ.get(VARIABLE)
    if requested:
        if requested not in ("float32", "bfloat16"):
            raise ConfigError(f"{VARIABLE}={requested}: give float32 or bfloat16, or leave it unset")
        return Arithmetic("float32" if requested == "float32" else "bfloat16", f"{VARIABLE} says so")
    file, machine = cache_folder() / FILE, machine_key()
    if found := _kept(file, machine):
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):  # of two that measure at once, the second takes what the first found
        if found := _kept(file, machine):
            return found
        found = _measured()
        replace_json(file, {**kept_figures(file), machine: asdict(found)})
        return found


def bf16_supported() -> bool:
    """Whether the CPU that models run on computes in bfloat16 itself (emulated, it is slower than float32)."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def machine_key() -> str:
    """What a measurement depends on, in words."""
    found = describe_machine()
    return " | ".join(str(part) for part in (found["cpu"], found["cores"], found["gpu"], package_version("torch")))


def kept_figures(file: Path) -> dict[str, Any]:
    """What a file of the cache folder has kept, by `machine_key`; empty where it is none."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _kept(file: Any, machine: str) -> Arithmetic | None:
    try:
        kept = kept_figures(file)[machine]
        if kept["precision"] not in ("float32", "bfloat16"):
            return None
        return Arithmetic(kept["precision"], str(kept["reason"]))
    except (KeyError, TypeError):
        return None  # not measured, or not as it was written: measured anew


def _measured() -> Arithmetic:
    import torch

    if torch.cuda.is_available():
        if bf16_supported():
            return Arithmetic("bfloat16", f"{torch.cuda.get_device_name()} computes in it")
        return Arithmetic("float32", f"{torch.cuda.get_device_name()} has no bfloat16")
    if not bf16_supported():
        return Arithmetic("float32", "the CPU has no bfloat16")
    full, half = (_speed(torch, autocast) for autocast in (False, True))
    chosen: Settled = "bfloat16" if half >= GAIN * full else "float32"
    return Arithmetic(
        chosen, f"measured here, a layer forward and backward: float32 {full:.0f}, bfloat16 {half:.0f} GFLOP/s a core"
    )


def quickest(work: Callable[[], object]) -> float:
    """Seconds of the quickest of many times, which is the one that nothing else came between.

    Where torch has one thread and no GPU it is that thread's own time: on a busy machine there may be no time at all
    that nothing comes between.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    clock = time.thread_time if torch.get_num_threads() == 1 and not on_gpu else time.perf_counter
    taken: list[float] = []
    while sum(taken) < _SECONDS or len(taken) < 3:
        start = clock()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        taken.append(clock() - start)
    return min(taken)


def _speed(torch: Any, autocast: bool) -> float:
    """GFLOP/s of one thread in a layer forward and backward, weights in float32, as mixed-precision training has it.

    One thread: where others use the machine too, several wait for each other.
    """
    tokens, wide = 256, 576
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        states = torch.ones(tokens, wide, requires_grad=True)
        up, down = (torch.ones(shape, requires_grad=True) for shape in ((4 * wide, wide), (wide, 4 * wide)))

        def layer() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = torch.nn.functional.linear(torch.nn.functional.linear(states, up), down)
            out.float().sum().backward()

        seconds = quickest(layer)
    finally:
        torch.set_num_threads(threads)
    return float(3 * 2 * 2 * tokens * wide * 4 * wide / seconds / 1e9)
