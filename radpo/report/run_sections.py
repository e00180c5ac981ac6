"""The report's sections on the runs themselves: published figures, cost, settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from radpo.core.run import Run
from radpo.figures.sections import ReportSection, panel
from radpo.figures.spreads import stacked_seconds
from radpo.stats.quantities import Name, label_of, measure, number, unit_of

if TYPE_CHECKING:
    import pandas as pd

SHARED = "shared by variants"
BETWEEN = "start-up"
"""What a run spends outside its stages: worker processes that start, planning, writing its tables."""
KINDS = 6
"""So many kinds of stage, those that took longest, have a colour of their own."""


@dataclass(frozen=True)
class Published:
    """A published figure beside the run's own, which is None where it was not measured."""

    variant: str
    benchmark: str
    subset: str
    metric: str
    value: str
    source: str
    ours: str | None
    difference: str
    rows: str


def cost(run: Run) -> ReportSection:
    """Seconds by stage; a section for each run directory's table is the template's."""
    rows = _seconds(run)
    if rows.empty:
        return ReportSection("cost", "Cost and time")
    figure = stacked_seconds(rows)
    caption = (
        f"Seconds of computing by kind of stage, the {KINDS} longest by name. n = {len(rows):,} sums of one run each, "
        "without an interval."
    )
    method = (
        f"What several variants use, such as the reference's log-likelihoods, is computed once and is in “{SHARED}”. "
        "Seconds and peak memory are of the run that computed the stage, also where this run took it from the store. "
        "Peak memory is that of the whole process, including libraries. "
        f"“{BETWEEN}” is the time of this run in which no stage was at work: processes that start, planning, writing "
        "tables."
    )
    return ReportSection("cost", "Cost and time", caption, [panel("By variant", figure, 2)], 2, method=method)


def _seconds(run: Run) -> pd.DataFrame:
    """variant, kind, seconds: what each variant's stages took, by the first word of their names."""
    import pandas as pd

    rows = []
    for source in run.sources:
        for stage in source.manifest["stages"]:
            kind, *rest = str(stage["name"]).split("/")
            owner = next((source.names[part] for part in rest if part in source.names), SHARED)
            rows.append({"variant": owner, "kind": kind, "seconds": float(stage["seconds"])})
        if between := _between(source.manifest):
            rows.append({"variant": SHARED, "kind": BETWEEN, "seconds": between})
    frame = pd.DataFrame(rows, columns=["variant", "kind", "seconds"])
    summed = frame.groupby(["variant", "kind"], sort=False, as_index=False)["seconds"].sum()
    kept = summed.groupby("kind")["seconds"].sum().astype(float).nlargest(KINDS).index
    summed["kind"] = summed["kind"].where(summed["kind"].isin([*kept, BETWEEN]), "other")
    summed = summed.groupby(["variant", "kind"], sort=False, as_index=False)["seconds"].sum()
    order = {variant: place for place, variant in enumerate([SHARED, *run.variants])}
    places = sorted(range(len(summed)), key=lambda place: order[str(summed["variant"].iloc[place])])
    ordered: pd.DataFrame = summed.iloc[places].reset_index(drop=True)
    return ordered


def _between(manifest: Mapping[str, Any]) -> float:
    """Seconds of a run in which none of its stages was at work; 0 where that is unknown, or nothing was computed."""
    computed = [stage for stage in manifest["stages"] if not stage["from_store"]]
    if not computed or not all(stage.get("started") for stage in computed):
        return 0.0
    spans = sorted(
        (start := datetime.fromisoformat(stage["started"]).timestamp(), start + float(stage["seconds"]))
        for stage in computed
    )
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return max(0.0, float(manifest["wall_seconds"]) - busy)


def published(run: Run) -> list[Published]:
    """Published figures with ours beside them, where both name the same variant, benchmark, subset and metric."""
    if run.published is None:
        return []
    found = []
    for row in run.published.to_dict("records"):
        name = Name(str(row["benchmark"]), str(row["subset"]), str(row["metric"]))
        ours, unit = measure(run, str(row["variant"]), name), unit_of(run, name)
        half = "" if ours is None or ours.half is None else f" ± {number(ours.half, unit)}"
        found.append(
            Published(
                str(row["variant"]), name.benchmark, name.subset, label_of(run, name.benchmark, name.metric),
                f"{row['value']:g}",
                "" if row["source"] != row["source"] else str(row["source"]),
                None if ours is None else f"{number(ours.value, unit)}{half}",
                "" if ours is None else number(ours.value - float(row["value"]), unit, signed=True),
                "" if ours is None else " ".join(ours.rows),
            )
        )  # fmt: skip
    return found


def settings(variants: dict[str, Any]) -> list[tuple[str, list[str], bool]]:
    """The variants' settings by dotted name: (name, one value a variant, whether they differ)."""
    flat = [dict(_flat(values)) for values in variants.values()]
    names = dict.fromkeys(name for values in flat for name in values)
    rows: list[tuple[str, Sequence[str]]] = [(name, [values.get(name, "–") for values in flat]) for name in names]
    return [(name, list(values), len(set(values)) > 1) for name, values in rows]


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None or prefix:
        yield prefix or "value", value if isinstance(value, str) else json.dumps(value)
