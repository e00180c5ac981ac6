"""The report's first figure: gains against unlearning, the numbers those of results, the words no bolder than them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_factory import write_run

from radpo.benchmarks.learned_unlearned import learned_unlearned
from radpo.core.results import results_frame
from radpo.core.run import Run, load_run
from radpo.figures.sections import ReportSection
from radpo.figures.styles import variant_styles
from radpo.report.build import build_report
from radpo.stats.quantities import Name, measure

WIN_RATE = Name("alpaca-eval", "all", "win_rate")
UNLEARNED, TOLD = (Name("unlearning", subset, "delta_logp_rejected_high") for subset in ("none", "own"))
ACCURACY = Name("unlearning", "own", "preference_accuracy")


def with_figures(folder: Path, figures: dict[tuple[str, Name], tuple[float, float | None]]) -> Path:
    """A run whose results have these values and standard errors, of 100 examples each."""
    results = pd.read_parquet(folder / "results.parquet")
    for (variant, name), (value, stderr) in figures.items():
        row = {**name._asdict(), "variant": variant, "model": "tiny-model", "seed": 0, "value": value, "stderr": stderr,
               "n": 100, "higher_is_better": True, "primary": name != ACCURACY}  # fmt: skip
        same = (results[list(row)[:4]] == [*name, variant]).all(axis=1)
        results = pd.concat([results[~same], results_frame([row])])
    results.to_parquet(folder / "results.parquet", index=False)
    return folder


def section_of(run: Run) -> ReportSection:
    return learned_unlearned(run, variant_styles(run.variants, run.baseline))


def marker_of(figure: dict[str, Any], variant: str) -> dict[str, Any]:
    return next(trace for trace in figure["data"] if trace["meta"] == variant)


def test_points_and_whiskers_are_those_of_the_results_and_the_reference_is_at_the_origin(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    accuracies = {("base", ACCURACY): (0.5, None), ("dpo", ACCURACY): (0.5, 0.05), ("ra-dpo", ACCURACY): (0.8, 0.04)}
    run = load_run(with_figures(run_dir, accuracies))
    won, told = (json.loads(panel.figure) for panel in section_of(run).panels)
    assert "n = 48 to 100 for what was learned" in section_of(run).caption, "not the n of what was unlearned"
    for figure, moved, learned in ((won, UNLEARNED, WIN_RATE), (told, TOLD, ACCURACY)):
        assert {trace["meta"] for trace in figure["data"]} == {"base", "dpo", "ra-dpo"}
        for variant in ("dpo", "ra-dpo"):
            trace = marker_of(figure, variant)
            for axis, name in (("x", moved), ("y", learned)):
                quantity = measure(run, variant, name)
                assert quantity is not None
                bars = trace[f"error_{axis}"]
                ends = trace[axis][0] - bars["arrayminus"][0], trace[axis][0] + bars["array"][0]
                assert (trace[axis][0], *ends) == pytest.approx((quantity.value, quantity.low, quantity.high))
        even = 50 if learned == WIN_RATE else 0.5
        assert (marker_of(figure, "base")["x"], marker_of(figure, "base")["y"]) == ([0], [even])
        assert [line.get("x0") for line in figure["layout"]["shapes"]] == [0, 0]
        assert [line.get("y0") for line in figure["layout"]["shapes"]] == [0, even]


def test_it_comes_first_then_the_summary_and_only_then_what_was_not_done(tmp_path: Path) -> None:
    html = build_report(write_run(tmp_path)).read_text(encoding="utf-8")
    marks = ('id="headline"', '<section id="learned"', 'class="reading"', '<section id="summary"', "What was not done",
             '<section id="overview"')  # fmt: skip
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)
    assert re.findall(r'<a href="#(\w+)"', html)[:2] == ["learned", "summary"], "the section bar, in the page's order"


@pytest.mark.parametrize(
    ("win_rate", "change", "accuracy", "said"),
    [
        ((60, 2), (-3, 1), (0.7, 0.05), ("gained", "unlearned good answers", "followed the goal")),
        ((53, 2), (-1, 1), (0.55, 0.05), ("did not clearly gain", "did not clearly unlearn", "did not clearly follow")),
        ((40, 2), (3, 1), (0.3, 0.05), ("lost", "raised good answers", "went against the goal")),
        ((60, 2), (-3, 1), (0.5, None), ("gained", "unlearned good answers", "did not clearly follow the goal")),
    ],
)
def test_the_sentence_says_what_the_intervals_bear_and_no_more(
    tmp_path: Path, win_rate: Any, change: Any, accuracy: Any, said: tuple[str, ...]
) -> None:
    figures = {("dpo", WIN_RATE): win_rate, ("dpo", UNLEARNED): change, ("dpo", ACCURACY): accuracy}
    run = load_run(with_figures(write_run(tmp_path, variants=("base", "dpo")), figures))
    section = section_of(run)
    assert section.reading.startswith(f"With 95% intervals: dpo {said[0]} (win rate {win_rate[0]:.1f}%, ")
    assert f"), {said[1]} ({change[0]:+.2f}".replace("-", "−") in section.reading
    assert f") and {said[2]}" in section.reading


def test_many_variants_are_counted(tmp_path: Path) -> None:
    variants = ["base", *(f"v{number}" for number in range(7))]
    figures = {(variant, WIN_RATE): (60.0 if variant < "v3" else 51.0, 2.0) for variant in variants[1:]}
    run = load_run(with_figures(write_run(tmp_path, variants=variants), figures))
    reading = section_of(run).reading
    assert reading.startswith("Of 7 variants, by 95% intervals, 3 gained, ")
    assert "4 did not clearly gain" in reading


@pytest.mark.parametrize(
    ("only", "variants"),
    [
        (("unlearning",), ("base", "dpo")),
        (("alpaca-eval",), ("base", "dpo")),
        (("unlearning", "mt-bench"), ("base",)),
        ((), ("base", "dpo")),
    ],
)
def test_without_both_kinds_of_figure_of_a_policy_it_is_not_there(
    tmp_path: Path, only: tuple[str, ...], variants: tuple[str, ...]
) -> None:
    section = section_of(load_run(write_run(tmp_path, only=only, variants=variants)))
    assert (section.title, list(section.panels)) == ("Learned against unlearned", []), "named among what is not shown"


def test_without_a_win_rate_the_first_score_is_held_against_the_baselines(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, only=("unlearning", "mt-bench")))
    section = section_of(run)
    score = measure(run, "base", Name("mt-bench", "all", "score"))
    assert score is not None
    assert f'"y0":{score.value}' in section.panels[0].figure
    assert "score" in section.reading
