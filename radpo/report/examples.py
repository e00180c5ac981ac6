"""The example browser's data: a run's examples come in, rows grouped by question go out for the page to show."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def example_groups(examples: pd.DataFrame, variants: list[str]) -> list[dict[str, Any]]:
    """Examples that have an answer, all variants' answers to one question and seed in one group.

    Keys are short, because a run may hold tens of thousands: b benchmark, s subset, i example_id, d seed, p prompt,
    a the baseline's output (None: nothing was compared) and in `r`, the variants' rows in their order, v variant,
    o output, m metric, x value (None where not finite), t detail; p and a again where a row's differ from its group's.
    """
    shown = examples[examples["output"].notna()]
    groups: dict[tuple[str, str, str, int | None], dict[str, Any]] = {}
    for row in shown.to_dict("records"):
        seed = None if _absent(row["seed"]) else int(row["seed"])
        benchmark, subset, identity = str(row["benchmark"]), str(row["subset"]), str(row["example_id"])
        prompt = "" if _absent(row["prompt"]) else str(row["prompt"])
        answer = None if _absent(row["baseline_output"]) else str(row["baseline_output"])
        key = (benchmark, subset, identity, seed)
        if key not in groups:
            groups[key] = {"b": benchmark, "s": subset, "i": identity, "d": seed, "p": prompt, "a": answer, "r": []}
        group = groups[key]
        group["a"] = answer if group["a"] is None else group["a"]
        entry = {
            "v": str(row["variant"]), "o": str(row["output"]), "m": str(row["metric"]), "x": _finite(row["value"]),
            "t": _detail(row["detail"]),
        }  # fmt: skip
        if prompt != group["p"]:
            entry["p"] = prompt
        if answer is not None and answer != group["a"]:
            entry["a"] = answer
        group["r"].append(entry)
    place = {variant: number for number, variant in enumerate(variants)}
    for group in groups.values():
        group["r"].sort(key=lambda entry: place.get(entry["v"], len(place)))
    order = {"alpaca-eval": 0, "arena-hard": 1, "mt-bench": 2}
    return sorted(groups.values(), key=lambda group: order.get(group["b"], len(order)))


def _detail(text: Any) -> dict[str, Any]:
    """The detail as an object; what is no JSON object is shown as the text it is."""
    if _absent(text):
        return {}
    try:
        detail = json.loads(str(text), parse_constant=lambda name: name)
        json.dumps(detail, allow_nan=False)  # 1e999 is a number to the parser, and none that a page can read
    except (ValueError, RecursionError):
        return {"detail": str(text)}
    return {str(key): value for key, value in detail.items()} if isinstance(detail, dict) else {"detail": detail}


def _finite(value: Any) -> float | None:
    number = math.nan if _absent(value) else float(value)
    return number if math.isfinite(number) else None


def _absent(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
