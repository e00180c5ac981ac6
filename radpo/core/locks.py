"""Files that are locked while their owner lives: the system releases the lock however the owner ends.

Locks are `flock`'s, which Linux passes on to the server on network file systems, so that they hold between machines.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from radpo.core.errors import DataError


def try_lock(path: Path) -> int | None:
    """Lock a file, made where it is not there; its descriptor, or None where a living owner has it.

    Raises:
        DataError: the file system has no locks, or the file cannot be made.
    """
    return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(path: Path, descriptor: int) -> None:
    """Let go of a lock and remove its file."""
    with suppress(OSError):
        path.unlink()
    os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock for a moment, waiting for it; the file stays.

    Raises:
        DataError: as `try_lock`.
    """
    descriptor = _locked(path, fcntl.LOCK_EX)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def owner_lives(path: Path) -> bool:
    """Whether somebody holds a lock; the file of a dead owner is removed."""
    if not path.exists():
        return False
    descriptor = try_lock(path)
    if descriptor is not None:
        unlock(path, descriptor)
    return descriptor is None


def _locked(path: Path, how: int) -> int | None:
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise DataError(f"{path}: cannot be made ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, how)
            if _is_at(path, descriptor):
                return descriptor
            os.close(descriptor)  # its last owner removed it between our opening and locking it
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise DataError(
                f"{path}: its file system has no locks ({error.strerror}), and without them two processes could pay "
                "for one answer; use a folder on another (RADPO_CACHE, --out)"
            ) from error


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
