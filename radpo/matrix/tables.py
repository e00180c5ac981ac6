"""The run directory's tables: cells and a store come in, results, examples, likelihoods, training go out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from radpo.engine.store import Store
from radpo.matrix.expand import Cell

if TYPE_CHECKING:
    import pandas as pd


def gather(cells: Sequence[Cell], store: Store) -> dict[str, pd.DataFrame]:
    """The run directory's tables, put together from the stages' folders."""
    import pandas as pd

    from radpo.core.results import examples_frame, results_frame

    results: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    likelihoods: list[pd.DataFrame] = []
    training: list[pd.DataFrame] = []
    trajectories: list[pd.DataFrame] = []
    for cell in cells:
        place = {"variant": cell.variant, "model": cell.model, "seed": cell.seed}
        for stage in cell.benchmarks.values():
            folder = store.open(stage)
            results += _placed(pd.read_parquet(folder / "results.parquet"), place)
            examples += _placed(pd.read_parquet(folder / "examples.parquet"), place)
        if "unlearning" in cell.benchmarks:
            frame = pd.read_parquet(store.open(cell.benchmarks["unlearning"]) / "likelihoods.parquet")
            likelihoods.append(frame.assign(variant=cell.variant, seed=cell.seed))
        if cell.train is not None:
            folder = store.open(cell.train)
            training.append(pd.read_parquet(folder / "training.parquet").assign(variant=cell.variant, seed=cell.seed))
            if (folder / "trajectory.parquet").exists():
                tracked = pd.read_parquet(folder / "trajectory.parquet")
                trajectories.append(tracked.assign(variant=cell.variant, seed=cell.seed))
            results += _heldout_results(json.loads((folder / "heldout.json").read_text(encoding="utf-8")), place)
    tables = {"results.parquet": results_frame(results), "examples.parquet": examples_frame(examples)}
    if likelihoods:
        tables["likelihoods.parquet"] = pd.concat(likelihoods, ignore_index=True)
    if training:
        tables["training.parquet"] = pd.concat(training, ignore_index=True)
    if trajectories:
        tables["trajectory.parquet"] = pd.concat(trajectories, ignore_index=True)
    return tables


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
