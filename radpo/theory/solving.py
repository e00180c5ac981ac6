"""DPO's loss with a quadratic penalty, minimised to a stated gradient, for tables and for log-linear policies.

What is solved for is the implicit reward h = beta * log(pi / pi_ref), which does not depend on beta: policies of every
beta, and so of every distance from the reference, have one solution (Rafailov et al. 2023, eq. 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from radpo.theory.bandit import sigmoid

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.intp]

TOLERANCE = 1e-6
"""The largest entry of the gradient at which a solution is one, in pairs."""
STEPS = 100


def tables(wins: Floats, penalties: Sequence[float]) -> list[Floats]:
    """The h of every table that minimises the sum over its pairs of -log sigmoid(h_w - h_l) + penalty / 2 * |h|^2.

    Args:
        wins: shape (T, Y, Y), how often each response was preferred to each other; need not be whole.
        penalties: above 0. Their solutions are found in turn, each from the one before.

    Returns:
        A solution a penalty, shape (T, Y). Responses that are in no pair are at 0.

    Raises:
        ArithmeticError: the gradient was not reached.
    """
    import numpy as np

    tables, responses, _ = wins.shape
    identity = np.eye(responses)
    h = np.zeros((tables, responses))
    found = []
    for penalty in penalties:

        def loss(h: Floats, penalty: float = penalty) -> Floats:
            gap = h[:, :, None] - h[:, None, :]
            total: Floats = (wins * np.logaddexp(0.0, -gap)).sum(axis=(1, 2)) + penalty / 2 * (h**2).sum(axis=1)
            return total

        def slope(h: Floats, penalty: float = penalty) -> tuple[Floats, Floats]:
            chance = sigmoid(h[:, None, :] - h[:, :, None])  # that the row's response loses
            lost = wins * chance
            gradient = lost.sum(axis=1) - lost.sum(axis=2) + penalty * h
            weight = (wins + np.swapaxes(wins, 1, 2)) * chance * (1 - chance)
            hessian = weight.sum(axis=2)[:, :, None] * identity - weight + penalty * identity
            return gradient, hessian

        h = _newton(h, loss, slope)
        found.append(h)
    return found


def loglinear(differences: Floats, goals: Ints, basis: Floats, penalties: Sequence[float]) -> list[Floats]:
    """The theta of h(x, y, g) = features(x, y) @ theta @ basis[g] that minimises DPO's loss and a penalty.

    The sum over pairs of -log sigmoid(h_w - h_l), and penalty / 2 * |theta|^2.

    Args:
        differences: shape (N, P), the chosen response's features minus the rejected one's.
        goals: shape (N,), the row of `basis` that each pair was asked for.
        basis: shape (G, Q); a single row of a single 1 for policies without goals.
        penalties: as `tables`.

    Returns:
        A solution a penalty, shape (P, Q).

    Raises:
        ArithmeticError: the gradient was not reached.
    """
    import numpy as np

    features, size = differences.shape[1], basis.shape[1]
    order = np.argsort(goals, kind="stable")
    ends = np.searchsorted(goals[order], np.arange(len(basis) + 1))
    groups = [
        (differences[order[start:end]], row)
        for start, end, row in zip(ends[:-1], ends[1:], basis, strict=True)
        if end > start
    ]
    theta = np.zeros((1, features * size))
    found = []
    for penalty in penalties:

        def loss(theta: Floats, penalty: float = penalty) -> Floats:
            shaped = theta.reshape(features, size)
            total = sum(float(np.logaddexp(0.0, -(rows @ (shaped @ row))).sum()) for rows, row in groups)
            return np.array([total + penalty / 2 * float((theta**2).sum())])

        def slope(theta: Floats, penalty: float = penalty) -> tuple[Floats, Floats]:
            shaped = theta.reshape(features, size)
            gradient = penalty * shaped
            hessian = penalty * np.eye(features * size).reshape(features, size, features, size)
            for rows, row in groups:
                lost = sigmoid(-(rows @ (shaped @ row)))
                gradient -= np.outer(lost @ rows, row)
                curved = (rows * (lost * (1 - lost))[:, None]).T @ rows
                hessian += curved[:, None, :, None] * np.outer(row, row)[None, :, None, :]
            return gradient.reshape(1, -1), hessian.reshape(1, features * size, -1)

        theta = _newton(theta, loss, slope)
        found.append(theta.reshape(features, size))
    return found


def _newton(
    start: Floats, loss: Callable[[Floats], Floats], slope: Callable[[Floats], tuple[Floats, Floats]]
) -> Floats:
    """Rows of independent convex problems, (T, P), stepped until all are solved.

    A step that does not lower its row's loss enough is halved.
    """
    import numpy as np

    x, now = start, loss(start)
    for _ in range(STEPS):
        gradient, hessian = slope(x)
        if np.abs(gradient).max() <= TOLERANCE:
            return x
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        fall, size = (gradient * step).sum(axis=1), np.ones(len(x))
        for _ in range(40):
            new = loss(x - size[:, None] * step)
            # Close to the optimum the loss has no digits left to fall by.
            short = new > now - 0.25 * size * fall + 1e-12 * np.abs(now)
            if not short.any():
                break
            size = np.where(short, size / 2, size)
        x, now = x - size[:, None] * step, new
    raise ArithmeticError(f"DPO's loss did not converge: gradient {np.abs(slope(x)[0]).max():.2g}")
