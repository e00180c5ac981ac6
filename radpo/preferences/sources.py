"""Where preferences come from: the rows of a file, a folder, an address or a Hub id, a chunk at a time.

Tables (Parquet, `datasets`) give Arrow batches, text (JSON Lines, CSV) gives parsed rows; what cannot be parsed comes
in its place as an error, so that the caller decides whether it ends the reading.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from radpo.core.errors import DataError, ServiceError
from radpo.core.lines import LONGEST_LINE, lines
from radpo.core.messages import masked_address
from radpo.core.progress import Progress, no_progress
from radpo.preferences.hub import HubName, parse_hub
from radpo.preferences.rows import BadRowError

if TYPE_CHECKING:
    import pyarrow as pa

    from radpo.preferences.layouts import Numbered

CHUNK_ROWS = 10_000
CHUNK_BYTES = 4 << 20
"""A chunk ends at whichever comes first; long responses must not fill the memory."""

STREAMED_ROWS = 500
"""Rows of a streamed data set that are taken at once."""

KINDS = "a .jsonl, .parquet or .csv file (.jsonl and .csv also gzipped: .gz), or a folder that `datasets` saved"


def chunks(
    source: str | Path, columns: Callable[[Sequence[str]], Sequence[str]], progress: Progress = no_progress
) -> Iterator[pa.RecordBatch | list[Numbered]]:
    """The rows of a source: Arrow batches, or lists of rows with their numbers (a file's lines; in CSV its rows).

    Args:
        source: a path; any address that fsspec opens (`s3://…`, `hf://…`, `https://…`); or a data set of the Hub,
            `hub:NAME[@CONFIG]:SPLIT[#REVISION]` (downloaded and cached) or `stream:…` (read as it comes).
        columns: which of a table's columns to read, given all of them.
        progress: called with rows or bytes, done and in all, as far as they are known.

    Raises:
        DataError: there is no such source, it is of no known kind, or it is damaged.
        ServiceError: an address or the Hub could not be read.
    """
    name = str(source)
    if hub := parse_hub(name):
        return _hub_batches(hub, columns, progress)
    plain = name.removesuffix(".gz")
    if plain.endswith(".jsonl"):
        return _json_rows(name, progress)
    if plain.endswith(".csv"):
        return _csv_rows(name, progress)
    if name.endswith(".parquet"):
        return _parquet_batches(name, columns, progress)
    path = Path(name)
    try:
        if path.is_dir() or path.parent.joinpath("dataset_dict.json").is_file():
            return _folder_batches(path, columns, progress)
        there = path.exists()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{name[:80]}: cannot be opened ({error.strerror})") from error
    if is_address(name) or there:
        raise DataError(f"{shown(name)}: unknown format; give {KINDS}")
    raise DataError(f"{name}: no such file; a data set of the Hub is written hub:NAME:SPLIT")


def is_address(source: str | Path) -> bool:
    """Whether a source is an address for fsspec and not a path."""
    return "://" in str(source)


@contextmanager
def _opened(name: str) -> Iterator[tuple[BinaryIO, Callable[[], int], int]]:
    """A file's bytes, unpacked where it is gzipped, with how many of its own bytes are read, and of how many."""
    with ExitStack() as stack:
        try:
            if is_address(name):
                import fsspec

                stream = cast(BinaryIO, stack.enter_context(fsspec.open(name, "rb")))
                size = int(getattr(stream, "size", 0) or 0)
            else:
                stream = stack.enter_context(Path(name).open("rb"))
                size = Path(name).stat().st_size
        except FileNotFoundError:
            raise DataError(f"{shown(name)}: no such file") from None
        except IsADirectoryError:
            raise DataError(f"{name}: a folder, where a file is wanted") from None
        except Exception as error:  # every protocol fails in its own ways, all of them the service's
            raise _unreachable(name, error) from error
        read = cast(BinaryIO, stack.enter_context(gzip.open(stream))) if name.endswith(".gz") else stream
        try:
            yield read, stream.tell, size
        except (EOFError, zlib.error, OSError) as error:
            reason = f"cannot be read to its end ({error}); the file is damaged or cut short"
            raise DataError(f"{shown(name)}: {reason}") from error


def _unreachable(name: str, error: Exception) -> DataError | ServiceError:
    """What to say of a source that cannot be opened."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    if not is_address(name) or isinstance(error, ImportError | ValueError):
        return DataError(f"{shown(name)}: cannot be opened ({reason})")
    return ServiceError(f"{shown(name)}: cannot be read ({type(error).__name__})")


def shown(source: str | Path) -> str:
    """A source's name for messages: of an address, without what may be a password or a token."""
    return masked_address(str(source))


def _json_rows(name: str, progress: Progress) -> Iterator[list[Numbered]]:
    rows: list[Numbered] = []
    size = 0
    with _opened(name) as (stream, position, total):
        for number, line in enumerate(lines(stream, shown(name)), start=1):
            if not line.isspace():
                rows.append((number, _parsed(line)))
                size += len(line)
            if len(rows) == CHUNK_ROWS or size > CHUNK_BYTES:
                progress(position(), total)
                yield rows
                rows, size = [], 0
        progress(position(), total)
        yield rows


def _parsed(line: bytes) -> dict[str, Any] | BadRowError:
    fix = "every line must be one JSON object in UTF-8"
    try:
        row = json.loads(line.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except json.JSONDecodeError as error:
        return BadRowError("(whole line)", "not JSON", f"{fix} ({error.msg} at character {error.pos + 1})")
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, or thousands of brackets
        return BadRowError("(whole line)", "not JSON", fix)
    return row if isinstance(row, dict) else BadRowError("(whole line)", "not a JSON object", fix)


def _csv_rows(name: str, progress: Progress) -> Iterator[list[Numbered]]:
    rows: list[Numbered] = []
    size = 0
    with _opened(name) as (stream, position, total):
        # What is not UTF-8 becomes lone surrogates, which the row's check names with the row's place.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        csv.field_size_limit(LONGEST_LINE)
        reader = csv.reader(lines(text, shown(name)), strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError(
                    f"{shown(name)}: two columns have the same name; the first line must name every column once"
                )
            for number, fields in enumerate(reader, start=1):
                if fields:
                    rows.append((number, _csv_row(header, fields)))
                    size += sum(map(len, fields))
                if len(rows) == CHUNK_ROWS or size > CHUNK_BYTES:
                    progress(position(), total)
                    yield rows
                    rows, size = [], 0
        except csv.Error as error:
            raise DataError(f"{shown(name)}, line {reader.line_num}: not CSV ({error})") from error
        progress(position(), total)
        yield rows


def _csv_row(header: list[str], fields: list[str]) -> dict[str, Any] | BadRowError:
    if len(fields) != len(header):
        fix = f"it has {len(fields)} fields, the first line has {len(header)}; quote fields that hold commas or lines"
        return BadRowError("(whole row)", "wrong number of fields", fix)
    return {name: field or None for name, field in zip(header, fields, strict=True)}


def _parquet_batches(
    name: str, columns: Callable[[Sequence[str]], Sequence[str]], progress: Progress
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _opened(name) as (stream, _, _):
        try:
            # Read page by page: a row group may be as large as the file.
            with pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file:
                groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
                total = file.metadata.num_rows
                size = sum(max(group.total_byte_size, 0) for group in groups)
                wanted = columns(file.schema_arrow.names)
                done = 0
                for batch in file.iter_batches(_rows_of(total, size), columns=wanted, use_threads=False):
                    yield batch
                    done += batch.num_rows
                    progress(done, total)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{shown(name)}: cannot be read as Parquet ({reason})") from error


def _rows_of(rows: int, size: int) -> int:
    """How many rows a chunk has, where all rows together have a size in bytes."""
    return max(1, min(CHUNK_ROWS, rows * CHUNK_BYTES // max(size, 1)))


def _folder_batches(
    path: Path, columns: Callable[[Sequence[str]], Sequence[str]], progress: Progress
) -> Iterator[pa.RecordBatch]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # a damaged folder fails in Arrow, JSON, or the library's own code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a folder that `datasets` saved ({reason})") from error
    if isinstance(dataset, DatasetDict):
        splits = ", ".join(str(path / split) for split in dataset)
        raise DataError(f"{path}: holds several splits; name one of {splits}")
    yield from _dataset_batches(dataset, columns, progress)


def _dataset_batches(
    dataset: Any, columns: Callable[[Sequence[str]], Sequence[str]], progress: Progress
) -> Iterator[pa.RecordBatch]:
    table = dataset.with_format("arrow").data.select(columns(dataset.column_names))
    done = 0
    for batch in table.to_batches(_rows_of(table.num_rows, table.nbytes)):
        yield batch
        done += batch.num_rows
        progress(done, table.num_rows)


def _hub_batches(
    hub: HubName, columns: Callable[[Sequence[str]], Sequence[str]], progress: Progress
) -> Iterator[pa.RecordBatch]:
    from datasets import load_dataset_builder

    streaming = hub.how == "stream"
    with ExitStack() as stack:
        # Of local files `datasets` keeps rows by the time of their change, which may be restored.
        cache = stack.enter_context(TemporaryDirectory(prefix="radpo-")) if hub.is_folder else None
        try:
            builder = load_dataset_builder(hub.name, hub.config, revision=hub.revision, cache_dir=cache)
            if hub.commit is not None and builder.hash != hub.commit:
                raise OSError(f"its cache has the commit {builder.hash} alone")
            if not streaming:
                builder.download_and_prepare()
            dataset = (builder.as_streaming_dataset if streaming else builder.as_dataset)(split=hub.split)
        except Exception as error:
            raise _not_loaded(str(hub), error) from error
        yield from _loaded_batches(dataset, hub, columns, progress)


def _loaded_batches(
    dataset: Any, hub: HubName, columns: Callable[[Sequence[str]], Sequence[str]], progress: Progress
) -> Iterator[pa.RecordBatch]:
    from datasets import DatasetDict, IterableDatasetDict

    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        splits = ", ".join(str(replace(hub, split=split)) for split in dataset)
        raise DataError(f"{hub}: holds several splits; name one of {splits}")
    if hub.how == "hub":
        yield from _dataset_batches(dataset, columns, progress)
        return
    done = 0
    tables = dataset.with_format("arrow").iter(STREAMED_ROWS)
    while True:
        try:
            table = next(tables, None)
        except Exception as error:
            raise _not_loaded(str(hub), error) from error
        if table is None:
            return
        for batch in table.select(columns(table.column_names)).to_batches():
            yield batch
            done += batch.num_rows
            progress(done, 0)


def _not_loaded(name: str, error: Exception) -> DataError | ServiceError:
    """What to say of a data set that `datasets` cannot load."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return ServiceError(f"{name}: the Hub cannot be reached ({reason})")
    return DataError(f"{name}: cannot be loaded ({reason})")
