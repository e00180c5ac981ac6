"""What the stages' functions share: where their model and files lie, and how they write JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from radpo.engine.graph import Source, Task
from radpo.engine.store import WORK

NUMERICS = ("torch", "transformers")
"""The packages whose versions change what a model computes."""


@contextmanager
def kept_between_tries(task: Task, name: str) -> Iterator[Path]:
    """Where a resumable stage writes a file of its: in the folder that an interrupted try leaves to the next one.

    The file is moved up into the stage's own folder once it is whole.
    """
    place = task.out / WORK / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)  # whole, but not moved up: nothing says that it is still what was written
    yield place
    place.replace(task.out / name)


def policy_folder(task: Task) -> Path:
    """The checkpoint that a stage is about: the one that its input trained, else the matrix's model."""
    from radpo.models.loading import resolve_model

    if "policy" in task.inputs:
        return task.inputs["policy"] / "policy"
    return resolve_model(cast(Source, task.stage.settings["model"]).location)


def path_of(source: Source) -> Path:
    return Path(source.location)


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str), encoding="utf-8")
