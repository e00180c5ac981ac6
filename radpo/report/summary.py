"""The report's words and its summary: a run comes in, sentences and cells go out, no more than intervals allow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from radpo.report.quantities import (
    Difference,
    Name,
    Quantity,
    differ,
    is_true,
    measure,
    number,
    of,
    primary_names,
    unit,
)

if TYPE_CHECKING:
    from radpo.report.load import Run

SMALL_SAMPLE = 200
"""Fewer examples than this behind a primary figure, and the report calls itself toy scale."""

GOALS = {
    "none": "asked without a goal",
    "best": "asked for the best score",
    "own": "asked for each response's own score",
}
GROUPS = {"unlearning": "unlearning: change of log p (nats)"}
METRICS = {
    "win_rate": "win rate",
    "delta_logp_rejected_high": "high-scored rejected",
    "acc": "accuracy",
    "acc_norm": "accuracy, normalised",
    "exact_match": "exact match",
}


@dataclass(frozen=True)
class Finding:
    """One sentence about one variant; `verdict` is better, worse, or unclear (also where neither way is better)."""

    title: str
    text: str
    verdict: str


@dataclass(frozen=True)
class Cell:
    """One cell of the summary: what was measured, its difference from the baseline, and both as printed.

    `change` is the difference, `ends` its interval or, where there is none to print, why.

    `reference` marks the change of log-likelihood of the reference itself: 0 by definition, not by measurement.
    """

    quantity: Quantity | None
    difference: Difference | None
    text: str
    half: str
    change: str
    ends: str
    reference: bool = False
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column of the summary: which figure, its heading and subheading, and whether more is better (None: neither)."""

    name: Name
    title: str
    sub: str
    up: bool | None


@dataclass(frozen=True)
class Summary:
    """The summary table, `groups` holding (heading, number of columns) for every benchmark."""

    columns: tuple[Column, ...]
    groups: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def summarise(run: Run) -> Summary:
    """A row for each variant, a column for each primary figure."""
    columns = tuple(Column(name, *title(name), _up(run, name)) for name in primary_names(run))
    groups: dict[str, int] = {}
    for column in columns:
        heading = GROUPS.get(column.name.benchmark, column.name.benchmark)
        groups[heading] = groups.get(heading, 0) + 1
    by_column = [_marked([_cell(run, variant, c.name) for variant in run.variants], c.up) for c in columns]
    rows = tuple((variant, tuple(cells[i] for cells in by_column)) for i, variant in enumerate(run.variants))
    return Summary(columns, tuple(groups.items()), rows)


def title(name: Name) -> tuple[str, str]:
    """What a column is called below its benchmark's name: its heading and, in smaller type, its subheading."""
    metric = spoken(name.metric) + (" (%)" if unit(name.metric) == "%" else "")
    if name.benchmark == "unlearning" and name.subset in GOALS:
        return f"{name.subset.replace('none', 'no')} goal", metric
    return (metric, "") if name.subset == "all" else (name.subset, metric)


def spoken(metric: str) -> str:
    """A metric's name in words."""
    return METRICS.get(metric, metric.replace("_", " "))


def headline(run: Run) -> str:
    """The run in a sentence or two: the win rates, or where there are none, what was measured instead."""
    name = next((n for n in primary_names(run) if n.metric == "win_rate"), None)
    others = [variant for variant in run.variants if variant != run.baseline]
    rates = {} if name is None else {v: q for v in others if (q := measure(run, v, name)) is not None}
    if not rates:
        names = ", ".join(dict.fromkeys(name.benchmark for name in primary_names(run))) or "no primary figure"
        return f"{len(run.variants)} variants, measured on {names}."
    if len(rates) <= 2:
        return " ".join(f"{variant}: {_win_rate(run, rate)[0]}" for variant, rate in rates.items())
    said = {variant: _win_rate(run, rate)[1] for variant, rate in rates.items()}
    parts = [
        f"{', '.join(found)} {words}"
        for verdict, words in (("better", "above 50%"), ("worse", "below 50%"))
        if (found := [variant for variant, one in said.items() if one == verdict])
    ]
    unclear = sum(one == "unclear" for one in said.values())
    parts += [f"{unclear} not distinguishable from 50%"] if unclear else []
    return f"Win rate against {run.baseline} of {len(rates)} variants: {'; '.join(parts)}."


def findings(run: Run) -> list[tuple[str, list[Finding]]]:
    """For every variant but the baseline, what each benchmark's primary figures say."""
    said = []
    for variant in run.variants:
        if variant != run.baseline:
            found = [*_judged(run, variant), *_unlearned(run, variant), *_tasks(run, variant)]
            said.append((variant, found))
    return [(variant, found) for variant, found in said if found]


def caveats(run: Run) -> list[str]:
    """What was not done or is too small, the sample size first."""
    rows = run.results[is_true(run.results["primary"])]
    notes = [str(note) for note in run.manifest["notes"]]
    if not rows.empty and int(rows["n"].min()) < SMALL_SAMPLE:
        sizes = f"{int(rows['n'].min())}" + (f" to {int(rows['n'].max())}" if rows["n"].nunique() > 1 else "")
        notes.insert(
            0,
            f"Toy scale: the primary figures rest on {sizes} examples each. They show that the machinery works; "
            "they do not settle which method is better.",
        )
    return notes


def _win_rate(run: Run, rate: Quantity) -> tuple[str, str]:
    shown = f"win rate {number(rate.value, 'win_rate')}%"
    if rate.half is None:
        return f"{shown} against {run.baseline} (n = {rate.n}): every comparison alike, so no interval.", "unclear"
    verdict = "unclear" if abs(rate.value - 50) <= rate.half else "better" if rate.value > 50 else "worse"
    words = {"unclear": "not distinguishable from 50%", "better": "above 50%", "worse": "below 50%"}[verdict]
    return f"{shown} ± {number(rate.half, 'win_rate')} against {run.baseline} (n = {rate.n}): {words}.", verdict


def _judged(run: Run, variant: str) -> list[Finding]:
    """Win rates against 50%, other judged scores against the baseline's."""
    found = []
    for name in primary_names(run):
        if name.benchmark in ("academic", "unlearning"):
            continue
        quantity = measure(run, variant, name)
        if quantity is None:
            continue
        if name.metric == "win_rate":
            text, verdict = _win_rate(run, quantity)
            found.append(Finding(name.benchmark, text[0].upper() + text[1:], verdict))
            continue
        shown = f"{title(name)[0].capitalize()} {number(quantity.value, name.metric)}"
        shown += "" if quantity.half is None else f" ± {number(quantity.half, name.metric)}"
        change = differ(run, variant, name)
        tail = "." if change is None else f"; {_against(run, change, name)}."
        found.append(Finding(name.benchmark, f"{shown} (n = {quantity.n}){tail}", _verdict(run, change, name)))
    return found


def _unlearned(run: Run, variant: str) -> list[Finding]:
    """The change in log p of high-scored rejected responses against no change, without a goal and with the best."""
    found = []
    for name in primary_names(run):
        quantity = measure(run, variant, name) if name.benchmark == "unlearning" else None
        if quantity is None:
            continue
        shown = number(quantity.value, name.metric, signed=True)
        where = f" nats for high-scored rejected responses, {GOALS.get(name.subset, name.subset)} (n = {quantity.n})"
        if quantity.half is None:
            found.append(Finding("unlearning", f"{shown}{where}: no interval.", "unclear"))
            continue
        verdict = "unclear" if abs(quantity.value) <= quantity.half else "better" if quantity.value > 0 else "worse"
        words = {
            "unclear": "not distinguishable from no change",
            "better": "likelier than before",
            "worse": "unlearned",
        }
        text = f"{shown} ± {number(quantity.half, name.metric)}{where}: {words[verdict]}."
        found.append(Finding("unlearning", text, verdict))
    return found


def _tasks(run: Run, variant: str) -> list[Finding]:
    """All academic tasks in one sentence: those that moved beyond their interval, and how many did not."""
    names = [name for name in primary_names(run) if name.benchmark == "academic"]
    changes = {name: change for name in names if (change := differ(run, variant, name)) is not None}
    if not changes:
        return []
    moved = {name: change for name, change in changes.items() if change.clear}
    still = len(changes) - len(moved)
    parts = [f"{name.subset} {_interval(change, name)}" for name, change in moved.items()]
    if still:
        parts.append(f"{still} of {len(changes)} tasks not distinguishable from {run.baseline}")
    verdicts = {_verdict(run, change, name) for name, change in moved.items()}
    return [Finding("academic", f"{'; '.join(parts)}.", verdicts.pop() if len(verdicts) == 1 else "unclear")]


def _against(run: Run, change: Difference, name: Name) -> str:
    if change.kind == "identical":
        return f"the same as {run.baseline} on every example"
    if change.low is None:
        return f"{number(change.value, name.metric, signed=True)} from {run.baseline}, no interval"
    end = "" if change.clear else ": not distinguishable"
    return f"{_interval(change, name)} from {run.baseline}{end}"


def _interval(change: Difference, name: Name) -> str:
    return f"{number(change.value, name.metric, signed=True)} {_ends(change, name)}"


def _ends(change: Difference, name: Name) -> str:
    assert change.low is not None
    assert change.high is not None
    return f"[{number(change.low, name.metric, signed=True)}, {number(change.high, name.metric, signed=True)}]"


def _verdict(run: Run, change: Difference | None, name: Name) -> str:
    up = _up(run, name)
    if change is None or not change.clear or up is None:
        return "unclear"
    return "better" if (change.value > 0) == up else "worse"


def _up(run: Run, name: Name) -> bool | None:
    known = of(run.results, **name._asdict())["higher_is_better"].dropna()
    return None if known.empty else bool(known.iloc[0])


def _cell(run: Run, variant: str, name: Name) -> Cell:
    quantity = measure(run, variant, name)
    if quantity is None:
        return Cell(None, None, "–", "", "", "")
    change = None if _is_reference(run, run.baseline, name) else differ(run, variant, name)
    delta = "" if change is None else number(change.value, name.metric, signed=True)
    ends = "" if change is None else change.kind if change.low is None else _ends(change, name)
    if change is not None and change.low is not None and change.kind == "unpaired":
        ends += " unpaired"
    half = "" if quantity.half is None else number(quantity.half, name.metric)
    text = number(quantity.value, name.metric)
    return Cell(quantity, change, text, half, delta, ends, reference=_is_reference(run, variant, name))


def _is_reference(run: Run, variant: str, name: Name) -> bool:
    quantity = measure(run, variant, name) if name.metric.startswith("delta_logp") else None
    return quantity is not None and quantity.value == 0 and quantity.half is None


def _marked(cells: list[Cell], up: bool | None) -> list[Cell]:
    """Mark the leader only where its interval keeps clear of every other's: a lead within the error is no lead."""
    measured = [(i, cell.quantity) for i, cell in enumerate(cells) if cell.quantity is not None and not cell.reference]
    if up is None or len(measured) < 2:
        return cells
    sign = 1 if up else -1
    (first, leader), *rest = sorted(measured, key=lambda item: -sign * item[1].value)
    if leader.half is None or any(quantity.half is None for _, quantity in rest):
        return cells
    reach = max(sign * quantity.value + (quantity.half or 0.0) for _, quantity in rest)
    if sign * leader.value - leader.half <= reach:
        return cells
    return [replace(cell, best=True) if place == first else cell for place, cell in enumerate(cells)]
