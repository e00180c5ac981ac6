"""A matrix narrowed to one of its variants."""

from __future__ import annotations

from radpo.core.errors import ConfigError
from radpo.core.suggestions import did_you_mean
from radpo.matrix.settings import Cells, Matrix


def narrowed(matrix: Matrix, variant: str, seed: int | None = None) -> Matrix:
    """The matrix with all other cells left out, by rules of its own kind.

    Args:
        seed: one of its seeds; all of them unless given.

    Raises:
        ConfigError: the matrix has several models, or no such cell.
    """
    if len(matrix.all_models) > 1:
        raise ConfigError(f"{matrix.name}: a cell is of a matrix with one model, and this has {len(matrix.all_models)}")
    if variant not in matrix.variants:
        known = ", ".join(matrix.variants)
        raise ConfigError(f"variant {variant!r}: there are {known}{did_you_mean(variant, matrix.variants)}")
    if seed is not None and seed not in matrix.seeds:
        raise ConfigError(f"seed {seed}: there are {', '.join(map(str, matrix.seeds))}")
    others = [Cells(variant=_literally(name)) for name in matrix.variants if name != variant]
    other_seeds = tuple(each for each in matrix.seeds if seed not in (None, each))
    left_out = [*others, *([Cells(seed=other_seeds)] if other_seeds else [])]
    return matrix.model_copy(update={"exclude": (*matrix.exclude, *left_out)})


def _literally(name: str) -> str:
    """A pattern that fits this name alone."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
