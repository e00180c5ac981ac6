"""Implicit rewards as scores on the goals' scale, from log-likelihoods under a DPO policy and its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Rescale = Literal["rank", "linear"]
"""`rank`: evenly by rank, ties on their mean rank. `linear`: the lowest reward to the scale's lowest, and so on."""


def implicit_reward(policy_logp: Floats, reference_logp: Floats, beta: float) -> Floats:
    """r(x, y) = beta * (log pi(y | x) - log pi_ref(y | x)), in nats times beta.

    The reward that a DPO policy implies (arXiv 2305.18290, equation 5), but for beta * log Z(x), which is the same for
    all responses to a prompt; arXiv 2410.08067 takes it for a score where a preference set has none.
    """
    return beta * (policy_logp - reference_logp)


def rescaled(rewards: Floats, how: Rescale, scale: tuple[float, float]) -> Floats:
    """Rewards moved onto a scale, order and ties kept.

    With low and high the scale's ends and n rewards, `rank` gives low + (high - low) * (rank - 1) / (n - 1), ranks from
    1, tied rewards sharing their mean rank; `linear` gives low + (high - low) * (r - min) / (max - min). Neither
    changes with a factor such as beta. Where all rewards are the same, all are the scale's middle.

    Args:
        rewards: any shape; all of its numbers are rescaled together.
    """
    import numpy as np
    from scipy.stats import rankdata

    low, high = scale
    if rewards.size == 0:
        return rewards.astype(np.float64)
    if np.ptp(rewards) == 0:
        return np.full(rewards.shape, (low + high) / 2)
    if how == "rank":
        share = (rankdata(rewards).reshape(rewards.shape) - 1) / (rewards.size - 1)
    else:
        share = (rewards - rewards.min()) / np.ptp(rewards)
    moved: Floats = np.clip(low + (high - low) * share, low, high)
    return moved
