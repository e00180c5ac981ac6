"""The example browser's data: an index and blocks of texts, each packed by itself.

The page reads the index, which has every example's scores, once it is shown; a block, the texts of some dozens of
examples, when one of them is opened or searched. Texts that are the same stand in a block once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.report.embed import packed, packed_json

if TYPE_CHECKING:
    from radpo.core.run import Run

ROOM = 10_500_000
"""Characters that all blocks together may take, less where the rest of a page leaves no room for them."""
BLOCK = 300_000
"""Characters of text from which on a block is closed."""
SNIPPET = 140
"""Characters of a prompt that the list shows."""
_UNWIELDY = re.compile(r"\.\d{6}|NaN|Infinity")  # a long number, or one that is none to the page


@dataclass(frozen=True)
class Packed:
    """What the page needs to show examples.

    Args:
        index: packed JSON; see `pack`.
        blocks: packed JSON by place; None where the report has no room for a block's texts.
        examples: how many examples there are; `whole`: of how many the texts are there.
    """

    index: str
    blocks: tuple[str | None, ...]
    examples: int
    whole: int


@dataclass(frozen=True)
class Row:
    """One variant's answer to an example, as examples.parquet has it."""

    variant: int
    prompt: str
    output: str
    baseline_output: str | None
    value: float | None
    detail: str


Key = tuple[str, str, str, int | None, str]


def pack(run: Run, room: int = ROOM) -> Packed:
    """Everything that the page shows of examples.

    The index: `variants`, `benchmarks`, `opponents` (by benchmark and variant, whose answers its own were compared
    with), `subsets`, `metrics`; by benchmark and metric `even` (the value of an example at which both answers are
    alike, or null) and `down` (whether less is better); and by example, in columns, b, s, m (places in those), i
    (example_id), d (seed or null), p (the prompt's beginning), c (its block) and, by variant, x (values; null where
    there is none).

    A block: `t`, texts, and `g`, for each example [prompt, baseline_output or -1, [variant, output, detail, and where
    they differ from the example's own, prompt, baseline_output] ...], texts by their places.
    """
    groups = _groups(run)
    keys = list(groups)
    bounds = _blocks(list(groups.values()))
    blocks, whole = _packed_blocks([list(groups.values())[low:high] for low, high in bounds], room)
    place_of = [place for place, (low, high) in enumerate(bounds) for _ in range(low, high)]
    names = {part: list(dict.fromkeys(str(key[at]) for key in keys)) for part, at in (("b", 0), ("s", 1), ("m", 4))}
    places = {part: {name: place for place, name in enumerate(found)} for part, found in names.items()}
    values: list[list[float | None]] = [[None] * len(keys) for _ in run.variants]
    for place, rows in enumerate(groups.values()):
        for row in rows:
            values[row.variant][place] = row.value
    index = {
        "variants": run.variants,
        "opponents": [[run.opponent(variant, name) for variant in run.variants] for name in names["b"]],
        "benchmarks": names["b"],
        "subsets": names["s"],
        "metrics": names["m"],
        "even": [[_even(run, name, metric) for metric in names["m"]] for name in names["b"]],
        "down": [[_falls(run, name, metric) for metric in names["m"]] for name in names["b"]],
        "b": [places["b"][key[0]] for key in keys],
        "s": [places["s"][key[1]] for key in keys],
        "i": [key[2] for key in keys],
        "d": [key[3] for key in keys],
        "m": [places["m"][key[4]] for key in keys],
        "p": [" ".join(rows[0].prompt[: 2 * SNIPPET].split())[:SNIPPET] for rows in groups.values()],
        "c": place_of,
        "x": values,
    }
    return Packed(packed_json(index), tuple(blocks), len(keys), whole)


def _groups(run: Run) -> Mapping[Key, list[Row]]:
    """Examples that have an answer, all variants' answers to one question, seed and metric in one group."""
    shown = run.examples[run.examples["output"].notna()]
    order = {variant: place for place, variant in enumerate(run.variants)}
    columns = [shown[name].astype(object).where(shown[name].notna(), None).tolist() for name in shown.columns]
    named = dict(zip(shown.columns, columns, strict=True))
    groups: dict[Key, list[Row]] = {}
    for at in range(len(shown)):
        seed = named["seed"][at]
        key = (
            str(named["benchmark"][at]),
            str(named["subset"][at]),
            str(named["example_id"][at]),
            None if seed is None else int(seed),
            str(named["metric"][at]),
        )
        groups.setdefault(key, []).append(
            Row(
                variant=order[named["variant"][at]],
                prompt=named["prompt"][at] or "",
                output=named["output"][at],
                baseline_output=named["baseline_output"][at],
                value=_finite(named["value"][at]),
                detail=named["detail"][at] or "{}",
            )
        )
    for rows in groups.values():
        rows.sort(key=lambda row: row.variant)
    # Benchmarks without a result follow those that have some.
    place = {name: place for place, name in enumerate(run.benchmarks)}
    return dict(sorted(groups.items(), key=lambda item: place.get(item[0][0], len(place))))


def _blocks(groups: Sequence[Sequence[Row]]) -> list[tuple[int, int]]:
    """Where blocks begin and end, so that each holds about `BLOCK` characters."""
    bounds, begin, size = [], 0, 0
    for place, rows in enumerate(groups):
        size += len(rows[0].prompt) + len(rows[0].baseline_output or "")
        size += sum(len(row.output) + len(row.detail) for row in rows)
        if size >= BLOCK or place == len(groups) - 1:
            bounds.append((begin, place + 1))
            begin, size = place + 1, 0
    return bounds


def _packed_blocks(blocks: Sequence[Sequence[Sequence[Row]]], room: int) -> tuple[list[str | None], int]:
    """The blocks that fit, spread evenly over all of them, and how many examples these hold."""
    found: list[str | None] = [None] * len(blocks)
    whole, read, written = 0, 0, 0
    # Steps of the golden section: however many fit, they are spread evenly.
    for place in sorted(range(len(blocks)), key=lambda place: place * 0.6180339887498949 % 1):
        size = sum(len(row.output) + len(row.detail) for rows in blocks[place] for row in rows)
        if read and written + size * written / read > room:
            continue
        text = packed(_block(blocks[place]))
        if written + len(text) > room:
            continue
        found[place] = text
        whole, read, written = whole + len(blocks[place]), read + size, written + len(text)
    return found, whole


def _block(groups: Sequence[Sequence[Row]]) -> str:
    places: dict[str, int] = {}

    def at(text: str | None) -> int:
        return -1 if text is None else places.setdefault(text, len(places))

    groups_of_texts: list[list[Any]] = []
    for rows in groups:
        prompt = rows[0].prompt
        compared = next((row.baseline_output for row in rows if row.baseline_output is not None), None)
        entries = []
        for row in rows:
            entry = [row.variant, at(row.output), at(_detail(row.detail))]
            if row.prompt != prompt or row.baseline_output not in (compared, None):
                entry += [at(row.prompt), at(row.baseline_output)]
            entries.append(entry)
        groups_of_texts.append([at(prompt), at(compared), *entries])
    return json.dumps({"t": list(places), "g": groups_of_texts}, ensure_ascii=False, separators=(",", ":"))


def _detail(text: str) -> str:
    """A detail as JSON that the page can read, numbers at six digits; anything else as it is."""
    if not _UNWIELDY.search(text):
        return text
    try:
        detail = json.loads(text, parse_constant=lambda name: name, parse_float=_short)
        return json.dumps(detail, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return text


def _short(digits: str) -> float:
    return float(f"{float(digits):.6g}")


def _figures_of(run: Run, benchmark: str, metric: str) -> list[str]:
    """The metrics of results that are means of a benchmark's examples with this metric."""
    found = dict.fromkeys(map(str, run.results["metric"][run.results["benchmark"] == benchmark]))
    return [name for name in found if run.metric(benchmark, name).example_metric == metric]


def _even(run: Run, benchmark: str, metric: str) -> float | None:
    """The value of an example at which an answer is as good as its opponent's; None where none is compared."""
    for name in _figures_of(run, benchmark, metric):
        described = run.metric(benchmark, name)
        scale, offset = described.example_scale
        if described.even is not None and scale:
            return (described.even - offset) / scale
    return None


def _falls(run: Run, benchmark: str, metric: str) -> bool:
    """Whether less of a metric is better."""
    known = run.results[run.results["benchmark"] == benchmark]
    down = ~known["higher_is_better"].fillna(True).astype(bool)
    return bool(down[known["metric"].isin([metric, *_figures_of(run, benchmark, metric)])].any())


def _finite(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return _short(repr(number)) if math.isfinite(number) else None
