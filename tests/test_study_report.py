"""The committed study: its pages and tables are what its results.parquet says, figure by figure."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

STUDY = Path(__file__).parents[1] / "benchmarks" / "study"
KEPT = STUDY.parents[1] / "reports" / "study"
sys.path.insert(0, str(STUDY))

import exact_map  # noqa: E402
import points  # noqa: E402
import readme  # noqa: E402
import study  # noqa: E402
from map_page import SHOWN  # noqa: E402
from map_rows import from_results, to_results  # noqa: E402


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made of the committed results.parquet alone."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copyfile(KEPT / "results.parquet", folder / "results.parquet")
    study.conclude(folder)
    return folder


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return pd.read_parquet(KEPT / "results.parquet")


def drawn(page: Path) -> list[list[dict[str, Any]]]:
    """What each Plotly figure of a page shows: its traces."""
    text, decoder = page.read_text(encoding="utf-8"), json.JSONDecoder()
    starts = [match.end() for match in re.finditer(r'Plotly\.newPlot\(\s*"[0-9a-f-]+",\s*', text)]
    return [decoder.raw_decode(text, start)[0] for start in starts]


def flat(value: Any) -> Iterator[Any]:
    """The numbers and texts of a figure, in order."""
    if isinstance(value, dict) and "bdata" in value:
        yield from np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from flat(part)
    elif isinstance(value, list):
        for part in value:
            yield from flat(part)
    else:
        yield value


def test_the_committed_pages_and_tables_are_what_the_committed_rows_give(remade: Path) -> None:
    for made in sorted(remade.glob("*.csv")):
        pd.testing.assert_frame_equal(pd.read_csv(made), pd.read_csv(KEPT / made.name), atol=2e-4, obj=made.name)
    cells, kept = (pd.read_parquet(folder / "map-cells.parquet") for folder in (remade, KEPT))
    pd.testing.assert_frame_equal(cells, kept)
    assert (remade / "study.html").read_text(encoding="utf-8") == (KEPT / "study.html").read_text(encoding="utf-8")
    ours, theirs = drawn(remade / "map.html"), drawn(KEPT / "map.html")
    assert len(ours) == len(theirs) == len(SHOWN) * 2 + 2
    for one, other in zip(ours, theirs, strict=True):
        for found, expected in zip(flat(one), flat(other), strict=True):
            assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_every_figure_of_the_front_page_is_from_a_file() -> None:
    assert readme.render(KEPT) == (KEPT / "README.md").read_text(encoding="utf-8")
    template = readme.TEMPLATE.read_text(encoding="utf-8")
    # What is written out in the template: goals, the noise, KL and settings that are meant, shapes of exact policies.
    own = {"10", "7", "0", "1", "2", "4", "24", "6", "3.2", "0.5", "100", "95", "2-135"}
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|`[^`]*`|\]\([^)]*\)|^    .*$|N\^-1/2", "", template, flags=re.MULTILINE)
    found = set(re.findall(r"\d[\d.,-]*\d|\d", prose))
    assert found <= own, f"look {found - own} up in a file"


def test_each_cell_of_the_heat_maps_is_a_mean_difference_of_rows(results: pd.DataFrame) -> None:
    """Without the code that made the page: rows are averaged over seeds and subtracted."""
    (run,) = pd.read_parquet(KEPT / "map-cells.parquet")["run"].unique()
    rows = results[(results["run"] == run) & (results["benchmark"] == "exact-map")]
    means = rows.groupby(["model", "metric", "subset", "variant"])["value"].mean().unstack()
    for place, figure in enumerate(drawn(KEPT / "map.html")[: len(SHOWN) * 2]):
        metric, policy = SHOWN[place // 2], exact_map.POLICIES[place % 2]
        expected = (means.loc[policy, metric]["ra-dpo"] - means.loc[policy, metric]["dpo"]).to_numpy()
        found = np.array(list(flat(figure[0]["z"])), dtype=float)
        assert np.sort(found) == pytest.approx(np.sort(expected), abs=1e-9), (metric, policy)


def test_each_point_of_the_testbeds_charts_is_a_mean_of_rows(results: pd.DataFrame) -> None:
    page = (KEPT / "study.html").read_text(encoding="utf-8")
    shown = re.findall(r"<title>([\w, -]+): (\S+), (\S+)</title>", page)
    assert len(shown) > 60
    means = results[results["benchmark"] != "exact-map"].groupby(
        ["run", "variant", "benchmark", "subset", "metric"]
    )["value"].mean().reset_index()  # fmt: skip
    known = {variant: {f"{value:.4g}" for value in part["value"]} for variant, part in means.groupby("variant")}
    places = {f"{goal:g}" for goal in range(11)}  # the goals asked for, standard deviations, numbers of settings
    for name, x, y in shown:
        variant = name.removesuffix(", own goal")
        assert y in known[variant], (name, y)
        assert x in known[variant] | places, (name, x)


def test_a_map_read_back_from_its_rows_is_the_map(tmp_path: Path) -> None:
    values, curves = exact_map.measure(exact_map.TOY, 3, tmp_path)
    key = [*exact_map.CELL, "method", "draw"]
    for found, expected in zip(from_results(to_results(values, curves, "map"), "map"), (values, curves), strict=True):
        order = key if "kl" not in found else [*key, "kl"]
        pd.testing.assert_frame_equal(
            found.sort_values(order, ignore_index=True),
            expected[found.columns].sort_values(order, ignore_index=True),
            check_dtype=False, rtol=1e-6, atol=1e-6,
        )  # fmt: skip


def tuned_rows(gain: float) -> pd.DataFrame:
    """Rows of both tuned points where ra-dpo is ahead by `gain`, give or take 0.1, tuned with three settings."""
    rows = []
    for run in points.TUNED:
        for variant, ahead in (("dpo", 0.0), ("ra-dpo", gain)):
            place = {"run": run, "variant": variant}
            for seed in range(3):
                for measure, by_method in points.TUNED_MEASURES.items():
                    benchmark, subset, metric = by_method[variant]
                    if measure == "unlearning_own" and variant == "dpo":
                        continue  # the same row
                    value = 5 + ahead + 0.1 * seed * (variant == "dpo")
                    rows.append({**place, "seed": seed, "benchmark": benchmark, "subset": subset, "metric": metric,
                                 "value": value})  # fmt: skip
            for budget in (1, 2, 3):
                for end in ("", "_low", "_high", "_unbiased"):
                    rows.append({**place, "seed": 0, "benchmark": "tuning", "subset": f"budget {budget}",
                                 "metric": f"expected_best{end}", "value": budget + ahead})  # fmt: skip
            for rate in (1, 2, 3):
                rows.append({**place, "seed": 0, "benchmark": "tuning", "subset": f"learning_rate={rate}",
                             "metric": "chosen", "value": float(rate == 2)})  # fmt: skip
    return pd.DataFrame(rows)


def exact_tuned(gain: float) -> pd.DataFrame:
    rows = []
    for policy in exact_map.POLICIES:
        for noise in (1.0, 4.0):
            for draw in range(4):
                cell = (policy, "more is better", "spread", "uniform", noise, 3000.0, 10)
                for method, ahead in (("dpo", 0.0), ("ra-dpo", gain)):
                    row = dict(zip(exact_map.CELL, cell, strict=True)) | {"method": method, "draw": draw}
                    rows.append(row | {"score_tuned": 7 + ahead + 0.01 * draw * (method == "dpo")})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("exact", "agrees"), [(1.0, "yes"), (-1.0, "no"), (0.01, "undecided")])
def test_tuned_points_say_whether_the_exact_sign_is_the_language_models(exact: float, agrees: str) -> None:
    table = points.compare_tuned(tuned_rows(1.0), exact_tuned(exact))
    scores = table[table["measure"] == "score"]
    assert len(scores) == 2 * 3
    model = scores[scores["policy"] == "language model"]
    assert model["difference"].to_numpy() == pytest.approx(0.9)
    assert set(model["sign"]) == {"ahead"}
    assert set(scores[scores["policy"] != "language model"]["agrees"]) == {agrees}
    curves = points.tuning_curves(tuned_rows(1.0))
    assert len(curves) == 2 * 2 * 3
    assert set(curves["chosen"]) == {"learning_rate=2"}
    assert curves[curves["variant"] == "ra-dpo"]["expected_best"].tolist() == [2.0, 3.0, 4.0] * 2
