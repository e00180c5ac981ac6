"""The exact map as rows of results.parquet, and back: page and predictions are made of what is kept.

A row is a figure of one method in one draw: `variant` the method, `model` the kind of policy, `seed` the draw, `subset`
the cell as "shape=more is better, ..., pairs=300, asked=10", `n` the prompts that it is a mean over. Benchmark
`exact-map`: the metrics are `exact_map.OUTCOMES`, score_at_KL_nats along the curve, and cpu_seconds of a solution
(subset `all`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exact_map import CELL, OUTCOMES, REPORTED, UNLIMITED

from radpo.core.results import RESULT_DTYPES

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "exact-map"
MAP, AGAIN, FULL_MAP = "map", "map-again", "map-full"
"""The maps' runs: as it is by default, with other draws, and with more pairs and draws."""
AXES = CELL[1:]
"""What `subset` says; the policy, first in CELL, is the row's model."""


def to_results(values: pd.DataFrame, curves: pd.DataFrame, run: str) -> pd.DataFrame:
    """The rows of a map, with a column `run`.

    Args:
        values, curves: as `exact_map.measure` gives.
    """
    import pandas as pd

    outcomes = values.melt([*CELL, "method", "draw"], list(OUTCOMES), "metric")
    along = curves.assign(metric=[f"score_at_{kl:g}_nats" for kl in curves["kl"]], value=curves["score"])
    both = pd.concat([outcomes, along.drop(columns=["kl", "score"])], ignore_index=True)
    # Seven digits: intervals over draws are a thousand times wider, and the file is half as large.
    both["value"] = both["value"].astype("float32").astype("float64")
    both["subset"] = _named(both)
    both["n"] = both["policy"].map(REPORTED)
    time = values.groupby(["policy", "method", "draw"], sort=False)["cpu_seconds"].agg(["mean", "size"]).reset_index()
    time = time.rename(columns={"mean": "value", "size": "n"}).assign(subset="all", metric="cpu_seconds")
    rows = pd.concat([both, time], ignore_index=True).rename(
        columns={"method": "variant", "policy": "model", "draw": "seed"}
    )
    rows["benchmark"], rows["stderr"] = BENCHMARK, float("nan")
    rows["higher_is_better"] = rows["metric"] != "cpu_seconds"
    rows["primary"] = rows["metric"] == "score"
    return rows[list(RESULT_DTYPES)].astype(RESULT_DTYPES).assign(run=run)


def from_results(results: pd.DataFrame, run: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The map's values, a column an outcome, and its curves' points, as `exact_map.measure` gives them, less times."""
    import pandas as pd

    rows = results[(results["run"] == run) & (results["benchmark"] == BENCHMARK) & (results["subset"] != "all")]
    subsets = rows["subset"].unique()
    axes = pd.DataFrame([_read(subset) for subset in subsets], index=subsets).reindex(rows["subset"])
    known = pd.DataFrame({"policy": rows["model"].to_numpy(str), **{axis: axes[axis].to_numpy() for axis in AXES}})
    known["method"], known["draw"] = rows["variant"].to_numpy(str), rows["seed"].to_numpy(int)
    known["metric"], known["value"] = rows["metric"].to_numpy(str), rows["value"].to_numpy(float)
    is_outcome = known["metric"].isin(list(OUTCOMES))
    values = known[is_outcome].pivot_table(
        index=[*CELL, "method", "draw"], columns="metric", values="value", sort=False
    ).reset_index().rename_axis(columns=None)  # fmt: skip
    curves = known[~is_outcome].rename(columns={"value": "score"})
    return values, curves.assign(kl=curves.pop("metric").str.split("_").str[2].astype(float))


def _named(cells: pd.DataFrame) -> pd.Series[str]:
    distinct = cells[list(AXES)].drop_duplicates()
    names = [
        ", ".join(f"{axis}={_text(value)}" for axis, value in zip(AXES, cell, strict=True))
        for cell in distinct.itertuples(index=False)
    ]
    return cells.merge(distinct.assign(subset=names), on=list(AXES), how="left")["subset"]


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else "unlimited" if value == UNLIMITED else f"{value:g}"


def _read(subset: str) -> dict[str, str | float]:
    found: dict[str, str | float] = {}
    for part in subset.split(", "):
        axis, value = part.split("=")
        found[axis] = UNLIMITED if value == "unlimited" else float(value) if axis in ("noise", "pairs") else value
        if axis == "asked":
            found[axis] = int(value)
    return found
