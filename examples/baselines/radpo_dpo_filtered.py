"""DPO on the pairs whose scores are clearly apart: near ties, which noise turns round, are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo import Variant
from radpo.preferences.goals import Placement, Scale
from radpo.preferences.relabel import relabel

if TYPE_CHECKING:
    import pyarrow as pa

APART = 2 / 9
"""The smallest gap, as a share of the scale: two points on 1-10."""


def clear_pairs(scored: pa.Table, placement: Placement, *, scale: Scale) -> pa.Table:
    """Plain DPO's training pairs, of those scored pairs whose gap is at least `APART` of the scale."""
    return relabel(scored, "plain", placement=placement, min_gap=APART * (scale[1] - scale[0])).table


VARIANT = Variant(data=clear_pairs)
