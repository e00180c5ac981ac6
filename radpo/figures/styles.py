"""How figures look: a style for every variant, and the fonts, margins and texts that all figures share.

Every trace carries its variant in `meta`, so that the page's one legend can show and hide it. Colours of text and grid
are the page's, which knows light from dark; the figures are transparent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

GREY = "#8b939c"
# Okabe and Ito's palette, told apart with any colour vision, without its black and its pale yellow; the blue is lighter
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


def plain(text: object, limit: int = 26) -> str:
    """Text that plotly shows as it is: its tags are escaped, `%{` cannot begin a template, and long names are cut."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def hover_name(name: str) -> str:
    """The name beside a hover label, as the end of a template."""
    return f"<extra>{plain(name)}</extra>"


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
    """The layout that all figures share."""
    figure.update_layout(
        template="none",
        height=height,
        margin=dict(margin or {"l": 56, "r": 18, "t": 14, "b": 48}),
        showlegend=False,
        font={"family": FONT, "size": 12.5},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        bargap=0.35,
        bargroupgap=0.12,
        dragmode=False,
        hoverlabel={"font": {"family": FONT, "size": 12.5}, "align": "left"},
    )
    figure.update_xaxes(automargin=True, zeroline=False, ticks="", title={"standoff": 10, "font": {"size": 12.5}})
    figure.update_yaxes(automargin=True, zeroline=False, ticks="", title={"standoff": 8, "font": {"size": 12.5}})
    return figure
