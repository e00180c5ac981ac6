"""Worlds with raters: responses with attributes, their true quality, and noisy raters who score pairs of them.

Plain and reward-augmented DPO are trained on the same rated pairs, and what either converges to with unlimited data is
known in closed form (`population`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.intp]

Shape = Literal["more is better", "optimum in the middle", "trade-off"]
Gaps = Literal["near ties", "uniform", "wide"]
Location = Literal["all high", "spread", "all low"]

RANGES: dict[Location, tuple[float, float]] = {"all high": (7.0, 10.0), "spread": (1.0, 10.0), "all low": (1.0, 4.0)}
"""The true scores of the worst and of the best response there can be."""
GOALS = tuple(range(1, 11))
"""What a rater can give, and a policy be asked for: whole scores."""
ATTRIBUTES = 5
"""The first one or two make the quality; the others are nothing to it."""
EDGE = 3**0.5
"""Attributes are uniform within +-EDGE, so that their variance is 1."""
OFFERED = 5
"""Near ties are the closest of so many pairs that are drawn, wide ones the farthest; uniform, any."""


@dataclass(frozen=True)
class World:
    """What quality is, how a rater sees it, and which pairs are rated.

    Args:
        shape: how attributes make quality. More is better: the first attribute; scores are uniform. An optimum in the
            middle: falls with the square of the first; most scores are near the best. Trade-off: the mean of the first
            two, which a response seldom has both of; most scores are in the middle.
        location: where true scores lie (`RANGES`).
        gaps: which pairs are rated (`OFFERED`), by their true scores.
        noise: standard deviation of a rating about the true score, in points, before it is rounded to `GOALS`.
    """

    shape: Shape
    location: Location
    gaps: Gaps
    noise: float


@dataclass(frozen=True)
class Rated:
    """Rated pairs, each of two of what was offered.

    Args:
        chosen, rejected: what stands for the responses: attributes, (N, ATTRIBUTES), or places among all, (N,).
        rating_chosen, rating_rejected: (N,), the former the higher one.
    """

    chosen: Any
    rejected: Any
    rating_chosen: Ints
    rating_rejected: Ints


def draw_attributes(world: World, size: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Responses as the reference gives them: shape (*size, ATTRIBUTES)."""
    import numpy as np

    drawn = rng.uniform(-EDGE, EDGE, (*size, ATTRIBUTES))
    if world.shape == "trade-off":
        drawn[..., 1] = -0.8 * drawn[..., 0] + 0.6 * drawn[..., 1]
    found: Floats = np.asarray(drawn)
    return found


def true_score(world: World, attributes: Floats) -> Floats:
    """In points, within the world's range: shape (...) for attributes of shape (..., ATTRIBUTES)."""
    first = attributes[..., 0] / EDGE
    if world.shape == "more is better":
        quality = (1 + first) / 2
    elif world.shape == "optimum in the middle":
        quality = 1 - first**2
    else:
        quality = (1 + (first + attributes[..., 1] / EDGE) / 0.8) / 2
    low, high = RANGES[world.location]
    score: Floats = low + (high - low) * quality
    return score


def best_attributes(world: World) -> Floats:
    """A response with the best true score there can be."""
    import numpy as np

    first = 0.0 if world.shape == "optimum in the middle" else EDGE
    second = -0.2 * EDGE if world.shape == "trade-off" else 0.0
    return np.array([first, second, 0.0, 0.0, 0.0])


def features(attributes: Floats) -> Floats:
    """What a log-linear policy sees of a response: its attributes, the squares of the first two, and their product."""
    import numpy as np

    one, two = attributes[..., 0], attributes[..., 1]
    return np.concatenate([attributes, np.stack([one**2 - 1, two**2 - 1, one * two], axis=-1)], axis=-1)


def goal_basis() -> Floats:
    """How a log-linear policy follows its goal: a constant, the goal and its square, on -1 to 1. Shape (10, 3)."""
    import numpy as np

    at = (np.array(GOALS) - 5.5) / 4.5
    return np.stack([np.ones_like(at), at, at**2], axis=1)


def rate(scores: Floats, noise: float, rng: np.random.Generator) -> Ints:
    """Ratings of true scores: normal noise is added, then the nearest of `GOALS` is given."""
    import numpy as np

    found: Ints = np.clip(np.rint(scores + noise * rng.normal(size=scores.shape)), GOALS[0], GOALS[-1]).astype(np.intp)
    return found


def rating_chances(scores: Floats, noise: float) -> Floats:
    """p(rating = g | true score), shape (*scores.shape, 10), for noise above 0."""
    import numpy as np
    from scipy.special import ndtr

    edges = np.array(GOALS[:-1]) + 0.5
    below = ndtr((edges - scores[..., None]) / noise)
    above = ndtr((scores[..., None] - edges) / noise)  # 1 - below, with its digits where it is small
    inner = np.where(edges[:-1] > scores[..., None], above[..., :-1] - above[..., 1:], below[..., 1:] - below[..., :-1])
    return np.concatenate([below[..., :1], inner, above[..., -1:]], axis=-1)


def rated_attributes(world: World, pairs: int, rng: np.random.Generator) -> Rated:
    """Rated pairs of prompts that each come up once, responses by their attributes."""

    def offer(size: int, offered: int) -> tuple[Any, Floats]:
        drawn = draw_attributes(world, (size, offered, 2), rng)
        return drawn, true_score(world, drawn)

    return _rated(world, pairs, offer, rng)


def rated_places(world: World, scores: Floats, reference: Floats, pairs: int, rng: np.random.Generator) -> Rated:
    """Rated pairs of a few prompts that come up alike, responses by their place in the flattened scores.

    Args:
        scores, reference: shape (X, Y), true scores and log pi_ref.
    """
    import numpy as np

    prompts, responses = scores.shape

    def offer(size: int, offered: int) -> tuple[Any, Floats]:
        x = rng.integers(0, prompts, size)
        # The two largest log-probabilities with Gumbel noise are two different responses, drawn one after the other.
        race = reference[x][:, None, :] + rng.gumbel(size=(size, offered, responses))
        two = np.argpartition(-race, 1, axis=2)[:, :, :2]
        places = x[:, None, None] * responses + two
        return places, scores.ravel()[places]

    return _rated(world, pairs, offer, rng)


def _rated(
    world: World, pairs: int, offer: Callable[[int, int], tuple[Any, Floats]], rng: np.random.Generator
) -> Rated:
    """Pairs of the world's gap, rated; pairs that the rater ties are left out until there are enough others.

    Args:
        offer: draws for (size, offered): pairs, (size, offered, 2, ...), and their true scores, (size, offered, 2).
    """
    import numpy as np

    kept: list[Rated] = []
    missing = pairs
    while missing > 0:
        size = 2 * missing + 64
        drawn, true = offer(size, 1 if world.gaps == "uniform" else OFFERED)
        gap, rows = np.abs(true[:, :, 0] - true[:, :, 1]), np.arange(size)
        taken = gap.argmax(axis=1) if world.gaps == "wide" else gap.argmin(axis=1)
        drawn, ratings = drawn[rows, taken], rate(true[rows, taken], world.noise, rng)
        first = ratings.argmax(axis=1)
        differ = np.flatnonzero(ratings[:, 0] != ratings[:, 1])[:missing]
        sides = ((differ, first[differ]), (differ, 1 - first[differ]))
        kept.append(Rated(*(drawn[side] for side in sides), *(ratings[side] for side in sides)))
        missing -= len(differ)
    names = ("chosen", "rejected", "rating_chosen", "rating_rejected")
    return Rated(*(np.concatenate([getattr(part, name) for part in kept]) for name in names))


def population(world: World, scores: Floats) -> tuple[Floats, Floats]:
    """What the two methods' implicit rewards are with unlimited pairs of such ratings, each up to a constant.

    Reward-augmented DPO prefers, asked for g, the response that was rated g, and a pair of two g's is a tie and left
    out. So y is preferred to y' with odds p(g|y) (1 - p(g|y')) / (p(g|y') (1 - p(g|y))): a Bradley-Terry model,
    whatever the rater, whose reward is logit p(g | x, y). Plain DPO's is the Bradley-Terry fit of p(y rated above y').

    With exact scores neither is finite; there the paper's own assumption stands in, labels by Bradley-Terry of the
    rewards r and -(g - r)^2 (arXiv 2410.08067, section 4).

    Args:
        scores: shape (X, Y), true scores; DPO's pairs are of two responses to one prompt, all being as likely.

    Returns:
        DPO's h, shape (X, Y), and reward-augmented DPO's for each of `GOALS`, shape (10, X, Y).
    """
    import numpy as np

    from radpo.theory.solving import tables

    if world.noise == 0:
        return scores, np.stack([-((goal - scores) ** 2) for goal in GOALS])
    chances = rating_chances(scores, world.noise)
    floor = np.finfo(np.float64).tiny
    others = np.clip(chances.sum(axis=-1, keepdims=True) - chances, floor, None)
    logit = np.log(np.clip(chances, floor, None)) - np.log(others)
    below = np.cumsum(chances, axis=-1) - chances
    wins = np.einsum("xyg,xzg->xyz", chances, below)
    wins[:, np.arange(wins.shape[1]), np.arange(wins.shape[1])] = 0.0
    return tables(wins, [1e-6])[0], np.moveaxis(logit, -1, 0)
