"""DPO-Positive (DPOP, arXiv 2402.13228, eq. 3): a chosen response that has lost likelihood is not a success."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo import Variant

if TYPE_CHECKING:
    import torch

PENALTY = 50.0
"""How much a nat that the chosen response has lost counts beside one of the margin, as in the paper's models."""


def positive_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """-log sigmoid(beta * (chosen - rejected - PENALTY * max(0, -chosen))).

    Args:
        chosen: log(pi/pi_ref) of the chosen responses, (pairs,), in nats.
        rejected: the same of the rejected ones.
    """
    from torch.nn.functional import logsigmoid, relu

    return -logsigmoid(beta * (chosen - rejected - PENALTY * relu(-chosen)))


VARIANT = Variant(data="plain", loss=positive_loss)
