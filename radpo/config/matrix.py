"""The sections of a matrix file other than its benchmarks, and the matrix as a whole."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from radpo.config.benchmarks import Benchmarks
from radpo.config.section import DataFile, Section
from radpo.training.settings import TrainingSettings


class Data(Section):
    """The scored pairs: to train on, and held out."""

    train: DataFile
    heldout: DataFile
    scale: tuple[float, float] = (1.0, 10.0)

    @field_validator("scale")
    @classmethod
    def _rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError("the scale's lowest score must be below its highest")
        return scale


class VariantSettings(Section):
    """A column of the matrix: a method (by default the variant's own name), and training settings that differ."""

    method: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)


class Matrix(Section):
    """A whole matrix: one model, several variants and seeds, the data, the settings, the benchmarks."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: str
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    variants: dict[str, VariantSettings] = Field(min_length=1)
    baseline: str = "base"
    data: Data
    training: TrainingSettings = TrainingSettings()
    save_every: int = Field(50, ge=1, description="Optimiser steps between resumable checkpoints.")
    benchmarks: Benchmarks

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is named twice")
        return seeds

    @field_validator("variants", mode="before")
    @classmethod
    def _empty_means_default(cls, variants: Any) -> Any:
        if isinstance(variants, dict):
            return {name: {} if settings is None else settings for name, settings in variants.items()}
        return variants

    @model_validator(mode="after")
    def _fits_together(self) -> Matrix:
        if self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline!r} is none of the variants: {', '.join(self.variants)}")
        for name, variant in self.variants.items():
            try:
                self.training_for(variant)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"variants.{name}.training.{where}: {first['msg']}") from error
        return self

    def training_for(self, variant: VariantSettings) -> TrainingSettings:
        """The matrix's training settings with the variant's own on top."""
        return TrainingSettings.model_validate({**self.training.model_dump(), **variant.training})
