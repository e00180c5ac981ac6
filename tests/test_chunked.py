"""Long measurements in chunks: what a kill leaves is gone on from, and only if it is still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cheap_stages import run_inline

from radpo.core.files import sha256
from radpo.engine.graph import Function, Stage, Task, kept_between_tries
from radpo.engine.schedule import StageError
from radpo.engine.store import Store
from radpo.models.kernels.chunked import write_chunks
from radpo.training.tracking import is_measured

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


def test_training_goes_on_only_where_all_of_its_trajectory_is_whole(tmp_path: Path) -> None:
    for step in (0, 2, 4, 5):
        (tmp_path / "new").write_bytes(bytes([step]) * 10)
        (tmp_path / "new").replace(tmp_path / f"{step:09d}-{sha256(tmp_path / 'new') if step else 'hurt'}.parquet")
    assert not is_measured(tmp_path, 2, 4), "the first step's file is not what its name says"
    start = tmp_path / "000000000-hurt.parquet"
    start.replace(tmp_path / f"000000000-{sha256(start)}.parquet")
    assert is_measured(tmp_path, 2, 4)
    assert is_measured(tmp_path, 2, 5)
    assert not is_measured(tmp_path, 2, 6)
    assert not is_measured(tmp_path, 1, 4)
