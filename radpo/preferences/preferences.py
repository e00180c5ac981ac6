"""Scored preferences: a set in any known layout and format, read and checked, nothing silently lost.

A row that cannot be used is an error that says where it is and how to fix it; with `on_error="skip"` it is left out
and counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import DataError
from radpo.core.progress import Progress, no_progress
from radpo.preferences.layouts import (
    HELPSTEER,
    NOTHING_TO_PAIR,
    Numbered,
    Row,
    Shape,
    as_number,
    completions_pairs,
    responses_pairs,
    shape_of,
)
from radpo.preferences.pairing import Rule
from radpo.preferences.rows import LOG_LIKELIHOODS, BadRowError, FalseTens, Rules, check_row
from radpo.preferences.sources import CHUNK_BYTES, CHUNK_ROWS, chunks, shown

if TYPE_CHECKING:
    import pyarrow as pa

OnError = Literal["raise", "skip"]
COLUMNS = ("id", "prompt", "chosen", "rejected", "score_chosen", "score_rejected")
HEAD = 100
"""So many rows tell what columns all have; one alone may lack what is not known of it."""
_NUMBERS = ("score_chosen", "score_rejected", "score", *LOG_LIKELIHOODS, *HELPSTEER)
_KNOWN = (
    *COLUMNS, "source_index", "attributes_chosen", "attributes_rejected", *LOG_LIKELIHOODS,
    "instruction", "completions", "response", "score", "attributes", *HELPSTEER,
    "source_id", "side",  # of relabeled pairs, which are told apart
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How a preference set is to be read.

    Args:
        scale: the lowest and the highest score there can be.
        on_error: stop at the first bad row, or leave bad rows out and count them.
        swap: let a pair whose chosen scores below its rejected change places, instead of counting it as bad.
        lenient: take rows that say little (see `radpo.preferences.rows.Rules`) as they are.
        columns: which column of the set is which of ours, where they are not named alike: ours -> the set's.
        pairing: which responses to pair, in layouts that give more than two to a prompt.
        seed: what the pairing's choices begin with.
        false_tens: what becomes of UltraFeedback's false tens (`radpo.preferences.rows.FalseTens`).
    """

    scale: tuple[float, float] = (1.0, 10.0)
    on_error: OnError = "raise"
    swap: bool = False
    lenient: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    pairing: Rule = "best-other"
    seed: int = 0
    false_tens: FalseTens = "keep"

    def settings(self) -> dict[str, Any]:
        """What is not as usual, the scale apart, as JSON: for a stage's settings, which `of` reads."""
        stated = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "scale"}
        usual = Reading()
        return {name: value for name, value in stated.items() if value != getattr(usual, name)}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Reading:
        """The reading that a stage's settings name: `scale`, and maybe `reading`, which are `settings` of one."""
        low, high = settings["scale"]
        return cls((low, high), **settings.get("reading", {}))


@dataclass(frozen=True)
class Preferences:
    """Checked pairs, how many rows were read, how many were left out for which reason, and what was noted how often."""

    table: pa.Table
    rows_read: int
    dropped: Mapping[str, int]
    noted: Mapping[str, int] = field(default_factory=dict)


def schema(attributes: Sequence[str] = (), *, log_likelihoods: bool = False) -> pa.Schema:
    """The Arrow schema of checked pairs: the common form that every command reads.

    prompt is a list of role/content messages, the last one the user's; chosen and rejected are text. Where responses
    are scored by attribute, attributes_chosen and attributes_rejected hold those scores; where log-likelihoods are
    known, there are the columns of `radpo.preferences.rows.LOG_LIKELIHOODS`.
    """
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    fields = [
        ("id", pa.string()),
        ("prompt", pa.list_(message)),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
    ]
    if attributes:
        scores = pa.struct([(name, pa.float64()) for name in attributes])
        fields += [("attributes_chosen", scores), ("attributes_rejected", scores)]
    if log_likelihoods:
        fields += [(name, pa.float64()) for name in LOG_LIKELIHOODS]
    return pa.schema(fields)


class PreferenceReader:
    """The checked pairs of a source, batch by batch; reading again reads the source again.

    After a reading, `rows_read` is how many rows the source has, and `dropped` how many were left out, by reason. In
    the layouts that give several responses to a prompt, prompts with nothing to pair are counted among them. `noted`
    counts what is not wrong and still to be known: turns that were written into a text, false tens.

    Args:
        source: see `radpo.preferences.sources.chunks`; the layouts are in `radpo.preferences.layouts`. In the layout
            of pairs, prompt is text or messages (and may be missing where chosen and rejected are whole conversations),
            chosen and rejected are text or messages that end with the assistant's, and id or source_index may name
            the row.
    """

    def __init__(self, source: str | Path, reading: Reading | None = None, progress: Progress = no_progress) -> None:
        self.source = source
        self.reading = reading or Reading()
        self.schema: pa.Schema = schema()
        self.rows_read = 0
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self._progress = progress
        self._seen: set[str] = set()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Record batches of one `schema`, at least one of them.

        Raises:
            DataError: the source cannot be read, or a row is bad; the message names source, row, column and fix.
            ServiceError: an address or the Hub cannot be read.
        """
        import pyarrow as pa

        self.schema, self.rows_read, self.dropped, self._seen = schema(), 0, Counter(), set()
        self.noted = Counter()
        read = self._chunks()
        shape, begun = self._shape(read)
        rules = shape.rules(
            Rules(
                scale=self.reading.scale,
                swap=self.reading.swap,
                lenient=self.reading.lenient,
                false_tens=self.reading.false_tens,
                note=self._note,
            )
        )
        self.schema = schema(shape.attributes, log_likelihoods=shape.log_likelihoods)
        yield pa.RecordBatch.from_pylist([], schema=self.schema)
        rest = chain(begun, read)
        if shape.layout == "responses":
            rows = (row for chunk in rest for row in _numbered(chunk))
            yield from self._batches(responses_pairs(rows, rules, self.reading.pairing, self.reading.seed), rules)
            return
        for chunk in rest:
            if isinstance(chunk, list) or shape.layout == "completions":
                yield from self._batches(self._one_by_one(_numbered(chunk), shape.layout, rules), rules)
            else:
                yield self._at_once(chunk, rules)

    def _chunks(self) -> Iterator[_Table | list[Numbered]]:
        """The source's chunks, the columns named as ours and the rows numbered."""
        as_text = ".csv" in Path(str(self.source)).suffixes
        for chunk in chunks(self.source, self._wanted, self._progress):
            first = self.rows_read + 1
            if isinstance(chunk, list):
                self.rows_read += len(chunk)
                yield [(number, self._renamed(row, as_text)) for number, row in chunk]
            else:
                self.rows_read += chunk.num_rows
                yield _Table(first, self._renamed_table(chunk))

    def _shape(self, read: Iterator[_Table | list[Numbered]]) -> tuple[Shape, list[_Table | list[Numbered]]]:
        """The shape that the first rows have, and the chunks read to find it."""
        begun = []
        for chunk in read:
            begun.append(chunk)
            head = chunk[:HEAD] if isinstance(chunk, list) else _Table(chunk.first, chunk.batch.slice(0, HEAD))
            rows = [row for _, row in _numbered(head) if not isinstance(row, BadRowError)]
            if any({"source_id", "side", "chosen"} <= row.keys() for row in rows):
                raise DataError(
                    f"{shown(self.source)}: training pairs that `radpo data relabel` made; "
                    "give the scored pairs that they were made of"
                )
            if rows:
                return shape_of(rows), begun
        return Shape("pairs", (), False), begun

    def _one_by_one(self, rows: Iterable[Numbered], layout: str, rules: Rules) -> Iterator[_Outcome]:
        """Every row's pairs, before they are checked."""
        for number, row in rows:
            if layout == "pairs" or isinstance(row, BadRowError):
                yield [number], row if isinstance(row, BadRowError) else [row]
                continue
            try:
                leave_out = partial(self._refuse, number)
                pairing, seed = self.reading.pairing, self.reading.seed
                yield [number], completions_pairs(number, row, rules, pairing, seed, leave_out)
            except BadRowError as problem:
                yield [number], problem

    def _batches(self, outcomes: Iterable[_Outcome], rules: Rules) -> Iterator[pa.RecordBatch]:
        """Pairs checked one by one, gathered into batches."""
        import pyarrow as pa

        good: list[dict[str, Any]] = []
        size = 0
        for numbers, outcome in outcomes:
            if isinstance(outcome, BadRowError):
                self._refuse(numbers[0], outcome)
                continue
            for pair in outcome:
                checked = self._admitted(numbers[0], pair, rules)
                if checked is not None:
                    good.append(checked)
                    size += len(checked["chosen"]) + len(checked["rejected"])
            if len(good) >= CHUNK_ROWS or size > CHUNK_BYTES:
                yield pa.RecordBatch.from_pylist(good, schema=self.schema)
                good, size = [], 0
        yield pa.RecordBatch.from_pylist(good, schema=self.schema)

    def _at_once(self, table: _Table, rules: Rules) -> pa.RecordBatch:
        """A table's pairs: the plainly good ones column by column, the others one by one."""
        import numpy as np
        import pyarrow as pa

        from radpo.preferences.columns import good_rows, noted

        found = good_rows(table.batch, table.first, rules, self.schema)
        if found is None or (self.reading.on_error == "raise" and not found[1].all()):
            pairs = (self._admitted(number, row, rules) for number, row in _numbered(table))
            return pa.RecordBatch.from_pylist([pair for pair in pairs if pair is not None], schema=self.schema)
        common, good = found
        self.noted.update(noted(common.filter(pa.array(good)), rules))
        names = common["id"].to_pylist()
        others = {
            int(place): pair
            for place in np.flatnonzero(~good)
            if (pair := self._checked(table.first + int(place), table.row(int(place)), rules)) is not None
        }
        if not others and good.all() and len(set(names)) == len(names) and self._seen.isdisjoint(names):
            self._seen.update(names)
            return common
        places = [
            place
            for place in sorted([*map(int, np.flatnonzero(good)), *others])
            if self._is_first(table.first + place, others[place]["id"] if place in others else names[place])
        ]
        taken = [place for place in places if place not in others]
        added = [others[place] for place in places if place in others]
        both = pa.concat_batches(
            [common.take(pa.array(taken, pa.int64())), pa.RecordBatch.from_pylist(added, schema=self.schema)]
        )
        return both.take(np.argsort([*taken, *(place for place in places if place in others)]))

    def _admitted(self, number: int, row: Row, rules: Rules) -> dict[str, Any] | None:
        """A row's pair in the common form, None where it is left out."""
        pair = self._checked(number, row, rules)
        return pair if pair is not None and self._is_first(number, pair["id"]) else None

    def _checked(self, number: int, row: Row, rules: Rules) -> dict[str, Any] | None:
        try:
            if isinstance(row, BadRowError):
                raise row
            return check_row(row, number, rules)
        except BadRowError as problem:
            self._refuse(number, problem)
            return None

    def _is_first(self, number: int, name: str) -> bool:
        """Whether an id was not met before."""
        if name in self._seen:
            fix = f"{name[:80]!r} was used before; give every pair its own"
            self._refuse(number, BadRowError("id", "duplicate id", fix))
            return False
        self._seen.add(name)
        return True

    def _note(self, what: str) -> None:
        self.noted[what] += 1

    def _refuse(self, number: int, problem: BadRowError) -> None:
        """Leave out what is bad and count it, or stop the reading there. Nothing to pair is no fault of the row."""
        if self.reading.on_error == "raise" and problem.reason != NOTHING_TO_PAIR:
            unit = "line" if ".jsonl" in Path(str(self.source)).suffixes else "row"
            place = f"{shown(self.source)}, {unit} {number}, column {problem.column}"
            raise DataError(f"{place}: {problem.reason}; {problem.fix}") from None
        self.dropped[f"{problem.column}: {problem.reason}"] += 1

    def _wanted(self, names: Sequence[str]) -> list[str]:
        """The columns of a table that matter."""
        lacking = [name for name in self.reading.columns.values() if name not in names]
        if lacking:
            raise DataError(
                f"{shown(self.source)}: no column {lacking[0]!r} (named in --columns); it has {', '.join(names)}"
            )
        wanted = [name for name in dict.fromkeys(names) if name in _KNOWN or name in self.reading.columns.values()]
        if not wanted:
            raise DataError(
                f"{shown(self.source)}: none of its columns ({', '.join(names[:20])}) is a preference set's; "
                "--columns chosen=NAME and so on say which is which"
            )
        return wanted

    def _renamed(self, row: Row, as_text: bool) -> Row:
        if isinstance(row, BadRowError):
            return row
        if self.reading.columns:
            row = row | {ours: row.get(theirs) for ours, theirs in self.reading.columns.items()}
        if as_text:
            row = {name: as_number(value) if name in _NUMBERS else value for name, value in row.items()}
        return row

    def _renamed_table(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa

        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns |= {ours: columns[theirs] for ours, theirs in self.reading.columns.items()}
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


@dataclass(frozen=True)
class _Table:
    """A batch of rows, the first of them with this number."""

    first: int
    batch: pa.RecordBatch

    def row(self, place: int) -> Row:
        try:
            row: dict[str, Any] = self.batch.slice(place, 1).to_pylist()[0]
        except ValueError:
            return BadRowError("(whole row)", "not UTF-8", "the text is not valid Unicode; fix or remove the row")
        return row


_Outcome = tuple[list[int], list[dict[str, Any]] | BadRowError]
"""The numbers of the rows that pairs came from, and the pairs before they are checked, or what is wrong."""


def _numbered(chunk: _Table | list[Numbered]) -> Iterator[Numbered]:
    if isinstance(chunk, list):
        yield from chunk
        return
    try:
        yield from enumerate(chunk.batch.to_pylist(), start=chunk.first)
    except ValueError:  # text that is not UTF-8, in some row
        yield from ((chunk.first + place, chunk.row(place)) for place in range(chunk.batch.num_rows))


def load_preferences(
    source: str | Path, reading: Reading | None = None, progress: Progress = no_progress
) -> Preferences:
    """A whole source's checked pairs in memory; `PreferenceReader` takes them batch by batch.

    Raises:
        DataError: the source cannot be read, or a row is bad; the message names source, row, column and fix.
        ServiceError: an address or the Hub cannot be read.
    """
    import pyarrow as pa

    reader = PreferenceReader(source, reading, progress)
    batches = list(reader)
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return Preferences(table, reader.rows_read, dict(reader.dropped), dict(reader.noted))
