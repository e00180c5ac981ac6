"""What a policy of known implicit rewards does to its score, to good rejected responses, and as it moves further away.

All expectations are exact: sums over the responses that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from radpo.theory.bandit import log_softmax

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

REACH = 1e3
"""A tilt of so many standard deviations of h is as good as greedy."""


@dataclass(frozen=True)
class Prompts:
    """Prompts that policies are measured on, all being as likely.

    Args:
        score: shape (X, Y), true scores.
        reference: shape (X, Y), log pi_ref.
    """

    score: Floats
    reference: Floats

    @cached_property
    def rejected(self) -> Floats:
        """How often each response is the rejected one of two draws and yet better than the mean: shape (X, Y).

        Both responses are drawn from the reference, whose mean score it is; the worse is rejected. They sum to 1.
        """
        import numpy as np

        chance = np.exp(self.reference)
        average = float((chance * self.score).sum(axis=1).mean())
        beaten = (self.score[:, None, :] > self.score[:, :, None]) @ chance[:, :, None]
        weight = chance * beaten[:, :, 0] * (self.score > average)
        found: Floats = weight / weight.sum()
        return found

    def policy(self, h: Floats, tilts: Floats) -> Floats:
        """log pi of pi proportional to pi_ref * exp(tilt * h), tilt being 1 / beta: shape (K, X, Y)."""
        return log_softmax(self.reference + tilts[:, None, None] * h)

    def frontier(self, h: Floats, tilts: Floats) -> tuple[Floats, Floats]:
        """KL(pi || pi_ref) in nats and the expected true score, means over prompts: shape (K,) each."""
        import numpy as np

        moved = tilts[:, None, None] * h
        logits = self.reference + moved
        top = logits.max(axis=2, keepdims=True)
        chance = np.exp(logits - top)
        total = chance.sum(axis=2)
        chance /= total[:, :, None]
        # log pi - log pi_ref is tilt * h minus the logarithm of what that sums to under the reference.
        divergence = (chance * moved).sum(axis=2) - (np.log(total) + top[:, :, 0])
        return divergence.mean(axis=1), (chance * self.score).sum(axis=2).mean(axis=1)

    def tilts(self, h: Floats, count: int = 21) -> Floats:
        """Tilts from next to nothing to `REACH`, evenly spaced in their logarithm: shape (count,)."""
        import numpy as np

        spread = float(h.std(axis=1).mean())
        found: Floats = np.geomspace(0.03, REACH, count) / (spread if spread > 0 else 1.0)
        return found

    def tilts_at(self, h: Floats, divergences: Sequence[float]) -> Floats:
        """The tilts whose policies are so far from the reference, to 1e-5 nats; the largest where none is as far: (K,).

        KL grows with the tilt, so each lies between two of `tilts`.
        """
        import numpy as np

        wanted, grid = np.array(divergences), self.tilts(h)
        there = self.frontier(h, grid)[0]
        found = np.full(len(wanted), grid[-1])
        reached = np.flatnonzero((there[-1] >= wanted) & (there[0] < wanted))
        place = np.searchsorted(there, wanted[reached])
        low, high = np.log(grid[place - 1]), np.log(grid[place])
        below, above = there[place - 1] - wanted[reached], there[place] - wanted[reached]
        for _ in range(60):  # regula falsi in its Illinois form: where an end stays, its distance counts half
            middle = low - below * (high - low) / (above - below)
            off = self.frontier(h, np.exp(middle))[0] - wanted[reached]
            found[reached] = np.exp(middle)
            if (np.abs(off) < 1e-5).all():
                break
            crossed = off * above < 0
            low, below = np.where(crossed, high, low), np.where(crossed, above, below / 2)
            high, above = middle, off
        return found


def change_of_rejected(prompts: Prompts, h: Floats, tilt: float) -> float:
    """The mean change of log p of rejected responses that are better than average, in nats."""
    import numpy as np

    change = prompts.policy(h, np.array([tilt]))[0] - prompts.reference
    return float((prompts.rejected * change).sum())


def own_goal(prompts: Prompts, by_goal: Floats, goals: Sequence[int]) -> Floats:
    """Which of the goals is nearest to each response's true score, as one-hot weights: shape (G, X, Y)."""
    import numpy as np

    nearest = np.abs(prompts.score[None] - np.array(goals)[:, None, None]).argmin(axis=0)
    found: Floats = (np.arange(len(by_goal))[:, None, None] == nearest).astype(np.float64)
    return found


def change_of_rejected_own(prompts: Prompts, by_goal: Floats, goals: Sequence[int], tilt: float) -> float:
    """As `change_of_rejected`, each response asked for by the goal nearest to its own true score.

    Args:
        by_goal: shape (G, X, Y), the implicit rewards under each goal.
    """
    change = log_softmax(prompts.reference + tilt * by_goal) - prompts.reference
    return float((prompts.rejected * own_goal(prompts, by_goal, goals) * change).sum())
