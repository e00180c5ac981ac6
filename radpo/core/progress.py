"""The callback through which long work reports progress. Library functions print nothing themselves."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total) while long work runs."""


def no_progress(done: int, total: int) -> None:
    """The callback of a caller who does not want to watch."""
