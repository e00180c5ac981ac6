"""Charts without a script: points with intervals as SVG elements.

For pages that are to stay small; where a reader wants to zoom and hover there is `radpo.figures.charts`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 132, 14, 46
INK, GRID = "#3d4650", "#dde1e5"


@dataclass(frozen=True)
class Point:
    """A mean at a place; `low` and `high` are the ends of its interval, across those of its place."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one name and colour, joined where they make a line; `hollow` tells a second kind of them apart."""

    name: str
    colour: str
    points: tuple[Point, ...]
    line: bool = False
    hollow: bool = False


def chart(series: Sequence[Series], *, title: str, x: str, y: str, zero: bool = False, diagonal: bool = False) -> str:
    """A chart whose series are named where they end, one name below another.

    Args:
        title: read out in place of the chart; not drawn.
        x, y: what the scales say.
        zero: draw a dotted line where y is 0.
        diagonal: draw a dotted line where y is x.
    """
    points = [point for one in series for point in one.points]
    across = _Scale.over([v for p in points for v in (p.x, p.left, p.right) if v is not None], LEFT, WIDTH - RIGHT)
    heights = [v for p in points for v in (p.y, p.low, p.high) if v is not None] + ([0.0] if zero else [])
    up = _Scale.over(heights, HEIGHT - BOTTOM, TOP)
    parts = [*_frame(across, up, x, y)]
    if zero:
        parts.append(_line(LEFT, up(0), WIDTH - RIGHT, up(0), INK, dashed=True))
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        parts.append(_line(across(low), up(low), across(high), up(high), INK, dashed=True))
    for one in series:
        parts += _drawn(one, across, up)
    parts += _names(series, up)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12" '
        f'font-family="sans-serif" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Scale:
    """From values to the page's units."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        room = (high - low or 1.0) * 0.05
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Some four to eight round numbers."""
        rough = (self.high - self.low) / 8
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _frame(across: _Scale, up: _Scale, x: str, y: str) -> list[str]:
    parts = []
    for tick in up.ticks():
        parts.append(_line(LEFT, up(tick), WIDTH - RIGHT, up(tick), GRID))
        parts.append(_text(LEFT - 8, up(tick) + 4, f"{tick:g}", anchor="end"))
    for tick in across.ticks():
        parts.append(_line(across(tick), HEIGHT - BOTTOM, across(tick), HEIGHT - BOTTOM + 4, INK))
        parts.append(_text(across(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", anchor="middle"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, INK))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x, anchor="middle"))
    parts.append(f'<g transform="rotate(-90 14 {middle:.1f})">{_text(14, middle, y, anchor="middle")}</g>')
    return parts


def _drawn(one: Series, across: _Scale, up: _Scale) -> list[str]:
    parts = []
    if one.line:
        path = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in one.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{one.colour}" stroke-width="1.6"/>')
    for point in one.points:
        x, y = across(point.x), up(point.y)
        if point.low is not None and point.high is not None:
            parts.append(_line(x, up(point.low), x, up(point.high), one.colour))
        if point.left is not None and point.right is not None:
            parts.append(_line(across(point.left), y, across(point.right), y, one.colour))
        fill = "#fff" if one.hollow else one.colour
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{one.colour}" stroke-width="2">')
        parts.append(f"<title>{html.escape(one.name)}: {point.x:.4g}, {point.y:.4g}</title></circle>")
    return parts


def _names(series: Sequence[Series], up: _Scale) -> list[str]:
    """The names at the right edge, in the order of the series' last points, each at least a line below the last."""
    parts, free = [], float(TOP)
    for one in sorted(series, key=lambda one: -one.points[-1].y):
        height = max(up(one.points[-1].y), free)
        free = height + 16
        fill = "#fff" if one.hollow else one.colour
        place = WIDTH - RIGHT + 12
        parts.append(
            f'<circle cx="{place}" cy="{height:.1f}" r="4" fill="{fill}" stroke="{one.colour}" stroke-width="2"/>'
        )
        parts.append(_text(place + 9, height + 4, one.name))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="3 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1.4"{dash}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{html.escape(text)}</text>'
