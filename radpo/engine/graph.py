"""Stages and their keys: a stage is a function of its settings and of its inputs' folders to one output folder.

A stage's key is the hash of everything that can change what it writes, and of nothing else:

- the name and version of its function (the version is raised by hand when a change to the code changes its output);
- the versions of the packages whose arithmetic it rests on;
- its settings, with files and models counted by content and not by location;
- the keys of its inputs.

What cannot change a result (`hints`: how often to save, where a file is located) is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from radpo.core.optional import package_version
from radpo.core.progress import Progress
from radpo.engine.sources import Source


@dataclass(frozen=True)
class Task:
    """What a stage's function is given: the stage, its inputs' folders, its own folder to write, and whom to tell."""

    stage: Stage
    inputs: Mapping[str, Path]
    out: Path
    progress: Progress


WORK = "work"
"""The folder in a stage's own folder that an interrupted try leaves to the next one."""


@contextmanager
def kept_between_tries(task: Task, name: str) -> Iterator[Path]:
    """Where a resumable stage writes a file of its own: in the folder that an interrupted try leaves to the next one.

    The file is moved up into the stage's own folder once it is whole.
    """
    place = task.out / WORK / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)  # whole, but not moved up: nothing says that it is still what was written
    yield place
    place.replace(task.out / name)


@dataclass(frozen=True)
class Function:
    """What a stage can run.

    Args:
        resumable: it resumes from what an interrupted try left in its folder.
        lasting: patterns of the files among these that hold whatever the sources have become since, such as replies
            that are kept by request.
        ready: what of the machine or the outside a stage lacks, asked before the first stage of a run; None if nothing.
            May raise the RadpoError that `run` would, instead.
    """

    run: Callable[[Task], None]
    version: int
    packages: tuple[str, ...] = ()
    resumable: bool = False
    lasting: tuple[str, ...] = ()
    ready: Callable[[Stage], str | None] | None = None


@dataclass(frozen=True, eq=False)
class Stage:
    """One unit of work of a matrix.

    Args:
        name: what people call it, such as `train/ra-dpo/seed-0`; no part of the key.
        function: what it runs, with its name in `function_name`.
        settings: JSON values and `Source`s that can change the result; `environment` among them has variables of the
            process's environment, which the stage's function then finds there.
        inputs: the stages whose folders it reads, by the name it reads them under.
        hints: values that cannot change the result.
    """

    name: str
    function_name: str
    function: Function
    settings: Mapping[str, Any]
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    hints: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The stage's content address: 32 hexadecimal digits."""
        return key_of(self.identity())

    def identity(self) -> dict[str, Any]:
        """Everything that the key is the hash of."""
        return {
            "function": self.function_name,
            "version": self.function.version,
            "packages": {package: package_version(package) for package in self.function.packages},
            "settings": self.settings,
            "inputs": {name: stage.key for name, stage in self.inputs.items()},
        }


def in_order(wanted: Iterable[Stage]) -> list[Stage]:
    """The wanted stages and all that they need, each once (by key), inputs first."""
    by_key: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in by_key:
            by_key[stage.key] = stage
            for needed in stage.inputs.values():
                visit(needed)

    for stage in wanted:
        visit(stage)
    sorter = TopologicalSorter({key: [i.key for i in stage.inputs.values()] for key, stage in by_key.items()})
    return [by_key[key] for key in sorter.static_order()]


def key_of(identity: Mapping[str, Any]) -> str:
    """The key that belongs to a stage's identity, or to the record of a finished one, which holds its identity."""
    parts = {part: identity[part] for part in ("function", "version", "packages", "settings", "inputs")}
    document = json.dumps(parts, sort_keys=True, default=described, allow_nan=False)
    return hashlib.sha256(document.encode()).hexdigest()[:32]


def described(value: Any) -> Any:
    """How a stage's settings are written down: a source by its content, never by where it is located."""
    if isinstance(value, Source):
        return {"content": value.identity}
    raise TypeError(f"a stage's settings hold {value!r}, which is neither JSON nor a Source")
