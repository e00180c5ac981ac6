"""The nearest allowed word to what a person wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(written: object, allowed: Iterable[str]) -> str:
    """A suggestion for a message, or nothing where no allowed word is near.

    >>> did_you_mean("btea", ["beta", "seeds"])
    "; did you mean 'beta'?"
    """
    near = difflib.get_close_matches(str(written), list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
