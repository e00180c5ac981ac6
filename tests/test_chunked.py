"""Long measurements in chunks: what a kill leaves is gone on from, and only if it is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cheap_stages import run_inline

from radpo.matrix.graph import Function, Stage, Task
from radpo.matrix.schedule import StageError
from radpo.matrix.stages.common import kept_between_tries
from radpo.matrix.store import Store
from radpo.models.chunked import write_chunks

SCHEMA = pa.schema([("chunk", pa.int64()), ("value", pa.float64())])


def values(number: int) -> list[dict[str, Any]]:
    return [{"chunk": number, "value": number + row / 7} for row in range(50)]


@pytest.mark.parametrize("hurt", [None, "flip", "delete"])
def test_a_stage_in_chunks_goes_on_from_those_that_are_whole(tmp_path: Path, hurt: str | None) -> None:
    made: list[int] = []

    def rows(number: int, chunk: int) -> list[dict[str, Any]]:
        if number == 3 and 3 not in made:
            made.append(number)
            raise RuntimeError("killed")
        made.append(number)
        return values(number)

    def measure(task: Task) -> None:
        with kept_between_tries(task, "out.parquet") as out:
            write_chunks(out, SCHEMA, task.stage.key, range(5), rows, lambda chunk: None)

    store, stage = Store(tmp_path), Stage("measured", "measure", Function(measure, 1, resumable=True), {})
    with pytest.raises(StageError, match="killed"):
        run_inline(store, stage)
    parts = sorted((tmp_path / "partial" / stage.key / "work").rglob("*.parquet"))
    assert len(parts) == 3
    if hurt == "delete":
        parts[1].unlink()
    elif hurt == "flip":
        content = bytearray(parts[1].read_bytes())
        content[len(content) // 3] ^= 8
        parts[1].write_bytes(content)
    run_inline(store, stage)
    assert made == [0, 1, 2, 3, *([] if hurt is None else [1]), 3, 4]
    expected = [row for number in range(5) for row in values(number)]
    assert pq.read_table(store.folder(stage) / "out.parquet").to_pylist() == expected
    assert {path.name for path in store.folder(stage).iterdir()} == {"out.parquet", "stage.json", "files.json"}
