"""The report's own sections on benchmarks, alike for all: the main figures at a glance, and how long answers are.

What a figure is called, its unit and its bounds are what its benchmark says of it (`radpo.core.metrics.Metric`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from radpo.core.metrics import Metric
from radpo.core.run import Run
from radpo.figures.charts import bars
from radpo.figures.sections import ReportSection, panel, points, shown_in, span_of, table_rows
from radpo.figures.spreads import boxes
from radpo.figures.styles import Styles
from radpo.stats.quantities import Name, is_true, label_of, names_of, of

if TYPE_CHECKING:
    import pandas as pd


def overview(run: Run, styles: Styles, titles: Mapping[str, str]) -> ReportSection:
    """Every benchmark's main figures as grouped bars, as in figure 2 of arXiv 2410.08067.

    Args:
        titles: what benchmarks are called, by name; the others by their names.
    """
    panels, numbers, frames = [], [], []
    hatched = False
    for benchmark in run.benchmarks:
        for names in _panels(run, benchmark):
            frame = points(run, names)
            if frame.empty:
                continue
            words = _groups(run, names)
            frame = frame.assign(group=[words[key] for key in zip(frame["metric"], frame["subset"], strict=True)])
            metrics = [run.metric(benchmark, name.metric) for name in names]
            low, high = _common(metrics)
            published = _published(run, styles, words, benchmark)
            hatched |= published is not None
            figure = bars(
                frame,
                styles,
                axis=_axis(run, names, metrics),
                base=low if math.isfinite(low) else 0.0,
                within=None if _fitted(metrics) else (low, high + 0.03 * (high - low)),
                reference=0.0 if any(metric.zero_is_reference for metric in metrics) else None,
                published=published,
            )
            title = titles.get(benchmark, benchmark)
            panels.append(panel(title, figure))
            numbers += table_rows(title, frame)
            frames.append(frame)
    if not frames:
        return ReportSection("overview", "Scores at a glance")
    caption = (
        "The main figures of every benchmark; higher is better"
        + (" unless a scale says otherwise. " if "lower is better" in "".join(p.figure for p in panels) else ". ")
        + f"n = {span_of(n for frame in frames for n in frame['n'])}; whiskers: 95% intervals"
        + ("; hatched: published, not measured here." if hatched else ".")
    )
    method = (
        "Intervals are t intervals of each variant's own mean. Overlapping whiskers do not show that two variants are "
        "alike: the tests in the summary compare them on the same examples."
    )
    return ReportSection(
        "overview", "Scores at a glance", caption, panels, 2, shown_in(styles, *frames), numbers, method
    )


def _panels(run: Run, benchmark: str) -> Iterator[list[Name]]:
    """The figures to draw: those of the whole benchmark, else the primary ones of its parts, a panel for each unit."""
    rows = of(run.results, benchmark=benchmark)
    drawn = [metric for metric in rows["metric"].unique() if run.metric(benchmark, str(metric)).overview]
    rows = rows[rows["metric"].isin(drawn)]
    whole = rows[rows["subset"] == "all"]
    names = names_of(whole if len(whole) else rows[is_true(rows["primary"])])
    names.sort(key=lambda name: not run.metric(benchmark, name.metric).leads)
    units: dict[str, list[Name]] = {}
    for name in names:
        units.setdefault(run.metric(benchmark, name.metric).unit, []).append(name)
    yield from units.values()


def _groups(run: Run, names: Iterable[Name]) -> dict[tuple[str, str], str]:
    """What stands below a group of bars, by metric and subset: the metric's label, or the part's name."""
    return {
        (name.metric, name.subset): label_of(run, name.benchmark, name.metric)
        if name.subset == "all"
        else run.metric(name.benchmark, name.metric).part(name.subset)
        for name in names
    }


def _common(metrics: Sequence[Metric]) -> tuple[float, float]:
    """Bounds that hold all the metrics."""
    return min(metric.limits[0] for metric in metrics), max(metric.limits[1] for metric in metrics)


def _fitted(metrics: Sequence[Metric]) -> bool:
    """Whether the scale is fitted to the values: metrics without bounds, and those whose middle is what counts."""
    return not all(map(math.isfinite, _common(metrics))) or any(metric.even is not None for metric in metrics)


def _axis(run: Run, names: Sequence[Name], metrics: Sequence[Metric]) -> str:
    """What the scale says: the figure's label where all share one, else the main one's, and its unit or bounds."""
    labels = list(dict.fromkeys(label_of(run, name.benchmark, name.metric) for name in names))
    main = next((label for label, metric in zip(labels, metrics, strict=False) if metric.primary), labels[0])
    low, high = _common(metrics)
    unit = metrics[0].unit
    if any(metric.zero_is_reference for metric in metrics):
        main += ", change from the reference"
    if unit == "share":
        return main if len(labels) == 1 else "share"
    bounded = f"{low:g}–{high:g}" if math.isfinite(low) and math.isfinite(high) else ""
    scale = unit or bounded
    down = {metric.higher_is_better for metric in metrics} == {False}
    notes = [note for note in (scale, "lower is better" if down else "") if note]
    return f"{main} ({', '.join(notes)})" if notes else main


def _published(run: Run, styles: Styles, words: Mapping[tuple[str, str], str], benchmark: str) -> pd.DataFrame | None:
    """Published figures that have a variant of ours to stand beside, as `bars` takes them."""
    if run.published is None:
        return None
    rows = of(run.published, benchmark=benchmark)
    rows = rows[rows["variant"].isin(list(styles))]
    groups = [words.get(key, "") for key in zip(rows["metric"], rows["subset"], strict=True)]
    rows = rows.assign(group=groups)
    rows = rows[rows["group"] != ""]
    return None if rows.empty else rows


def lengths(run: Run, styles: Styles, benchmarks: Sequence[str]) -> ReportSection:
    """How long the answers to these benchmarks' questions are."""
    panels, frames = [], []
    for benchmark in benchmarks:
        answers = _answers(run, benchmark)
        if answers.empty:
            continue
        of_each = answers["output"].str.len().groupby(answers["variant"], sort=False)
        spread = {f"q{percent}": of_each.quantile(percent / 100) for percent in (10, 25, 50, 75, 90)}
        frame = of_each.size().rename("n").to_frame().assign(**spread).reset_index()
        panels.append(panel(benchmark, boxes(frame, styles, axis="characters")))
        frames.append(frame)
    if not frames:
        return ReportSection("lengths", "Length of answers")
    caption = (
        "Characters per answer: the box holds the middle half of the answers, the whiskers the middle 80%. "
        f"n = {span_of(n for frame in frames for n in frame['n'])} answers; this is their spread, not an interval of "
        "the mean."
    )
    return ReportSection("lengths", "Length of answers", caption, panels, 2, shown_in(styles, *frames))


def _answers(run: Run, benchmark: str) -> pd.DataFrame:
    """variant, output: all answers; those of a variant without rows of its own are what others were compared with."""
    import pandas as pd

    rows = of(run.examples, benchmark=benchmark)
    own = rows[rows["output"].notna()][["variant", "output"]]
    others: list[tuple[str, pd.Series[str]]] = []
    for variant in dict.fromkeys(own["variant"]):
        opponent = run.opponent(variant, benchmark)
        if opponent in run.source_of and opponent not in {*own["variant"], *(name for name, _ in others)}:
            others.append((opponent, rows[rows["variant"] == variant]["baseline_output"].dropna()))
    return pd.concat([*(pd.DataFrame({"variant": name, "output": texts}) for name, texts in others), own])
