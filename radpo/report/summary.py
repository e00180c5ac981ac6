"""The report's summary: sentences and cells no bolder than the tests behind them.

Everything that depends on the baseline is worked out for each variant as the baseline; the page shows one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from radpo.core.run import differing_data
from radpo.core.texts import listed
from radpo.stats.comparison import Compared, leaders
from radpo.stats.paired import ALPHA, THESE_SEEDS, Difference
from radpo.stats.quantities import (
    Name,
    Quantity,
    is_reference,
    is_true,
    label_of,
    measure,
    number,
    p_text,
    primary_names,
    unit_of,
    upward,
)

if TYPE_CHECKING:
    from radpo.core.run import Run

SMALL_SAMPLE = 200
"""Fewer examples than this behind a primary figure, and the report calls itself toy scale."""
MOST_CHANGES = 3_600
"""Pairs of variants whose differences the page holds."""
FEW = 6
"""With so many variants or fewer, every one of them gets its sentences; with more, the table has to do."""

QUALIFIED = ("unpaired", THESE_SEEDS)
"""The kinds of difference that the table names."""


@dataclass(frozen=True)
class Finding:
    """One sentence about one variant; `verdict` is better, worse, or unclear (also where neither way is better)."""

    title: str
    text: str
    verdict: str


@dataclass(frozen=True)
class Change:
    """A difference from the baseline as numbers and as printed; `verdict` is better, worse, differs, or nothing.

    `p` is the test's own p-value, which `radpo analyze compare` and the gate give, too, `p_holm` the adjusted one.
    `text` is the difference, `ends` its interval or, where there is none to print, why, `said` both p-values.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    text: str
    ends: str
    said: str
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
    columns = tuple(Column(name, *title(run, name), upward(run, name)) for name in primary_names(run))
    groups: dict[str, int] = {}
    for column in columns:
        groups[column.name.benchmark] = groups.get(column.name.benchmark, 0) + 1
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
                tuple(_change(run, compared[baseline].get((variant, name)), name, ups[name]) for name in names)
                for variant in run.variants
            ),
        )
        for baseline in _baselines(run)
    }


def _baselines(run: Run) -> list[str]:
    """The variants that the page can take as the baseline: all, but of so many that it would grow with their square."""
    most = max(1, MOST_CHANGES // len(run.variants))
    first = set(sorted(run.variants, key=lambda variant: variant != run.baseline)[:most])
    return [variant for variant in run.variants if variant in first]


def title(run: Run, name: Name) -> tuple[str, str]:
    """What a column is called below its benchmark's name: its heading and, in smaller type, its subheading."""
    unit = f" ({unit_of(run, name)})" if unit_of(run, name) in ("%", "nats") else ""
    metric = label_of(run, name.benchmark, name.metric) + unit
    return (metric, "") if name.subset == "all" else (_part(run, name), metric)


def called(run: Run, name: Name) -> str:
    """What a figure is called in a sentence."""
    if _is_change(run, name):
        return f"{name.benchmark} {_part(run, name)}"
    metric = "" if _is_task(run, name) else f" {label_of(run, name.benchmark, name.metric)}"
    return f"{name.benchmark if name.subset == 'all' else name.subset}{metric}"


def _part(run: Run, name: Name) -> str:
    """A figure's part of its benchmark in words."""
    return run.metric(name.benchmark, name.metric).part(name.subset)


def _is_change(run: Run, name: Name) -> bool:
    """Whether a figure is a change from the reference model."""
    return run.metric(name.benchmark, name.metric).zero_is_reference


def _is_task(run: Run, name: Name) -> bool:
    """Whether a figure is one of many of a kind, such as the tasks of a suite, which share a sentence."""
    return name.subset != "all" and not _is_change(run, name)


def headline(run: Run, baseline: str, compared: Compared) -> str:
    """The verdict in a sentence or two: who is better or worse than the baseline, and at what."""
    others = [variant for variant in run.variants if variant != baseline]
    tested = [variant for variant in others if any(v == variant and d.p is not None for (v, _), d in compared.items())]
    if not tested:
        names = ", ".join(dict.fromkeys(name.benchmark for name in primary_names(run))) or "no primary figure"
        return f"{len(run.variants)} variants, measured on {names}; there is nothing to test against {baseline}."
    established = {variant: _established(run, variant, compared) for variant in tested}
    apart = {variant: found for variant, found in established.items() if any(found.values())}
    same = [variant for variant in tested if variant not in apart]
    if not apart:
        who = listed(same, "no variant") if len(same) <= FEW else f"any of {len(same)} variants"
        return f"No difference from {baseline} is established for {who}."
    if len(tested) <= FEW:
        sentences = [_sentence(run, variant, found, baseline, compared) for variant, found in apart.items()]
        rest = f" No difference is established for {listed(same)}." if same else ""
        return " ".join(sentences) + rest
    parts = []
    for words, keys in (("better", {"better"}), ("worse", {"worse"}), ("better at some, worse at others",
                        {"better", "worse"}), ("different", {"differs"})):  # fmt: skip
        members = {v: found for v, found in apart.items() if {key for key, at in found.items() if at} == keys}
        if len(keys) > 1:
            parts += [f"{words}: {listed(list(members))}"] if members else []
            continue
        where: dict[str, list[str]] = {}
        for variant, found in members.items():
            at = dict.fromkeys(name.benchmark for names in found.values() for name in names)
            where.setdefault(listed(list(at)), []).append(variant)
        parts += [f"{words} at {at}: {listed(variants)}" for at, variants in where.items()]
    mixed = [v for v, found in apart.items() if {k for k, at in found.items() if at} > {"differs"}]
    parts += [f"different in several ways: {listed(mixed)}"] if mixed else []
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
                if quantity is not None and not _is_task(run, name):
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
            f"Toy scale: the primary figures rest on {sizes} examples each. They show that the pipeline works; they "
            "do not show which method is better."
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


def _established(run: Run, variant: str, compared: Compared) -> dict[str, list[Name]]:
    """Where a variant is better, worse, or different with neither way better."""
    found: dict[str, list[Name]] = {"better": [], "worse": [], "differs": []}
    for (who, name), change in compared.items():
        if who == variant and change.clear:
            found[_verdict(change, upward(run, name))].append(name)
    return found


def _sentence(run: Run, variant: str, found: Mapping[str, list[Name]], baseline: str, compared: Compared) -> str:
    words = {"better": f"better than {baseline} on", "worse": f"worse than {baseline} on", "differs": "different on"}
    parts = []
    for verdict, names in found.items():
        if names:
            shown = [f"{called(run, name)} ({_brief(run, compared[variant, name], name)})" for name in names[:3]]
            more = [f"{len(names) - 3} more"] if len(names) > 3 else []
            parts.append(f"{words[verdict]} {listed([*shown, *more])}")
    return f"{variant} is {'; '.join(parts)}."


def _brief(run: Run, change: Difference, name: Name) -> str:
    assert change.p_holm is not None
    p = p_text(change.p_holm)
    scale = {"%": " points", "nats": " nats"}.get(unit_of(run, name), "")
    return f"{number(change.value, unit_of(run, name), signed=True)}{scale}, p {p if p.startswith('<') else f'= {p}'}"


def _note(compared: Compared, baseline: str) -> str:
    tests = sum(change.p is not None and change.kind != "identical" for change in compared.values())
    if not tests:
        return "There was nothing to test."
    over = f"{tests} {'tests' if tests > 1 else 'test'}"
    return (
        f"Two-sided tests against {baseline}, adjusted by Holm's method over {over}; a difference counts below "
        f"p = {ALPHA:g}."
    )


def _figure(run: Run, baseline: str, name: Name, quantity: Quantity, change: Difference | None) -> Finding:
    """One figure in a sentence: its value, its difference from the baseline, and what the test makes of it."""
    unit = unit_of(run, name)
    shown = f"{number(quantity.value, unit, signed=unit == 'nats')}{'%' if unit == '%' else ''}"
    shown += "" if quantity.half is None else f" ± {number(quantity.half, unit)}"
    if _is_change(run, name):
        what = f"{shown} {unit} for {label_of(run, name.benchmark, name.metric)}, {_part(run, name)}"
    else:
        what = f"{title(run, name)[0].removesuffix(' (%)').capitalize()} {shown}"
    if change is None:
        return Finding(name.benchmark, f"{what} (n = {quantity.n}).", "unclear")
    if change.kind == "identical":
        tail = f"the same as {baseline} on every example"
    elif change.p_holm is None:
        tail = f"{number(change.value, unit, signed=True)} from {baseline}, no test"
    else:
        # The change of log-likelihood from the reference is its difference from the reference.
        same = is_reference(run, baseline, name) or change.kind.startswith("against ")
        moved = "" if same else f"{number(change.value, unit, signed=True)} {_ends(change, unit)} from {baseline}, "
        against = _nothing(run, name) if same else baseline
        tail = f"{moved}{'' if change.clear else 'not '}distinguishable from {against}"
        p = p_text(change.p_holm)
        tail += f" (p {p if p.startswith('<') else f'= {p}'})"
    return Finding(name.benchmark, f"{what} (n = {quantity.n}); {tail}.", _mark(change, upward(run, name)))


def _nothing(run: Run, name: Name) -> str:
    metric = run.metric(name.benchmark, name.metric)
    return "no change" if metric.even is None else f"{metric.even:g}{'%' if metric.unit == '%' else ''}"


def _tasks(run: Run, variant: str, baseline: str, compared: Compared) -> list[Finding]:
    """All tasks of a benchmark in one sentence: those that moved, and how many did not."""
    found: dict[str, dict[Name, Difference]] = {}
    for (who, name), change in compared.items():
        if who == variant and _is_task(run, name):
            found.setdefault(name.benchmark, {})[name] = change
    return [_of_tasks(run, benchmark, baseline, changes) for benchmark, changes in found.items()]


def _of_tasks(run: Run, benchmark: str, baseline: str, changes: Mapping[Name, Difference]) -> Finding:
    moved = {name: change for name, change in changes.items() if change.clear}
    parts = [
        f"{name.subset} {number(change.value, unit_of(run, name), signed=True)} {_ends(change, unit_of(run, name))}"
        for name, change in moved.items()
    ]
    if still := len(changes) - len(moved):
        parts.append(f"{still} of {len(changes)} tasks not distinguishable from {baseline}")
    verdicts = {_mark(change, upward(run, name)) for name, change in moved.items()}
    return Finding(benchmark, f"{'; '.join(parts)}.", verdicts.pop() if len(verdicts) == 1 else "unclear")


def _ends(change: Difference, unit: str) -> str:
    if change.low is None or change.high is None:
        return ""
    return f"[{number(change.low, unit, signed=True)}, {number(change.high, unit, signed=True)}]"


def _both_ps(change: Difference) -> str:
    """The p-value, and the adjusted one where it is printed otherwise."""
    if change.p is None or change.p_holm is None:
        return ""
    alone, holm = p_text(change.p), p_text(change.p_holm)
    said = f"p {alone if alone.startswith('<') else f'= {alone}'}"
    return said if alone == holm else f"{said} (Holm {holm})"


def _verdict(change: Difference, up: bool | None) -> str:
    return "differs" if up is None else "better" if (change.value > 0) == up else "worse"


def _mark(change: Difference, up: bool | None) -> str:
    return "unclear" if not change.clear or up is None else _verdict(change, up)


def _change(run: Run, change: Difference | None, name: Name, up: bool | None) -> Change | None:
    if change is None:
        return None
    ends = _ends(change, unit_of(run, name)) or ("identical" if change.kind == "identical" else "no interval")
    return Change(
        value=change.value, low=change.low, high=change.high, p=change.p, p_holm=change.p_holm,
        text=number(change.value, unit_of(run, name), signed=True),
        ends=f"{ends} {change.kind}" if change.kind in QUALIFIED and change.low is not None else ends,
        said="" if change.kind == "identical" else _both_ps(change),
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
                number(quantity.value, unit_of(run, name)),
                "" if quantity.half is None else number(quantity.half, unit_of(run, name)),
                heat=round(7 * (place if column.up else 1 - place)) if judged else None,
                first=judged and quantity.value == top,
                best=variant == best,
                reference=variant in references,
            )
        )
    return cells
