"""The win rate that a model would have were both answers equally long, from comparisons of any instructions.

The model is a logistic regression of the preference on the difference in length, the form in which AlpacaEval's
length-controlled win rate takes it (Dubois et al. 2024, arXiv 2404.04475, eq. 2: tanh of the standardised difference),
without instruction difficulties: logit P(win) = a + b * tanh(d / s). The rate at equal length is 1 / (1 + exp(-a)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.stats.estimates import Estimate, bootstrap, finite

if TYPE_CHECKING:
    from radpo.stats.estimates import Floats, Values

FEWEST = 20
"""Fewer comparisons than this do not tell length from merit."""
_SLOPE_SD = 2.5
"""The slope's normal prior (Gelman et al. 2008, Annals of Applied Statistics 2:1360), which keeps it finite in draws
that length alone separates; the intercept, from which the rate comes, has none."""
_STEPS = 30
_FARTHEST = 12.0
"""Of the intercept on the logit scale: a draw in which one side always won stays there, at a rate of 0 or 1."""


def rate_at_equal_length(
    wins: Values, length_difference: Values, *, resamples: int = 2_000, rng: Any, confidence: float = 0.95
) -> Estimate:
    """The share of wins at equal length, with its bootstrap interval over instructions.

    Args:
        wins: shape (n,), from 0 (the other answer is preferred) to 1; a draw is 0.5, and any share between will do.
        length_difference: shape (n,), the model's answer's length minus the other's.

    Returns:
        The share (0 to 1), its standard error and interval.

    Raises:
        DataError: the comparisons do not tell: they are too few, all of one outcome, all of one difference in length,
            of answers that are never nearly equal in length on either side, or separated by length.
    """
    import numpy as np

    y, lengths = finite(wins), finite(length_difference)
    if len(y) < FEWEST:
        raise DataError(f"{len(y)} comparisons are too few to separate length from quality; the least is {FEWEST}")
    if y.min() == y.max():
        raise DataError("all comparisons came out alike")
    if lengths.min() == lengths.max():
        raise DataError("all answers differ by the same length")
    if lengths.min() > 0 or lengths.max() < 0:
        which = "longer" if lengths.min() > 0 else "shorter"
        raise DataError(f"every answer of the model is the {which} one, so that equal lengths were not seen")
    won, lost = lengths[y > 0.5], lengths[y < 0.5]
    if len(won) and len(lost) and (won.min() > lost.max() or won.max() < lost.min()):
        raise DataError("length alone separates every win from every loss, so quality cannot be separated from it")
    x = np.tanh(lengths / lengths.std())

    def statistic(weights: Floats) -> Floats:
        return _rates(weights, x, y)

    return bootstrap(statistic, len(y), resamples=resamples, rng=rng, confidence=confidence)


def _rates(weights: Floats, x: Floats, y: Floats) -> Floats:
    """The fitted share at x = 0 under every row of weights: Newton's method for all rows at once."""
    import numpy as np

    rows = len(weights)
    a, b = np.zeros(rows), np.zeros(rows)
    for _ in range(_STEPS):
        with np.errstate(over="ignore"):
            p = 1 / (1 + np.exp(-(a[:, None] + b[:, None] * x)))
        rest, curve = weights * (y - p), weights * p * (1 - p)
        slope_a, slope_b = rest.sum(axis=1), rest @ x - b / _SLOPE_SD**2
        aa, ab, bb = curve.sum(axis=1) + 1e-9, curve @ x, curve @ x**2 + 1 / _SLOPE_SD**2
        det = aa * bb - ab**2
        step_a, step_b = (bb * slope_a - ab * slope_b) / det, (aa * slope_b - ab * slope_a) / det
        # No farther than a few logits at a time, so that a start far from the solution does not overshoot.
        size = np.maximum(np.maximum(np.abs(step_a), np.abs(step_b)) / 3.0, 1.0)
        a = np.clip(a + step_a / size, -_FARTHEST, _FARTHEST)
        b = b + step_b / size
        if max(np.abs(step_a / size).max(), np.abs(step_b / size).max()) < 1e-9:
            break
    found: Floats = 1 / (1 + np.exp(-a))
    return found
