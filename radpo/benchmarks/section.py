"""What every section of a matrix file is made of: frozen, closed to unknown keys, paths beside the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo


class Section(BaseModel):
    """A mapping of a matrix file: its keys are the model's fields, and there are no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def beside_the_matrix(path: Path, info: ValidationInfo) -> Path:
    """A path of a matrix file, which begins at the file's own folder; a ValueError if nothing is there.

    Where the matrix is read to be planned (`planning` in the context), it may be yet to come.
    """
    context = info.context or {}
    folder: Path = context.get("folder", Path())
    found = folder / path.expanduser()
    if not found.exists() and not context.get("planning", False):
        raise ValueError(f"{found} does not exist")
    return found


MatrixPath = Annotated[Path, AfterValidator(beside_the_matrix)]
"""A file or folder that exists; relative paths begin at the matrix file's own folder."""


class DataFile(Section):
    """A file of scored pairs or of questions, and how many of its rows to take (all, unless `limit` says less)."""

    path: MatrixPath
    limit: Annotated[int, Field(ge=1)] | None = None
