"""The nearest allowed word to what a person wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(written: object, allowed: Iterable[str]) -> str:
    """`; did you mean 'beta'?`, or nothing where no allowed word is near."""
    near = difflib.get_close_matches(str(written), list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
