"""Texts as files and tables can hold them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHOWN, _REASON, _EXCERPT = 5, 200, 80
LONGEST_PATH = 500
"""Characters of a path that messages show."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """A text without lone surrogates, which UTF-8 and Arrow cannot hold: each becomes U+FFFD, as decoders write it."""
    return _SURROGATE.sub("\ufffd", text)


def with_reasons(items: Sequence[tuple[str, str]]) -> str:
    """Names with what became of each, the first few of them, for a note."""
    shown = [f"{name} ({' '.join(reason[:_REASON].split())})" for name, reason in items[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(items) > _SHOWN else "")


def listed(items: Sequence[str], nobody: str = "") -> str:
    """Names as a sentence has them: `a, b and c`; what `nobody` says where there are none."""
    if len(items) < 2:
        return items[0] if items else nobody
    return f"{', '.join(items[:-1])} and {items[-1]}"


def excerpt(text: str, length: int = _EXCERPT) -> str:
    """The beginning of a text on one line, for messages."""
    shown = " ".join(text[: 4 * length].split())
    return shown if len(shown) <= length else shown[: length - 3] + "..."
