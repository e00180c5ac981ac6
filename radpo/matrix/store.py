"""The store: finished stages' folders under their keys. A folder under its key is whole, or absent.

stages/KEY/        a finished stage: its files, `stage.json` (what it was) and `files.json` (sizes and checksums)
partial/KEY/       what an unfinished or interrupted stage has written so far
locks/KEY.lock     held while a stage is computed, so that two runs on one store compute it once
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from radpo.matrix.graph import Source, Stage

RECORD = "stage.json"
FILES = "files.json"


@dataclass(frozen=True)
class Store:
    """A folder of finished stages."""

    root: Path

    def folder(self, stage: Stage) -> Path:
        """Where the finished stage is, or will be."""
        return self.root / "stages" / stage.key

    def has(self, stage: Stage) -> bool:
        """Whether the stage is finished and all its files are there in full length."""
        folder = self.folder(stage)
        try:
            files = json.loads((folder / FILES).read_text(encoding="utf-8"))
            return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
        except (OSError, ValueError):
            return False

    def record(self, stage: Stage) -> dict[str, Any]:
        """What was noted when the stage was finished: seconds, peak memory, date."""
        record: dict[str, Any] = json.loads((self.folder(stage) / RECORD).read_text(encoding="utf-8"))
        return record

    def lock(self, stage: Stage) -> AbstractContextManager[Any]:
        """Held while the stage is computed."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{stage.key}.lock")

    def produce(self, stage: Stage, write: Callable[[Path], dict[str, Any]]) -> None:
        """Have `write` fill a folder, then move it under the stage's key in one step. To be called under the lock.

        Args:
            write: fills the folder it is given and returns what is to be noted about the work.
        """
        final, partial = self.folder(stage), self.root / "partial" / stage.key
        if final.exists():  # damaged, else it would not be produced again
            shutil.rmtree(final)
        if partial.exists() and not stage.function.resumable:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        notes = write(partial)
        record = {"name": stage.name, **stage.identity(), **notes}
        (partial / RECORD).write_text(json.dumps(record, indent=1, default=_described), encoding="utf-8")
        files = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        (partial / FILES).write_text(json.dumps(files, indent=1), encoding="utf-8")
        for path in partial.rglob("*"):
            _sync(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(final)
        _sync(final.parent)


def _described(value: Any) -> Any:
    if isinstance(value, Source):
        return {"content": value.identity}
    raise TypeError(f"{value!r} cannot be noted in {RECORD}")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the disk hold what was written before the folder is renamed, so that a power cut leaves no hollow stage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
