"""How fast this machine multiplies matrices and copies memory: measured once, and kept in the cache folder.

A CPU is measured with one thread, at its best of many times by that thread's own time, so that what else the machine
does hardly counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from radpo.core.cache import cache_folder
from radpo.core.files import replace_json
from radpo.models.precision import kept_figures, machine_key, quickest

if TYPE_CHECKING:
    import torch

FILE = "speeds.json"
"""In the cache folder: what was measured, by machine."""


@dataclass(frozen=True)
class Speeds:
    """What one thread of this machine's CPU does, or its GPU where it has one.

    Args:
        float32: floating-point operations a second of a matrix product in float32; `bfloat16` likewise.
        bandwidth: bytes a second that are read and written when memory is copied.
    """

    float32: float
    bfloat16: float
    bandwidth: float


def speeds(*, anew: bool = False) -> Speeds:
    """This machine's speeds, measured where the cache folder has none.

    Args:
        anew: measure again, and keep that.
    """
    file, machine = cache_folder() / FILE, machine_key()
    if not anew:
        try:
            kept = kept_figures(file)[machine]
            return Speeds(float(kept["float32"]), float(kept["bfloat16"]), float(kept["bandwidth"]))
        except (KeyError, TypeError, ValueError):
            pass  # not measured, or not as it was written
    found = _measured()
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_json(file, {**kept_figures(file), machine: asdict(found)})
    return found


def product_speed(rows: int, inside: int, columns: int, kind: torch.dtype, device: str = "cpu") -> float:
    """Floating-point operations a second of (rows, inside) by (inside, columns), as a linear layer multiplies them."""
    import torch

    states = torch.randn(rows, inside, device=device).to(kind)
    weight = torch.randn(columns, inside, device=device).to(kind)
    return 2 * rows * inside * columns / quickest(lambda: torch.nn.functional.linear(states, weight))


def _measured() -> Speeds:
    import torch

    device, wide = ("cuda", 4096) if torch.cuda.is_available() else ("cpu", 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        full, half = (product_speed(wide, 4 * wide, wide, kind, device) for kind in (torch.float32, torch.bfloat16))
        source = torch.ones(2**24, device=device)
        target = torch.empty_like(source)
        taken = quickest(lambda: target.copy_(source))
    finally:
        torch.set_num_threads(threads)
    return Speeds(full, half, 2 * source.numel() * source.element_size() / taken)
