"""The picture of how data flows through radpo: `python docs/site/flow.py` writes docs/flow.svg."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 132, 46
BOXES = {
    "preferences": (0, 1), "relabel": (1, 1), "train": (2, 1),
    "log-likelihood": (3, 0), "generate": (3, 1), "lm-eval": (3, 2),
    "judge": (4, 1), "results": (5, 1), "comparison": (6, 1), "report": (7, 0), "gate": (7, 2),
}  # fmt: skip
ARROWS = (
    ("preferences", "relabel"), ("relabel", "train"), ("train", "log-likelihood"), ("train", "generate"),
    ("train", "lm-eval"), ("generate", "judge"), ("log-likelihood", "results"), ("judge", "results"),
    ("lm-eval", "results"), ("results", "comparison"), ("comparison", "report"), ("comparison", "gate"),
)  # fmt: skip


def draw() -> str:
    """The picture as SVG."""
    parts = []
    for start, end in ARROWS:
        (x1, y1), (x2, y2) = _corner(start), _corner(end)
        ends = f'x1="{x1 + WIDTH}" y1="{y1 + HEIGHT / 2:g}" x2="{x2 - 4}" y2="{y2 + HEIGHT / 2:g}"'
        parts.append(f'<line {ends} stroke="#6b7785" stroke-width="1.6" marker-end="url(#tip)"/>')
    for name in BOXES:
        x, y = _corner(name)
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef3f8" stroke="#3b6ea5"/>'
        )
        middle = f'x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 5:g}"'
        parts.append(f'<text {middle} text-anchor="middle" fill="#1c2127">{escape(name)}</text>')
    width, height = max(_corner(n)[0] for n in BOXES) + WIDTH + 10, max(_corner(n)[1] for n in BOXES) + HEIGHT + 10
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#6b7785"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="16" role="img" aria-label="How data flows through radpo"><defs>{tip}</defs>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def _corner(name: str) -> tuple[int, int]:
    column, row = BOXES[name]
    return 10 + column * (WIDTH + 44), 10 + row * (HEIGHT + 26)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "flow.svg").write_text(draw(), encoding="utf-8")
