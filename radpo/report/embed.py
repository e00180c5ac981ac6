"""What the pages embed: packed documents, scripts and styles with the hashes that allow them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Template

PACKED_FROM = 150_000
"""Characters of a figure from which on it is packed: hundreds of variants and seeds make megabytes of points."""
TEMPLATES = Path(__file__).parent / "templates"


def packed(text: str, level: int = 6) -> str:
    """Text as base64 of gzip, which the page inflates when it is needed; the same text gives the same bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), level, mtime=0)).decode("ascii")


def packed_json(document: Any) -> str:
    """A document as `packed` JSON."""
    return packed(json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def figure(text: str) -> Markup:
    """A figure's JSON as the element that the page draws it from; a large one is packed."""
    if len(text) <= PACKED_FROM:
        return Markup(f'<script type="application/json" class="figure">{text}</script>')
    return Markup(f'<script type="text/plain" class="figure">{packed(text)}</script>')


def source_hash(text: str) -> str:
    """A script's or style's source expression in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def plotly() -> tuple[str, str, str]:
    """plotly.js packed, its source expression, and the id of the style element that it makes when it has none.

    A page that holds an empty element of that id keeps plotly's map library from writing a style of its own, which the
    policy would block.
    """
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    made = re.search(r'createElement\("style"\);\w+\.id="(\w+)"', source)
    return packed(source, 9), source_hash(source), made[1] if made else "plotly-style"


@cache
def page_template(name: str) -> Template:
    """A page's template, which is compiled once a process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)  # fmt: skip


def script(*names: str) -> str:
    """The templates' scripts of these names as one, in a scope of its own."""
    parts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in names]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def style() -> str:
    """The pages' style sheet."""
    return (TEMPLATES / "report.css").read_text(encoding="utf-8")


def policy(*scripts: str, styles: tuple[str, ...]) -> str:
    """A Content-Security-Policy: these scripts and styles by their hashes, images made by the page, and nothing else.

    Args:
        scripts, styles: source expressions. Empty styles are allowed too, as elements and as attributes: plotly makes
            them, and fills them rule by rule.
    """
    empty = source_hash("")
    return (
        "default-src 'none'; connect-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
        f"style-src {' '.join([*styles, empty])}; style-src-attr 'unsafe-hashes' {empty}; "
        f"script-src {' '.join(scripts)}"
    )
