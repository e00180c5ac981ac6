"""Predictions of the exact map, read from a file that was written before it, and decided by their own rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from radpo.core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_name("predictions.yaml")
RESAMPLES = 300


@dataclass(frozen=True)
class Prediction:
    """A reading, whose it is, what would refute it, and the rule that decides."""

    name: str
    who: str
    reading: str
    refuted: str
    rule: dict[str, Any]


def read_predictions(path: Path = FILE) -> list[Prediction]:
    """All predictions of the file."""
    return [Prediction(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]


def decide(predictions: list[Prediction], values: pd.DataFrame) -> pd.DataFrame:
    """A row a prediction: its figure with a 95% interval over draws, the threshold, how many cells it rests on, and
    whether it held, was refuted, or is undecided.

    Args:
        values: as `exact_map.measure` gives.
    """
    import pandas as pd

    rows = []
    for prediction in predictions:
        share, low, high, threshold, cells = _figure(prediction, values)
        decision = (
            "no cell to decide it by" if cells == 0
            else "held" if low >= threshold
            else "refuted" if high < threshold
            else "undecided"
        )  # fmt: skip
        rows.append(
            {
                "name": prediction.name, "who": prediction.who, "reading": " ".join(prediction.reading.split()),
                "refuted": prediction.refuted, "share": share, "low": low, "high": high, "threshold": threshold,
                "cells": cells, "decision": decision,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _figure(prediction: Prediction, values: pd.DataFrame) -> tuple[float, float, float, float, int]:
    from exact_map import OUTCOMES, UNLIMITED, differences, interval, verdicts

    rule = prediction.rule
    table = differences(values, rule["outcome"])
    mine = _chosen(table, rule["where"], prediction.name)
    if "larger" in rule:
        other = _chosen(table, rule["than"], prediction.name)
        ahead = mine.to_numpy().mean(axis=0) - other.to_numpy().mean(axis=0)
        mean, low, high = interval(ahead)
        return float(mean), float(low), float(high), 0.0, len(mine) + len(other)
    smallest = OUTCOMES[rule["outcome"]][0]
    if "agrees" in rule:
        exact = table.reset_index("pairs")
        exact = exact[exact["pairs"] == UNLIMITED].drop(columns="pairs").mean(axis=1)
        theirs = exact.reindex(mine.index.droplevel("pairs")).to_numpy()
        mine, theirs = mine[np.abs(theirs) >= smallest], theirs[np.abs(theirs) >= smallest]

        def share(drawn: Any) -> float:
            return float((np.sign(drawn.mean(axis=1)) == np.sign(theirs)).mean())
    else:

        def share(drawn: Any) -> float:
            return float(np.isin(verdicts(*interval(drawn), smallest), rule["verdicts"]).mean())

    if mine.empty:  # the closed form sees nothing in any of the cells that matters
        return float("nan"), float("nan"), float("nan"), float(rule["at_least"]), 0
    known = mine.to_numpy()
    rng = np.random.default_rng(0)
    draws = known.shape[1]
    resampled = [share(known[:, rng.integers(0, draws, draws)]) for _ in range(RESAMPLES)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return share(known), float(low), float(high), float(rule["at_least"]), len(mine)


def _chosen(table: pd.DataFrame, where: dict[str, Any], name: str) -> pd.DataFrame:
    """The cells that a rule is about."""
    from exact_map import CELL, UNLIMITED

    index = table.index.to_frame(index=False)
    finite = index["pairs"][index["pairs"] != UNLIMITED]
    ends = {"most": finite.max(), "fewest": finite.min()}
    kept = (index["pairs"] != UNLIMITED).to_numpy(copy=True)
    for column, wanted in where.items():
        if column not in CELL:
            raise ConfigError(f"{FILE.name}: {name}: there is no axis {column}; there are {', '.join(CELL)}")
        allowed = [ends.get(value, value) for value in (wanted if isinstance(wanted, list) else [wanted])]
        kept &= index[column].isin(allowed).to_numpy()
    if not kept.any():
        raise ConfigError(f"{FILE.name}: {name}: no cell has {where}")
    return table[kept]
