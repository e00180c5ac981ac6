"""The report's sections of the installed benchmarks, in the order in which they are listed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from radpo.benchmarks.registry import GROUP, benchmarks
from radpo.core.plugins import is_own, plugin_entries, warn_once
from radpo.core.run import Run
from radpo.figures.sections import ReportSection
from radpo.figures.styles import Styles


@dataclass(frozen=True)
class BenchmarkSections:
    """The sections that benchmarks draw of a run, by benchmark, and a sentence on each one that could not."""

    sections: dict[str, list[ReportSection]]
    notes: list[str]


def benchmark_sections(run: Run, styles: Styles) -> BenchmarkSections:
    """Every installed benchmark's part of the report.

    One of another package that fails costs the report its own part and no other. The notes say so, and they name the
    benchmarks that the run has and that are not installed here.

    Raises:
        DataError: the run's tables are malformed.
    """
    entries = plugin_entries(GROUP)
    found: dict[str, list[ReportSection]] = {}
    notes, anchors = [], set[str]()
    for name, benchmark in benchmarks().items():
        if benchmark.sections is None:
            continue
        try:
            sections = [_checked(section) for section in benchmark.sections(run, styles)]
        except Exception as error:
            if is_own(entries[name]):
                raise
            sections = [ReportSection(name, benchmark.title)]
            if name in run.benchmarks:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                warn_once(f"{GROUP} {name!r} failed to draw its part of the report ({reason})")
                notes.append(f"{benchmark.title}: its own part of the report could not be drawn ({reason}).")
        found[name] = [_with_anchor_of_its_own(section, anchors) for section in sections]
    if unknown := [name for name in run.benchmarks if name not in benchmarks()]:
        notes.append(
            f"Not installed here: {', '.join(unknown)}. The overview and the tables have their figures; install the "
            "packages that bring them, and make the report again, for their own parts."
        )
    return BenchmarkSections(found, notes)


def _checked(section: ReportSection) -> ReportSection:
    if not isinstance(section, ReportSection):
        raise TypeError(f"sections gave a {type(section).__name__} in place of a ReportSection")
    return section


def _with_anchor_of_its_own(section: ReportSection, taken: set[str]) -> ReportSection:
    """The section, its anchor made unlike those of other benchmarks' sections."""
    anchor, number = section.anchor, 2
    while anchor in taken:
        anchor, number = f"{section.anchor}-{number}", number + 1
    taken.add(anchor)
    return section if anchor == section.anchor else replace(section, anchor=anchor)
