"""The report's first figure: what every variant learned against what it unlearned, so that neither is read alone.

A policy that did not move has unlearned nothing, and one that wins may have forgotten good answers to do so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from radpo.core.run import Run
from radpo.core.texts import listed
from radpo.figures.charts import crosses
from radpo.figures.sections import ReportSection, opponents, panel, points, shown_in, span_of, table_rows
from radpo.figures.styles import Styles
from radpo.stats.quantities import Name, is_reference, label_of, number, primary_names, unit_of, upward

if TYPE_CHECKING:
    import pandas as pd

UNLEARNED = Name("unlearning", "none", "delta_logp_rejected_high")
UNLEARNED_TOLD = UNLEARNED._replace(subset="own")
TOLD_ACCURACY = Name("unlearning", "own", "preference_accuracy")
ANCHOR, TITLE = "learned", "Learned against unlearned"
GOOD = "high-scored rejected responses"
NAMED = 6
"""With so many variants or fewer, the sentence names each with its numbers; with more, it counts them."""


def learned_unlearned(run: Run, styles: Styles) -> ReportSection:
    """A gain, and the accuracy under a goal, against the change of high-scored rejected responses: a point per variant.

    Only variants with both figures are drawn, and no panel that would show the reference alone.
    """
    gain = _gain(run)
    won = _side_by_side(run, UNLEARNED, gain)
    told = _side_by_side(run, UNLEARNED_TOLD, TOLD_ACCURACY)
    panels, numbers = [], []
    for frame, moved, learned in ((won, UNLEARNED, gain), (told, UNLEARNED_TOLD, TOLD_ACCURACY)):
        if learned is None or frame.empty:
            continue
        title, axis = _called(run, learned)
        unit = "%" if unit_of(run, learned) == "%" else ""
        origin = (0.0, _nothing(run, learned))
        figure = crosses(frame, styles, axes=(_moved(run, moved), axis), units=(" nats", unit), origin=origin)
        panels.append(panel(title, figure))
        for name in (learned, moved):
            numbers += table_rows(
                f"{name.benchmark}: {label_of(run, name.benchmark, name.metric)}", points(run, [name])
            )
    if not panels:
        return ReportSection(ANCHOR, TITLE, lead=True)
    learned_from, unlearned_from = ([*won[n], *told[n]] for n in ("n", "x_n"))
    caption = (
        "Up is learned, left is unlearned; where the dotted lines cross is a policy that did nothing. n = "
        f"{span_of(filter(None, learned_from))} for what was learned, {span_of(unlearned_from)} responses for what was "
        "unlearned; whiskers are 95% t intervals."
    )
    method = (
        f"What was unlearned: the change of log p of held-out {GOOD} from reference to policy (nats, summed over "
        "tokens); they are good answers that came second, and should not fall. Each interval stands by itself; the "
        "tests in the summary are adjusted for their number."
    )
    shown = shown_in(styles, won, told)
    return ReportSection(
        ANCHOR, TITLE, caption, panels, len(panels), shown, numbers, method,
        reading=_reading(run, gain, won, told), lead=True,
    )  # fmt: skip


def _gain(run: Run) -> Name | None:
    """The figure that says what was learned: the first against an opponent, else a whole benchmark's first score."""
    names = [
        name
        for name in primary_names(run)
        if name.subset == "all" and upward(run, name) and not run.metric(name.benchmark, name.metric).zero_is_reference
    ]
    against = [name for name in names if run.metric(name.benchmark, name.metric).even is not None]
    return next(iter([*against, *names]), None)


def _nothing(run: Run, learned: Name) -> float | None:
    """The figure of a policy that learned nothing: an opponent's equal, chance, or a baseline's score."""
    even = run.metric(learned.benchmark, learned.metric).even
    if even is not None or learned == TOLD_ACCURACY:
        return 0.5 if even is None else even
    scores = points(run, [learned])
    return next(iter(scores[scores["variant"] == run.baseline]["value"]), None)


def _side_by_side(run: Run, unlearned: Name, learned: Name | None) -> pd.DataFrame:
    """`points` of what was learned, with x_value, x_low, x_high and x_n of what was unlearned, where there are both.

    It is empty where no policy has both. Whom the others are compared with has no figure against itself, and stands
    where nothing is learned.
    """
    import pandas as pd

    moved = points(run, [unlearned])
    gained = points(run, [] if learned is None else [learned])
    if learned is not None and (even := run.metric(learned.benchmark, learned.metric).even) is not None:
        faced = {run.opponent(variant, learned.benchmark) for variant in gained["variant"]}
        rest = moved[moved["variant"].isin(list(faced - set(gained["variant"]) - {None}))]
        gained = pd.concat([gained, rest.assign(value=even, low=float("nan"), high=float("nan"), n=0)])
    columns = {"value": "x_value", "low": "x_low", "high": "x_high", "n": "x_n"}
    both = gained.merge(moved[["variant", *columns]].rename(columns=columns), on="variant")
    policies = [variant for variant in both["variant"] if not is_reference(run, variant, unlearned)]
    return both if policies else both.iloc[:0]


def _called(run: Run, learned: Name) -> tuple[str, str]:
    """The heading of a panel, and what its vertical scale says."""
    label = label_of(run, learned.benchmark, learned.metric)
    if learned == TOLD_ACCURACY:
        return "Is the goal learned?", f"{label}, asked with each response’s own score"
    unit = " (%)" if unit_of(run, learned) == "%" else ""
    if run.metric(learned.benchmark, learned.metric).even is None:
        return f"{learned.benchmark}: {label}", f"{label}{unit}"
    against = opponents(run, learned.benchmark, points(run, [learned])["variant"].tolist())
    return f"{learned.benchmark}: {label}", f"{label} against {against}{unit}"


def _moved(run: Run, unlearned: Name) -> str:
    """What the horizontal scale says."""
    part = run.metric(unlearned.benchmark, unlearned.metric).part(unlearned.subset)
    return f"{GOOD}, {part}: change of log p (nats)"


def _reading(run: Run, gain: Name | None, won: pd.DataFrame, told: pd.DataFrame) -> str:
    """The figure in one sentence, no bolder than its intervals."""
    clauses: dict[str, list[tuple[str, str]]] = {}
    for frame, moved, learned in ((won, UNLEARNED, gain), (told, UNLEARNED_TOLD, TOLD_ACCURACY)):
        for variant, verdict, numbers in [] if learned is None else _verdicts(run, frame, moved, learned):
            clauses.setdefault(variant, []).append((verdict, numbers))
    if len(clauses) <= NAMED:
        said = [f"{variant} {listed([f'{v} ({n})' for v, n in found])}" for variant, found in clauses.items()]
        return f"With 95% intervals: {'; '.join(said)}."
    counts = Counter(verdict for found in clauses.values() for verdict, _ in found)
    counted = listed([f"{count} {verdict}" for verdict, count in counts.items()])
    return f"Of {len(clauses)} variants, by 95% intervals, {counted}."


def _verdicts(run: Run, frame: pd.DataFrame, moved: Name, learned: Name) -> Iterator[tuple[str, str, str]]:
    """Of every policy: what it learned and, where it is asked without a goal, unlearned: variant, verdict, numbers."""
    nothing, unit = _nothing(run, learned), unit_of(run, learned)
    words = ("followed the goal", "went against the goal", "did not clearly follow the goal")
    if learned != TOLD_ACCURACY:
        words = ("gained", "lost", "did not clearly gain")
    for row in frame.to_dict("records"):
        variant = str(row["variant"])
        if is_reference(run, variant, moved):
            continue
        # A policy that does not read its goal is right on one response of every pair: half, without a spread.
        if row["low"] == row["low"] or learned == TOLD_ACCURACY:
            label = label_of(run, learned.benchmark, learned.metric)
            yield variant, _verdict(row, "", nothing, words), f"{label} {_with_ends(row, '', unit)}"
        if moved == UNLEARNED:
            ways = ("raised good answers", "unlearned good answers", "did not clearly unlearn")
            yield variant, _verdict(row, "x_", 0.0, ways), f"{_with_ends(row, 'x_', 'nats')} nats"


def _verdict(row: dict[Any, Any], prefix: str, nothing: float | None, words: tuple[str, str, str]) -> str:
    above, below, unclear = words
    if nothing is not None and row[f"{prefix}low"] > nothing:
        return above
    return below if nothing is not None and row[f"{prefix}high"] < nothing else unclear


def _with_ends(row: dict[Any, Any], prefix: str, unit: str) -> str:
    """A value with the ends of its interval, where it has one."""
    shown, low, high = (
        "" if row[f"{prefix}{name}"] != row[f"{prefix}{name}"]
        else number(row[f"{prefix}{name}"], unit, signed=unit == "nats")
        for name in ("value", "low", "high")
    )  # fmt: skip
    percent = "%" if unit == "%" else ""
    return f"{shown}{percent}, {low} to {high}" if low else f"{shown}{percent}"
