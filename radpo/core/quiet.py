"""Keep other packages' messages from mixing with radpo's own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_package() -> Iterator[None]:
    """Keep back what packages log and warn of meanwhile, and undo what they do to the root logger.

    alpaca-eval sets the root logger to INFO when it is imported and logs through it, which prints `INFO:root:` lines
    for every package from then on, and a traceback for every reply that it cannot parse.
    """
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
