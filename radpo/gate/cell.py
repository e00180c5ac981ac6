"""One cell of a matrix: a matrix file and a variant come in, the run directory of that cell alone goes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import ConfigError
from radpo.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from radpo.matrix.settings import Matrix


def run_cell(matrix: Path, variant: str, out: Path, *, seed: int | None = None, store: str | None = None) -> Path:
    """Run one variant of a matrix with one of its seeds, or with all of them, and what it needs.

    Args:
        out: the run directory.
        store: of finished stages; RADPO_STORE, else `store` beside the run directory, unless given.

    Returns:
        `out`.

    Raises:
        ConfigError: the matrix file is wrong, has several models, or has no such cell.
        StageError: a stage failed.
    """
    from radpo.cli.console import MatrixView
    from radpo.engine.local import LocalPool
    from radpo.engine.shared import open_store
    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix
    from radpo.matrix.run import run_matrix

    plan = expand(_narrowed(load_matrix(matrix), variant, seed))
    kept = open_store(store or os.environ.get("RADPO_STORE") or str(out.parent / "store"))
    with MatrixView(len(plan.stages), {}) as view:
        run_matrix(plan, out, kept, view, lambda: LocalPool(kept, 1))
    return out


def _narrowed(matrix: Matrix, variant: str, seed: int | None) -> Matrix:
    """The matrix with all other cells left out, by rules of its own kind."""
    from radpo.matrix.settings import Cells

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
