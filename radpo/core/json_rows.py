"""JSON files of many rows (`.jsonl` or `.json`, gzipped or not): objects with their places."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from radpo.core.errors import DataError
from radpo.core.lines import lines, whole

ENCODING = "utf-8-sig"
"""UTF-8 with or without the byte order mark that editors on Windows put before the first line."""


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a `.jsonl` or `.json` (one array) file, gzipped or not, each with its place for messages.

    Raises:
        DataError: the file cannot be read, or a line or element is no JSON object.
    """
    try:
        with opened(path) as stream:
            if path.name.removesuffix(".gz").endswith(".json"):
                document = json.loads(whole(stream, str(path)))
                rows = enumerate(document if isinstance(document, list) else [document])
                yield from ((f"{path}, element {number}", _object(row, path, number)) for number, row in rows)
                return
            for number, line in enumerate(lines(stream, str(path)), start=1):
                if line.strip():
                    yield f"{path}, line {number}", _object(_parse(line, path, number), path, number)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def opened(path: Path) -> IO[str]:
    """A text file, unpacked where it is gzipped."""
    return gzip.open(path, "rt", encoding=ENCODING) if path.suffix == ".gz" else path.open(encoding=ENCODING)


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line.lstrip("\ufeff"))  # files with marks, put behind one another
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise DataError(f"{path}, line {number}: no JSON: {error}") from error


def _object(row: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
    return row


def first_row(path: Path) -> dict[str, Any]:
    """The first object of a file as `read_rows` reads it, which tells of what kind the file is; empty where none is."""
    return next((row for _, row in read_rows(path)), {})
