"""Supervised fine-tuning on each prompt's best response; nothing is pushed down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo import Variant
from radpo.preferences.goals import Placement
from radpo.preferences.relabel import relabel

if TYPE_CHECKING:
    import pyarrow as pa


def best_of_each(scored: pa.Table, placement: Placement) -> pa.Table:
    """Plain training pairs, of each prompt the one whose chosen response scores best; of equals the first."""
    best: dict[str, tuple[float, int]] = {}
    rows = zip(scored["prompt"].to_pylist(), scored["score_chosen"].to_pylist(), strict=True)
    for place, (prompt, score) in enumerate(rows):
        key = repr(prompt)
        if key not in best or score > best[key][0]:
            best[key] = score, place
    return relabel(scored.take([place for _, place in best.values()]), "plain", placement=placement).table


VARIANT = Variant(data=best_of_each, training={"loss": "sft", "label_smoothing": 0.0})
