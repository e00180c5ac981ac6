"""Long measurements in chunks: work comes in a chunk at a time, one Parquet file goes out, a kill costs one chunk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

Chunk = TypeVar("Chunk")


def write_chunks(
    out: Path,
    schema: pa.Schema,
    identity: str,
    chunks: Iterable[Chunk],
    rows: Callable[[int, Chunk], list[dict[str, Any]]],
    finished: Callable[[Chunk], None],
) -> int:
    """Write the rows of every chunk to one file; memory holds one chunk. The same call goes on where it was stopped.

    Finished chunks are kept in a folder beside the file until the file is whole. A whole file of the same identity is
    left as it is.

    Args:
        schema: the columns of the rows.
        identity: everything that the rows depend on, in words; chunks and files of another identity are of no use.
        rows: makes the rows of a chunk, given its number and itself.
        finished: told of every chunk whose rows are there.

    Returns:
        How many chunks there were.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema.with_metadata({"radpo": identity})
    whole = out.exists() and pq.read_schema(out).metadata == schema.metadata
    parts = out.with_name(f".{out.name}.parts")
    if not whole:
        _take_up(parts, identity)
    written: list[Path] = []
    for number, chunk in enumerate(chunks):
        part = parts / f"{number:07}.parquet"
        if not whole and not part.exists():
            partial = part.with_suffix(".partial")
            pq.write_table(pa.Table.from_pylist(rows(number, chunk), schema=schema), partial)
            partial.replace(part)
        written.append(part)
        finished(chunk)
    if whole:
        return len(written)
    partial = out.with_name(f".{out.name}.partial")
    with pq.ParquetWriter(partial, schema) as writer:
        for part in written:
            writer.write_table(pq.read_table(part))
    partial.replace(out)
    shutil.rmtree(parts)
    return len(written)


def _take_up(parts: Path, identity: str) -> None:
    """Keep the chunks of an interrupted call like this one, and no others."""
    stamp = parts / "made_by.txt"
    if parts.exists() and not (stamp.exists() and stamp.read_text(encoding="utf-8") == identity):
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    stamp.write_text(identity, encoding="utf-8")
