"""Scored pairs that are read as often as they are needed and never held: a source comes in, batches go out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.preferences.preferences import PreferenceReader, Reading

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class StreamedPairs:
    """Checked scored pairs of a source; memory holds one batch.

    Args:
        reader: reads and checks them, anew each time.
        total: how many there are.
        content: a hash of what they say.
        limit: how many of them are taken; all for None.
    """

    reader: PreferenceReader
    total: int
    content: str
    limit: int | None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The pairs, batch by batch, from the first."""
        return _limited(self.reader, self.limit)


def stream_pairs(source: str | Path, reading: Reading | None = None, limit: int | None = None) -> StreamedPairs:
    """Read a source once, to check and to count it, for reading it again.

    Raises:
        DataError: the source cannot be read, or a row is bad; the message names source, row, column and mend.
    """
    reader = PreferenceReader(source, reading)
    digest, total = hashlib.sha256(), 0
    for batch in _limited(reader, limit):
        digest.update(batch.serialize())
        total += batch.num_rows
    return StreamedPairs(reader, total, digest.hexdigest(), limit)


def _limited(reader: PreferenceReader, limit: int | None) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in reader:
        if left is None:
            yield batch
            continue
        yield batch.slice(0, left)
        left -= min(left, batch.num_rows)
        if left == 0:
            return
