"""The run directory's tables, put together from the stages' folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.benchmarks.registry import benchmarks
from radpo.core.run_files import VERDICTS
from radpo.engine.store import Store
from radpo.matrix.draws import Levels
from radpo.matrix.expand import Cell

if TYPE_CHECKING:
    import pandas as pd


def gather(
    cells: Sequence[Cell],
    store: Store,
    tried: Iterable[dict[str, Any]] = (),
    levels: Callable[[int], Levels] | None = None,
) -> dict[str, pd.DataFrame]:
    """The run directory's tables, put together from the stages' folders.

    Args:
        tried: rows of results.parquet on settings that were tried.
        levels: of the factors that are drawn, by seed, for columns of results.parquet; None where there are none.
    """
    import pandas as pd

    from radpo.core.results import FACTOR_COLUMNS, examples_frame, results_frame

    results: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    others: dict[str, list[pd.DataFrame]] = {}

    def add(table: str, cell: Cell, path: Path, **more: str) -> None:
        frame = pd.read_parquet(path).assign(variant=cell.variant, seed=cell.seed, **more)
        others.setdefault(f"{table}.parquet", []).append(frame)

    for cell in cells:
        place = {"variant": cell.variant, "model": cell.model, "seed": cell.seed}
        for name, stage in cell.benchmarks.items():
            folder = store.open(stage)
            results += _placed(pd.read_parquet(folder / "results.parquet"), place)
            examples += _placed(pd.read_parquet(folder / "examples.parquet"), place)
            for table, file in benchmarks()[name].tables.items():
                add(table, cell, folder / file)
            if (folder / VERDICTS).exists():
                add("verdicts", cell, folder / VERDICTS, benchmark=name)
        if cell.train is not None:
            folder = store.open(cell.train)
            add("training", cell, folder / "training.parquet")
            if (folder / "trajectory.parquet").exists():
                add("trajectory", cell, folder / "trajectory.parquet")
            if (folder / "heldout.json").exists():
                results += _heldout_results(json.loads((folder / "heldout.json").read_text(encoding="utf-8")), place)
    found = results_frame([*results, *tried])
    if levels is not None:
        for at, column in enumerate(FACTOR_COLUMNS):
            drawn = [levels(int(seed))[at] for seed in found["seed"]]
            found[column] = pd.array(drawn, dtype="Int64")
    return {
        "results.parquet": found,
        "examples.parquet": examples_frame(examples),
        **{name: pd.concat(frames, ignore_index=True) for name, frames in others.items()},
    }


def known_tables() -> set[str]:
    """The names of all tables that a run directory may have."""
    of_benchmarks = {f"{table}.parquet" for benchmark in benchmarks().values() for table in benchmark.tables}
    return {"results.parquet", "examples.parquet", "training.parquet", "trajectory.parquet", VERDICTS, *of_benchmarks}


def _placed(frame: pd.DataFrame, place: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**{str(key): value for key, value in row.items()}, **place} for row in frame.to_dict("records")]


def _heldout_results(found: dict[str, Any], place: dict[str, Any]) -> list[dict[str, Any]]:
    """What TRL itself measured on the held-out training pairs once training was done, under TRL's own names."""
    return [
        {
            **place,
            "benchmark": "training",
            "subset": "heldout",
            "metric": metric,
            "value": value,
            "stderr": None,
            "n": found["n"],
            "higher_is_better": True if metric == "rewards/accuracies" else None,
            "primary": False,
        }
        for metric, value in found["metrics"].items()
    ]
