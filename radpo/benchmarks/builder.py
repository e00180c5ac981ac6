"""What building stages takes: a matrix and one of its models come in, named stages with their sources go out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radpo.benchmarks.section import DataFile
from radpo.engine.graph import ABSENT, Source, Stage
from radpo.matrix.settings import Matrix
from radpo.matrix.stages import FUNCTIONS
from radpo.models.chat_template import DATE, USUAL_DATE, template_date


@dataclass(frozen=True)
class Checkpoint:
    """What a benchmark scores: a variant with a seed, trained by `train` (None for the model as it is).

    Args:
        goal: the score it is asked for, None for a checkpoint that takes no goal.
    """

    variant: str
    seed: int
    train: Stage | None
    goal: float | None

    @property
    def who(self) -> str:
        """Its place in the names of stages."""
        return f"{self.variant}/seed-{self.seed}"


@dataclass(frozen=True)
class Builder:
    """Builds stages about one model of a matrix.

    Args:
        files: every file and folder that was named so far, by where it lies; shared by the builders of a matrix.
        label: what tells this model's stages from another model's in their names; empty where there is one model.
        planning: whether files may be yet to come; what reads them then has no key that lasts.
    """

    matrix: Matrix
    model: Source
    files: dict[str, Source] = field(default_factory=dict)
    label: str = ""
    planning: bool = False

    def stage(
        self,
        function: str,
        who: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage] | None = None,
        hints: Mapping[str, Any] | None = None,
    ) -> Stage:
        """A stage called `function/who`.

        Args:
            settings: all that can change its result, its inputs apart: JSON values and `Source`s.
            inputs: the stages whose folders it reads, by the name it reads them under.
            hints: what it is to know that cannot change its result.
        """
        name = "/".join(part for part in (function, self.label, who) if part)
        if environment := self._environment():
            settings = {**settings, "environment": environment}
        resources = self.matrix.resources.get(function)
        asked = {"resources": resources.model_dump(exclude_none=True)} if resources else {}
        return Stage(name, function, FUNCTIONS[function], settings, inputs or {}, {**asked, **(hints or {})})

    def _environment(self) -> dict[str, str]:
        """What stages find in their environment that can change a result: the date that chat templates print."""
        when = template_date() if self.matrix.date is None else self.matrix.date
        return {} if when.isoformat() == USUAL_DATE else {DATE: when.isoformat()}

    def about(self, checkpoint: Checkpoint | None, function: str, who: str, settings: Mapping[str, Any]) -> Stage:
        """A stage that reads a checkpoint: the one that was trained, or (None, too) the matrix's model as it is."""
        if checkpoint is None or checkpoint.train is None:
            return self.stage(function, who, {**settings, "model": self.model})
        return self.stage(function, who, settings, {"policy": checkpoint.train})

    def pairs(self, file: DataFile) -> dict[str, Any]:
        """The settings that name scored pairs."""
        return {"pairs": self.file(file.path), "limit": file.limit, "scale": list(self.matrix.data.scale)}

    def questions(self, file: DataFile) -> dict[str, Any]:
        """The settings that name questions."""
        return {"questions": self.file(file.path), "limit": file.limit}

    def file(self, path: Path) -> Source:
        """A file or folder, known by its content."""
        location = str(path)
        if location not in self.files:
            known = path.exists() or not self.planning
            self.files[location] = Source(location, f"sha256:{_content_hash(path)}" if known else ABSENT + path.name)
        return self.files[location]


def _content_hash(path: Path) -> str:
    """The hash of a file's bytes, or of all names and bytes in a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
