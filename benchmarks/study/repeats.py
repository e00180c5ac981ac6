"""Verdicts that were reached twice: by other draws of the map, and by an earlier make of the study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exact_map import CELL, UNLIMITED

if TYPE_CHECKING:
    import pandas as pd

CLAIM = ["claim", "experiment"]


def cells_twice(cells: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """How many cells have which verdict in both of two maps, by outcome; the closed form is left out.

    Args:
        cells, again: as `exact_map.compare` gives.

    Returns:
        outcome, verdict, verdict_again, cells.
    """
    key = [*CELL, "outcome"]
    both = cells[cells["pairs"] != UNLIMITED].merge(again[[*key, "verdict"]], on=key, suffixes=("", "_again"))
    return both.groupby(["outcome", "verdict", "verdict_again"], sort=True).size().reset_index(name="cells")


def with_earlier(claims: pd.DataFrame, earlier: Path) -> pd.DataFrame:
    """Claims with the effects and verdicts of an earlier make beside them.

    Args:
        claims: as `verdicts.judge` gives.
        earlier: its claims.csv.

    Returns:
        claim, experiment, decides, effect, low, high, verdict, these four with `_earlier`, and `same`: whether the
        verdict is.
    """
    import pandas as pd

    figures = ["effect", "low", "high", "verdict"]
    before = pd.read_csv(earlier)[[*CLAIM, *figures]]
    both = claims[[*CLAIM, "decides", *figures]].merge(before, on=CLAIM, suffixes=("", "_earlier"), validate="1:1")
    return both.assign(same=both["verdict"] == both["verdict_earlier"])
