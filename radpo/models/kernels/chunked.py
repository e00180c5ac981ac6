"""Long measurements in chunks, written to one Parquet file; a kill costs one chunk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from radpo.core.files import has_named_checksum, replace_file, write_with_checksum

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
    """Write the rows of every chunk to one file; memory holds one chunk. The same call resumes where it was stopped.

    Finished chunks are kept in a folder beside the file until the file is whole. A whole file of the same identity is
    left as it is.

    Args:
        schema: the columns of the rows.
        identity: names everything that the rows depend on; chunks and files of another identity are of no use.
        rows: makes the rows of a chunk, given its number and itself.
        finished: called for every chunk whose rows are there.

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
    count = 0
    for count, chunk in enumerate(chunks, start=1):
        number = count - 1
        part = None if whole else _whole_part(parts, number)
        if not whole and part is None:
            table = pa.Table.from_pylist(rows(number, chunk), schema=schema)
            part = write_with_checksum(parts, f"{number:07}", ".parquet", lambda path, t=table: pq.write_table(t, path))  # type: ignore[misc]
        written += [] if part is None else [part]
        finished(chunk)
    if whole:
        return count

    def join(partial: Path) -> None:
        with pq.ParquetWriter(partial, schema) as writer:
            for part in written:
                writer.write_table(pq.read_table(part))

    replace_file(out, join)
    shutil.rmtree(parts)
    return count


def _whole_part(parts: Path, number: int) -> Path | None:
    """A finished chunk's file, if its content is what the checksum in its name says; else it is made anew."""
    for part in parts.glob(f"{number:07}-*.parquet"):
        if has_named_checksum(part):
            return part
    return None


def _take_up(parts: Path, identity: str) -> None:
    """Keep the chunks of an interrupted call like this one, and no others."""
    stamp = parts / "key.txt"
    if parts.exists() and not (stamp.exists() and stamp.read_text(encoding="utf-8") == identity):
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    stamp.write_text(identity, encoding="utf-8")
