"""The study from nothing: the testbed's runs, the exact map twice, points where both stand, tables and pages.

Run from the repository's root: python benchmarks/study/study.py [--out runs/study] [--full] [--seed 0] [--jobs N]

OUT/study gets every file of reports/study that is made, and all of them but the main run's own (report.html,
manifest.json, matrix.yaml) are made of results.parquet alone. The map is made again with other draws (the next seed),
and the study is compared with an earlier one. With --full there are also points of the map on the language model with
each method tuned (tuned.yaml), and a map of more pairs and draws. The rest of OUT is what it takes; interrupted, the
same command goes on there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import exact_map
import testbed
from claims import CONDITIONED, EXPERIMENTS
from map_rows import AGAIN, BENCHMARK, FULL_MAP, MAP, from_results, to_results
from verdicts import Experiment

from radpo.core.machine import cores

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    """Make whatever is not there yet, and print the table of claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--full", action="store_true", help="the tuned points and the full map as well")
    parser.add_argument("--toy", action="store_true", help="too small to mean anything: whether all of it runs")
    parser.add_argument("--seed", type=int, default=0, help="of the map's draws; they are repeated with the next")
    parser.add_argument(
        "--jobs", type=int, default=cores(), help="stages at once; by default a core each, which gives the figures kept"
    )
    parser.add_argument(
        "--earlier", type=Path, default=Path("reports/study/claims.csv"), help="claims of another make, to compare with"
    )
    parser.add_argument(
        "--remake", type=Path, metavar="FOLDER", help="make nothing but this folder's tables and pages, of its results"
    )
    arguments = parser.parse_args()
    if arguments.remake:
        conclude(arguments.remake)
        return
    size = testbed.TOY if arguments.toy else replace(testbed.FULL, tuned=testbed.TUNED if arguments.full else ())
    start = time.perf_counter()
    kept = arguments.out / "study"
    kept.mkdir(parents=True, exist_ok=True)
    results = make(arguments.out, size, arguments.seed, arguments.jobs, full=arguments.full, toy=arguments.toy)
    testbed.keep_main(arguments.out, kept)
    results.to_parquet(kept / "results.parquet", index=False)
    there = frozenset(("main", variant) for variant in size.variants)
    table = conclude(kept, [one for one in EXPERIMENTS if not arguments.toy or one.takes <= there], arguments.earlier)
    print(f"done in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(table.to_string(columns=["experiment", "seeds", "effect", "low", "high", "smallest", "verdict"]))


def make(out: Path, size: testbed.Size, seed: int, jobs: int, *, full: bool, toy: bool) -> pd.DataFrame:
    """All rows of results.parquet."""
    import pandas as pd
    import points

    coarse = exact_map.TOY if toy else exact_map.COARSE
    maps = {MAP: (coarse, seed), AGAIN: (coarse, seed + 1)} | ({FULL_MAP: (exact_map.FULL, seed)} if full else {})
    found = [to_results(*exact_map.measure(*how, out / "map", jobs), run) for run, how in maps.items()]
    return pd.concat(
        [
            testbed.results_of(out, testbed.run_all(out, size, jobs)),
            *found,
            *([] if toy else [points.solve(points.DRAWS)]),
        ],
        ignore_index=True,
    )


def conclude(
    folder: Path, experiments: Sequence[Experiment] = EXPERIMENTS, earlier: Path | None = None
) -> pd.DataFrame:
    """Tables and pages from the folder's results.parquet; returns the table of claims.

    Args:
        earlier: the claims.csv of an earlier make, to compare verdicts with.
    """
    import pandas as pd
    import points
    from map_page import write_map_page
    from page import write_claims_page
    from predictions import decide, read_predictions
    from readme import render
    from repeats import cells_twice, with_earlier
    from verdicts import judge

    everything = pd.read_parquet(folder / "results.parquet")
    runs, of_maps = set(everything["run"]), everything["benchmark"] == BENCHMARK
    results = everything[~of_maps]
    claims = judge(experiments, results).sort_values("decides", ascending=False, kind="stable", ignore_index=True)
    maps = {run: from_results(everything[of_maps], run) for run in (MAP, AGAIN, FULL_MAP) if run in runs}
    cells = {run: exact_map.compare(values) for run, (values, _) in maps.items()}
    decided = {run: decide(read_predictions(), values) for run, (values, _) in maps.items()}
    # The map of the most draws, whose intervals are the narrowest; of two the larger.
    reported = max((MAP, FULL_MAP) if FULL_MAP in maps else (MAP,), key=lambda run: (cells[run]["draws"].max(), run))
    tables = {
        "claims": claims,
        "map-predictions": pd.concat([table.assign(run=run) for run, table in decided.items()]),
        "map-repeat": cells_twice(cells[MAP], cells[AGAIN]),
    }
    if points.RUN in runs:
        tables["map-points"] = points.compare(results)
    if runs & points.TUNED.keys():
        tables |= {
            "tuned-points": points.compare_tuned(results, maps[reported][0]),
            "tuned-curves": points.tuning_curves(results),
        }
    if earlier is not None and earlier.exists():
        tables["claims-again"] = with_earlier(claims, earlier)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4f")
    cells[reported].assign(run=reported).to_parquet(folder / "map-cells.parquet", index=False)
    write_claims_page(folder / "study.html", claims, results, CONDITIONED)
    curves = exact_map.over_draws(maps[reported][1])
    write_map_page(folder / "map.html", cells[reported], curves, decided[reported])
    if points.RUN in runs:
        (folder / "README.md").write_text(render(folder), encoding="utf-8")
    return claims


if __name__ == "__main__":
    main()
