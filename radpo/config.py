"""The matrix file: YAML comes in, a checked `Matrix` goes out; errors name file, key, value and what is allowed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from radpo.errors import ConfigError
from radpo.training.settings import TrainingSettings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _beside_the_matrix(path: Path, info: ValidationInfo) -> Path:
    """Paths in a matrix file are relative to the file's own folder."""
    folder: Path = (info.context or {}).get("folder", Path())
    found = folder / path.expanduser()
    if not found.exists():
        raise ValueError(f"{found} does not exist")
    return found


class DataFile(_Section):
    """A file of scored pairs or of questions, and how many of its rows to take (all, unless `limit` says less)."""

    path: Path
    limit: Annotated[int, Field(ge=1)] | None = None

    _path = field_validator("path")(_beside_the_matrix)


class Data(_Section):
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


class VariantSettings(_Section):
    """A column of the matrix: a method (by default the variant's own name), and training settings that differ."""

    method: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)


class SamplingSettings(_Section):
    """How answers are drawn: greedily at temperature 0."""

    max_new_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    batch_size: int = Field(32, ge=1)


class Unlearning(_Section):
    """Log-likelihoods of held-out responses before and after."""

    high_score: float = 5.0


class AlpacaEval(_Section):
    """One-turn questions, answered by variant and baseline, compared by the judge."""

    questions: DataFile
    judge: Literal["verifier"] = "verifier"
    sampling: SamplingSettings = SamplingSettings()


class MTBench(_Section):
    """Two-turn questions in categories, graded 1-10 by the judge."""

    questions: DataFile
    judge: Literal["verifier"] = "verifier"
    sampling: SamplingSettings = SamplingSettings()


class Academic(_Section):
    """lm-eval tasks by name, the folder `include` searched first."""

    tasks: tuple[str, ...] = Field(min_length=1)
    include: Path | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    batch_size: int = Field(16, ge=1)

    @field_validator("include")
    @classmethod
    def _path(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else _beside_the_matrix(path, info)


class Benchmarks(_Section):
    """What every variant is scored on; a benchmark that is not named is not run."""

    unlearning: Unlearning | None = None
    alpaca_eval: AlpacaEval | None = Field(None, alias="alpaca-eval")
    mt_bench: MTBench | None = Field(None, alias="mt-bench")
    academic: Academic | None = None


class Matrix(_Section):
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


def load_matrix(path: Path) -> Matrix:
    """Read and check a matrix file.

    Raises:
        ConfigError: the file is missing, is no YAML, or does not say what a matrix needs.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a matrix file such as benchmarks/quickstart.yaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a matrix file is a mapping with the keys {', '.join(Matrix.model_fields)}")
    try:
        return Matrix.model_validate(document, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_plain(item, document)}" for item in error.errors())) from error


def _plain(error: Any, document: dict[str, Any]) -> str:
    """One pydantic error as: key, what is wrong with which value, what is allowed."""
    key = ".".join(map(str, error["loc"])) or "(whole file)"
    if error["type"] == "extra_forbidden":
        allowed = _allowed(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{key}: no such key; allowed: {', '.join(allowed)}{hint}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], str | int | float | bool | None.__class__):
        return f"{key}: {error['input']!r}: {message}"
    return f"{key}: {message}"


def _allowed(location: tuple[Any, ...]) -> list[str]:
    """The keys that a section takes, found by walking the models along a key's path."""
    section: Any = Matrix
    for part in location:
        fields = {f.alias or name: f for name, f in section.model_fields.items()} if _is_section(section) else {}
        if part in fields:
            section = _section_of(fields[part].annotation)
    return [field.alias or name for name, field in section.model_fields.items()] if _is_section(section) else []


def _section_of(annotation: Any) -> Any:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if _is_section(candidate):
            return candidate
    return None


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
