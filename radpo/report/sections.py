"""The report's sections on scores: figures with their captions and numbers.

Every caption says what to see, how large the sample is, and which interval is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from radpo.core.run import Run
from radpo.figures import charts as figures
from radpo.figures import spreads as spread_figures
from radpo.figures.charts import SIDE_BY_SIDE
from radpo.figures.sections import ReportSection as Section
from radpo.figures.sections import panel, points, seeds_note, shown_in, sizes, span_of
from radpo.figures.sections import table_rows as told
from radpo.figures.styles import VariantStyle as Look
from radpo.stats.comparison import Compared
from radpo.stats.quantities import Name, is_true, label_of, names_of, of, subsets, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

CONTROLLED = ("length_controlled_winrate", "win_rate_at_equal_length")
OUTCOMES = {"won": "won", "even": "even", "lost": "lost"}
TEXTUAL = ("alpaca-eval", "arena-hard", "mt-bench")
BARS: tuple[tuple[str, str, tuple[str, ...], str, float, tuple[float, float] | None], ...] = (
    ("alpaca-eval", "AlpacaEval", (*CONTROLLED, "win_rate"), "win rate (%)", 0.0, None),
    ("arena-hard", "Arena-Hard", ("score",), "score (0–100)", 0.0, None),
    ("mt-bench", "MT-Bench", ("score", "first_turn", "second_turn"), "score (1–10)", 1.0, (1, 10.3)),
)


def sections(run: Run, looks: Mapping[str, Look], compared: Compared) -> list[Section]:
    """The sections on scores, in the order in which they are read; those without panels have nothing to show.

    Args:
        compared: the differences from the run's baseline.
    """
    return [
        _overview(run, looks),
        _win_rate(run, looks),
        _length_control(run, looks),
        _arena_hard(run, looks),
        _mt_bench(run, looks),
        _academic(run, looks, compared),
        _lengths(run, looks),
    ]


def _overview(run: Run, looks: Mapping[str, Look]) -> Section:
    """Grouped bars, as in figure 2 of the paper."""
    panels, numbers, frames = [], [], []
    hatched = False
    for benchmark, heading, metrics, axis, base, within in BARS:
        frame = points(run, [Name(benchmark, "all", metric) for metric in metrics])
        if frame.empty:
            continue
        frame = frame.assign(group=[label_of(run, benchmark, metric) for metric in frame["group"]])
        published = _published(run, looks, benchmark, metrics)
        hatched |= published is not None
        figure = figures.bars(frame, looks, axis=axis, base=base, within=within, published=published)
        panels.append(panel(heading, figure))
        numbers += told(heading, frame)
        frames.append(frame)
    tasks = points(run, _academic_names(run))
    if len(tasks):
        shares = set(tasks["unit"]) == {"share"}
        axis = "share right" if shares else "score"
        published = _published(run, looks, "academic", None)
        hatched |= published is not None
        figure = figures.bars(tasks, looks, axis=axis, within=(0, 1) if shares else None, published=published)
        panels.append(panel("Academic tasks", figure))
        frames.append(tasks)
    if not frames:
        return Section("overview", "Scores at a glance")
    caption = (
        "Every benchmark's main figures, variants beside each other in the order of the legend; higher is better. "
        f"n = {span_of(n for frame in frames for n in frame['n'])}, by benchmark. Whiskers: 95% t intervals. Whether "
        "two bars differ is a question for the tests in the summary, not for the overlap of whiskers."
        + (" Hatched: published figures, not measured here; see below for their sources." if hatched else "")
    )
    return Section("overview", "Scores at a glance", caption, panels, 2, shown_in(looks, *frames), numbers)


def _published(
    run: Run, looks: Mapping[str, Look], benchmark: str, metrics: Sequence[str] | None
) -> pd.DataFrame | None:
    """Published figures that have a variant of ours to stand beside, as `figures.bars` takes them."""
    if run.published is None:
        return None
    rows = of(run.published, benchmark=benchmark)
    rows = rows[rows["variant"].isin(list(looks))]
    if metrics is not None:
        rows = rows[rows["metric"].isin(list(metrics)) & (rows["subset"] == "all")]
    if rows.empty:
        return None
    labels = [label_of(run, benchmark, metric) for metric in rows["metric"]]
    return rows.assign(group=labels if metrics is not None else rows["subset"])


def _win_rate(run: Run, looks: Mapping[str, Look]) -> Section:
    whole = points(run, [Name("alpaca-eval", "all", "win_rate")]).assign(group=lambda rows: rows["variant"])
    if whole.empty:
        return Section("win-rate", "AlpacaEval win rate")
    parts = points(run, subsets(run, "alpaca-eval", "win_rate"))
    against = _opponents(run, "alpaca-eval", shown_in(looks, whole))
    axis = f"win rate against {against} (%)"
    figure = figures.intervals(whole, looks, axis=axis, reference=50, suffix="%", labelled=True, within=(0, 100))
    panels = [panel("All instructions", figure, 2 if parts.empty else 1)]
    caption = (
        f"Share of instructions on which the judge prefers the variant's answer to that of {against}; ties "
        f"count half. Right of the dotted line the variant is ahead; an interval across it leaves that open. "
        f"n = {sizes(whole)} instructions. "
    )
    if len(parts):
        panels.append(panel("By category", _by_part(parts, looks, axis, (0, 100), 50, "%")))
        caption += f"By category n = {sizes(parts)}: read those as hints. "
    caption += "Whiskers: 95% t interval of the mean, cut at 0 and 100; none where all comparisons came alike."
    caption += seeds_note(whole)
    numbers = told("all instructions", whole.assign(group="all")) + told("by category", parts)
    return Section("win-rate", "AlpacaEval win rate", caption, panels, 2, shown_in(looks, whole), numbers)


def _length_control(run: Run, looks: Mapping[str, Look]) -> Section:
    heading = "Length-controlled against raw win rate"
    raw = points(run, [Name("alpaca-eval", "all", "win_rate")]).set_index("variant")
    for metric in CONTROLLED:
        controlled = points(run, [Name("alpaca-eval", "all", metric)]).set_index("variant")
        if len(controlled):
            break
    else:
        return Section("length-control", heading)
    both = raw.join(controlled, how="inner", lsuffix="_raw").reset_index()
    placed = both.rename(
        columns={
            "value_raw": "x", "low_raw": "x_low", "high_raw": "x_high", "value": "y", "low": "y_low", "high": "y_high",
        }
    )  # fmt: skip
    figure = spread_figures.against(placed, looks, axes=("win rate (%)", f"{label_of(run, 'alpaca-eval', metric)} (%)"))
    caption = (
        "Below the dotted line the judge's preference owes something to the length of the answers: with lengths held "
        f"equal the variant would win less often. n = {sizes(placed)} instructions. Whiskers: 95% t intervals."
    )
    numbers = told("raw", raw.reset_index()) + told("length-controlled", controlled.reset_index())
    return Section(
        "length-control",
        heading,
        caption,
        [panel("Variants", figure)],
        2,
        shown_in(looks, placed),
        numbers,
    )


def _arena_hard(run: Run, looks: Mapping[str, Look]) -> Section:
    whole = points(run, [Name("arena-hard", "all", "score")]).assign(group=lambda rows: rows["variant"])
    if whole.empty:
        return Section("arena-hard", "Arena-Hard")
    against = _opponents(run, "arena-hard", shown_in(looks, whole))
    axis = f"score against {against} (0–100)"
    figure = figures.intervals(whole, looks, axis=axis, reference=50, labelled=True, within=(0, 100))
    panels, numbers = [panel("Score", figure)], told("score", whole.assign(group="all"))
    parts = points(run, subsets(run, "arena-hard", "score"))
    if len(parts):
        panels.append(panel("By category", _by_part(parts, looks, axis, (0, 100), 50, "")))
        numbers += told("by category", parts)
    outcomes = _outcomes(of(run.examples, benchmark="arena-hard", metric="score"))
    if len(outcomes):
        figure = spread_figures.shares(outcomes, looks, OUTCOMES, axis="questions (%)")
        panels.append(panel("Questions won and lost", figure))
    caption = (
        f"Score: the Bradley–Terry chance, in percent, of winning a game against {against}; each question is judged "
        "twice, with the answers in either order, and a strong verdict counts three times. Right of the dotted line "
        f"the variant is ahead. n = {sizes(whole)} games. Whiskers: 95% intervals from the benchmark's bootstrap over "
        "games, taken for normal. A question is won where its games' mean is above 50"
        + (f"; n = {sizes(outcomes)} questions." if len(outcomes) else ".")
        + seeds_note(whole)
    )
    return Section("arena-hard", "Arena-Hard", caption, panels, 2, shown_in(looks, whole), numbers)


def _outcomes(examples: pd.DataFrame) -> pd.DataFrame:
    """The shares of questions won, even and lost by every variant."""
    known = examples[examples["value"].notna()]
    flags = known.assign(won=known["value"] > 50, even=known["value"] == 50, lost=known["value"] < 50)
    found = flags.groupby("variant", sort=False)[list(OUTCOMES)].mean()
    return found.assign(n=flags.groupby("variant").size()).reset_index()


def _mt_bench(run: Run, looks: Mapping[str, Look]) -> Section:
    parts = points(run, subsets(run, "mt-bench", "score"))
    turns = {"first_turn": "first turn", "second_turn": "second turn"}
    by_turn = points(run, [Name("mt-bench", "all", metric) for metric in turns]).replace({"group": turns})
    panels, caption = [], ""
    if len(parts):
        caption = f"Mean score (1–10) by category, n = {sizes(parts)} judgments each"
        if parts["group"].nunique() >= 3 and parts["variant"].nunique() <= SIDE_BY_SIDE:
            panels.append(panel("By category", figures.radar(parts, looks, within=(1, 10))))
            caption += ": few, so differences between spokes are rough; no interval is drawn on the radar. "
        else:
            panels.append(panel("By category", _by_part(parts, looks, "score (1–10)", (1, 10), None, "")))
            caption += ". "
    if len(by_turn):
        figure = figures.bars(by_turn, looks, axis="score (1–10)", base=1, within=(1, 10.3))
        panels.append(panel("By turn", figure))
        caption += f"By turn: n = {sizes(by_turn)} judgments each; the second continues the conversation of the first. "
    caption += "Whiskers: 95% t interval from the standard error over questions, cut at 1 and 10." + seeds_note(parts)
    numbers = told("by category", parts) + told("by turn", by_turn)
    return Section("mt-bench", "MT-Bench", caption, panels, 2, shown_in(looks, parts, by_turn), numbers)


def _academic(run: Run, looks: Mapping[str, Look], compared: Compared) -> Section:
    names = _academic_names(run)
    tasks = points(run, names)
    if tasks.empty:
        return Section("academic", "Academic retention")
    shares = {unit_of(run, name) for name in names} == {"share"}
    metrics = ", ".join(dict.fromkeys(label_of(run, name.benchmark, name.metric) for name in names))
    figure = _by_part(tasks, looks, metrics, (0, 1) if shares else None, None, "")
    panels = [panel("Each task", figure)]
    changes = _differences(run, compared, names)
    if len(changes):
        axis = f"difference from {run.baseline}"
        slots = tasks["variant"].nunique()
        if slots <= SIDE_BY_SIDE:
            figure = figures.intervals(changes, looks, axis=axis, reference=0, slots=slots)
        else:
            figure = figures.grid(changes, looks, axis=axis, within=None)
        panels.append(panel("Against the baseline", figure))
    caption = (
        "Tasks that alignment should not hurt, scored by lm-eval with the chat template applied. "
        f"n = {sizes(tasks)} documents a task. Whiskers, each task: 95% t interval from lm-eval's standard error"
        + (", cut at 0 and 1" if shares else "")
        + ". Against the baseline: mean paired difference over the same documents, 95% t interval"
        + (
            ", or unpaired interval where the figure is no mean of documents"
            if "unpaired" in set(changes["kind"])
            else ""
        )
        + f". Left of the dotted line the variant lost against {run.baseline}; an interval across it leaves that open."
        + seeds_note(tasks)
    )
    return Section(
        "academic", "Academic retention", caption, panels, 2, shown_in(looks, tasks), told("each task", tasks)
    )


def _lengths(run: Run, looks: Mapping[str, Look]) -> Section:
    panels, frames = [], []
    for benchmark in TEXTUAL:
        answers = _answers(run, benchmark)
        if answers.empty:
            continue
        of_each = answers["output"].str.len().groupby(answers["variant"], sort=False)
        spread = {f"q{percent}": of_each.quantile(percent / 100) for percent in (10, 25, 50, 75, 90)}
        frame = of_each.size().rename("n").to_frame().assign(**spread).reset_index()
        panels.append(panel(benchmark, spread_figures.boxes(frame, looks, axis="characters")))
        frames.append(frame)
    if not frames:
        return Section("lengths", "Length of answers")
    caption = (
        "Characters an answer. Boxes hold the middle half, with the median in them; whiskers reach from the shortest "
        "to the longest tenth: they show the spread of answers and are no confidence intervals. "
        f"n = {span_of(n for frame in frames for n in frame['n'])} answers, by benchmark."
    )
    return Section("lengths", "Length of answers", caption, panels, 2, shown_in(looks, *frames))


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


def _by_part(
    parts: pd.DataFrame, looks: Mapping[str, Look], axis: str, within: tuple[float, float] | None,
    reference: float | None, suffix: str,
) -> Figure:  # fmt: skip
    """A figure by category: points with intervals, or a grid where these would be too many."""
    if parts["variant"].nunique() > SIDE_BY_SIDE:
        return figures.grid(parts, looks, axis=axis, within=None)
    slots = parts["variant"].nunique()
    return figures.intervals(parts, looks, axis=axis, reference=reference, suffix=suffix, within=within, slots=slots)


def _opponents(run: Run, benchmark: str, variants: Sequence[str]) -> str:
    found = dict.fromkeys(run.opponent(variant, benchmark) or "another model" for variant in variants)
    return " or ".join(found)


def _academic_names(run: Run) -> list[Name]:
    return names_of(of(run.results[is_true(run.results["primary"])], benchmark="academic"))


def _differences(run: Run, compared: Compared, names: Sequence[Name]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {"variant": variant, "group": name.subset, "value": found.value, "low": found.low, "high": found.high,
         "n": found.n, "kind": found.kind}
        for name in names
        for variant in run.variants
        if (found := compared.get((variant, name))) is not None
    ]  # fmt: skip
    columns = ["variant", "group", "value", "low", "high", "n", "kind"]
    return pd.DataFrame(rows, columns=columns).astype({"low": "float64", "high": "float64"})
