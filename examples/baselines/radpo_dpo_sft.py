"""DPO with the log-likelihood of the chosen response per token beside it (RPO, arXiv 2404.19733, eq. 1).

TRL has the same as the losses `sigmoid` and `sft` together, except that it divides by the tokens of a batch and not of
each response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo import Variant

if TYPE_CHECKING:
    import torch

ALPHA = 1.0
"""The weight of the second term, as in the paper."""


def sft_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, *, chosen_tokens: torch.Tensor) -> torch.Tensor:
    """DPO's loss, and -ALPHA * log(pi) of the chosen response per token.

    log(pi/pi_ref) stands for log(pi): the reference's part is a constant, which moves the loss and not its gradient.

    Args:
        chosen: log(pi/pi_ref) of the chosen responses, (pairs,), in nats.
        rejected: the same of the rejected ones.
        chosen_tokens: of the chosen responses, (pairs,).
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected)) - ALPHA * chosen / chosen_tokens.clamp(min=1)


VARIANT = Variant(data="plain", loss=sft_loss)
