"""Lines for people: what a model, an endpoint, a file or an imported store wrote is shown in them, and not obeyed."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal, TextIO, get_args

from radpo.core.messages import printable

Level = Literal["error", "warning", "info", "debug"]
LEVELS: tuple[str, ...] = get_args(Level)
"""What there is to print on standard error, the most important first."""
VARIABLE = "RADPO_LOG_LEVEL"


def set_level(level: str | None) -> None:
    """Print no more than this on standard error, in this process and those that it starts; None changes nothing."""
    if level is not None:
        os.environ[VARIABLE] = level
    logging.getLogger("radpo").setLevel(_level().upper())


def shows(level: Level) -> bool:
    """Whether something of a level is printed."""
    return LEVELS.index(level) <= LEVELS.index(_level())


def _level() -> str:
    found = os.environ.get(VARIABLE, "info").lower()
    return found if found in LEVELS else "info"


def say(*parts: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print, on standard output unless another stream is given; terminal escapes among the parts are written out."""
    shown = (printable(str(part)) for part in parts)
    print(*shown, sep=sep, end=end, file=sys.stdout if file is None else file, flush=flush)
