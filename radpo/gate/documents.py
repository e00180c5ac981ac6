"""A verdict for people and for programs: Markdown for a pull request, JUnit XML for CI, a table for the terminal.

Names come from files and are hostile: they must neither break out of a cell nor become markup or control codes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from radpo.gate.verdict import Row, Verdict

HEAD = (
    "variant", "benchmark", "subset", "metric", "baseline", "candidate", "difference (95% interval, p)", "p worse",
    "detectable drop", "margin", "pairs", "verdict",
)  # fmt: skip
_TEXT_COLUMNS = (0, 1, 2, 3, 11)
MARK = "<!-- radpo gate -->"
"""What the Markdown begins with; no reader sees it."""


def headline(verdict: Verdict) -> str:
    """The verdict in a few words."""
    if verdict.status == "regression":
        worse = sum(row.outcome == "regression" for row in verdict.rows)
        return f"regression in {worse} of {len(verdict.rows)} metrics"
    if verdict.differences:
        return "no verdict, the runs are not comparable"
    return "no verdict, too few examples" if verdict.refusals else "pass"


def to_markdown(verdict: Verdict) -> str:
    """The verdict for a pull request: a sentence, what to do next, and the full table folded away.

    Its first line is `MARK`, by which a bot finds the comment that it wrote before.
    """
    lines = [MARK, f"## {_cell(verdict.candidate)} against {_cell(verdict.baseline)}: {headline(verdict)}", ""]
    lines += [_cell(verdict.sentence), "", "What to do next:", ""]
    for step in verdict.next_steps:
        lines += [f"- {_cell(step.text)}", *(["", f"      {_line(step.command)}", ""] if step.command else [])]
    lines += ["", f"<details><summary>All {len(verdict.rows)} metrics, and how they were tested</summary>", ""]
    if verdict.rows:
        rule = " | ".join("---" if column in _TEXT_COLUMNS else "---:" for column in range(len(HEAD)))
        lines += [f"| {' | '.join(HEAD)} |", f"| {rule} |"]
        for row in _ordered(verdict):
            *cells, outcome = [_cell(cell) for cell in _cells(row)]
            shown = f"**{outcome}**" if row.outcome in ("regression", "too few examples") else outcome
            lines.append(f"| {' | '.join([*cells, shown])} |")
        lines.append("")
    lines += [*(f"- {_cell(sentence)}" for sentence in _sentences(verdict)), "", "</details>"]
    return "\n".join(lines) + "\n"


def to_table(verdict: Verdict) -> str:
    """The verdict in a sentence, what to do next, and an aligned table with sentences below."""
    lines = [_line(verdict.sentence)]
    for step in verdict.next_steps:
        lines += [f"Next: {_line(step.text)}", *([f"    {_line(step.command)}"] if step.command else [])]
    lines += ["", f"{_line(verdict.candidate)} against {_line(verdict.baseline)}: {headline(verdict)}", ""]
    if verdict.rows:
        rows = [HEAD, *([_line(cell) for cell in _cells(row)] for row in _ordered(verdict))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        for row in rows:
            cells = [
                cell.ljust(width) if column in _TEXT_COLUMNS else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join([*lines, *map(_line, _sentences(verdict))]) + "\n"


def to_junit(verdict: Verdict) -> str:
    """The verdict as JUnit XML: a test case a metric.

    Failed where it regressed, an error where the examples are too few or the runs are not comparable, skipped where it
    was not gated.
    """
    too_few = sum(row.outcome == "too few examples" for row in verdict.rows)
    suite = ElementTree.Element(
        "testsuite",
        name="radpo regress",
        tests=str(len(verdict.rows) + len(verdict.not_gated) + len(verdict.differences)),
        failures=str(sum(row.outcome == "regression" for row in verdict.rows)),
        errors=str(too_few + len(verdict.differences)),
        skipped=str(len(verdict.not_gated)),
    )
    for difference in verdict.differences:
        case = ElementTree.SubElement(suite, "testcase", classname="comparable", name=_xml(difference))
        ElementTree.SubElement(case, "error", message=_xml(difference), type="not comparable")
    for row in verdict.rows:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(row.variant), name=_xml(row.name))
        message = (
            f"{row.baseline:.4g} to {row.candidate:.4g}: {_difference(row)}, p {row.p_worse:.3g}, {row.pairs} pairs, "
            f"detectable drop {_detectable(row)}, margin {_margin(row)}"
        )
        if row.outcome == "regression":
            ElementTree.SubElement(case, "failure", message=_xml(message), type="regression")
        elif row.outcome == "too few examples":
            ElementTree.SubElement(case, "error", message=_xml(message), type="too few examples")
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(f"{row.outcome}: {message}")
    for item in verdict.not_gated:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(item.variant), name=_xml(item.name))
        ElementTree.SubElement(case, "skipped", message=_xml(item.reason))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _ordered(verdict: Verdict) -> list[Row]:
    """What regressed, the clearest first, then what has too few examples, then the rest as they come."""
    rank = {row: place for place, row in enumerate(verdict.worse)}
    short = len(rank)
    return sorted(verdict.rows, key=lambda row: rank.get(row, short + (row.outcome != "too few examples")))


def _sentences(verdict: Verdict) -> list[str]:
    """What stands below the table."""
    found = [f"Not comparable: {difference}." for difference in verdict.differences]
    found += [f"No verdict on {refusal}." for refusal in verdict.refusals[len(verdict.differences) :]]
    if verdict.rows:
        changed = sum(row.changed > 0 for row in verdict.rows)
        found.append(
            f"Examples differ in {changed} of {len(verdict.rows)} metrics. A metric fails where it is significantly "
            f"worse (one-sided, alpha {verdict.alpha:g}, Holm-adjusted over these {changed}) and not "
            "shown to be worse by less than its margin. "
            "The detectable drop is the true one that fails with probability 0.8."
        )
        known = [row for row in verdict.rows if row.detectable is not None]
        if len(known) < len(verdict.rows):
            found.append("No detectable drop is given where no example differs or no drop could be significant.")
    unpaired = sum(row.unpaired for row in verdict.rows)
    if unpaired:
        found.append(f"{unpaired} per-example rows are in one of the runs only and were not compared.")
    found += [f"Not gated: {item.name}, because {item.reason}." for item in verdict.not_gated]
    return [*found, *verdict.notes]


def _cells(row: Row) -> Sequence[str]:
    return (
        row.variant, row.benchmark, row.subset, row.metric, f"{row.baseline:.4g}", f"{row.candidate:.4g}",
        _difference(row), f"{row.p_worse:.3g}", _detectable(row), _margin(row), str(row.pairs), row.outcome,
    )  # fmt: skip


def _difference(row: Row) -> str:
    said = [] if row.low is None or row.high is None else [f"{row.low:+.4g} to {row.high:+.4g}"]
    said += [] if row.p is None else [f"p {row.p:.3g}"]
    told = f" ({'; '.join(said)})" if said else ""
    return f"{row.difference:+.4g}{told}"


def _detectable(row: Row) -> str:
    return "-" if row.detectable is None else f"{row.detectable:.3g}"


def _margin(row: Row) -> str:
    return f"{row.margin:g}" if row.margin else "none"


def _line(text: str) -> str:
    """On one line, without control, format and direction characters: they would move the cursor or reorder text."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def _cell(text: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]#~&!@])", r"\\\1", _line(text))


def _xml(text: str) -> str:
    """Without the characters that no XML document may hold."""
    return re.sub(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]", "?", text)
