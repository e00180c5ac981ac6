"""Relabeling batch by batch, from a source of scored pairs to a file of training pairs.

The file holds what `radpo.preferences.relabel.relabel` gives for the same pairs and settings, however many pairs there
are, in the form that TRL's trainers take: responses as messages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.preferences.plan import SIDES, Counts, Relabeling, make_plan, measure
from radpo.preferences.preferences import PreferenceReader
from radpo.preferences.relabel import relabel_batch
from radpo.preferences.writing import check_target, write_tables

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Places = npt.NDArray[np.int64]

BUCKET_ROWS = 10_000
"""Training pairs that are shuffled in memory at once."""
BUCKETS = 200
"""At most so many files are open for shuffling."""


def relabel_to(reader: PreferenceReader, settings: Relabeling, out: Path) -> Counts:
    """Write the training pairs of a source.

    The source is read once, and once more before where what becomes of a pair depends on the others (`half-ra`, `ira`,
    `shuffle`). Memory grows by some numbers a pair, not with the texts; shuffling takes as much disk again as the
    result, in the result's folder.

    Args:
        settings: see `radpo.preferences.relabel.relabel`.
        out: a name with one of the endings of `radpo.preferences.writing.FORMATS`.

    Raises:
        DataError: the source cannot be read, a row is bad, the pairs lack what the kind needs, or the file cannot be
            written or is the source.
        ServiceError: the source is an address that cannot be read.
    """
    check_target(out)
    if out.exists() and Path(str(reader.source)).exists() and out.samefile(str(reader.source)):
        raise DataError(f"{out}: is the source itself, which is never changed; give the result another name")
    counted: list[Counts] = []
    with ExitStack() as stack:
        if settings.needs_all:
            plan = make_plan([measure(batch, settings) for batch in reader], settings)
            made = _by_plan(reader, plan.used, plan.measured.scores, plan.measured.implicit, settings, counted)
            if plan.places is not None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent))
                made = _in_order(made, plan.places, Path(folder))
        else:
            made = _by_batch(reader, settings, counted)
        messages = map(conversational, made)
        first = next(messages)
        write_tables(chain([first], messages), first.schema, out)
    counts = sum(counted, Counts())
    return replace(plan.counts, same_goal=counts.same_goal) if settings.needs_all else counts


def conversational(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Training pairs with their responses as messages: TRL's conversational preference form, every column kept."""
    import numpy as np
    import pyarrow as pa

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    kind = columns["prompt"].type
    offsets = pa.array(np.arange(batch.num_rows + 1), pa.int32())
    assistant = pa.repeat(pa.scalar("assistant"), batch.num_rows)
    for side in SIDES:
        messages = pa.StructArray.from_arrays([assistant, columns[side]], names=["role", "content"])
        columns[side] = pa.ListArray.from_arrays(offsets, messages).cast(kind)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _by_batch(reader: PreferenceReader, settings: Relabeling, counted: list[Counts]) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        plan = make_plan([measure(batch, settings)], settings)
        made, same = relabel_batch(batch, plan.used, plan.measured.scores, plan.measured.implicit, settings)
        counted.append(replace(plan.counts, same_goal=same))
        yield made


def _by_plan(
    reader: PreferenceReader,
    used: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float64],
    implicit: npt.NDArray[np.float64],
    settings: Relabeling,
    counted: list[Counts],
) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in reader:
        rows = slice(start, start + batch.num_rows)
        if rows.stop > len(used):
            break
        made, same = relabel_batch(batch, used[rows], scores[rows], implicit[rows], settings)
        counted.append(Counts(same_goal=same))
        start = rows.stop
        yield made
    if start != len(used) or rows.stop > len(used):
        raise DataError(f"{reader.source}: changed while it was read; relabel it again")


def _in_order(batches: Iterator[pa.RecordBatch], places: Places, folder: Path) -> Iterator[pa.RecordBatch]:
    """The rows of all batches, the first at the place `places[0]` of the result, and so on.

    They go into files, each for a run of places, and each file is put in order by itself.
    """
    import numpy as np
    import pyarrow as pa

    first = next(batches)
    count = min(max(-(-len(places) // BUCKET_ROWS), 1), BUCKETS)
    files = [folder / f"{number}.arrow" for number in range(count)]
    schema = first.schema.append(pa.field("place", pa.int64()))
    with ExitStack() as stack:
        sinks = [stack.enter_context(pa.OSFile(str(file), "wb")) for file in files]
        writers = [stack.enter_context(pa.ipc.new_stream(sink, schema)) for sink in sinks]
        start = 0
        for batch in chain([first], batches):
            at = places[start : start + batch.num_rows]
            start += batch.num_rows
            bucket = at * count // max(len(places), 1)
            order = np.argsort(bucket, kind="stable")
            placed = batch.append_column("place", pa.array(at)).take(pa.array(order))
            ends = np.searchsorted(bucket[order], np.arange(count + 1))
            for number, writer in enumerate(writers):
                if ends[number] < ends[number + 1]:
                    writer.write_batch(placed.slice(ends[number], ends[number + 1] - ends[number]))
    yield first.slice(0, 0)
    for file in files:
        with pa.memory_map(str(file)) as stream:
            table = pa.ipc.open_stream(stream).read_all()
        yield from table.sort_by("place").drop_columns("place").to_batches()
        file.unlink()
