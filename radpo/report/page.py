"""One page of figures with headings and captions, one HTML file that needs no network.

For analyses that stand alone; the comparison of a run's variants is `radpo.report.build`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from radpo.core.files import replace_file

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STYLE = (
    "body{font:15px/1.5 -apple-system,'Segoe UI',Roboto,Arial,sans-serif;max-width:860px;margin:2em auto;padding:0 1em;"
    "color:#1c2127;background:#fff}h1{font-size:1.5em}h2{font-size:1.1em;margin:2em 0 0}p{color:#3d4650}"
    ".table{overflow-x:auto}table{border-collapse:collapse;font-size:13px}th,td{border-bottom:1px solid #d5dade;"
    "padding:.35em .6em;text-align:left;vertical-align:top}"
)


@dataclass(frozen=True)
class Shown:
    """A figure under its heading, with the words that say what to see."""

    heading: str
    figure: Figure
    caption: str


def write_page(path: Path, title: str, shown: Sequence[Shown], opening: str = "") -> Path:
    """Write the page, in one step.

    Args:
        opening: HTML that stands before the figures.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", opening]
    for place, item in enumerate(shown):
        drawn = item.figure.to_html(full_html=False, include_plotlyjs=place == 0, config={"displayModeBar": False})
        parts.append(f"<h2>{html.escape(item.heading)}</h2>{drawn}<p>{html.escape(item.caption)}</p>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    replace_file(path, lambda partial: partial.write_text(page, encoding="utf-8"))
    return path
