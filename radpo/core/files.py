"""Files that survive a kill: put in place whole, known by their checksums, journals of finished work."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO, TypedDict

from radpo.core.errors import ConfigError


class FileChecksum(TypedDict):
    """What a file was when it was written."""

    bytes: int
    sha256: str


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; a name that none can have, such as one that is too long, is there nowhere."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file, by the same rule."""
    return is_there(path) and path.is_file()


def can_be_there(path: Path) -> bool:
    """Whether a file or folder may have this name: it is text for a path, and not too long for one."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno not in (errno.ENAMETOOLONG, errno.EINVAL)
    except ValueError:  # such as a null character
        return False
    return True


def sha256(path: Path) -> str:
    """The hash of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_in(folder: Path) -> dict[str, Path]:
    """Every file under a folder by its relative name with forward slashes, in order of names."""
    found = {}
    for place, _, names in os.walk(folder):
        inside = Path(place)
        for path in (inside / name for name in names):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def checksums(folder: Path, leave_out: frozenset[str] = frozenset()) -> dict[str, FileChecksum]:
    """Sizes and checksums of a folder's files."""
    return {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, path in files_in(folder).items()
        if name not in leave_out
    }


def verify_checksums(
    folder: Path,
    recorded: Mapping[str, FileChecksum],
    *,
    leave_out: frozenset[str] = frozenset(),
    trusted: frozenset[str] = frozenset(),
    there: Mapping[str, Path] | None = None,
) -> str | None:
    """The first thing about a folder that does not have its checksums, in words; None where it is whole.

    Args:
        leave_out: files that may be there without a checksum.
        trusted: files whose checksums need not be computed.
        there: `files_in` of the folder, where it was looked for already.
    """
    there = files_in(folder) if there is None else there
    for name, known in recorded.items():
        if name not in there:
            return f"{name} is missing"
        if there[name].is_symlink():
            return f"{name} is a link"
        size = there[name].stat().st_size
        if size != known["bytes"]:
            return f"{name} has {size} bytes instead of {known['bytes']}"
        if name not in trusted and sha256(there[name]) != known["sha256"]:
            return f"{name} does not have its checksum"
    foreign = there.keys() - recorded.keys() - leave_out
    return f"{min(foreign)} does not belong there" if foreign else None


def move_into_place(partial: Path, path: Path) -> None:
    """Rename a file, or a folder, to where it belongs once the disk holds all of it.

    So a power cut leaves nothing incomplete under its name.
    """
    _sync([*partial.rglob("*"), partial] if partial.is_dir() else [partial])
    partial.replace(path)
    _sync([path.parent])


def _sync(paths: Iterable[Path]) -> None:
    """Have the disk hold files and folders: all at the same time, for which a file system writes its journal once."""

    def sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every one can do folders
                raise
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(max_workers=8) as threads:
        list(threads.map(sync, paths))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file, or a new folder, under a temporary name, then put it in place in one step.

    A failed try leaves nothing behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        move_into_place(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def write_with_checksum(folder: Path, stem: str, suffix: str, write: Callable[[Path], object]) -> Path:
    """Write the file STEM-SHA256SUFFIX, whose name says what its content has to be, in one step; returns its path."""
    partial = folder / f".{stem}.partial"
    write(partial)
    path = folder / f"{stem}-{sha256(partial)}{suffix}"
    move_into_place(partial, path)
    return path


def has_named_checksum(path: Path) -> bool:
    """Whether a file of `write_with_checksum` is there with the content that its name says."""
    return path.is_file() and path.stem.rpartition("-")[2] == sha256(path)


def replace_json(path: Path, document: object) -> None:
    """Write a JSON document in one step."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def open_journal(path: Path) -> TextIO:
    """A journal of finished work, opened for adding rows; a last line that a kill left unfinished is cut off."""
    if path.exists():
        with path.open("r+b") as stream:
            stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
    return path.open("a", encoding="utf-8")


def append_journal(journal: TextIO, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows, JSON objects, to a journal: a line each with its checksum, on the disk on return."""
    for row in rows:
        text = json.dumps(row)
        journal.write(f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n")
    journal.flush()
    os.fsync(journal.fileno())


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal in order, none where there is no file.

    A line that is not as it was written is left out, so that its work is done anew.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            checksum, _, text = line.removesuffix(b"\n").partition(b" ")
            if line.endswith(b"\n") and hashlib.sha256(text).hexdigest().encode() == checksum:
                yield json.loads(text)


def write_json(path: Path, document: object) -> None:
    """Write a JSON document into a folder that is renamed into place as a whole."""
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str), encoding="utf-8")


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_writable(folder: Path, option: str) -> None:
    """Raise unless a file can be written into a folder, or into the nearest one above it that is there.

    Args:
        option: what names another folder.

    Raises:
        ConfigError: it cannot; the message says why.
    """
    found = existing(folder)
    if not found.is_dir():
        raise ConfigError(f"{found}: is a file, and {folder} cannot be a folder there; give another with {option}")
    try:
        with tempfile.TemporaryFile(dir=found) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}; give another with {option}") from error


def check_room(folder: Path, needed: float, option: str) -> None:
    """Raise where the disk of a folder has less room than so many bytes. Arguments and errors as `check_writable`."""
    free = shutil.disk_usage(existing(folder)).free
    if free < needed:
        raise ConfigError(
            f"{folder}: at least {needed / 2**30:.1f} GiB are needed, and its disk has {free / 2**30:.1f} GiB free; "
            f"make room, or give another with {option}"
        )


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether work in a folder failed for lack of room.

    Libraries that write through other languages' runtimes lose the error's number, so the disk is asked as well.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or cause.__context__
    return shutil.disk_usage(folder).free < 2**16
