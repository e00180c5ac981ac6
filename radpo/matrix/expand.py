"""Expansion: a checked matrix comes in, its cells and the stages that each is made of go out. Nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from radpo.config import Matrix
from radpo.matrix.benchmarks import BENCHMARKS
from radpo.matrix.builder import Builder, Checkpoint
from radpo.matrix.graph import Source, Stage
from radpo.matrix.training import checkpoint
from radpo.models.loading import model_fingerprint


@dataclass(frozen=True)
class Cell:
    """One variant with one seed: its training stage (None for a model as it is) and a scoring stage a benchmark."""

    variant: str
    seed: int
    train: Stage | None
    benchmarks: Mapping[str, Stage]


@dataclass(frozen=True)
class Plan:
    """A matrix with its sources identified by content and its cells expanded."""

    matrix: Matrix
    model: Source
    files: Mapping[str, Source]
    cells: tuple[Cell, ...]

    @property
    def wanted(self) -> list[Stage]:
        """The last stage of every chain; what they need follows from them."""
        return [
            stage for cell in self.cells for stage in (*cell.benchmarks.values(), *([cell.train] if cell.train else []))
        ]


def expand(matrix: Matrix) -> Plan:
    """The cells and stages of a matrix. Cells share every stage whose settings and inputs are the same.

    Raises:
        ConfigError: a variant's method does not exist.
        ModelError: the model is not to be had.
    """
    builder = Builder(matrix, Source(matrix.model, model_fingerprint(matrix.model)))
    cells = tuple(_cell(builder, checkpoint(builder, name, seed)) for seed in matrix.seeds for name in matrix.variants)
    return Plan(matrix, builder.model, builder.files, cells)


def _cell(builder: Builder, scored: Checkpoint) -> Cell:
    stages: dict[str, Stage] = {}
    for name, section in builder.matrix.benchmarks.named().items():
        stage = None if section is None else BENCHMARKS[name](builder, section, scored)
        if stage is not None:
            stages[name] = stage
    return Cell(scored.variant, scored.seed, scored.train, stages)
