"""Scored pairs that are checked once, and then read batch by batch as often as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from radpo.core.errors import DataError
from radpo.preferences.preferences import PreferenceReader, Reading
from radpo.preferences.shares import Share, first_message, in_share, place_of
from radpo.preferences.sources import CHUNK_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

    Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True)
class CheckedPairs:
    """A file of checked scored pairs (`write_checked`), read batch by batch; `total` of them."""

    path: Path
    total: int

    @staticmethod
    def open(path: Path) -> CheckedPairs:
        """The pairs of a file."""
        import pyarrow.parquet as pq

        return CheckedPairs(path, pq.read_metadata(path).num_rows)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The pairs, batch by batch, from the first."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(CHUNK_ROWS)


def write_checked(
    source: str | Path,
    reading: Reading,
    out: Path,
    limit: int | None = None,
    share: Share | None = None,
    draw: int | None = None,
) -> dict[str, Any]:
    """Read and check a whole source, and write its pairs, those of the share, the first `limit` of them, to Parquet.

    Args:
        draw: in place of the first `limit` pairs, those of a draw, from 0: in the order of a hash of their prompts, a
            draw has the `limit` pairs that follow the draw before.

    Returns:
        rows_read, dropped (rows left out, by reason), noted (what is not wrong and still to be known, how often) and
        checked (good pairs of the share, with those beyond the limit).

    Raises:
        DataError: the source cannot be read, a row is bad, or the share has no pair, or fewer than the draw takes; the
            message names source, row, column and fix.
    """
    import pyarrow.parquet as pq

    reader, found, left = PreferenceReader(source, reading), 0, limit
    drawn = None if draw is None or limit is None else _drawn(reader, limit, share, draw)
    writer: Any = None
    try:
        for batch in reader:
            writer = writer or pq.ParquetWriter(out, reader.schema)
            batch = in_part(batch, share)
            if drawn is not None:
                batch, found = batch.filter(drawn[found : found + batch.num_rows]), found + batch.num_rows
                writer.write_batch(batch)
                continue
            found += batch.num_rows
            taken = batch if left is None else batch.slice(0, left)
            left = None if left is None else left - taken.num_rows
            writer.write_batch(taken)
    finally:
        if writer is not None:
            writer.close()
    if share is not None and not found:
        raise DataError(f"{source}: no prompt of its pairs is in the share {list(share)}; make it wider")
    counts = {"rows_read": reader.rows_read, "dropped": dict(reader.dropped), "noted": dict(reader.noted)}
    return {**counts, "checked": found}


def in_part(pairs: Rows, share: Share | None) -> Rows:
    """The pairs whose prompt is in a part of the data set; None for the whole."""
    if share is None:
        return pairs
    import pyarrow as pa

    prompts = pairs.column("prompt").to_pylist()
    return pairs.filter(pa.array([in_share(first_message(prompt), share) for prompt in prompts], pa.bool_()))


def _drawn(reader: PreferenceReader, limit: int, share: Share | None, draw: int) -> pa.BooleanArray:
    """Whether each pair of the share is in a draw; see `write_checked`."""
    import numpy as np
    import pyarrow as pa

    places = [
        place_of(first_message(prompt))
        for batch in reader
        for prompt in in_part(batch, share).column("prompt").to_pylist()
    ]
    if (draw + 1) * limit > len(places):
        raise DataError(
            f"{reader.source}: has {len(places)} pairs, so that there are {len(places) // limit} draws of {limit}, "
            f"numbered from 0, and draw {draw} is none of them; lower limit, or take fewer draws"
        )
    taken = np.zeros(len(places), dtype=bool)
    taken[np.argsort(places, kind="stable")[draw * limit : (draw + 1) * limit]] = True
    return pa.array(taken)
