"""The theory check: how fast bandits solved on growing samples improve, and what they unlearn.

The theorem of arXiv 2410.08067 bounds the suboptimality of reward-augmented DPO by a multiple of N^(-1/2) in the number
of preference pairs. A bound is kept by anything that falls at least as fast; the bandit says how fast it does fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from radpo.core.progress import Progress, no_progress
from radpo.stats.estimates import Estimate, bootstrap
from radpo.theory.bandit import (
    BEST,
    NEAR_BEST,
    Bandit,
    Labels,
    Task,
    augmented,
    converged,
    plain,
    policy,
    random_bandit,
    sample_wins,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from radpo.stats.estimates import Floats

SIZES = (1_000, 3_162, 10_000, 31_623, 100_000, 316_228)
METHODS = {"dpo": plain, "ra-dpo": augmented}
BOUNDS = {"dpo": 9.0, "ra-dpo": 81.0}
"""The widths of the reward classes: scores lie within 9 of each other, -(g - r)^2 within 81."""
QUANTITIES = ("suboptimality", "score_error")
PROMPTS, RESPONSES = 4, 6
BETAS = (2.0, 1.0, 0.5, 0.25, 0.125)


def rates(
    *,
    sizes: Sequence[int] = SIZES,
    replicates: int = 24,
    beta: float = 1.0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """How far the converged policies are from the best ones, on samples of every size.

    Labels are drawn by the Bradley-Terry model of the reward, as the theorem assumes. Each replicate is a bandit of its
    own, and all its samples are independent.

    Returns:
        A tidy frame: method, replicate, pairs (N; reward-augmented DPO trains on 2N), and, asked for the best score,

        - suboptimality: J(pi*) - J(pi) with J(pi) = E[R] - beta * KL(pi || pi_ref), the objective that DPO optimises,
          in units of the reward. It is exactly beta * KL(pi || pi*).
        - score_error: |E_pi[score] - E_pi*[score]|, in points on the scale 1-10.
    """
    import numpy as np
    import pandas as pd

    rows, done, total = [], 0, replicates * len(sizes) * len(METHODS)
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, replicate])
        bandit = random_bandit(PROMPTS, RESPONSES, rng)
        for pairs in sizes:
            for method, tables in METHODS.items():
                task = tables(bandit)
                wins = sample_wins(bandit, task, pairs, "bradley-terry", rng)
                found = converged(wins, BOUNDS[method])
                rows.append(
                    {"method": method, "replicate": replicate, "pairs": pairs, **gaps(bandit, task, found, beta)}
                )
                done += 1
                progress(done, total)
    return pd.DataFrame(rows)


def gaps(bandit: Bandit, task: Task, implicit_reward: Floats, beta: float) -> dict[str, float]:
    """Exact suboptimality and score error of a policy asked for the best score; see `rates`."""
    import numpy as np

    asked = np.isnan(task.goal) | (task.goal == BEST)
    ours = policy(bandit, task, implicit_reward, beta)[asked]
    best = policy(bandit, task, task.reward, beta)[asked]
    reference, reward = bandit.reference[task.prompt][asked], task.reward[asked]
    weight = bandit.prompts[task.prompt][asked]

    def objective(logp: Floats) -> float:
        return float(weight @ (np.exp(logp) * (reward - beta * (logp - reference))).sum(axis=1))

    def expected_score(logp: Floats) -> float:
        return float(weight @ (np.exp(logp) * bandit.score[task.prompt][asked]).sum(axis=1))

    return {
        "suboptimality": max(objective(best) - objective(ours), 0.0),
        "score_error": abs(expected_score(ours) - expected_score(best)),
    }


def exponent(frame: pd.DataFrame, method: str, quantity: str, *, rng: np.random.Generator) -> Estimate:
    """The a of mean(quantity) = c * N^(-a), least squares on logarithms, with a 95% bootstrap interval over replicates.

    Args:
        frame: as `rates` returns.
        quantity: one of `QUANTITIES`.
    """
    import numpy as np

    table = frame[frame["method"] == method].pivot(index="replicate", columns="pairs", values=quantity)
    log_n = np.log(np.array(table.columns, dtype=float))
    centred = log_n - log_n.mean()
    values = table.to_numpy()

    def slope(weights: Any) -> Floats:
        means = np.log(weights @ values / weights.sum(axis=1, keepdims=True))
        found: Floats = -(means @ centred) / (centred @ centred)
        return found

    return bootstrap(slope, len(values), rng=rng)


def unlearning(
    *,
    labels: Labels,
    pairs: int = 100_000,
    betas: Sequence[float] = BETAS,
    replicates: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """What converged policies did to the near-best response, which scores 9 and loses to the one that scores 10.

    Returns:
        A tidy frame: method, labels, goal (`none` for DPO; `best` and `own` for the conditioned policy), replicate,
        beta, and

        - delta_logp: log pi(y|x,g) - log pi_ref(y|x) of the near-best response, nats, mean over prompts.
        - margin_near, margin_wide: h(10) - h(9), and h(10) - h(the worst): the implicit reward's gap for the nearly
          equal pair and for the widest, in units of the reward.
    """
    import numpy as np
    import pandas as pd

    rows = []
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, replicate])
        bandit = random_bandit(PROMPTS, RESPONSES, rng)
        for method, tables in METHODS.items():
            task = tables(bandit)
            found = converged(sample_wins(bandit, task, pairs, labels, rng), BOUNDS[method])
            goals = {"none": np.isnan(task.goal)} if method == "dpo" else {
                "best": task.goal == BEST, "own": task.goal == NEAR_BEST
            }  # fmt: skip
            rows += [
                {"method": method, "labels": labels, "goal": goal, "replicate": replicate, "beta": beta}
                | near_best(bandit, task, found, beta, asked)
                for goal, asked in goals.items()
                for beta in betas
            ]
    return pd.DataFrame(rows)


def near_best(bandit: Bandit, task: Task, implicit_reward: Floats, beta: float, asked: Any) -> dict[str, float]:
    """The figures of `unlearning` for the tables that `asked` (shape (T,), true or false) picks."""
    import numpy as np

    change = policy(bandit, task, implicit_reward, beta) - bandit.reference[task.prompt]
    score, h = bandit.score[task.prompt][asked], implicit_reward[asked]
    rows = np.arange(len(score))
    best, near, worst = (np.argmax(score == BEST, 1), np.argmax(score == NEAR_BEST, 1), score.argmin(1))
    return {
        "delta_logp": float(change[asked][rows, near].mean()),
        "margin_near": float((h[rows, best] - h[rows, near]).mean()),
        "margin_wide": float((h[rows, best] - h[rows, worst]).mean()),
    }
