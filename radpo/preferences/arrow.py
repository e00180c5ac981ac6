"""Arrow columns put together and taken from, with memory from the system's own allocator.

Arrow's default allocator keeps what was freed, and asks for huge pages, which cost more to get than columns of text
cost to copy: measured over tables of training pairs, it takes thrice the system time, and more memory at the peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def concatenated(arrays: Sequence[pa.Array]) -> pa.Array:
    """Arrays of one type, one after the other."""
    return pa.concat_arrays(arrays, memory_pool=pa.system_memory_pool())


def taken(array: pa.Array, places: npt.NDArray[Any]) -> pa.Array:
    """The values at some places, in their order."""
    return pc.take(array, pa.array(np.ascontiguousarray(places)), memory_pool=pa.system_memory_pool())
