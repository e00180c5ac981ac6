"""DPO in which a pair counts by how far its scores are apart, so that near ties are hardly pushed apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo import Variant

if TYPE_CHECKING:
    import torch

USUAL_GAP = 3.0
"""Points between two scores that are uniform on 1-10, on the mean: a pair so far apart counts as it does for DPO."""


def weighted_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, *, gap: torch.Tensor) -> torch.Tensor:
    """gap / USUAL_GAP times DPO's loss.

    Args:
        chosen: log(pi/pi_ref) of the chosen responses, (pairs,), in nats.
        rejected: the same of the rejected ones.
        gap: score_chosen - score_rejected, (pairs,).
    """
    from torch.nn.functional import logsigmoid

    return -(gap / USUAL_GAP) * logsigmoid(beta * (chosen - rejected))


VARIANT = Variant(data="plain", loss=weighted_loss)
