"""What is drawn anew from run to run: models, training pairs, their order, samples; each a random factor of its own."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from radpo.benchmarks.settings import Section
from radpo.core.results import FACTORS

Level = Annotated[int, Field(ge=0, lt=2**32)]
PLACE = "{seed}"
"""Stands in a model's name where the level of the factor `model` goes."""


class Levels(NamedTuple):
    """What one run is made with: a level of each factor; None for the model and the pairs as the matrix names them."""

    model: int | None
    data: int | None
    order: int
    sampling: int


class Draws(Section):
    """The levels of each random factor. Runs are numbered from 0, as the seeds of results are."""

    model: tuple[Level, ...] = Field(
        (),
        description="Models that were made alike, such as from other initial weights: numbers for {seed} in `model`.",
    )
    data: tuple[Level, ...] = Field(
        (),
        description="Draws of the training pairs, from 0: `data.train.limit` each, by a hash of the prompt, no pair "
        "in two of them.",
    )
    order: tuple[Level, ...] = Field(
        (0,),
        min_length=1,
        description="Seeds of training: the order of the pairs, dropout, an adapter's initial weights.",
    )
    sampling: tuple[Level, ...] = Field((0,), min_length=1, description="Seeds of what is sampled of a checkpoint.")
    design: Literal["crossed", "together"] = Field(
        "crossed",
        description="A run for every combination of levels, which tells the factors' variances apart; or together: the "
        "first levels of all, then the second ..., which takes the fewest runs for an interval over all of them.",
    )

    @property
    def runs(self) -> tuple[Levels, ...]:
        """The levels of each run, by its number."""
        lists = [getattr(self, factor) or (None,) for factor in FACTORS]
        if self.design == "crossed":
            return tuple(Levels(*levels) for levels in itertools.product(*lists))
        count = max(map(len, lists))
        return tuple(Levels(*levels) for levels in zip(*(each * (count // len(each)) for each in lists), strict=True))

    @model_validator(mode="after")
    def _levels_differ(self) -> Draws:
        sizes = {}
        for factor in FACTORS:
            levels = getattr(self, factor)
            if len(set(levels)) < len(levels):
                raise ValueError(f"{factor}: a level is named twice")
            sizes[factor] = len(levels)
        several = {factor: size for factor, size in sizes.items() if size > 1}
        if self.design == "together" and len(set(several.values())) > 1:
            said = ", ".join(f"{size} of {factor}" for factor, size in several.items())
            raise ValueError(f"together, factors have as many levels as each other, or one; there are {said}")
        return self
