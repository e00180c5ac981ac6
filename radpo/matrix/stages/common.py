"""What the stages' functions share: where their model and files lie, and how they write JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from radpo.matrix.graph import Source, Task

NUMERICS = ("torch", "transformers")
"""The packages whose versions change what a model computes."""


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
