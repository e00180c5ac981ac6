"""Warnings of radpo's own, each given once in a process."""

from __future__ import annotations

import warnings


class RadpoWarning(UserWarning):
    """Something that the user should know and that stops nothing."""


_WARNED: set[str] = set()


def warn_once(message: str, kind: type[RadpoWarning] = RadpoWarning) -> None:
    """Warn, unless the same was said before in this process."""
    if message not in _WARNED:
        _WARNED.add(message)
        warnings.warn(message, kind, stacklevel=3)
