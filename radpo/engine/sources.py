"""What stages read from outside the store: known by its content, and watched while a stage reads it.

A source is hashed when a stage's key is made, and read later, by its name. A stage whose source is another by then, or
changes while the stage is at work (even if it is changed back), is not stored: its result would stay under the key of
something that it was not made of.

Hashing again is only needed where the state of the files differs: their sizes, modification times, change times and
inode numbers. Whoever restores a file's content and its modification time still leaves a new change time (ctime), which
the system sets and nobody else can; where a system has none (Windows), every source is hashed again. Not seen: a folder
above a source that is renamed away and back, and programs that write through a memory map they opened before.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from radpo.core.errors import DataError, RadpoError
from radpo.core.files import sha256

ABSENT = "absent:"
"""What the identity of a source begins with that is yet to come."""
CLOCK_NS = 20_000_000
"""File systems take a file's times from a clock that stands still for up to about 10 ms."""
HAS_CHANGE_TIMES = os.name == "posix"
_TRIES = 5


class SourceChangedError(RadpoError):
    """Something that a stage reads is not what the stage's key was made of."""


@dataclass(frozen=True)
class Reader:
    """How sources of one kind are known. Module-level functions, so that other processes find them.

    Args:
        identify: the identity by content of what a location leads to now.
        places: the files that it is read from, and the folders in which a new file would count; cheap.
        imported: whether processes may have read it before a stage begins, as they do code; then its state has to be
            what it was when the key was made.
    """

    identify: Callable[[str], str]
    places: Callable[[str], Iterable[Path]]
    imported: bool = False


def files_of(path: Path) -> list[Path]:
    """The file, or the files of a folder that count, in order of names.

    Hidden ones (`.git`, download tools' metadata), compiled Python and the caches that `datasets` leaves are no part of
    what a folder holds.
    """
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in found if _counts(file.relative_to(path)))


def _counts(name: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    return not (hidden or (name.suffix == ".arrow" and name.name.startswith("cache-")))


def content_hash(path: Path) -> str:
    """The hash of a file's hash, or of the names and hashes of a folder's files."""
    digest = hashlib.sha256()
    for file in files_of(path):
        if file != path:
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()


ENDINGS = (".json", ".csv", ".parquet")


def read_as(path: Path) -> str:
    """What a file's name says of how it is read; nothing of JSON Lines, as which all others are read, and folders."""
    ending = path.name.removesuffix(".gz")
    kind = next((known for known in ENDINGS if ending.endswith(known)), "")
    return "" if path.is_dir() else kind + (".gz" if ending != path.name else "")


def identify_file(location: str) -> str:
    """The identity of a file or folder: its content, and of a file's name what decides how it is read."""
    path = Path(location)
    return f"sha256:{content_hash(path)}{read_as(path)}"


def file_places(location: str) -> list[Path]:
    """A file, or a folder's files and the folders in it."""
    path, files = Path(location), files_of(Path(location))
    return [*files, *with_folders(path, files)]


def with_folders(root: Path, files: Iterable[Path]) -> list[Path]:
    """A folder and those in it that hold these files; none where the root is a file."""
    return sorted({root, *(parent for file in files for parent in file.parents if root in parent.parents)} - {*files})


FILE = Reader(identify_file, file_places)


@dataclass(frozen=True)
class Source:
    """Something outside the store that a stage reads: where it is, and its identity by content.

    Args:
        location: as it is named.
        identity: what counts in keys.
        reader: how it is known.
        state: the state of its files when it was identified, empty where that cannot be relied on.
        pinned: where it is read, if that is not where it is named: `organisation/name@COMMIT` of a model whose name
            may lead to another commit tomorrow.
    """

    location: str
    identity: str
    reader: Reader = field(default=FILE, compare=False, repr=False)
    state: str = field(default="", compare=False, repr=False)
    pinned: str = field(default="", compare=False, repr=False)

    @property
    def absent(self) -> bool:
        """Whether it is yet to come, in a plan that was made without it."""
        return self.identity.startswith(ABSENT)

    @property
    def read_from(self) -> str:
        """Where stages read it."""
        return self.pinned or self.location


def identified(location: str, reader: Reader = FILE, pinned: str = "") -> Source:
    """A source as it is now.

    Raises:
        DataError: it, or a file in it, cannot be read.
    """
    read_from = pinned or location
    try:
        before = _states(reader, read_from)
        identity = reader.identify(read_from)
        after = _states(reader, read_from)
    except OSError as error:
        inside = f" (at {error.filename})" if error.filename not in (None, read_from) else ""
        raise DataError(f"{location}: cannot be read{inside}: {error.strerror or error}") from error
    settled = before == after and not _recent(after)
    return Source(location, identity, reader, _digest(after) if settled else "", pinned)


def sources_in(settings: Any) -> list[Source]:
    """The sources among a stage's settings, however deep, each once."""
    if isinstance(settings, Source):
        return [settings]
    inner = settings.values() if isinstance(settings, Mapping) else settings if isinstance(settings, list) else ()
    return list(dict.fromkeys(source for value in inner for source in sources_in(value)))


@contextmanager
def watched(sources: Sequence[Source], who: str) -> Iterator[str]:
    """Work that reads sources; gives the state in which they are (empty without any), to compare another try's with.

    Args:
        who: the stage, for messages.

    Raises:
        SourceChangedError: one is not what its identity says, or changed before the work's end.
    """
    begun = {source: _begin(source, who) for source in sources}
    try:
        yield hashlib.sha256("".join(map(_digest, begun.values())).encode()).hexdigest() if begun else ""
    except Exception as error:
        if changed := _changed(begun):  # which may well be why the work failed
            raise SourceChangedError(_message(*changed, who)) from error
        raise
    if changed := _changed(begun):
        raise SourceChangedError(_message(*changed, who))


_States = Mapping[str, tuple[int, ...] | str | None]
"""By path: of a file or folder size, modification and change time, inode number; of a link, where it leads to."""

_verified: dict[tuple[str, str], str] = {}
"""The state in which a source was last found to be what its identity says, in this process."""


def _begin(source: Source, who: str) -> _States:
    """The state of a source that is what its identity says."""
    known, states = (source.read_from, source.identity), _states(source.reader, source.read_from)
    digest = _digest(states)
    if HAS_CHANGE_TIMES and digest in (source.state, _verified.get(known)):
        return states
    here = source.state.partition(" ")[0] == platform.node()
    for _ in range(_TRIES):
        if not _recent(states):
            break
        time.sleep(CLOCK_NS / 1e9)
        before, states = states, _states(source.reader, source.read_from)
        if before == states:  # by any clock, a change from now on has another time
            break
    try:
        identity = source.reader.identify(source.read_from)
    except (OSError, RadpoError) as error:
        raise SourceChangedError(f"{source.location}: cannot be read any more ({error}); {_hint(who)}") from error
    if (
        identity != source.identity
        or (source.reader.imported and here)
        or states != _states(source.reader, source.read_from)
    ):
        raise SourceChangedError(
            f"{source.location}: has changed since this run took its checksum, before {who} read it; {_hint(who)}"
        )
    _verified[known] = _digest(states)
    return states


def _changed(begun: Mapping[Source, _States]) -> tuple[Source, str] | None:
    """The first source that changed since, and where."""
    for source, before in begun.items():
        try:
            now = _states(source.reader, source.read_from)
        except (OSError, RadpoError):
            return source, source.read_from
        if now != before:
            differing = (path for path in {**before, **now} if before.get(path) != now.get(path))
            return source, next(differing)
        if not HAS_CHANGE_TIMES and source.reader.identify(source.read_from) != source.identity:
            return source, source.read_from
    return None


def _message(source: Source, path: str, who: str) -> str:
    where = "" if path == source.location else f" (at {path})"
    return f"{source.location}: changed while {who} read it{where}; {_hint(who)}"


def _hint(who: str) -> str:
    return f"{who} is not stored: leave the source as it is while it is read, and give the same command again"


def _digest(states: _States) -> str:
    """Not to be compared with another machine's, whose numbers mean nothing here."""
    return f"{platform.node()} {hashlib.sha256(repr(sorted(states.items())).encode()).hexdigest()}"


def _recent(states: _States) -> bool:
    """Whether a change that comes at once might leave the times as they are."""
    now = time.time_ns()
    return any(isinstance(found, tuple) and now - found[2] < CLOCK_NS for found in states.values())


def _states(reader: Reader, location: str) -> _States:
    links = cache(_links)
    found: dict[str, tuple[int, ...] | str | None] = {}
    for path in reader.places(location):
        found[str(path)] = _state(path)
        found.update(links(path.absolute()))
    return found


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            # Opened, because only then a network file system asks its server how the file is now.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _links(path: Path) -> dict[str, str]:
    """The symbolic links on the way to a path: where each leads to, and when it was made."""
    found = {}
    for place in (path, *path.parents):
        try:
            status = place.lstat()
            if stat.S_ISLNK(status.st_mode):
                found[f"{place} ->"] = f"{place.readlink()} {status.st_ino} {status.st_ctime_ns}"
        except OSError:
            continue
    return found
