"""Matrices of one cell: one that is narrowed to a variant, and what a single command asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radpo.benchmarks.answers import load_model_answers
from radpo.benchmarks.registry import benchmarks
from radpo.core.errors import ConfigError
from radpo.core.suggestions import did_you_mean
from radpo.matrix.loading import check_matrix
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


def one_cell(
    sections: Mapping[str, Mapping[str, Any]],
    variant: Mapping[str, Any],
    *,
    name: str | None = None,
    others: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    **more: Any,
) -> Matrix:
    """The matrix that one command asks for: one variant with one seed, or a few that are scored alike.

    Args:
        sections: the settings of the benchmarks, by name.
        variant: as a matrix file describes one, such as {"checkpoint": "FOLDER"}.
        name: what to call it; after what it is unless given.
        others: what else is scored, by name; compared with the first.
        more: other sections of the matrix, such as model, data and training; those that are empty are left out.

    Raises:
        ConfigError: as `radpo.matrix.loading.check_matrix`.
    """
    called = name or name_of(variant)
    completed = {}
    for benchmark, settings in sections.items():
        complete = benchmarks()[benchmark].standalone
        completed[benchmark] = dict(settings) if complete is None else complete(dict(settings))
    document = {
        "name": "-".join(sections) or called,
        "seeds": [seed],
        "variants": {called: dict(variant), **{other: dict(each) for other, each in (others or {}).items()}},
        "baseline": called,
        "benchmarks": completed,
        **{key: value for key, value in more.items() if value},
    }
    return check_matrix(document)


def name_of(variant: Mapping[str, Any]) -> str:
    """A model's own name: the endpoint's, its folder's, or what its file of answers says."""
    if variant.get("endpoint") is not None:
        return str(variant["endpoint"].get("model", "endpoint"))
    if variant.get("answers") is not None:
        file = Path(variant["answers"])
        return load_model_answers(file).model if file.is_file() else file.name
    path = Path(str(variant.get("checkpoint", variant.get("method"))))
    return (path.resolve() if path.is_dir() else path).name  # of `.` and `..` the folder's own


def _literally(name: str) -> str:
    """A pattern that fits this name alone."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
