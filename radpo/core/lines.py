"""Lines of files that strangers wrote: no line, and no document, fills the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, AnyStr

from radpo.core.errors import DataError

LONGEST_LINE = 64 << 20
"""Bytes (of text: characters) of a line: no row of any data set is longer, and a small gzip can unpack to gigabytes."""
LONGEST_DOCUMENT = 256 << 20
"""The same of a file that is one JSON document."""


def lines(stream: IO[AnyStr], shown: str) -> Iterator[AnyStr]:
    """A stream's lines with their ends, as iterating over it gives them.

    Args:
        shown: what messages call the file.

    Raises:
        DataError: a line is too long.
    """
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise DataError(
                f"{shown}, line {number}: longer than {LONGEST_LINE >> 20} MiB, which no row is; the file is damaged, "
                "or has no line ends"
            )
        yield line


def whole(stream: IO[AnyStr], shown: str) -> AnyStr:
    """All that a stream holds.

    Raises:
        DataError: it is too much.
    """
    text = stream.read(LONGEST_DOCUMENT)
    if len(text) == LONGEST_DOCUMENT:
        raise DataError(f"{shown}: longer than {LONGEST_DOCUMENT >> 20} MiB; write it as JSON Lines (.jsonl)")
    return text
