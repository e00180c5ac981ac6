"""Two alignment variants: one has training pairs of its own, the other a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo import Variant
from radpo.preferences.goals import Placement
from radpo.preferences.relabel import relabel

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


def wide_gap(scored: pa.Table, placement: Placement) -> pa.Table:
    """Plain DPO's training pairs, of those scored pairs whose scores are at least two apart."""
    return relabel(scored, "plain", placement=placement, min_gap=2.0).table


def cautious_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """DPO's loss, and a penalty where the chosen response itself has lost likelihood (as DPOP, arXiv 2402.13228).

    Args:
        chosen: log(pi/pi_ref) of the chosen responses, (pairs,), in nats.
        rejected: the same of the rejected ones.

    Returns:
        Every pair's loss, (pairs,).
    """
    from torch.nn.functional import logsigmoid, relu

    return -logsigmoid(beta * (chosen - rejected - relu(-chosen)))


WIDE_GAP = Variant(data=wide_gap)
CAUTIOUS = Variant(data="ra", conditioned=True, loss=cautious_loss)
