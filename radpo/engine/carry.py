"""Stages as one file to carry from store to store."""

from __future__ import annotations

import errno
import gzip
import io
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from radpo.core.errors import DataError
from radpo.core.files import replace_file, verify_checksums
from radpo.engine.graph import key_of
from radpo.engine.record import record_fault
from radpo.engine.store import FILES, RECORD, BusyError, Store, is_key

RATIO, FLOOR_BYTES = 200, 2**26
"""An archive may unpack to so many times its size and so much more: far past what any stage's files compress to."""
HEADER_BYTES = 2**24
"""A tar header, with the long names that may come with it, is read whole, so it may not be larger than this."""
NAMES_WRONG = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EINVAL, errno.ELOOP)
"""What a file system says of names that cannot be in one folder."""


def export_stages(store: Store, keys: Sequence[str], file: Path) -> int:
    """Write stages to a tar file, checking each in full; returns how many.

    Raises:
        DataError: a stage is absent or damaged; nothing is written.
    """
    if not re.search(r"\.(tar|tar\.gz|tgz)$", file.name):
        raise DataError(f"{file}: name it .tar, .tar.gz or .tgz")
    keys = list(dict.fromkeys(keys))
    with store.using(keys):
        there = set(store.finished())
        for key in keys:
            if key not in there:
                raise DataError(f"{store.root}: stage {key} is not finished; run its matrix first")
            if what := store.supply(key):
                why = f"stage {key} is damaged ({what})"
                raise DataError(f"{store.root}: {why}; run its matrix, which computes it again")

        def write(partial: Path) -> None:
            with tarfile.open(partial, "w" if file.suffix == ".tar" else "w:gz") as archive:
                for key in keys:
                    archive.add(store.root / "stages" / key, arcname=key)

        replace_file(file, write)
    return len(keys)


def import_stages(store: Store, file: Path, max_bytes: int | None = None) -> tuple[int, int]:
    """Take stages from a tar file; returns how many were taken in, and how many were there already.

    The file may come from anyone: only ordinary files under a key's name are taken, and only if every stage's files
    have their checksums and its record is one and hashes to its key. What a stage says it is has to be taken on trust
    all the same.

    Args:
        max_bytes: how much the file may unpack to; unless given, what is free on the disk, but no more than `RATIO`
            times its size.

    Raises:
        DataError: the file is no such archive, unpacks to more, or something in it is not as it says; nothing was
            taken.
        BusyError: other runs are computing some of the stages; the message names those, and the others were taken.
    """
    store.check_layout()
    store.check_writable(())
    taken = there = 0
    busy: list[str] = []
    with store.using(()) as scratch:
        with store.translate_disk_full():
            unpack(file, scratch / "unpacked", max_bytes)
        folders = {folder.name: folder for folder in sorted((scratch / "unpacked").iterdir())}
        for folder in folders.values():
            check_unpacked(file, folder)
        with store.using(folders):
            for key, folder in folders.items():
                try:
                    with store.lock(key), store.translate_disk_full():
                        if store.is_whole(key):
                            there += 1
                        else:
                            store.put(folder, key)
                            taken += 1
                except BusyError:
                    busy.append(key)
    if busy:
        raise BusyError(
            f"{file}: {taken} stages imported, {there} were there already, and {len(busy)} not taken, because other "
            f"runs are computing them now: {', '.join(busy)}"
        )
    return taken, there


def unpack(file: Path, folder: Path, max_bytes: int | None) -> None:
    """Unpack a tar file of stages, plain or compressed by gzip, into a new folder.

    Raises:
        DataError: it is no such file, or unpacks to more than it may.
    """
    folder.mkdir(parents=True)
    try:
        size = file.stat().st_size
        limit = min(shutil.disk_usage(folder).free, RATIO * size + FLOOR_BYTES) if max_bytes is None else max_bytes
        with _opened(file, limit) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined] # else each is remembered
                parts = PurePosixPath(member.name).parts
                if not parts or not is_key(parts[0]) or not (member.isfile() or member.isdir()) or member.issparse():
                    raise DataError(f"{file}: {member.name!r} is no file of a stage")
                archive.extract(member, folder, filter="data")
    except _TooLargeError:
        raise DataError(
            f"{file}: has {size / 2**20:.1f} MiB and unpacks to more than {limit / 2**20:.1f} MiB; if you trust it and "
            "have the room, allow more with --max-gib"
        ) from None
    except (OSError, EOFError, ValueError, OverflowError, RecursionError, zlib.error, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in NAMES_WRONG:
            raise
        raise DataError(f"{file}: cannot be read as a tar file of stages: {error}") from error


class _TooLargeError(Exception):
    """An archive unpacks to more than it may."""


class _Limited(io.RawIOBase):
    """A stream that ends in an error past a limit, read in no larger pieces than what a tar header may take."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit = stream, limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_BYTES or self._stream.tell() + size > self._limit + tarfile.RECORDSIZE:
            raise _TooLargeError
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > self._limit + tarfile.RECORDSIZE:
            raise _TooLargeError
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def _opened(file: Path, limit: int) -> Iterator[IO[bytes]]:
    with file.open("rb") as plain:
        compressed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        if compressed:
            with gzip.open(plain) as unpacked:
                yield _Limited(unpacked, limit)  # type: ignore[arg-type, misc]
        else:
            yield _Limited(plain, limit)  # type: ignore[misc]


def check_unpacked(file: Path, folder: Path) -> None:
    """Check the folder of one unpacked stage.

    Raises:
        DataError: a file is not as it was written, or it is not the stage whose key is the folder's name.
    """
    try:
        recorded = json.loads((folder / FILES).read_text(encoding="utf-8"))
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        what = verify_checksums(folder, recorded, leave_out=frozenset({FILES}))
        key = key_of(record)
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: stage {folder.name}: {FILES} or {RECORD} cannot be read") from error
    if what or RECORD not in recorded:
        raise DataError(f"{file}: stage {folder.name}: {what or RECORD + ' has no checksum'}")
    if key != folder.name:
        raise DataError(f"{file}: stage {folder.name}: its record belongs to another stage ({key})")
    if fault := record_fault(record):
        raise DataError(f"{file}: stage {folder.name}: {RECORD} is no stage's record ({fault})")
