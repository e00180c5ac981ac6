"""Pairing: which pairs to make of the scored responses to one prompt."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

Rule = Literal["best-random", "best-other", "best-worst", "adjacent", "all"]
"""Which responses to pair, the first the chosen one.

`best-random`: the best against a random worse one (arXiv 2410.08067's on-policy data). `best-other`: the best against a
random other, which may score the same (how UltraFeedback was binarized). `best-worst`: the best against the worst.
`adjacent`: each against the next in order of score. `all`: each against every one that scores lower.
"""
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class ScoredResponse:
    """A response, its score, and its scores by attribute (None where an attribute was not rated)."""

    text: str
    score: float
    attributes: Mapping[str, float | None] = field(default_factory=dict)


def pair_up(responses: Sequence[ScoredResponse], rule: Rule, rng: random.Random) -> list[tuple[int, int]]:
    """The pairs that a rule makes of one prompt's responses, as (chosen, rejected) places in `responses`.

    Ties are broken at random. Responses with the same text are never paired, nor are, but by `best-other`, responses
    with the same score.
    """
    shuffled = rng.sample(range(len(responses)), len(responses))
    order = sorted(shuffled, key=lambda place: -responses[place].score)

    def differ(chosen: int, rejected: int) -> bool:
        tied = responses[chosen].score == responses[rejected].score
        return responses[chosen].text != responses[rejected].text and (rule == "best-other" or not tied)

    if rule == "adjacent":
        return [pair for pair in pairwise(order) if differ(*pair)]
    if rule == "all":
        return [(a, b) for rank, a in enumerate(order) for b in order[rank + 1 :] if differ(a, b)]
    others = [place for place in order[1:] if differ(order[0], place)]
    if not others:
        return []
    return [(order[0], others[-1] if rule == "best-worst" else rng.choice(others))]
