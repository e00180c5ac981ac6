"""The report and its benchmarks: each one draws its own part, and the report knows none of them by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pytest
from report_factory import ALL, write_run
from report_page import Page

import radpo
from radpo.benchmarks.registry import benchmarks
from radpo.core.errors import DataError
from radpo.core.metrics import Metric, metrics_to_json
from radpo.core.plugins import PluginWarning
from radpo.core.run import Run
from radpo.figures.sections import ReportSection
from radpo.figures.styles import Styles, labels, plain
from radpo.report.build import build_report

ROOT = Path(radpo.__file__).parent


def page_of(folder: Path) -> Page:
    return Page(build_report(folder).read_text(encoding="utf-8"))


def renamed(folder: Path, old: str, new: str, metrics: tuple[Metric, ...]) -> Path:
    """A run whose benchmark `old` is called `new`, which is not installed and which its manifest describes."""
    for table in ("results", "examples"):
        frame = pd.read_parquet(folder / f"{table}.parquet")
        frame["benchmark"] = frame["benchmark"].replace({old: new})
        frame.to_parquet(folder / f"{table}.parquet", index=False)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["metrics"] = metrics_to_json({new: metrics})
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def with_benchmark(monkeypatch: pytest.MonkeyPatch, name: str, sections: Any) -> None:
    """One more benchmark, of another package, whose part of the report is `sections`."""
    foreign = replace(benchmarks()["mt-bench"], name=name, title=name.title(), sections=sections, place=500)
    known = MappingProxyType({**benchmarks(), name: foreign})
    monkeypatch.setattr("radpo.report.benchmark_sections.benchmarks", lambda: known)
    monkeypatch.setattr("radpo.report.build.benchmarks", lambda: known)
    entry = EntryPoint(name, "another_package.bench:BENCHMARK", "radpo.benchmarks")
    own = {one: EntryPoint(one, "radpo.x:BENCHMARK", "radpo.benchmarks") for one in benchmarks()}
    monkeypatch.setattr("radpo.report.benchmark_sections.plugin_entries", lambda group: {**own, name: entry})


def test_report_and_figures_name_no_benchmark() -> None:
    words = {word for one in benchmarks().values() for word in (one.name, one.title) if word.lower() != "style"}
    parted = ("[-_ ]?".join(map(re.escape, re.split(r"[-\s]+", word))) for word in words)
    pattern = re.compile("|".join(parted), re.IGNORECASE)
    assert pattern.search("mt_bench")
    assert pattern.search("Reward against KL")
    kinds = (".py", ".js", ".j2", ".css")
    rooms = [sorted((ROOT / room).rglob("*.*")) for room in ("report", "figures")]
    files = [path for room in rooms for path in room if path.suffix in kinds]
    assert len(files) > 15
    found = {path.name: match[0] for path in files if (match := pattern.search(path.read_text(encoding="utf-8")))}
    assert found == {}


def test_a_benchmark_that_is_not_installed_has_the_overview_and_one_sentence(tmp_path: Path) -> None:
    metrics = (Metric("score", "chess score", bounds=(0, 100), primary="all", even=50.0, overview=True),)
    folder = renamed(write_run(tmp_path, only=("arena-hard",)), "arena-hard", "chess-duels", metrics)
    page = page_of(folder)
    assert re.findall(r"Not installed here: ([^.]*)\.", page.text) == ["chess-duels"]
    (figure,) = page.figures("overview")
    results = pd.read_parquet(folder / "results.parquet")
    assert sorted(value for trace in figure["data"] for value in trace["y"]) == pytest.approx(sorted(results["value"]))
    assert figure["layout"]["yaxis"]["title"]["text"] == "chess score (0–100)"
    assert next(cell.text for cell in page.cells if cell.table == "all") == "chess-duels"
    assert '<section id="lengths"' in page.html
    # In the example browser the opponent, here the baseline, has the value at which both are alike.
    assert page.packed("example-index")["even"] == [[50.0]]


def test_the_value_of_an_even_example_is_worked_out_from_the_metrics_scale(tmp_path: Path) -> None:
    index = page_of(write_run(tmp_path, only=("alpaca-eval", "mt-bench"))).packed("example-index")
    even = {
        (b, m): index["even"][i][j] for i, b in enumerate(index["benchmarks"]) for j, m in enumerate(index["metrics"])
    }
    assert even["alpaca-eval", "preference"] == 1.5  # between 1, lost, and 2, won
    assert even["mt-bench", "score"] is None


def test_a_metric_of_which_less_is_better_is_so_for_its_own_benchmark_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path, only=("arena-hard", "mt-bench"))
    results = pd.read_parquet(folder / "results.parquet")
    results.loc[results["benchmark"] == "mt-bench", "higher_is_better"] = False
    results.to_parquet(folder / "results.parquet", index=False)
    index = page_of(folder).packed("example-index")
    place = index["metrics"].index("score")
    assert {name: index["down"][at][place] for at, name in enumerate(index["benchmarks"])} == {
        "arena-hard": False, "mt-bench": True,
    }  # fmt: skip


@pytest.mark.parametrize("result", ["raise", "wrong type"])
def test_a_plug_ins_failure_costs_the_report_its_own_part_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    def sections(run: Run, styles: Styles) -> Any:
        if result == "raise":
            raise KeyError("no such <b>column</b>")
        return ["a text"]

    folder = renamed(write_run(tmp_path, only=("mt-bench", "arena-hard")), "arena-hard", "broken-one", ())
    with_benchmark(monkeypatch, "broken-one", sections)
    with pytest.warns(PluginWarning, match="'broken-one' failed to draw its part of the report"):
        page = page_of(folder)
    (said,) = re.findall(r"Broken-One: its own part of the report could not be drawn \((.*)\)\.", page.text)
    assert said == ("KeyError: 'no such <b>column</b>'" if result == "raise" else
                    "TypeError: sections gave a str in place of a ReportSection")  # fmt: skip
    assert '<section id="mt-bench"' in page.html
    assert '<section id="overview"' in page.html


def test_a_plug_in_that_fails_on_runs_without_it_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sections(run: Run, styles: Styles) -> list[ReportSection]:
        raise IndexError

    with_benchmark(monkeypatch, "elsewhere", sections)
    text = page_of(write_run(tmp_path, only=("mt-bench",))).text
    assert "could not be drawn" not in text
    assert "Elsewhere" in re.findall(r"Not shown, because there are no figures of them: ([^.]*)\.", text)[0]


def test_a_built_in_benchmarks_failure_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, only=("unlearning", "trajectory"), pairs=20)
    frame = pd.read_parquet(folder / "trajectory.parquet")
    frame.drop(index=0).to_parquet(folder / "trajectory.parquet", index=False)
    with pytest.raises(DataError, match="do not track the same pairs"):
        build_report(folder)


def test_sections_of_one_anchor_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = benchmarks()["mt-bench"].sections
    assert taken is not None
    with_benchmark(monkeypatch, "second", taken)
    html = page_of(write_run(tmp_path, only=("mt-bench",))).html
    anchors = re.findall(r'<section id="([^"]*)"', html)
    assert anchors.count("mt-bench") == anchors.count("mt-bench-2") == 1


def test_unlearning_is_drawn_and_told_at_the_runs_own_high_score(tmp_path: Path) -> None:
    folder = write_run(tmp_path, only=ALL, pairs=40)
    text = "name: synthetic\nbaseline: base\nbenchmarks:\n  unlearning:\n    high_score: 6.5\n"
    (folder / "matrix.yaml").write_text(text, encoding="utf-8")
    page = page_of(folder)
    captions = {
        anchor: re.findall(rf'<section id="{anchor}".*?<figcaption[^>]*>(.*?)</figcaption>', page.html, re.DOTALL)[0]
        for anchor in ("contrasts", "trajectory")
    }
    assert all("scored 6.5 or more" in caption for caption in captions.values())
    ticks = page.figures("unlearning")[0]["layout"]["xaxis"]["ticktext"]
    assert any(tick.startswith("6.5–") for tick in ticks)  # no bin holds both high and low ones
    drawn = [trace for figure in page.figures("trajectory") for trace in figure["data"] if "meta" in trace]
    default = page_of(write_run(tmp_path / "default", only=ALL, pairs=40))
    before = [trace for figure in default.figures("trajectory") for trace in figure["data"] if "meta" in trace]
    assert [trace["y"] for trace in drawn] != [trace["y"] for trace in before]


def test_labels_are_wrapped_and_never_take_each_others_place() -> None:
    assert plain("length-controlled win rate", 14) == "length-<br>controlled win<br>rate"
    assert plain("x" * 30, 10) == "<br>".join(["x" * 10] * 3)
    long = ["v" * 200 + end for end in ("a", "b")]
    shown = labels(long)
    assert len(set(shown.values())) == 2
    assert all("…" in label for label in shown.values())
    assert plain("a <i>b</i>\nc") == "a &lt;i&gt;b&lt;/i&gt; c"


def test_a_report_of_many_variants_and_seeds_stays_small_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are lowered instead of the run being made large, which takes minutes."""

    from radpo.report import build, embed, summary

    variants = ["base", *(f"variant-{number}" for number in range(1, 6))]
    run = write_run(tmp_path / "run", variants=variants, seeds=(0, 1), only=("alpaca-eval", "academic", "training"))
    whole = build.build_report(run).read_text()
    monkeypatch.setattr(build, "MOST_ROWS", 20)
    monkeypatch.setattr(build, "MOST_MANIFEST", 5_000)
    monkeypatch.setattr(embed, "PACKED_FROM", 2_000)
    monkeypatch.setattr(summary, "MOST_CHANGES", 12)
    monkeypatch.setattr(build, "LIMIT", 2_200_000)
    small = build.build_report(run)
    text = small.read_text()
    assert small.stat().st_size <= 2_200_000 < len(whole)
    rows = len(re.findall(r'data-rows="0/\d+"', whole.partition('id="all-figures"')[2]))
    assert f"The first 20 of {rows} rows; the others are in results.parquet" in text
    assert "The first 20 of 48 rows; the others are in manifest.json" in text
    assert '"stages": "48 of them: see manifest.json"'.replace('"', "&#34;") in text
    assert re.findall(r'<option value="([^"]+)"', text.partition('id="baseline"')[2].partition("</select>")[0]) == [
        "base", "variant-1",
    ]  # fmt: skip
    assert text.count('type="text/plain" class="figure"') > 0
