"""Garbage collection, listing and verification of a store."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radpo.core.progress import Progress, no_progress
from radpo.engine.graph import Stage
from radpo.engine.store import BusyError, Store, delete, is_key, size_of

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
            record = {"name": "(its record is unreadable)"}
        found.append(
            Entry(
                key,
                record.get("name"),
                record.get("function"),
                store.size(key),
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

    What a run, an import or an export uses stays (`Store.using`); none comes in meanwhile.

    Args:
        needed: the stages to keep, be they finished or begun; all that are whole, for None.
    """
    keep = None if needed is None else {stage.key for stage in needed}
    store.check_layout()
    store.check_writable(())
    suspects = {key for key in store.finished() if store.damage(key)}  # takes long, so runs need not wait for it
    with store.collecting() as users:
        left = [path for pattern in LEFT_BEHIND for path in sorted(store.root.glob(pattern))]
        garbage = [Garbage(path, size_of(path), "half removed") for path in left]
        garbage += [Garbage(path, size_of(path), "of a process that was killed") for path in users.left_behind]
        if not dry_run:
            for item in garbage:
                delete(item.path)
        free = [key for key in store.finished() if key not in users.keys]
        for path in sorted((store.root / "partial").glob("*")):
            if path.name not in users.keys and (keep is None or path.name not in keep):
                garbage += _take(store, path, "of an interrupted try", dry_run)
        for key in free:
            if (keep is not None and key not in keep) or key in suspects:
                garbage += _take_stage(store, key, keep, dry_run)
        for leftover in store.leftovers():
            with suppress(BusyError), store.lock(leftover.key):
                garbage.append(Garbage(Path(leftover.name), leftover.bytes, "of a stage that was not sent whole"))
                if not dry_run:
                    store.remove_leftover(leftover)
        there = {*store.finished(), *users.keys}
        for path in sorted((store.root / "logs").glob("*.log")):
            if path.stem not in there:
                garbage += _take(store, path, "log of no finished stage", dry_run)
    return garbage


def _take_stage(store: Store, key: str, keep: set[str] | None, dry_run: bool) -> list[Garbage]:
    """Remove a finished stage that is damaged or that nobody needs, unless a run is at it now."""
    try:
        with store.lock(key):
            what = store.damage(key)  # anew: it may have been computed again since
            if what is None and (keep is None or key in keep):
                return []
            why = f"needed by none: {store.record(key)['name']}" if what is None else f"damaged: {what}"
            item = Garbage(store.root / "stages" / key, store.size(key), why)
            if not dry_run:
                store.remove(key)
            return [item]
    except BusyError:
        return []


def _take(store: Store, path: Path, why: str, dry_run: bool) -> list[Garbage]:
    """Remove what a stage has beside its folder, unless a run is at the stage now."""
    if not is_key(path.stem):
        return []
    try:
        with store.lock(path.stem):
            item = Garbage(path, size_of(path), why)
            if not dry_run:
                delete(path)
            return [item]
    except BusyError:
        return []
