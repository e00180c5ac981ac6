"""Tables written to a file or a folder, whole or not at all."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.core.files import replace_file

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 16 << 20
"""A Parquet row group's size before compression; a writer has one in memory."""
FORMATS = ".parquet, .jsonl, .jsonl.gz, or a name without ending for a `datasets` folder"


def check_target(path: Path) -> None:
    """See that a result could be written, before work is spent on it.

    Raises:
        DataError: its ending is none of `FORMATS`, or its folder does not exist, or a folder stands in its place.
    """
    if path.suffix not in ("", ".parquet", ".jsonl") and not path.name.endswith(".jsonl.gz"):
        raise DataError(f"{path}: unknown ending {path.suffix!r}; write to {FORMATS}")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise DataError(f"{path}: a folder is there already; remove it or give another name")


def write_tables(tables: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
    """Write tables of one schema one after the other, never all in memory.

    Returns:
        How many rows were written.

    Raises:
        DataError: see `check_target`; or the disk is full or refuses.
    """
    check_target(path)
    rows = 0

    def write(partial: Path) -> None:
        nonlocal rows
        rows = _write(tables, schema, path, partial)

    try:
        replace_file(path, write)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return rows


def write_preferences(table: pa.Table, path: Path) -> None:
    """Write one table; the file appears whole or not at all.

    Raises:
        DataError: the file's ending is none of `FORMATS`, or it cannot be written.
    """
    write_tables([table], table.schema, path)


def _write(tables: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema, path: Path, partial: Path) -> int:
    if path.suffix == ".parquet":
        return _write_parquet(tables, schema, partial)
    if path.suffix == "":
        return _write_folder(tables, schema, partial)
    with (
        gzip.open(partial, "wt", encoding="utf-8") if path.suffix == ".gz" else partial.open("w", encoding="utf-8") as s
    ):
        return _write_json(tables, s)


def _write_parquet(tables: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema, partial: Path) -> int:
    import pyarrow.parquet as pq

    rows = 0
    # Long texts hardly ever repeat: looking for repetitions costs time and finds none.
    repeated = [name for name in ("goal", "side", "score_chosen", "score_rejected") if name in schema.names]
    with pq.ParquetWriter(partial, schema, use_dictionary=repeated or False, write_page_checksum=True) as writer:
        for group in _groups(tables):
            writer.write_table(group)
            rows += group.num_rows
        if not rows:
            writer.write_table(schema.empty_table())
    return rows


def _groups(tables: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of a row group's size."""
    import pyarrow as pa

    gathered: list[pa.Table] = []
    size = 0
    for given in tables:
        table = pa.Table.from_batches([given]) if isinstance(given, pa.RecordBatch) else given
        gathered.append(table)
        size += table.nbytes
        if size > GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered, size = [], 0
    if gathered:
        yield pa.concat_tables(gathered)


def _write_json(tables: Iterable[pa.Table | pa.RecordBatch], stream: IO[str]) -> int:
    rows = 0
    for table in tables:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
        rows += table.num_rows
    return rows


def _write_folder(tables: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema, partial: Path) -> int:
    """A folder that `datasets.load_from_disk` reads, made by that library from an Arrow file it need not load."""
    from datasets import Dataset

    with _arrow_file(partial) as stream:
        rows = write_arrow(tables, schema, stream)
        Dataset.from_file(str(stream)).save_to_disk(partial)
    return rows


@contextmanager
def _arrow_file(partial: Path) -> Iterator[Path]:
    path = partial.with_name(partial.name + ".arrow")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_arrow(tables: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
    """Write tables as one Arrow stream, the format of `datasets`' own files; how many rows it has."""
    import pyarrow as pa

    rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write(table)
            rows += table.num_rows
    return rows
