"""DPO with an offset (ODPO, arXiv 2402.10571): the margin to be reached grows with the gap in score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo import Variant

if TYPE_CHECKING:
    import torch

ALPHA = 1.0
"""How much of the logarithm of the gap is the offset."""


def offset_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, *, gap: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(beta * (chosen - rejected) - ALPHA * log(gap)), the paper's offset.

    Args:
        chosen: log(pi/pi_ref) of the chosen responses, (pairs,), in nats.
        rejected: the same of the rejected ones.
        gap: score_chosen - score_rejected, (pairs,), above 0.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected) - ALPHA * gap.log())


VARIANT = Variant(data="plain", loss=offset_loss)
