"""Published figures from a CSV file, to show beside a matrix's own."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from radpo.core.suggestions import did_you_mean

COLUMNS = ("variant", "benchmark", "subset", "metric", "value", "source")


@dataclass(frozen=True)
class PublishedFigure:
    """One published figure, under the names that results have here. `source` says where it was published."""

    variant: str
    benchmark: str
    subset: str
    metric: str
    value: float
    source: str


def read_published(path: Path, variants: Collection[str], benchmarks: Collection[str]) -> tuple[PublishedFigure, ...]:
    """The figures of a file with the columns `COLUMNS`.

    Raises:
        ValueError: the file is no such table, or a row is wrong: its file, row and column, and what is allowed.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            rows = csv.DictReader(stream, strict=True)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ValueError(f"{path.name}:1: the columns must be {','.join(COLUMNS)}")
            return tuple(_checked(path, rows, variants, benchmarks))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name}: cannot be read as CSV: {error}") from error


def _checked(
    path: Path, rows: csv.DictReader[str], variants: Collection[str], benchmarks: Collection[str]
) -> Iterator[PublishedFigure]:
    seen: dict[tuple[str, ...], int] = {}
    for row in rows:
        place = f"{path.name}:{rows.line_num}"
        if None in row or None in row.values():
            raise ValueError(f"{place}: must have {len(COLUMNS)} cells")
        for column in COLUMNS:
            if not row[column].strip():
                raise ValueError(f"{place}: {column}: empty")
        for column, allowed in (("variant", variants), ("benchmark", benchmarks)):
            if row[column] not in allowed:
                hint = did_you_mean(row[column], allowed)
                raise ValueError(f"{place}: {column}: {row[column]!r} is none of {', '.join(allowed)}{hint}")
        try:
            value = float(row["value"])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{place}: value: {row['value']!r} is no number")
        figure = PublishedFigure(row["variant"], row["benchmark"], row["subset"], row["metric"], value, row["source"])
        name = (figure.variant, figure.benchmark, figure.subset, figure.metric)
        if name in seen:
            raise ValueError(f"{place}: the same figure as in row {seen[name]}")
        seen[name] = rows.line_num
        yield figure
