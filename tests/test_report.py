"""The report: its numbers are those of results.parquet, its tests scipy's, its words no bolder, its text only text."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_factory import ALL, write_run
from report_page import Page, inflated
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from radpo.benchmarks import unlearning_report
from radpo.core.errors import DataError
from radpo.core.metrics import find_metric
from radpo.core.results import results_frame
from radpo.core.run import JUDGE, installed_metrics, load_run, load_runs
from radpo.figures import styles
from radpo.figures.sections import points, script_json
from radpo.report import examples as browser
from radpo.report import run_sections, training
from radpo.report.build import build_comparison, build_report
from radpo.report.summary import caveats, findings, headline, views
from radpo.stats.comparison import Compared, compare_all, leaders
from radpo.stats.paired import Difference
from radpo.stats.quantities import Name, measure, number, primary_names

WIN_RATE = Name("alpaca-eval", "all", "win_rate")
TRACED = {"summary", "all", "all results", "published"}
"""The tables whose numbers come from results.parquet; the other two show the manifest."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), only=ALL)
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return Page((run_dir / "report.html").read_text(encoding="utf-8"))


def results_of(*rows: dict[str, Any]) -> pd.DataFrame:
    shared = {
        "model": "m", "seed": 0, "benchmark": "alpaca-eval", "subset": "all", "metric": "win_rate", "n": 48,
        "higher_is_better": True, "primary": True,
    }  # fmt: skip
    return results_frame([{**shared, **row} for row in rows])


def with_results(folder: Path, *rows: dict[str, Any]) -> Path:
    """A run directory whose results are these rows and no others."""
    write_run(folder, only=())
    results_of(*rows).to_parquet(folder / "results.parquet", index=False)
    return folder


def against(folder: Path, baseline: str = "base") -> Compared:
    run = load_run(folder)
    return compare_all(run, primary_names(run))[baseline]


def t95(n: int) -> float:
    """Half a 95% interval in standard errors, from n examples."""
    return float(stats.t.ppf(0.975, n - 1))


def bounds(metric: str, benchmark: str) -> tuple[float, float]:
    return find_metric(installed_metrics().get(benchmark, ()), metric).limits


def read(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def told(shown: str, value: float) -> bool:
    """Whether a printed number is a value, rounded to the digits that it is printed with."""
    digits = len(shown.partition(".")[2])
    return abs(read(shown) - value) <= 0.5 * 10**-digits + 1e-9


# ---- every number comes from results.parquet ----


@pytest.mark.parametrize(("runs", "seeds"), [(1, (0,)), (2, (0, 1))])
def test_every_number_of_the_tables_is_that_of_its_rows(tmp_path: Path, runs: int, seeds: tuple[int, ...]) -> None:
    small = {"pairs": 20, "prompts": 24, "steps": 3}
    folders = [write_run(tmp_path / f"run-{place}", only=ALL, seeds=seeds, **small) for place in range(runs)]
    html = build_comparison(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    results = [pd.read_parquet(folder / "results.parquet") for folder in folders]
    assert {cell.table for cell in page.cells} == TRACED | {"cost", "judges", "settings"}
    changes = 0
    checked = {"summary": 0, "all": 0, "all results": 0, "published": 0}
    for place, cell in enumerate(page.cells):
        if cell.table not in TRACED or not cell.rows:
            continue
        rows = pd.concat([results[run].loc[[row]] for run, row in cell.rows])
        assert rows[["benchmark", "subset", "metric", "variant"]].drop_duplicates().shape[0] == 1
        value, n = rows["value"].mean(), rows["n"].min()
        parts = re.findall(r"[−+]?[\d,.]*\d", cell.text.split("Δ")[0])
        assert told(parts[0], value) or cell.text == f"{value:.6g}", cell
        if cell.table == "summary":
            half = _half(rows)
            assert ("±" in cell.text) == (half > 0)
            if half > 0:
                assert told(parts[1], half)
                assert f"n = {n}" in cell.text
            if "Δ" in cell.text:
                change = re.findall(r"[−+]?[\d,.]*\d", cell.text.split("Δ")[1])[0]
                assert told(change, value - _base_value(results[0], rows.iloc[0]))
                changes += 1
        if cell.table == "all":
            interval, size = page.cells[place + 1], page.cells[place + 2]
            half = _half(rows)
            low, high = bounds(rows["metric"].iloc[0], rows["benchmark"].iloc[0])
            ends = [max(value - half, min(low, value)), min(value + half, max(high, value))] if half > 0 else []
            shown = interval.text.split(" to ") if interval.text != "none" else []
            assert len(shown) == len(ends)
            assert all(told(text, end) for text, end in zip(shown, ends, strict=True))
            assert size.text == str(n)
        checked[cell.table] += 1
    # The length-controlled win rate has a column, too, though it is no mean over examples.
    led_by = [table["primary"] | (table["metric"] == "length_controlled_winrate") for table in results]
    primary = sum(map(sum, led_by)) / len(seeds)
    assert checked["summary"] == primary
    assert changes > 10 * runs
    assert checked["all results"] == sum(map(len, results))
    assert checked["all"] > 40 * runs
    untold = [
        cell
        for place, cell in enumerate(page.cells)
        if cell.table in TRACED and re.search(r"\d", cell.text) and not cell.rows and not _belongs(page, place)
    ]
    assert untold == []


def _base_value(results: pd.DataFrame, row: pd.Series) -> float:
    """The first run's baseline's figure; 50 where the figure is against the baseline's own answers."""
    same = (results[["benchmark", "subset", "metric"]] == row[["benchmark", "subset", "metric"]]).all(axis=1)
    base = results[same & (results["variant"] == "base")]["value"]
    return 50.0 if base.empty else float(base.mean())


def _half(rows: pd.DataFrame) -> float:
    """Half a quantity's interval, worked out anew: the wider of the mean standard error's and that over seeds."""
    n = rows["n"].min()
    own = t95(n) * rows["stderr"].mean() if n > 1 and rows["stderr"].notna().all() else 0.0
    seeds = len(rows)
    return max(own, stats.sem(rows["value"]) * t95(seeds) if seeds > 1 else 0.0)


def _belongs(page: Page, place: int) -> bool:
    """Whether a cell without rows of its own tells of a neighbour's, or names a thing."""
    cell = page.cells[place]
    if cell.table == "all":
        return cell.column in (0, 1) or any(page.cells[place - back].rows for back in (1, 2))
    if cell.table == "all results":
        return cell.column < 6 or any(page.cells[place - back].rows for back in (1, 2))
    if cell.table == "published":  # the published figure, its source, and the difference: checked below
        return True
    return (
        cell.attributes.get("data-value") == "" and "Δ" in cell.text
    )  # the win rate's opponent: the mirrored difference


def test_published_figures_stand_beside_ours_and_are_called_published(run_dir: Path, page: Page) -> None:
    cells = [cell for cell in page.cells if cell.table == "published"]
    rows = [cells[start : start + 7] for start in range(0, len(cells), 7)]
    ours = measure(load_run(run_dir), "dpo", Name("mt-bench", "all", "score"))
    assert ours is not None
    assert [cell.text for cell in rows[0][:4]] == ["mt-bench", "all", "score", "7.25"]
    assert told(rows[0][4].text.split()[0], ours.value)
    assert told(rows[0][5].text, ours.value - 7.25)
    assert rows[0][6].text == "arXiv 2410.08067, table 1"
    assert [cell.text for cell in rows[1][3:6]] == ["0.61", "not measured", ""]
    hatched = [trace for figure in page.figures("overview") for trace in figure["data"] if "pattern" in trace["marker"]]
    assert [(trace["meta"], trace["y"], trace["base"]) for trace in hatched] == [("dpo", [6.25], 1.0)]
    assert "hatched: published, not measured here" in page.text


def test_cost_and_settings_are_the_manifests(run_dir: Path, page: Page) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    seconds = [cell.text for cell in page.cells if cell.table == "cost" and cell.column == 1]
    wanted = [stage["seconds"] for stage in manifest["stages"]]
    assert [read(text) for text in seconds] == pytest.approx([*wanted, sum(wanted)])
    judged = [stage["judge"] for stage in manifest["stages"] if "judge" in stage]
    assert (
        "All tries of the run together sent 1,234 requests to endpoints, for $1.25 by their count of tokens, and at "
        "most $0.50 more that may be billed; the limit is $9.50." in page.html
    )
    shown = [read(cell.text) for cell in page.cells if cell.table == "judges"]
    asked = [[judge[key] for key in JUDGE] for judge in judged]
    assert shown == pytest.approx([*chain.from_iterable(asked), *map(sum, zip(*asked, strict=True))])
    bars = page.figures("cost")[0]["data"]
    assert sum(sum(trace["x"]) for trace in bars) == pytest.approx(sum(wanted))
    assert [cell.text for cell in page.cells if cell.table == "settings"].count("5e-07") == len(manifest["variants"])


def test_the_time_in_which_no_stage_was_at_work_is_drawn_too(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    first, second, third = manifest["stages"][:3]
    times = ((first, "00:10", 20.0), (second, "00:20", 15.0), (third, "00:50", 5.0))  # from 10 to 35, and to 55
    for stage, at, seconds in times:
        stage |= {"started": f"2026-01-01T00:{at}+00:00", "seconds": seconds, "from_store": False}
    manifest |= {"stages": [first, second, third, {**first, "from_store": True, "started": None}], "wall_seconds": 58.0}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    [figure] = [json.loads(panel.figure) for panel in run_sections.cost(load_run(tmp_path / "run")).panels]
    bars = {trace["name"]: sum(trace["x"]) for trace in figure["data"]}
    assert bars["start-up"] == pytest.approx(58 - 25 - 5)


def test_figures_show_the_values_of_results(run_dir: Path, page: Page) -> None:
    results = pd.read_parquet(run_dir / "results.parquet")
    drawn = [trace for trace in page.figures("win-rate")[0]["data"] if trace["mode"] == "markers"]
    shown = [value for trace in drawn for value in trace["x"]]
    wanted = results[(results["metric"] == "win_rate") & (results["subset"] == "all")]["value"]
    assert shown == pytest.approx(list(wanted))
    bars = page.figures("arena-hard")[1]["data"]
    examples = pd.read_parquet(run_dir / "examples.parquet")
    arena = examples[(examples["benchmark"] == "arena-hard") & (examples["variant"] == "dpo")]["value"]
    assert [trace["x"][0] for trace in bars] == pytest.approx(
        [100 * (arena > 50).mean(), 100 * (arena == 50).mean(), 100 * (arena < 50).mean()]
    )


def test_boxes_hold_the_quantiles_of_answers_lengths(run_dir: Path, page: Page) -> None:
    examples = pd.read_parquet(run_dir / "examples.parquet")
    own = examples[(examples["benchmark"] == "mt-bench") & (examples["variant"] == "dpo")]["output"].str.len()
    (box,) = (trace for trace in page.figures("lengths")[2]["data"] if trace["meta"] == "dpo")
    shown = [box[name][0] for name in ("lowerfence", "q1", "median", "q3", "upperfence")]
    assert shown == pytest.approx(np.quantile(own, [0.1, 0.25, 0.5, 0.75, 0.9]))
    # The baseline has no win rate and no row of its own; its answers are those that the others were compared with.
    judged = examples[(examples["benchmark"] == "alpaca-eval") & (examples["variant"] == "dpo")]
    (box,) = (trace for trace in page.figures("lengths")[0]["data"] if trace["meta"] == "base")
    assert box["median"][0] == judged["baseline_output"].str.len().median()


# ---- tests against scipy and statsmodels ----


def pairs_of(folder: Path, benchmark: str, metric: str, variant: str, baseline: str) -> pd.DataFrame:
    examples = pd.read_parquet(folder / "examples.parquet")
    rows = examples[(examples["benchmark"] == benchmark) & (examples["metric"] == metric)]
    key = ["seed", "subset", "example_id"]
    wide = rows.pivot(index=key, columns="variant", values="value").reset_index()
    return wide.assign(change=wide[variant] - wide[baseline])


def sign_flips(changes: np.ndarray, alternative: str = "two-sided") -> float:
    """scipy's permutation test of the mean of independent changes; those of 0 have no sign to flip."""
    moved = changes[changes != 0]
    count = np.inf if len(moved) <= 14 else 100_000
    return float(
        stats.permutation_test(
            (moved,), np.sum, permutation_type="samples", alternative=alternative, n_resamples=count, rng=1
        ).pvalue
    )


def is_tested(found: Difference, changes: np.ndarray) -> None:
    """The difference, its p-value and its interval are those of the sign flips of independent changes."""
    assert found.value == pytest.approx(changes.mean())
    assert found.p == pytest.approx(sign_flips(changes), abs=0.025)
    assert found.low is not None
    assert found.high is not None
    # The interval ends where the test of what is left of the changes passes a one-sided p-value of 2.5%; the flips of
    # whole numbers tie, so that there it may be above.
    for end, alternative, outside in ((found.low, "greater", -1e-6), (found.high, "less", 1e-6)):
        assert sign_flips(changes - end - outside, alternative) < 0.029
        assert sign_flips(changes - end + outside, alternative) > 0.021


def test_paired_tests_are_scipys(run_dir: Path) -> None:
    for baseline, name, metric, scale in (
        ("base", Name("academic", "radpo_arithmetic", "acc"), "acc", 1),
        ("dpo", WIN_RATE, "preference", 100),
    ):
        found = against(run_dir, baseline)["ra-dpo", name]
        pairs = pairs_of(run_dir, name.benchmark, metric, "ra-dpo", baseline)
        pairs = pairs if name.subset == "all" else pairs[pairs["subset"] == name.subset]
        assert found.kind == "paired"
        is_tested(found, scale * pairs["change"].to_numpy())


def test_turns_of_one_question_are_one_fact(run_dir: Path) -> None:
    found = against(run_dir)["dpo", Name("mt-bench", "all", "score")]
    pairs = pairs_of(run_dir, "mt-bench", "score", "dpo", "base")
    by_question = pairs.groupby(pairs["example_id"].str.split("/").str[0])["change"].mean()
    is_tested(found, by_question.to_numpy())
    assert found.n == 2 * len(by_question)


def test_a_win_rate_against_the_baseline_itself_is_tested_against_50(run_dir: Path) -> None:
    run = load_run(run_dir)
    preferences = run.examples[(run.examples["variant"] == "dpo") & (run.examples["metric"] == "preference")]["value"]
    compared = compare_all(run, primary_names(run))
    found, mirrored = compared["base"]["dpo", WIN_RATE], compared["dpo"]["base", WIN_RATE]
    assert found.kind == mirrored.kind == "against 50%"
    is_tested(found, 100 * (preferences.to_numpy() - 1) - 50)
    assert found.p == mirrored.p
    assert found.value == -mirrored.value == pytest.approx(100 * (preferences.mean() - 1) - 50)
    assert (mirrored.low, mirrored.high) == (-found.high, -found.low)  # type: ignore[operator]


def test_p_values_are_adjusted_over_all_tests_against_one_baseline(run_dir: Path) -> None:
    tested = [change for change in against(run_dir).values() if change.p is not None]
    assert len(tested) > 10
    adjusted = multipletests([change.p for change in tested], method="holm")[1]
    assert [change.p_holm for change in tested] == pytest.approx(list(adjusted))


def test_several_seeds_are_taken_for_random(tmp_path: Path) -> None:
    from radpo.stats.mixed import over_seeds

    folder = write_run(tmp_path, only=("academic",), seeds=(0, 1, 2))
    name = Name("academic", "radpo_facts", "acc")
    found = against(folder)["dpo", name]
    pairs = pairs_of(folder, "academic", "acc", "dpo", "base")
    pairs = pairs[pairs["subset"] == "radpo_facts"]
    wanted = over_seeds(pairs["change"].to_numpy(), pairs["seed"].to_numpy(), pairs["example_id"].to_numpy())
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(wanted.value) / wanted.stderr, wanted.degrees))


def test_several_seeds_of_a_win_rate_are_taken_for_random(tmp_path: Path) -> None:
    from radpo.stats.mixed import over_seeds

    folder = write_run(tmp_path, only=("alpaca-eval",), seeds=(0, 1, 2))
    found = against(folder)["dpo", WIN_RATE]
    examples = pd.read_parquet(folder / "examples.parquet")
    own = examples[examples["variant"] == "dpo"]
    values = (100 * (own["value"] - 1) - 50).to_numpy()
    wanted = over_seeds(values, own["seed"].to_numpy(), own["example_id"].to_numpy())
    assert (found.kind, found.low, found.high) == ("against 50%", pytest.approx(wanted.low), pytest.approx(wanted.high))


def test_seeds_that_lack_examples_are_not_taken_for_random(tmp_path: Path) -> None:
    folder = write_run(tmp_path, only=("academic",), seeds=(0, 1, 2))
    examples = pd.read_parquet(folder / "examples.parquet")
    lacking = (examples["seed"] == 2) & (examples["example_id"] == "7") & (examples["subset"] == "radpo_facts")
    examples = examples[~lacking]
    examples.to_parquet(folder / "examples.parquet", index=False)
    results = pd.read_parquet(folder / "results.parquet")
    facts = (results["subset"] == "radpo_facts") & results["variant"].isin(["base", "dpo"])
    for variant in ("base", "dpo"):
        own = examples[(examples["variant"] == variant) & (examples["subset"] == "radpo_facts")]
        results.loc[facts & (results["variant"] == variant), "value"] = own["value"].mean()
    results.to_parquet(folder / "results.parquet", index=False)
    name = Name("academic", "radpo_facts", "acc")
    found = against(folder)["dpo", name]
    pairs = pairs_of(folder, "academic", "acc", "dpo", "base")
    pairs = pairs[pairs["subset"] == "radpo_facts"]
    assert (found.kind, found.n) == ("these seeds only", 179)
    assert found.value == pytest.approx(pairs["change"].mean())
    assert found.p == pytest.approx(sign_flips(pairs.groupby("example_id")["change"].sum().to_numpy()), abs=0.01)
    run = load_run(folder)
    changes = views(run, compare_all(run, [name]))["base"].changes
    assert any(change is not None and change.ends.endswith("these seeds only") for row in changes for change in row)


def test_intervals_over_few_seeds_keep_their_few_degrees_of_freedom(tmp_path: Path) -> None:
    values = {0: 40.0, 1: 60.0, 2: 80.0}
    rows = [{"variant": "dpo", "seed": seed, "value": value, "stderr": 1.0} for seed, value in values.items()]
    found = against(with_results(tmp_path, *rows))["dpo", WIN_RATE]
    assert found.p == pytest.approx(stats.ttest_1samp(list(values.values()), 50).pvalue)


def test_a_difference_is_unpaired_where_the_figure_is_no_mean_of_examples(tmp_path: Path) -> None:
    folder = write_run(tmp_path, only=("academic",))
    results = pd.read_parquet(folder / "results.parquet")
    results["value"] = results["value"] + 0.01 * results.index
    results["benchmark"] = "another"  # which nobody describes
    results.to_parquet(folder / "results.parquet", index=False)
    examples = pd.read_parquet(folder / "examples.parquet").assign(benchmark="another")
    examples.to_parquet(folder / "examples.parquet", index=False)
    found = against(folder)["dpo", Name("another", "radpo_facts", "acc")]
    rows = results[results["subset"] == "radpo_facts"].set_index("variant")
    stderr = np.hypot(rows.loc["dpo", "stderr"], rows.loc["base", "stderr"])
    assert found.kind == "unpaired"
    assert found.high == pytest.approx(found.value + t95(60) * stderr)


def test_the_views_of_the_page_are_the_tests_of_every_baseline(run_dir: Path, page: Page) -> None:
    run = load_run(run_dir)
    compared, shown = compare_all(run, primary_names(run)), page.packed("views")
    assert list(shown) == run.variants
    for baseline, view in shown.items():
        for variant, changes in zip(run.variants, view["changes"], strict=True):
            for name, change in zip(primary_names(run), changes, strict=True):
                wanted = compared[baseline].get((variant, name))
                if wanted is None:
                    assert change is None
                else:
                    assert (change["value"], change["p_holm"]) == (wanted.value, wanted.p_holm)
                    assert told(change["text"], wanted.value)


def test_the_interval_over_seeds_is_never_narrower_than_one_seeds(tmp_path: Path) -> None:
    rows = [{"variant": "dpo", "seed": seed, "value": 55.0 + seed / 100, "stderr": 6.0} for seed in range(3)]
    found = measure(load_run(with_results(tmp_path, *rows)), "dpo", WIN_RATE)
    assert found is not None
    assert found.half == pytest.approx(t95(48) * 6)
    assert found.seeds == 3


def test_scores_from_0_to_100_keep_their_intervals_there() -> None:
    assert bounds("score", "arena-hard") == (0.0, 100.0)
    assert bounds("win_rate", "alpaca-eval") == (0.0, 100.0)
    assert bounds("score", "mt-bench") == (1.0, 10.0)


def test_a_share_of_nothing_or_all_has_wilsons_interval_and_no_standard_error(tmp_path: Path) -> None:
    rows = [{"variant": "dpo", "value": 100.0, "stderr": 0.0}, {"variant": "ra-dpo", "value": 50.0, "stderr": 0.0}]
    run = load_run(with_results(tmp_path, *rows))
    assert run.results["stderr"].isna().all(), "a standard error of 0 says only that all examples came out alike"
    certain, even = (measure(run, variant, WIN_RATE) for variant in ("dpo", "ra-dpo"))
    assert certain is not None
    assert even is not None
    low, high = proportion_confint(48, 48, method="wilson")
    assert (certain.half, certain.low, certain.high) == (None, pytest.approx(100 * low), pytest.approx(100 * high))
    assert (even.half, even.low, even.high) == (None, 50.0, 50.0)
    drawn = points(run, [WIN_RATE]).set_index("variant")
    assert drawn.loc["dpo", "low"] == pytest.approx(100 * low)
    assert np.isnan(drawn.loc["ra-dpo", "low"])


@pytest.mark.parametrize("high_score", [5.0, 8.0])
def test_figures_and_captions_go_by_the_matrix_high_score(tmp_path: Path, high_score: float) -> None:
    folder = write_run(tmp_path, only=("unlearning", "trajectory"), pairs=60)
    matrix = {"name": "synthetic", "benchmarks": {"unlearning": {"high_score": high_score}}}
    (folder / "matrix.yaml").write_text(json.dumps(matrix), encoding="utf-8")
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    captions = " ".join(re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", page.html, flags=re.DOTALL))
    assert captions.count(f"scored {high_score:g} or more") == 2
    assert "scored 5 or more" not in captions or high_score == 5
    likelihoods = pd.read_parquet(folder / "likelihoods.parquet")
    rejected = likelihoods[(likelihoods["response"] == "rejected") & (likelihoods["goal"] == "none")]
    change = rejected.assign(change=rejected["logp_policy"] - rejected["logp_reference"])
    high = change[(change["score"] >= high_score) & (change["variant"] == "dpo")]["change"].mean()
    drawn = [trace for trace in page.figures("contrasts")[0]["data"] if trace.get("meta") == "dpo" and trace.get("x")]
    shown = {value for trace in drawn for value in trace["x"] if value is not None}
    assert any(value == pytest.approx(high) for value in shown), "the base variant did not change"
    edges = unlearning_report.score_edges(likelihoods["score"], high_score)
    assert high_score in edges


# ---- several runs ----


def test_runs_are_tested_against_each_other_only_over_the_same_examples(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", only=("academic", "alpaca-eval"))
    second = write_run(tmp_path / "second", only=("academic", "alpaca-eval"), manifest={"name": "other"})
    examples = pd.read_parquet(second / "examples.parquet")
    examples["baseline_output"] = examples["baseline_output"] + " or not"
    examples.to_parquet(second / "examples.parquet", index=False)
    run = load_runs([first, second])
    assert run.variants[0] == "synthetic/base"
    compared = compare_all(run, primary_names(run))["synthetic/dpo"]
    name = Name("academic", "radpo_facts", "acc")
    assert compared["other/ra-dpo", name].kind == "paired"
    assert ("synthetic/ra-dpo", WIN_RATE) in compared
    assert ("other/ra-dpo", WIN_RATE) not in compared  # compared with other answers
    assert any("win rates only where both" in note for note in caveats(run, []))


def test_runs_on_different_data_are_not_tested_against_each_other(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", only=("academic",))
    data = {"train_pairs.jsonl": {"sha256": "sha256:0", "rows": 240}}
    second = write_run(tmp_path / "second", only=("academic",), manifest={"data": data, "name": "other"})
    run = load_runs([first, second])
    compared = compare_all(run, primary_names(run))["synthetic/base"]
    assert {variant for variant, _ in compared} == {"synthetic/dpo", "synthetic/ra-dpo"}
    assert any("different data (train_pairs.jsonl)" in note for note in caveats(run, []))


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, only=()) for name in ("a", "b")]
    assert [source.label for source in load_runs(folders).sources] == ["a", "b"]
    assert [source.label for source in load_runs([folders[0], folders[0]]).sources] == ["a (1)", "a (2)"]


def test_the_command_writes_one_report_or_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from radpo.cli.main import app

    first, second = (write_run(tmp_path / name, only=("mt-bench",)) for name in ("a", "b"))
    monkeypatch.chdir(tmp_path)
    for words, written in (
        ([str(first)], first / "report.html"),
        ([str(first), str(second)], Path("comparison.html")),
        ([str(first), str(second), "--out", "both.html"], Path("both.html")),
        ([str(first), "--out", "one.html"], Path("one.html")),
    ):
        done = CliRunner().invoke(app, ["report", *words])
        assert (done.exit_code, done.stdout.strip()) == (0, str(written))
        assert written.is_file()
    assert "b/ra-dpo" in Path("both.html").read_text(encoding="utf-8")


# ---- words ----


@pytest.mark.parametrize(
    ("value", "stderr", "words"),
    [
        (54.2, 3.1, "No difference from base is established for dpo."),
        (70.0, 5.0, "dpo is better than base on alpaca-eval win rate (+20.0 points, p < 0.001)."),
        (30.0, 5.0, "dpo is worse than base on alpaca-eval win rate (−20.0 points, p < 0.001)."),
        (100.0, 0.0, "3 variants, measured on alpaca-eval; there is nothing to test against base."),
    ],
)
def test_the_headline_claims_no_more_than_its_test(tmp_path: Path, value: float, stderr: float, words: str) -> None:
    folder = with_results(tmp_path, {"variant": "dpo", "value": value, "stderr": stderr})
    assert headline(load_run(folder), "base", against(folder)) == words


def test_the_headline_of_many_variants_groups_them(tmp_path: Path) -> None:
    values = {"a": 70.0, "b": 52.0, "c": 30.0, "d": 51.0, "e": 49.0, "f": 50.5, "g": 75.0}
    folder = with_results(tmp_path, *({"variant": name, "value": v, "stderr": 4.0} for name, v in values.items()))
    assert headline(load_run(folder), "base", against(folder)) == (
        "Against base: better at alpaca-eval: a and g; worse at alpaca-eval: c; no difference established: 4 of 7."
    )


def test_what_one_test_alone_would_show_many_may_not(tmp_path: Path) -> None:
    values = {"a": 59.0, "b": 50.0, "c": 50.0}
    folder = with_results(tmp_path, *({"variant": name, "value": v, "stderr": 4.0} for name, v in values.items()))
    found = against(folder)["a", WIN_RATE]
    assert found.p is not None
    assert found.p < 0.05 < (found.p_holm or 0)
    assert headline(load_run(folder), "base", against(folder)).startswith("No difference from base is established")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(20, 80), st.floats(0.5, 12)), min_size=1, max_size=9))
def test_the_headline_names_those_and_only_those_whose_adjusted_test_says_so(
    figures: list[tuple[float, float]],
) -> None:
    named = {f"v{place}v": figure for place, figure in enumerate(figures)}
    rows = [{"variant": name, "value": value, "stderr": error} for name, (value, error) in named.items()]
    with tempfile.TemporaryDirectory() as folder:
        run = load_run(with_results(Path(folder), *rows))
    words = headline(run, "base", compare_all(run, [WIN_RATE])["base"])
    ps = [2 * stats.t.sf(abs(value - 50) / error, 47) for value, error in named.values()]
    adjusted = multipletests(ps, method="holm")[1]
    for name, p in zip(named, adjusted, strict=True):
        grouped = re.search(rf"(better|worse) at [^:;]*:[^;]*{name}", words)
        told = re.search(rf"{name} is (better|worse)", words) or grouped
        assert (told[1] if told else "same") == (
            "same" if p >= 0.05 else "better" if named[name][0] > 50 else "worse"
        ), words


@pytest.mark.parametrize(("other", "marked"), [(65.0, None), (20.0, "ra-dpo")])
def test_only_a_leader_told_from_every_other_is_marked(tmp_path: Path, other: float, marked: str | None) -> None:
    rows = [{"variant": "dpo", "value": other, "stderr": 5.0}, {"variant": "ra-dpo", "value": 70.0, "stderr": 5.0}]
    run = load_run(with_results(tmp_path, *rows))
    assert leaders(run, [WIN_RATE], compare_all(run, [WIN_RATE])).get(WIN_RATE) == marked


def test_a_leader_not_told_from_the_baseline_it_is_judged_against_is_not_marked(tmp_path: Path) -> None:
    rows = [{"variant": "dpo", "value": 20.0, "stderr": 2.0}, {"variant": "ra-dpo", "value": 51.0, "stderr": 2.0}]
    run = load_run(with_results(tmp_path, *rows))
    assert leaders(run, [WIN_RATE], compare_all(run, [WIN_RATE])) == {}


def test_no_leader_is_marked_where_a_rival_has_no_interval(tmp_path: Path) -> None:
    rows = [{"variant": "dpo", "value": 10.0, "stderr": None}, {"variant": "ra-dpo", "value": 90.0, "stderr": 1.0}]
    run = load_run(with_results(tmp_path, *rows))
    assert leaders(run, [WIN_RATE], compare_all(run, [WIN_RATE])) == {}


def test_lower_is_better_leads_with_the_lowest(tmp_path: Path) -> None:
    rows = [
        {"variant": variant, "value": value, "stderr": 1.0, "metric": "perplexity", "higher_is_better": False}
        for variant, value in {"base": 61.0, "dpo": 30.0, "ra-dpo": 60.0}.items()
    ]
    run = load_run(with_results(tmp_path, *rows))
    name = Name("alpaca-eval", "all", "perplexity")
    assert leaders(run, [name], compare_all(run, [name])) == {name: "dpo"}
    assert views(run, compare_all(run, [name]))["base"].headline.startswith("dpo is better than base on alpaca-eval")


def test_small_samples_the_manifests_notes_and_what_is_missing_are_owned_up_to(run_dir: Path, tmp_path: Path) -> None:
    notes = caveats(load_run(run_dir), ["Training", "Arena-Hard"])
    assert notes[0].startswith("Toy scale: the primary figures rest on 32 to 60 examples")
    assert "The length-controlled win rate was not computed." in notes
    assert notes[-1] == "Not shown, because there are no figures of them: Training, Arena-Hard."
    large = with_results(tmp_path, {"variant": "dpo", "value": 51.0, "stderr": 1.0, "n": 805})
    assert not any(note.startswith("Toy scale") for note in caveats(load_run(large), []))


@pytest.mark.parametrize(
    ("value", "verdict", "shown", "words"),
    [
        (-4.0, "worse", "−4.00 ± 1.01", "distinguishable from no change (p < 0.001)"),
        (-0.5, "unclear", "−0.50 ± 1.01", "not distinguishable from no change (p = 0.32)"),
        (2.0, "better", "+2.00 ± 1.01", "distinguishable from no change (p < 0.001)"),
    ],
)
def test_a_response_counts_as_unlearned_only_beyond_its_test(
    tmp_path: Path, value: float, verdict: str, shown: str, words: str
) -> None:
    row = {"benchmark": "unlearning", "subset": "none", "metric": "delta_logp_rejected_high"}
    reference = {**row, "variant": "base", "value": 0.0, "stderr": 0.0}
    folder = with_results(tmp_path, reference, {**row, "variant": "dpo", "value": value, "stderr": 0.5})
    ((variant, (finding,)),) = findings(load_run(folder), "base", against(folder))
    assert (variant, finding.verdict) == ("dpo", verdict)
    assert finding.text == f"{shown} nats for high-scored rejected responses, asked without a goal (n = 48); {words}."


def test_every_caption_says_the_sample_and_the_interval(page: Page) -> None:
    captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", page.html, flags=re.DOTALL)
    assert len(captions) > 14
    for caption in captions:
        assert re.search(r"n = \d|\d+ pairs", caption), caption
        assert "interval" in caption or "standard errors" in caption, caption


def test_captions_have_two_sentences_at_most_and_the_method_behind_a_fold(page: Page) -> None:
    captions = [
        " ".join(re.sub("<[^>]+>", "", text).split())
        for _, text in re.findall(r'<(p|figcaption) class="caption[^"]*"[^>]*>(.*?)</\1>', page.html, flags=re.DOTALL)
    ]
    for caption in captions:
        assert len(re.findall(r"[.!?](?=\s|$)", caption)) <= 2, caption
    # The captions of this very run had 1,371 words when they held the method, too; half of it is the most.
    assert sum(len(caption.split()) for caption in captions) <= 1371 / 2
    sections = re.findall(r"<section id=.*?</section>", page.html, flags=re.DOTALL)
    drawn = [section for section in sections if "<figcaption" in section]
    assert len(drawn) > 14
    folded = [section for section in drawn if re.search(r'<details class="method"><summary>How this is', section)]
    assert len(drawn) - len(folded) <= 1, "only lengths of answers have nothing more to say"
    assert '<details class="method" open' not in page.html


# ---- parts that are missing, files that are wrong ----


def test_a_section_without_figures_is_not_there_and_named(tmp_path: Path) -> None:
    page = Page(build_report(write_run(tmp_path, only=("mt-bench",))).read_text(encoding="utf-8"))
    assert '<section id="mt-bench"' in page.html
    for anchor in ("win-rate", "arena-hard", "unlearning", "training", "calibration", "published"):
        assert f'<section id="{anchor}"' not in page.html
    (line,) = re.findall(r"Not shown, because there are no figures of them: ([^.]*)\.", page.text)
    assert {"AlpacaEval win rate", "Arena-Hard", "Unlearning", "Training"} <= set(line.split(", "))


def test_a_whole_run_shows_every_section(page: Page) -> None:
    shown = re.findall(r'<section id="([^"]*)"', page.html)
    assert shown == [
        "learned", "summary", "overview", "win-rate", "length-control", "arena-hard", "mt-bench", "academic", "lengths",
        "unlearning", "contrasts", "trajectory", "displacement", "implicit-reward", "reward-kl", "calibration",
        "goal-inference", "style", "training", "published", "examples", "cost", "provenance",
    ]  # fmt: skip
    assert "Not shown" not in page.text


def test_a_run_without_any_result_still_has_a_report(tmp_path: Path) -> None:
    text = Page(build_report(write_run(tmp_path, only=())).read_text(encoding="utf-8")).text
    assert "no primary figure" in text


def test_several_seeds_many_variants_and_one_example_each_have_a_report(tmp_path: Path) -> None:
    variants = ["base", *(f"variant-{number}" for number in range(8))]
    folder = write_run(
        tmp_path, variants=variants, seeds=(0, 1), prompts=1, questions=1, pairs=1, documents=1, steps=1, only=ALL
    )
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "variant-7" in page.text
    assert any(trace["type"] == "heatmap" for figure in page.figures("mt-bench") for trace in figure["data"])


@pytest.mark.parametrize("name", ["results.parquet", "examples.parquet", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_run(tmp_path, only=("mt-bench",))
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=re.escape(name)):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_manifest_without_a_key_names_the_key(tmp_path: Path) -> None:
    write_run(tmp_path, only=())
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    del manifest["stages"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match="stages"):
        build_report(tmp_path)


def test_a_table_without_a_column_names_the_column(tmp_path: Path) -> None:
    write_run(tmp_path, only=("mt-bench",))
    frame = pd.read_parquet(tmp_path / "results.parquet").drop(columns="stderr")
    frame.to_parquet(tmp_path / "results.parquet", index=False)
    with pytest.raises(DataError, match="stderr"):
        build_report(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("variant,benchmark,metric,value,source\ndpo,mt-bench,score,7,a\n", "subset"),
        ("variant,benchmark,metric,subset,value,source\ndpo,mt-bench,score,all,seven,a\n", "value"),
        ("", "cannot be read"),
    ],
)
def test_published_figures_that_are_none_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    write_run(tmp_path, only=())
    (tmp_path / "published.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=problem):
        build_report(tmp_path)


# ---- figures ----


def test_unlearning_bins_hold_the_mean_change_and_own_asks_for_the_responses_score() -> None:
    rows = [
        {
            "variant": "dpo", "seed": 0, "pair_id": f"p{pair}", "response": response, "goal": goal,
            "score": {"chosen": 9.0, "rejected": 6.0}[response], "tokens": 5, "logp_reference": -10.0,
            "logp_policy": -10.0 + pair + {"none": 0, "best": 100, "chosen": 200, "rejected": 300}[goal],
        }
        for pair in (1, 2, 3)
        for response in ("chosen", "rejected")
        for goal in ("none", "best", "chosen", "rejected")
    ]  # fmt: skip
    edges = unlearning_report.score_edges(pd.Series([6.0, 9.0]))
    changes = unlearning_report.unlearning_by_bin(pd.DataFrame(rows), edges)
    value = {(row["response"], row["goal"]): row["value"] for row in changes.to_dict("records")}
    assert value == {
        ("chosen", "none"): 2, ("chosen", "best"): 102, ("chosen", "own"): 202,
        ("rejected", "none"): 2, ("rejected", "best"): 102, ("rejected", "own"): 302,
    }  # fmt: skip
    assert set(changes["n"]) == {3}


@pytest.mark.parametrize("scores", [[1.0, 10.0], [5.0], [7.0, 9.0], [-3.0, 4.0], [0.0, 1.0], [10.0]])
def test_every_score_falls_into_a_bin(scores: list[float]) -> None:
    edges = unlearning_report.score_edges(pd.Series(scores))
    assert edges == sorted(set(edges))
    assert edges[0] <= min(scores)
    assert max(scores) <= edges[-1]


def test_a_name_cannot_be_markup_or_a_template_for_plotly() -> None:
    assert styles.plain("<b>%{x}</b>") == "&lt;b&gt;% {x}&lt;/b&gt;"


def test_long_training_curves_are_thinned_and_keep_their_running_mean() -> None:
    steps = 5_000
    frame = pd.DataFrame({"variant": "dpo", "seed": 0, "step": range(steps), "metric": "loss", "value": range(steps)})
    raw, smooth = training.curves(frame, {"dpo": styles.VariantStyle("#000", "circle")}, "loss").data
    assert len(raw.x) == len(smooth.x) <= training.DRAWN
    assert smooth.y[-1] == pytest.approx(np.mean(range(raw.x[-1] - 199, raw.x[-1] + 1)))


# ---- examples ----


def test_examples_of_different_tasks_with_one_id_stay_apart(run_dir: Path, page: Page) -> None:
    index = page.packed("example-index")
    examples = pd.read_parquet(run_dir / "examples.parquet")
    shown = examples[examples["output"].notna()]
    keys = ["benchmark", "subset", "example_id", "seed", "metric"]
    assert len(index["i"]) == len(shown[keys].drop_duplicates())
    names = [index["benchmarks"][place] for place in index["b"]]
    assert names == sorted(names, key=["alpaca-eval", "arena-hard", "mt-bench", "academic"].index)
    place = index["variants"].index("ra-dpo")
    told = {
        (index["benchmarks"][b], index["subsets"][s], i): x
        for b, s, i, x in zip(index["b"], index["s"], index["i"], index["x"][place], strict=True)
        if x is not None
    }
    own = shown[shown["variant"] == "ra-dpo"]
    wanted = dict(zip(own[["benchmark", "subset", "example_id"]].itertuples(index=False, name=None), own["value"],
                      strict=True))  # fmt: skip
    assert told == {key: pytest.approx(value, rel=1e-5) for key, value in wanted.items()}


def test_every_answer_is_in_its_block(run_dir: Path, page: Page) -> None:
    index, blocks = page.packed("example-index"), page.blocks()
    examples = pd.read_parquet(run_dir / "examples.parquet")
    shown = examples[examples["output"].notna()]
    found = set()
    for place, block in enumerate(index["c"]):
        first = index["c"].index(block)
        texts, group = blocks[block]["t"], blocks[block]["g"][place - first]
        for variant, output, *_ in group[2:]:
            name = index["benchmarks"][index["b"][place]], index["subsets"][index["s"][place]], index["i"][place]
            found.add((*name, index["variants"][variant], texts[output], texts[group[0]]))
    columns = ["benchmark", "subset", "example_id", "variant", "output", "prompt"]
    assert found == set(shown[columns].itertuples(index=False, name=None))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=6), detail=st.text(max_size=30))
def test_any_text_comes_back_from_its_block(texts: list[str], detail: str) -> None:
    rows = [[browser.Row(place, text, text[::-1], text or None, 0.5, detail)] for place, text in enumerate(texts)]
    (block,), whole = browser._packed_blocks([rows], 1_000_000)
    assert block is not None
    assert whole == len(texts)
    found = json.loads(inflated(block))
    for text, (prompt, compared, (_, output, told)) in zip(texts, found["g"], strict=True):
        assert [found["t"][place] for place in (prompt, output)] == [text, text[::-1]]
        assert (None if compared < 0 else found["t"][compared]) == (text or None)
        assert found["t"][told] == detail or json.loads(found["t"][told]) == json.loads(detail, parse_constant=str)


def test_what_has_no_room_is_spread_evenly_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    folder = write_run(tmp_path, prompts=400, only=("alpaca-eval",))
    examples = pd.read_parquet(folder / "examples.parquet")
    examples["output"] = ["".join(map(chr, rng.integers(97, 123, 300))) for _ in range(len(examples))]
    examples.to_parquet(folder / "examples.parquet", index=False)
    monkeypatch.setattr(browser, "BLOCK", 8_000)
    packed = browser.pack(load_run(folder), room=60_000)
    sizes = [0 if block is None else len(block) for block in packed.blocks]
    assert 0.7 * 60_000 < sum(sizes) <= 60_000
    assert 0 < packed.whole < packed.examples == 400
    kept = [place for place, size in enumerate(sizes) if size]
    assert max(np.diff([-1, *kept, len(sizes)])) <= 2 * len(sizes) / len(kept) + 1
    monkeypatch.setattr("radpo.report.build.pack", lambda run, *room: packed)
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert f"the answers to {packed.whole} of 400 examples, spread evenly" in text


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ('{"a": NaN}', {"a": "NaN"}), ('{"a": 0.12345678}', {"a": 0.123457}), ("[1, 2]", [1, 2]), ("null", None),
        ('{"a": 1e999}', '{"a": 1e999}'), ("no JSON", "no JSON"), ("[" * 100_000, "[" * 100_000),
    ],
)  # fmt: skip
def test_a_detail_of_any_kind_becomes_text_that_the_page_can_read(tmp_path: Path, detail: str, shown: Any) -> None:
    write_run(tmp_path, prompts=1, only=("alpaca-eval",))
    frame = pd.read_parquet(tmp_path / "examples.parquet").assign(detail=detail)
    frame.to_parquet(tmp_path / "examples.parquet", index=False)
    (block,) = Page(build_report(tmp_path).read_text(encoding="utf-8")).blocks()
    text = block["t"][block["g"][0][2][2]]
    assert (text if isinstance(shown, str) else json.loads(text)) == shown


# ---- one file, no network, nobody's script ----


def test_the_page_names_no_address_beyond_itself(page: Page) -> None:
    assert page.addresses
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    style = page.html[page.html.index("<style>") : page.html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_only_the_pages_script_and_style_are_allowed(page: Page) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page.html)
    assert policy.startswith("default-src &#39;none&#39;; connect-src &#39;none&#39;")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy
    assert len(page.running()) == 1
    assert page.styled == []


def test_embedded_json_can_neither_end_its_element_nor_change() -> None:
    hostile = ["</script><script>", "<!--", "\u2028\x00&amp;"]
    text = script_json(hostile)
    assert not set(text) & set("<>&\u2028\u2029\x00")
    assert json.loads(text) == hostile


def test_the_same_run_gives_the_same_file(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "again")
    assert build_report(tmp_path / "again").read_bytes() == (run_dir / "report.html").read_bytes()


def test_numbers_are_printed_as_their_units_deserve() -> None:
    assert number(46.875, "%") == "46.9"
    assert number(0.5417, "share", signed=True) == "+0.542"
    assert number(-0.0001, "nats") == "0.00"
    assert number(-2.5, "nats") == "−2.50"
