"""Garbage collection, listing and verification of a store, and its stages as one file to carry."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from radpo.core.errors import DataError
from radpo.core.files import files_in, replace_file, verify_checksums
from radpo.core.progress import Progress, no_progress
from radpo.engine.graph import Stage, key_of
from radpo.engine.store import FILES, RECORD, BusyError, Store, is_key

LEFT_BEHIND = ("garbage-*", "waste-*")
"""What a killed process was removing or copying; the second is what earlier releases called it."""


@dataclass(frozen=True)
class Entry:
    """A finished stage; name, seconds and date are None where its record cannot be read."""

    key: str
    name: str | None
    function: str | None
    bytes: int
    seconds: float | None
    started: str | None
    peak_mib: float | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Garbage:
    """Something that nobody needs."""

    path: Path
    bytes: int
    why: str


def entries(store: Store) -> list[Entry]:
    """The finished stages, oldest first."""
    found = []
    for key in store.finished():
        try:
            record = store.record(key)
        except (OSError, ValueError):
            record = {"name": "(its record cannot be read)"}
        found.append(
            Entry(
                key,
                record.get("name"),
                record.get("function"),
                _size(store.root / "stages" / key),
                record.get("seconds"),
                record.get("started"),
                record.get("peak_mib"),
            )
        )
    return sorted(found, key=lambda entry: (entry.started or "", entry.name or ""))


def damaged(store: Store, progress: Progress = no_progress) -> dict[str, str]:
    """What is wrong, by key, with every finished stage that is not whole; all checksums are computed."""
    found, keys = {}, store.finished()
    for number, key in enumerate(keys, start=1):
        if what := store.damage(key, full=True):
            found[key] = what
        progress(number, len(keys))
    return found


def collect(store: Store, needed: Iterable[Stage] | None, *, dry_run: bool) -> list[Garbage]:
    """Remove (or, with dry_run, only find) what interrupted tries left, damaged stages, and stages that nobody needs.

    Args:
        needed: the stages to keep; all that are whole, for None.
    """
    keep = None if needed is None else {stage.key for stage in needed}
    left = [path for pattern in LEFT_BEHIND for path in sorted(store.root.glob(pattern))]
    garbage = [Garbage(path, _size(path), "half removed") for path in left]
    if not dry_run:
        for path in left:
            _delete(path)
    for path in sorted((store.root / "partial").glob("*")):
        garbage += _take(store, path, "of an interrupted try", dry_run)
    for key in store.finished():
        what = store.damage(key)
        if what:
            garbage += _take(store, store.root / "stages" / key, f"damaged: {what}", dry_run)
        elif keep is not None and key not in keep:
            why = f"needed by none: {store.record(key)['name']}"
            garbage += _take(store, store.root / "stages" / key, why, dry_run)
    there = set(store.finished())
    for path in sorted((store.root / "logs").glob("*.log")):
        if path.stem not in there:
            garbage += _take(store, path, "log of no finished stage", dry_run)
    return garbage


def _take(store: Store, path: Path, why: str, dry_run: bool) -> list[Garbage]:
    """Remove something of a stage unless a run is at the stage now."""
    item = Garbage(path, _size(path), why)
    key = path.stem
    if not is_key(key):
        return []
    try:
        with store.lock(key):
            if dry_run:
                return [item]
            if path.parent.name == "stages":
                store.remove(key)
            else:
                _delete(path)
    except BusyError:
        return []
    return [item]


def export_stages(store: Store, keys: Sequence[str], file: Path) -> int:
    """Write stages to a tar file, checking each in full; returns how many.

    Raises:
        DataError: a stage is absent or damaged; nothing is written.
    """
    if not re.search(r"\.(tar|tar\.gz|tgz)$", file.name):
        raise DataError(f"{file}: name it .tar, .tar.gz or .tgz")
    keys = list(dict.fromkeys(keys))
    for key in keys:
        if not (store.root / "stages" / key).is_dir():
            raise DataError(f"{store.root}: stage {key} is not finished; run its matrix first")
        if what := store.damage(key, full=True):
            raise DataError(f"{store.root}: stage {key} is damaged ({what}); run its matrix, which computes it again")

    def write(partial: Path) -> None:
        with tarfile.open(partial, "w" if file.suffix == ".tar" else "w:gz") as archive:
            for key in keys:
                archive.add(store.root / "stages" / key, arcname=key)

    replace_file(file, write)
    return len(keys)


def import_stages(store: Store, file: Path) -> tuple[int, int]:
    """Take stages from a tar file; returns how many were taken in, and how many were there already.

    The file may come from anyone: only ordinary files under a key's name are taken, and a stage only if every file has
    its checksum and its record hashes to its key. What a stage says it is has to be taken on trust all the same.

    Raises:
        DataError: the file is no such archive, or something in it is not as it says; what was taken before is whole.
    """
    taken = there = 0
    with tempfile.TemporaryDirectory(prefix="garbage-", dir=_made(store.root)) as unpacked:
        with store.translate_disk_full():
            _unpack(file, Path(unpacked))
        for folder in sorted(Path(unpacked).iterdir()):
            _check(file, folder)
            with store.lock(folder.name):
                if store.damage(folder.name) is None:
                    there += 1
                    continue
                store.remove(folder.name)
                _made(store.root / "stages")
                folder.rename(store.root / "stages" / folder.name)
            taken += 1
    return taken, there


def _unpack(file: Path, folder: Path) -> None:
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if not parts or not is_key(parts[0]) or not (member.isfile() or member.isdir()):
                    raise DataError(f"{file}: {member.name!r} is no file of a stage")
                archive.extract(member, folder, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        if isinstance(error, OSError) and not isinstance(error, tarfile.TarError) and error.errno is not None:
            raise
        raise DataError(f"{file}: cannot be read as a tar file of stages: {error}") from error


def _check(file: Path, folder: Path) -> None:
    try:
        recorded = json.loads((folder / FILES).read_text(encoding="utf-8"))
        what = verify_checksums(folder, recorded, leave_out=frozenset({FILES}))
        key = key_of(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: stage {folder.name}: {FILES} or {RECORD} cannot be read") from error
    if what or RECORD not in recorded:
        raise DataError(f"{file}: stage {folder.name}: {what or RECORD + ' has no checksum'}")
    if key != folder.name:
        raise DataError(f"{file}: stage {folder.name}: its record tells of another stage ({key})")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in files_in(path).values()) if path.is_dir() else path.stat().st_size


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
