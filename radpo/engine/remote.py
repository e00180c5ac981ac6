"""The file system behind an fsspec URL: tried again where it fails, and no failure is ever taken for absence.

`FileNotFoundError` and `FileExistsError` are its answers; every other failure is a `ServiceError`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from radpo.core.errors import ServiceError
from radpo.core.files import is_full

TRIES = 6
WAIT_SECONDS = 0.25
MOST_SECONDS = 10.0
TELLING_BYTES = 48
CLOCK_SECONDS = 600.0
"""How long the difference between the service's clock and this process's is taken to stay what it was."""

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "cos", "obs"})
"""Have no folders to make; making a path's first part would make a bucket, which is a person's to do."""

_ANSWERS = (FileNotFoundError, FileExistsError)
_CERTAIN = (PermissionError, NotImplementedError, ImportError, ValueError, TypeError)
"""Failures that another try would not change."""

_offsets: dict[str, tuple[float, float]] = {}

T = TypeVar("T")


class ReadOnlyError(ServiceError):
    """The service lets nothing be written."""


@dataclass(frozen=True)
class Remote:
    """What is under a URL; names are relative to it, such as stages/KEY.json."""

    url: str

    def names(self, folder: str) -> list[str]:
        """The names, without the folder's, of what a folder has; none where there is no such folder."""
        with suppress(FileNotFoundError):
            found = self._ask(lambda fs, root: fs.ls(f"{root}/{folder}", detail=False))
            return sorted({str(name).rstrip("/").rsplit("/", 1)[-1] for name in found})
        return []

    def read(self, name: str) -> bytes:
        """A file's content."""
        content: bytes = self._ask(lambda fs, root: fs.cat_file(f"{root}/{name}"))
        return content

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Files' contents by their names, but for those that are gone."""
        wanted = list(names)
        if not wanted:
            return {}

        def read(fs: Any, root: str) -> dict[str, bytes]:
            found = fs.cat([f"{root}/{name}" for name in wanted], on_error="return")
            if not isinstance(found, dict):  # of a single path, some give the content alone
                found = {wanted[0]: found}
            contents = dict(zip(sorted(wanted), (found[path] for path in sorted(found)), strict=True))
            for content in contents.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
            return {name: content for name, content in contents.items() if not isinstance(content, Exception)}

        return self._ask(read)

    def write(self, name: str, content: bytes) -> None:
        """Put a file's content, whatever is there."""
        self._put(name, lambda fs, path: fs.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> None:
        """Put a new file's content, whose first `TELLING_BYTES` tell it from that of others who do the same.

        Raises:
            FileExistsError: another has put one there.
        """
        try:
            self._put(name, lambda fs, path: fs.pipe_file(path, content, mode="create"))
        except FileExistsError:
            found = b""
            with suppress(FileNotFoundError):
                found = self.read(name)
            # The answer to an earlier try may have been lost on its way, or the rest of the content.
            if not (len(found) >= TELLING_BYTES and content.startswith(found)):
                raise
            if found != content:
                self.write(name, content)

    def upload(self, file: Path, name: str) -> None:
        """Copy a file there; it counts as sent once it has its size there."""

        def put(fs: Any, path: str) -> None:
            fs.put_file(str(file), path)
            if (size := fs.info(path)["size"]) != file.stat().st_size:
                raise OSError(f"{size} of {file.stat().st_size} bytes arrived")

        self._put(name, put)

    def download(self, name: str, file: Path) -> None:
        """Copy a file here.

        Raises:
            ServiceError: less arrived than the service has, each time.
        """

        def get(fs: Any, root: str) -> None:
            fs.get_file(f"{root}/{name}", str(file))
            if (size := fs.info(f"{root}/{name}")["size"]) != file.stat().st_size:
                raise OSError(f"{file.stat().st_size} of {size} bytes of {name} arrived")

        self._ask(get, file.parent)

    def size(self, name: str) -> int:
        """Bytes of a file, 0 where it is gone."""
        try:
            return int(self._ask(lambda fs, root: fs.info(f"{root}/{name}")["size"]))
        except FileNotFoundError:
            return 0

    def delete(self, name: str) -> None:
        """Delete a file, unless it is gone."""
        with suppress(FileNotFoundError):
            self._ask(lambda fs, root: fs.rm_file(f"{root}/{name}"))

    def age(self, name: str) -> float:
        """Seconds since a file was last written, by the service's own clock alone."""
        return self._now() - self._written(name)

    def _written(self, name: str) -> float:
        when = self._ask(lambda fs, root: fs.modified(f"{root}/{name}"))
        stamp: float = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        return stamp

    def _now(self) -> float:
        """The service's time: that of a file written for it."""
        offset, measured = _offsets.get(self.url, (0.0, -CLOCK_SECONDS))
        if time.monotonic() - measured >= CLOCK_SECONDS or self.url not in _offsets:
            name = f"leases/clock-{uuid.uuid4().hex}"
            self.write(name, json.dumps({"clock": name}).encode())
            measured = time.monotonic()
            offset = self._written(name) - measured
            self.delete(name)
            _offsets[self.url] = (offset, measured)
        return time.monotonic() + offset

    def check_writable(self) -> None:
        """Write and delete a small file.

        Raises:
            ReadOnlyError: it may not be.
        """
        _offsets.pop(self.url, None)
        self._now()

    def _put(self, name: str, put: Callable[[Any, str], None]) -> None:
        def make_folder_and_put(fs: Any, root: str) -> None:
            path = f"{root}/{name}"
            try:
                put(fs, path)
            except FileNotFoundError:
                protocol = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
                if protocol & OBJECT_STORES:
                    raise ReadOnlyError(f"{self.url}: there is no such bucket; make it first") from None
                fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                put(fs, path)

        try:
            self._ask(make_folder_and_put)
        except ServiceError as error:
            if isinstance(error.__cause__, PermissionError):
                raise ReadOnlyError(str(error)) from error
            raise

    def _ask(self, work: Callable[[Any, str], T], local: Path | None = None) -> T:
        """What the file system answers.

        Args:
            local: a folder here that the work writes to; that its disk is full is not the service's failure.
        """
        import fsspec

        def passing(error: BaseException) -> bool:
            answered = isinstance(error, (*_ANSWERS, *_CERTAIN, ServiceError)) or not isinstance(error, Exception)
            return not answered and not (local is not None and is_full(error, local))

        tries = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_random_exponential(multiplier=WAIT_SECONDS, max=MOST_SECONDS),
            retry=retry_if_exception(passing),
            reraise=True,
        )

        def attempt() -> T:
            # What another machine wrote a moment ago must be seen, so nothing is remembered.
            fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            try:
                return work(fs, root)
            except OSError as error:
                raise _answer(error) from error.__cause__

        try:
            return tries(attempt)
        except (*_ANSWERS, ServiceError):
            raise
        except Exception as error:
            if local is not None and is_full(error, local):
                raise
            raise ServiceError(f"{self.url}: {type(error).__name__}: {error}") from error


def _answer(error: OSError) -> OSError:
    """What a refused condition of a conditional write is, however the server words it; other errors as they are.

    s3fs knows the wording of AWS alone.
    """
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return FileExistsError(str(error)) if code in ("PreconditionFailed", "412") else error
