"""The report's words and its summary: sentences and cells no bolder than the tests behind them.

Everything that depends on the baseline is worked out for each variant as the baseline; the page shows one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from radpo.core.run import differing_data
from radpo.stats.comparison import ALPHA, Compared, Difference, leaders
from radpo.stats.quantities import (
    Name,
    Quantity,
    is_duel,
    is_reference,
    is_true,
    measure,
    number,
    p_text,
    primary_names,
    unit,
    upward,
)

if TYPE_CHECKING:
    from radpo.core.run import Run

SMALL_SAMPLE = 200
"""Fewer examples than this behind a primary figure, and the report calls itself toy scale."""
FEW = 6
"""With so many variants or fewer, every one of them gets its sentences; with more, the table has to do."""

QUALIFIED = ("unpaired", "these seeds only")
"""The kinds of difference that the table names."""

GOALS = {
    "none": "asked without a goal",
    "best": "asked for the best score",
    "own": "asked for each response's own score",
}
GROUPS = {"unlearning": "unlearning: change of log p (nats)"}
METRICS = {
    "win_rate": "win rate",
    "length_controlled_winrate": "length-controlled win rate",
    "length_controlled_minimal_winrate": "length-controlled win rate (minimal GLM)",
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
class Change:
    """A difference from the baseline as numbers and as printed; `verdict` is better, worse, differs, or nothing.

    `text` is the difference, `ends` its interval or, where there is none to print, why, `p` the adjusted p-value.
    """

    value: float
    low: float | None
    high: float | None
    p_holm: float | None
    text: str
    ends: str
    p: str
    verdict: str


@dataclass(frozen=True)
class Cell:
    """One cell of the summary.

    `heat` is from 0, the worst of its column, to 7, the best; None where nothing is better. `first` marks the column's
    best value, `best` one that tests tell from every other. `reference` marks the reference's own change of
    log-likelihood: 0 by definition, not by measurement.
    """

    quantity: Quantity | None
    text: str
    half: str
    heat: int | None = None
    first: bool = False
    best: bool = False
    reference: bool = False


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


@dataclass(frozen=True)
class View:
    """What the page says with one variant as the baseline; `changes` has a row a variant and a column a figure."""

    headline: str
    note: str
    findings: tuple[tuple[str, tuple[Finding, ...]], ...]
    changes: tuple[tuple[Change | None, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The view as the page's script reads it."""
        return asdict(self)


def summarise(run: Run, compared: dict[str, Compared]) -> Summary:
    """A row for each variant, a column for each primary figure."""
    columns = tuple(Column(name, *title(name), upward(run, name)) for name in primary_names(run))
    groups: dict[str, int] = {}
    for column in columns:
        heading = GROUPS.get(column.name.benchmark, column.name.benchmark)
        groups[heading] = groups.get(heading, 0) + 1
    best = leaders(run, [column.name for column in columns], compared)
    by_column = [_cells(run, column, best.get(column.name)) for column in columns]
    rows = tuple((variant, tuple(cells[i] for cells in by_column)) for i, variant in enumerate(run.variants))
    return Summary(columns, tuple(groups.items()), rows)


def views(run: Run, compared: dict[str, Compared]) -> dict[str, View]:
    """What the page says, for every variant as the baseline."""
    names = primary_names(run)
    ups = {name: upward(run, name) for name in names}
    return {
        baseline: View(
            headline=headline(run, baseline, compared[baseline]),
            note=_note(compared[baseline], baseline),
            findings=findings(run, baseline, compared[baseline]) if len(run.variants) <= FEW else (),
            changes=tuple(
                tuple(_change(compared[baseline].get((variant, name)), name, ups[name]) for name in names)
                for variant in run.variants
            ),
        )
        for baseline in run.variants
    }


def title(name: Name) -> tuple[str, str]:
    """What a column is called below its benchmark's name: its heading and, in smaller type, its subheading."""
    metric = spoken(name.metric) + (" (%)" if unit(name.metric) == "%" else "")
    if name.benchmark == "unlearning" and name.subset in GOALS:
        return f"{name.subset.replace('none', 'no')} goal", metric
    return (metric, "") if name.subset == "all" else (name.subset, metric)


def called(name: Name) -> str:
    """What a figure is called in a sentence."""
    if name.benchmark == "unlearning":
        return f"unlearning {GOALS.get(name.subset, name.subset)}"
    metric = "" if name.benchmark == "academic" else f" {spoken(name.metric)}"
    return f"{name.benchmark if name.subset == 'all' else name.subset}{metric}"


def spoken(metric: str) -> str:
    """A metric's name in words."""
    return METRICS.get(metric, metric.replace("_", " "))


def headline(run: Run, baseline: str, compared: Compared) -> str:
    """The verdict in a sentence or two: who is better or worse than the baseline, and at what."""
    others = [variant for variant in run.variants if variant != baseline]
    tested = [variant for variant in others if any(v == variant and d.p is not None for (v, _), d in compared.items())]
    if not tested:
        names = ", ".join(dict.fromkeys(name.benchmark for name in primary_names(run))) or "no primary figure"
        return f"{len(run.variants)} variants, measured on {names}; there is nothing to test against {baseline}."
    told = {variant: _told(run, variant, compared) for variant in tested}
    apart = {variant: found for variant, found in told.items() if any(found.values())}
    same = [variant for variant in tested if variant not in apart]
    if not apart:
        who = _listed(same, "no variant") if len(same) <= FEW else f"any of {len(same)} variants"
        return f"No difference from {baseline} is established for {who}."
    if len(tested) <= FEW:
        sentences = [_sentence(variant, found, baseline, compared) for variant, found in apart.items()]
        rest = f" No difference is established for {_listed(same, '')}." if same else ""
        return " ".join(sentences) + rest
    parts = []
    for words, keys in (("better", {"better"}), ("worse", {"worse"}), ("better at some, worse at others",
                        {"better", "worse"}), ("different", {"differs"})):  # fmt: skip
        members = {v: found for v, found in apart.items() if {key for key, at in found.items() if at} == keys}
        if len(keys) > 1:
            parts += [f"{words}: {_listed(list(members), '')}"] if members else []
            continue
        where: dict[str, list[str]] = {}
        for variant, found in members.items():
            at = dict.fromkeys(name.benchmark for names in found.values() for name in names)
            where.setdefault(_listed(list(at), ""), []).append(variant)
        parts += [f"{words} at {at}: {_listed(variants, '')}" for at, variants in where.items()]
    mixed = [v for v, found in apart.items() if {k for k, at in found.items() if at} > {"differs"}]
    parts += [f"different in several ways: {_listed(mixed, '')}"] if mixed else []
    parts += [f"no difference established: {len(same)} of {len(tested)}"] if same else []
    return f"Against {baseline}: {'; '.join(parts)}."


def findings(run: Run, baseline: str, compared: Compared) -> tuple[tuple[str, tuple[Finding, ...]], ...]:
    """For every variant but the baseline, what each benchmark's primary figures say."""
    said = []
    for variant in run.variants:
        if variant != baseline:
            found = []
            for name in primary_names(run):
                quantity = measure(run, variant, name)
                if quantity is not None and name.benchmark != "academic":
                    found.append(_figure(run, baseline, name, quantity, compared.get((variant, name))))
            said.append((variant, (*found, *_tasks(run, variant, baseline, compared))))
    return tuple((variant, found) for variant, found in said if found)


def caveats(run: Run, absent: Sequence[str]) -> list[str]:
    """What was not done or is too small, the sample size first.

    Args:
        absent: the report's sections for which the run has no figures.
    """
    rows = run.results[is_true(run.results["primary"])]
    notes = []
    if not rows.empty and int(rows["n"].min()) < SMALL_SAMPLE:
        sizes = f"{int(rows['n'].min())}" + (f" to {int(rows['n'].max())}" if rows["n"].nunique() > 1 else "")
        notes.append(
            f"Toy scale: the primary figures rest on {sizes} examples each. They show that the machinery works; "
            "they do not settle which method is better."
        )
    for place, source in enumerate(run.sources):
        prefix = f"{source.label}: " if len(run.sources) > 1 else ""
        notes += [f"{prefix}{note}" for note in source.manifest["notes"]]
        for other in run.sources[place + 1 :]:
            if differing := differing_data(source, other):
                notes.append(
                    f"{source.label} and {other.label} were run on different data ({', '.join(differing)}): their "
                    "variants stand side by side and are not tested against each other."
                )
    if len(run.sources) > 1:
        notes.append(
            "Differences between runs are tested only over examples that both have, win rates only where both were "
            "compared with the same answers. Judges and sampling are in each run's provenance; see that they agree."
        )
    if absent:
        notes.append(f"Not shown, because there are no figures of them: {', '.join(absent)}.")
    return notes


def _told(run: Run, variant: str, compared: Compared) -> dict[str, list[Name]]:
    """Where a variant is better, worse, or different with neither way better."""
    found: dict[str, list[Name]] = {"better": [], "worse": [], "differs": []}
    for (who, name), change in compared.items():
        if who == variant and change.clear:
            found[_verdict(change, upward(run, name))].append(name)
    return found


def _sentence(variant: str, found: Mapping[str, list[Name]], baseline: str, compared: Compared) -> str:
    words = {"better": f"better than {baseline} on", "worse": f"worse than {baseline} on", "differs": "different on"}
    parts = []
    for verdict, names in found.items():
        if names:
            shown = [f"{called(name)} ({_brief(compared[variant, name], name)})" for name in names[:3]]
            more = [f"{len(names) - 3} more"] if len(names) > 3 else []
            parts.append(f"{words[verdict]} {_listed([*shown, *more], '')}")
    return f"{variant} is {'; '.join(parts)}."


def _brief(change: Difference, name: Name) -> str:
    assert change.p_holm is not None
    p = p_text(change.p_holm)
    scale = {"%": " points", "nats": " nats"}.get(unit(name.metric), "")
    return f"{number(change.value, name.metric, signed=True)}{scale}, p {p if p.startswith('<') else f'= {p}'}"


def _listed(items: Sequence[str], nobody: str) -> str:
    if len(items) < 2:
        return items[0] if items else nobody
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _note(compared: Compared, baseline: str) -> str:
    tests = sum(change.p is not None for change in compared.values())
    if not tests:
        return "There was nothing to test."
    return (
        f"From two-sided t tests against {baseline}, p-values adjusted by Holm's method over {tests} "
        f"{'tests' if tests > 1 else 'test'}; a difference is established where the adjusted p is below {ALPHA:g}."
    )


def _figure(run: Run, baseline: str, name: Name, quantity: Quantity, change: Difference | None) -> Finding:
    """One figure in a sentence: its value, its difference from the baseline, and what the test makes of it."""
    percent = "%" if unit(name.metric) == "%" else ""
    shown = f"{number(quantity.value, name.metric, signed=unit(name.metric) == 'nats')}{percent}"
    shown += "" if quantity.half is None else f" ± {number(quantity.half, name.metric)}"
    if name.benchmark == "unlearning":
        what = f"{shown} nats for high-scored rejected responses, {GOALS.get(name.subset, name.subset)}"
    else:
        what = f"{title(name)[0].removesuffix(' (%)').capitalize()} {shown}"
    if change is None:
        return Finding(name.benchmark, f"{what} (n = {quantity.n}).", "unclear")
    if change.kind == "identical":
        tail = f"the same as {baseline} on every example"
    elif change.p_holm is None:
        tail = f"{number(change.value, name.metric, signed=True)} from {baseline}, no test"
    else:
        against = _nothing(name) if change.kind == "against 50%" else baseline
        # The change of log-likelihood from the reference is its difference from the reference.
        same = is_reference(run, baseline, name) or change.kind == "against 50%"
        by = number(change.value, name.metric, signed=True)
        moved = "" if same else f"{by} {_ends(change, name)} from {against}, "
        tail = f"{moved}{'' if change.clear else 'not '}distinguishable from {against if not same else _nothing(name)}"
        p = p_text(change.p_holm)
        tail += f" (p {p if p.startswith('<') else f'= {p}'})"
    return Finding(name.benchmark, f"{what} (n = {quantity.n}); {tail}.", _mark(change, upward(run, name)))


def _nothing(name: Name) -> str:
    return "50%" if unit(name.metric) == "%" else "50" if is_duel(name) else "no change"


def _tasks(run: Run, variant: str, baseline: str, compared: Compared) -> list[Finding]:
    """All academic tasks in one sentence: those that moved, and how many did not."""
    changes = {n: d for (who, n), d in compared.items() if who == variant and n.benchmark == "academic"}
    if not changes:
        return []
    moved = {name: change for name, change in changes.items() if change.clear}
    parts = [
        f"{name.subset} {number(change.value, name.metric, signed=True)} {_ends(change, name)}"
        for name, change in moved.items()
    ]
    if still := len(changes) - len(moved):
        parts.append(f"{still} of {len(changes)} tasks not distinguishable from {baseline}")
    verdicts = {_mark(change, upward(run, name)) for name, change in moved.items()}
    return [Finding("academic", f"{'; '.join(parts)}.", verdicts.pop() if len(verdicts) == 1 else "unclear")]


def _ends(change: Difference, name: Name) -> str:
    if change.low is None or change.high is None:
        return ""
    return f"[{number(change.low, name.metric, signed=True)}, {number(change.high, name.metric, signed=True)}]"


def _verdict(change: Difference, up: bool | None) -> str:
    return "differs" if up is None else "better" if (change.value > 0) == up else "worse"


def _mark(change: Difference, up: bool | None) -> str:
    return "unclear" if not change.clear or up is None else _verdict(change, up)


def _change(change: Difference | None, name: Name, up: bool | None) -> Change | None:
    if change is None:
        return None
    ends = _ends(change, name) or ("identical" if change.kind == "identical" else "no interval")
    return Change(
        value=change.value, low=change.low, high=change.high, p_holm=change.p_holm,
        text=number(change.value, name.metric, signed=True),
        ends=f"{ends} {change.kind}" if change.kind in QUALIFIED and change.low is not None else ends,
        p="" if change.p_holm is None or change.kind == "identical" else p_text(change.p_holm),
        verdict=_verdict(change, up) if change.clear else "",
    )  # fmt: skip


def _cells(run: Run, column: Column, best: str | None) -> list[Cell]:
    name = column.name
    found = {variant: measure(run, variant, name) for variant in run.variants}
    references = {variant for variant in run.variants if is_reference(run, variant, name)}
    values = [quantity.value for quantity in found.values() if quantity is not None]
    low, high = (min(values), max(values)) if values else (math.nan, math.nan)
    top = high if column.up else low
    cells = []
    for variant, quantity in found.items():
        if quantity is None:
            cells.append(Cell(None, "–", ""))
            continue
        judged = column.up is not None and low < high
        place = (quantity.value - low) / (high - low) if judged else 0.0
        cells.append(
            Cell(
                quantity,
                number(quantity.value, name.metric),
                "" if quantity.half is None else number(quantity.half, name.metric),
                heat=round(7 * (place if column.up else 1 - place)) if judged else None,
                first=judged and quantity.value == top,
                best=variant == best,
                reference=variant in references,
            )
        )
    return cells
