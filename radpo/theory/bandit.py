"""A tabular bandit in which DPO is solved exactly: prompts x responses with known scores; policies are tables.

Scored pairs are drawn, plain or reward-augmented; the converged policy, and exact expectations under it, come out.
What is a statement about large models elsewhere can here be computed to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Labels = Literal["bradley-terry", "scores"]
"""Who is preferred: drawn by the Bradley-Terry model of the reward, as theory assumes, or whoever scores better."""

BEST, NEAR_BEST = 10.0, 9.0


@dataclass(frozen=True)
class Bandit:
    """Prompts, responses, and the reference policy that pairs are drawn from.

    Args:
        score: shape (X, Y), every response's score.
        reference: shape (X, Y), log pi_ref(y | x).
        prompts: shape (X,), how often each prompt comes up; sums to 1.
    """

    score: Floats
    reference: Floats
    prompts: Floats


@dataclass(frozen=True)
class Task:
    """What one table of a policy is asked: a prompt, plain or with a goal.

    Args:
        prompt: shape (T,), which prompt of the bandit.
        goal: shape (T,), the score asked for; NaN where none is.
        reward: shape (T, Y): the score itself, or R(x, y, g) = -(g - r(x, y))^2.
    """

    prompt: npt.NDArray[np.intp]
    goal: Floats
    reward: Floats


def random_bandit(prompts: int, responses: int, rng: np.random.Generator) -> Bandit:
    """A bandit whose prompts each have one response that scores 10, one that scores 9 (near-best), and others from 1-8.

    No score comes twice for a prompt. The reference favours no score.
    """
    import numpy as np

    rest = [rng.choice(np.arange(1.0, 9.0), responses - 2, replace=False) for _ in range(prompts)]
    score = np.stack([np.concatenate([[BEST, NEAR_BEST], others]) for others in rest])
    logits = rng.normal(0.0, 0.5, (prompts, responses))
    return Bandit(score, log_softmax(logits), np.full(prompts, 1 / prompts))


def plain(bandit: Bandit) -> Task:
    """DPO: one table a prompt, whose reward is the score."""
    import numpy as np

    prompts = len(bandit.prompts)
    return Task(np.arange(prompts), np.full(prompts, np.nan), bandit.score)


def augmented(bandit: Bandit) -> Task:
    """Reward-augmented DPO: one table for each prompt and goal that relabeling can give it, its responses' scores."""
    import numpy as np

    rows = [(x, goal) for x, scores in enumerate(bandit.score) for goal in np.unique(scores)]
    prompt = np.array([x for x, _ in rows])
    goal = np.array([g for _, g in rows])
    return Task(prompt, goal, -((goal[:, None] - bandit.score[prompt]) ** 2))


def sample_wins(bandit: Bandit, task: Task, pairs: int, labels: Labels, rng: np.random.Generator) -> Floats:
    """How often each response was preferred to each other in `pairs` scored pairs, by table: shape (T, Y, Y).

    A prompt is drawn, then two different responses from the reference. A plain pair counts once. A reward-augmented one
    counts twice (2N from N): in the table of the one's score as goal and in that of the other's, with
    R(x, y, g) = -(g - r)^2 for reward (arXiv 2410.08067, section 4).
    """
    import numpy as np

    prompts, responses = bandit.score.shape
    chance = np.exp(bandit.reference)
    both = chance[:, :, None] * chance[:, None, :] * np.triu(np.ones((responses, responses)), 1)
    both *= (bandit.prompts / both.sum(axis=(1, 2)))[:, None, None]
    drawn = rng.multinomial(pairs, both.ravel() / both.sum()).reshape(prompts, responses, responses)
    counts = drawn[task.prompt]
    asked = ~np.isnan(task.goal)
    fits = task.goal[:, None] == bandit.score[task.prompt]
    counts = np.where(asked[:, None, None] & ~(fits[:, :, None] | fits[:, None, :]), 0, counts)
    gap = task.reward[:, :, None] - task.reward[:, None, :]
    first: Any = np.where(gap > 0, counts, 0) if labels == "scores" else rng.binomial(counts, sigmoid(gap))
    wins: Floats = (first + np.swapaxes(counts - first, 1, 2)).astype(np.float64)
    return wins


def converged(wins: Floats, bound: float) -> Floats:
    """The implicit rewards h = beta * log(pi / pi_ref) (up to a constant a table) that minimise DPO's loss: (T, Y).

    Sum over pairs of -log sigmoid(h_w - h_l) (Rafailov et al. 2023, eq. 7) over the class 0 <= h <= bound, which the
    theory's bounded rewards are and without which a response that never loses has no finite optimum. The loss is
    convex, so what L-BFGS-B converges to is the optimum. A response in no pair stays at bound / 2.

    Raises:
        ArithmeticError: the optimiser did not converge.
    """
    import numpy as np
    from scipy.optimize import minimize

    tables, responses, _ = wins.shape
    # Tables share nothing, so each may have its own scale: the optimum stays and the problem is better conditioned.
    shares = wins / np.maximum(wins.sum(axis=(1, 2), keepdims=True), 1.0)

    def loss(flat: Floats) -> tuple[float, Floats]:
        h = flat.reshape(tables, responses)
        gap = h[:, :, None] - h[:, None, :]
        lost = shares * sigmoid(-gap)
        return float((shares * np.logaddexp(0.0, -gap)).sum()), (lost.sum(axis=1) - lost.sum(axis=2)).ravel()

    found = minimize(
        loss,
        np.full(tables * responses, bound / 2),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, bound)] * (tables * responses),
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30},
    )
    if not found.success:
        raise ArithmeticError(f"DPO's loss did not converge: {found.message}")
    solution: Floats = found.x.reshape(tables, responses)
    return solution


def policy(bandit: Bandit, task: Task, implicit_reward: Floats, beta: float) -> Floats:
    """log pi(y | x, g) of pi proportional to pi_ref * exp(h / beta): shape (T, Y)."""
    return log_softmax(bandit.reference[task.prompt] + implicit_reward / beta)


def log_softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    from scipy.special import logsumexp

    normalised: Floats = logits - logsumexp(logits, axis=-1, keepdims=True)
    return normalised


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    from scipy.special import expit

    values: Floats = expit(x)
    return values
