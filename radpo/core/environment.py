"""The process's environment with some variables changed for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(variables: Mapping[str, str], *, only_unset: bool = False) -> Iterator[None]:
    """Set environment variables for as long as it lasts.

    Args:
        only_unset: leave those alone that are set already.
    """
    ours = {name: value for name, value in variables.items() if not (only_unset and name in os.environ)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
