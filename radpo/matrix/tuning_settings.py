"""The section `tune` of a matrix file: settings to try, and what the best of them is chosen by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from radpo.benchmarks.registry import benchmarks
from radpo.benchmarks.settings import DataFile, Section
from radpo.core.metrics import Metric, find_metric, fits
from radpo.core.suggestions import did_you_mean
from radpo.training.settings import TrainingSettings, setting_hint, with_current_names

MAX_GRID = 1_000_000
"""Combinations that a variant's lists may have, of which the budget takes some."""

Values = Annotated[tuple[Any, ...], Field(min_length=1)]


class Figure(NamedTuple):
    """What settings are chosen by: a benchmark, a part of it, a metric, and whether more is better."""

    benchmark: str
    subset: str
    metric: str
    upward: bool

    def __str__(self) -> str:
        """As a matrix file may say it."""
        return f"{self.benchmark}/{self.subset}/{self.metric}"


@dataclass(frozen=True)
class Trial:
    """A variant with one combination of the values that are tried. It is called as a swept variant would be."""

    variant: str
    values: Mapping[str, Any]

    @property
    def settings(self) -> str:
        """The values in words, such as `learning_rate=0.0001, beta=0.1`."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    @property
    def name(self) -> str:
        """What its cell is called."""
        return "-".join([self.variant, *(f"{key}={value}" for key, value in self.values.items())])


class VariantTuning(Section):
    """What differs for one variant from the matrix's `tune`."""

    training: dict[str, Values] = Field(
        default_factory=dict, description="Training settings with the values to try, in place of the matrix's lists."
    )
    budget: Annotated[int, Field(ge=1)] | None = Field(None, description="Settings to try at most.")

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("training"), dict):
            return {**value, "training": with_current_names(value["training"])}
        return value

    @field_validator("training")
    @classmethod
    def _are_settings(cls, training: dict[str, Values]) -> dict[str, Values]:
        for key, values in training.items():
            if key not in TrainingSettings.model_fields:
                raise ValueError(f"{key}: no such training setting{setting_hint(key)}")
            if len({repr(value) for value in values}) < len(values):
                raise ValueError(f"{key}: a value is there twice")
        return training


class Tuning(VariantTuning):
    """Training settings to try for every variant that is trained, chosen on prompts that are not reported."""

    training: dict[str, Values] = Field(
        min_length=1,
        description="Training settings, each with a list of values to try in all combinations. A variant that sets one "
        "of them itself keeps its value.",
    )
    budget: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Settings to try at most for each variant: all combinations where they are no more, else so many "
        "of them, drawn by `seed`. Default: all.",
    )
    metric: str = Field(
        description="What is to be best, as BENCHMARK/METRIC or BENCHMARK/SUBSET/METRIC, of a benchmark of this matrix."
    )
    better: Literal["higher", "lower"] | None = Field(
        None, description="For a metric of which neither direction is better by itself."
    )
    split: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="The share of prompts that tuning takes of the held-out pairs and the questions, by a hash of the "
        "prompt; only the others are reported. Instead of `heldout` and `questions`.",
    )
    heldout: DataFile | None = Field(None, description="Scored pairs to tune on, in place of `data.heldout`.")
    questions: DataFile | None = Field(None, description="Questions to tune on, in place of the benchmark's.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] | None = Field(
        None,
        min_length=1,
        description="Seeds that every setting is tried with; the best mean over them is chosen. Default: the matrix's.",
    )
    seed: int = Field(0, ge=0, description="Random seed: which combinations are tried where not all are.")

    @model_validator(mode="after")
    def _split_or_files(self) -> Tuning:
        files = self.heldout is not None or self.questions is not None
        if files == (self.split is not None):
            raise ValueError("give either split, or the files to tune on: heldout, questions, or both")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is named twice")
        return self

    def figure(self, there: Iterable[str]) -> Figure:
        """What the settings are chosen by.

        Args:
            there: the matrix's benchmarks.

        Raises:
            ValueError: there is no such figure, or nobody says which direction is better.
        """
        known = tuple(there)
        name, *rest = self.metric.split("/")
        if name not in known:
            raise ValueError(
                f"tune.metric: {self.metric!r}: {name!r} is none of the matrix's benchmarks "
                f"{', '.join(known)}{did_you_mean(name, known)}"
            )
        described = benchmarks()[name].metrics
        if not rest or not any(fits(metric, rest[-1]) for metric in described):
            names = [metric.name for metric in described]
            raise ValueError(
                f"tune.metric: {self.metric!r}: write {name}/METRIC; its metrics are {', '.join(names)}"
                f"{did_you_mean(rest[-1], names) if rest else ''}"
            )
        found: Metric = find_metric(described, rest[-1])
        declared = found.higher_is_better
        if declared is None and self.better is None:
            raise ValueError(f"tune.better: missing: of {self.metric} neither direction is better by itself")
        if declared is not None and self.better not in (None, "higher" if declared else "lower"):
            raise ValueError(f"tune.better: {self.better!r}: of {self.metric} the other direction is better")
        upward = self.better == "higher" if declared is None else declared
        return Figure(name, "/".join(rest[:-1]) or "all", rest[-1], upward)


def trials(variant: str, common: Tuning, own: VariantTuning | None, fixed: Iterable[str]) -> tuple[Trial, ...]:
    """The settings that are tried for a variant, in the order of their grid; none where it has nothing to try.

    Where the grid is larger than the budget, which are tried is drawn by `common.seed`: a larger budget tries these and
    more, and variants with grids of one size try the same places of theirs.

    Args:
        own: what differs for the variant.
        fixed: the settings that it has itself.

    Raises:
        ValueError: the grid is too large.
    """
    import numpy as np

    lists = {key: values for key, values in common.training.items() if key not in set(fixed)}
    lists |= own.training if own is not None else {}
    if not lists:
        return ()
    size = math.prod(map(len, lists.values()))
    if size > MAX_GRID:
        raise ValueError(f"tune.training: {size:,} combinations for {variant!r}, more than {MAX_GRID:,}; try fewer")
    grid = [Trial(variant, dict(zip(lists, values, strict=True))) for values in itertools.product(*lists.values())]
    budget = own.budget if own is not None and own.budget is not None else common.budget
    if budget is None or size <= budget:
        return tuple(grid)
    drawn = np.random.default_rng(common.seed).permutation(size)[:budget]
    return tuple(grid[place] for place in sorted(drawn.tolist()))
