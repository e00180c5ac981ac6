"""The style of figures: one for every variant, and the fonts, margins and texts that all figures share.

Every trace carries its variant in `meta`, so that the page's one legend can show and hide it. Colours of text and grid
are the page's, which knows light from dark; the figures are transparent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

GREY = "#8b939c"
# Okabe and Ito's palette, for any colour vision, without its black and its pale yellow; the blue is lighter
# than theirs, to stand out on dark paper too.
PALETTE = ("#d55e00", "#1b7fc1", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SYMBOLS = ("diamond", "square", "triangle-up", "pentagon", "star", "hexagon", "triangle-down")
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
DOTTED = {"dash": "dot", "color": GREY, "width": 1.3}
"""The line that stands for no effect."""


@dataclass(frozen=True)
class VariantStyle:
    """How a variant looks in every figure; the symbol tells it apart where print or eyes lack colour."""

    colour: str
    symbol: str


Styles = Mapping[str, VariantStyle]
"""By variant, in the order in which figures show them."""


def variant_styles(variants: Sequence[str], baseline: str) -> dict[str, VariantStyle]:
    """A style for each variant; grey circles are the baseline's."""
    others = [variant for variant in variants if variant != baseline]
    coloured = {
        variant: VariantStyle(PALETTE[place % len(PALETTE)], SYMBOLS[place % len(SYMBOLS)])
        for place, variant in enumerate(others)
    }
    return {baseline: VariantStyle(GREY, "circle"), **coloured}


def plain(text: object, width: int = 24, lines: int = 4) -> str:
    """Text that plotly shows as it is, in lines of at most `width` characters.

    Its tags are escaped, and `%{` cannot begin a template. A name of more than `lines` lines ends in an ellipsis.
    """
    found = _wrapped(str(text), width)
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1][: width - 1] + "…"]
    shown = (line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in found)
    return "<br>".join(line.replace("%{", "% {") for line in shown)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines broken at spaces, after hyphens and the like, or where nothing else is left, anywhere."""
    lines = [""]
    for word in re.findall(r"[^\s\-_/.,:]*[\-_/.,:]?\s*", text):
        while word:
            if len(lines[-1] + word.rstrip()) <= width:
                lines[-1] += word
                break
            if lines[-1]:
                lines.append("")
                continue
            lines[-1], word = word[:width], word[width:]
    return [" ".join(line.split()) for line in lines]


def labels(names: Iterable[object], width: int = 24) -> dict[str, str]:
    """What names are called on an axis: `plain`, no two alike, so that none shares another's place."""
    found: dict[str, str] = {}
    for name in map(str, names):
        if name not in found:
            label = shown = plain(name, width)
            number = 2
            while shown in found.values():
                shown, number = f"{label} ({number})", number + 1
            found[name] = shown
    return found


def longest_line(shown: Iterable[str]) -> int:
    """The characters of the longest line of labels that `labels` gave."""
    return max((len(line) for label in shown for line in label.split("<br>")), default=0)


def row_height(shown: Iterable[str], least: int) -> int:
    """The pixels that a row takes whose label may have several lines."""
    return max([least, *(16 * (label.count("<br>") + 1) + 8 for label in shown)])


def axis_titles(figure: Figure, x: str | None = None, y: str | None = None, *, beside: int = 0) -> Figure:
    """Name the scales, in lines short enough for a narrow screen.

    Args:
        beside: the characters of the longest label beside the vertical scale, which take from the plot's width.
    """
    if x is not None:
        room = (376 - max(56, 30 + 7 * beside)) / 6.6
        figure.update_xaxes(title={"text": plain(x, int(room))})
    if y is not None:
        figure.update_yaxes(title={"text": plain(y, 34)})
    return figure


def hover_name(name: str) -> str:
    """The name beside a hover label, as the end of a template."""
    return f"<extra>{plain(name, 40, 6)}</extra>"


def value_text(row: pd.Series[Any], suffix: str = "") -> str:
    """A value with its interval, where it has one, for a hover label."""
    value = f"{row['value']:.4g}{suffix}"
    return value if row["low"] != row["low"] else f"{value} [{row['low']:.4g}, {row['high']:.4g}]"


def error_bars(rows: pd.DataFrame) -> dict[str, Any]:
    """Error bars from low to high; none where there is no interval."""
    return {
        "type": "data", "symmetric": False, "thickness": 1.3, "width": 4,
        "array": (rows["high"] - rows["value"]).fillna(0).tolist(),
        "arrayminus": (rows["value"] - rows["low"]).fillna(0).tolist(),
    }  # fmt: skip


def styled(figure: Figure, *, height: int, margin: Mapping[str, int] | None = None) -> Figure:
    """The layout that all figures share, set in one step: plotly's `update_layout` takes six times as long."""
    axes = {"automargin": True, "zeroline": False, "ticks": ""}
    shared = {
        "template": "none",
        "height": height,
        "margin": dict(margin or {"l": 56, "r": 18, "t": 14, "b": 48}),
        "showlegend": False,
        "font": {"family": FONT, "size": 12.5},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "bargap": 0.35,
        "bargroupgap": 0.12,
        "dragmode": False,
        "hoverlabel": {"font": {"family": FONT, "size": 12.5}, "align": "left"},
        "xaxis": {**axes, "title": {"standoff": 10, "font": {"size": 12.5}}},
        "yaxis": {**axes, "title": {"standoff": 8, "font": {"size": 12.5}}},
    }
    figure.layout = _merged(figure.layout.to_plotly_json(), shared)
    return figure


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, of which the second's values count."""
    both = {
        name: _merged(one[name], value) if isinstance(value, Mapping) and isinstance(one.get(name), Mapping) else value
        for name, value in other.items()
    }
    return {**one, **both}
