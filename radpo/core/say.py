"""Lines for people: what a model, an endpoint, a file or an imported store wrote is shown in them, and not obeyed."""

from __future__ import annotations

import sys
from typing import TextIO

from radpo.core.messages import printable


def say(*parts: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print, on standard output unless another stream is given; terminal escapes among the parts are written out."""
    shown = (printable(str(part)) for part in parts)
    print(*shown, sep=sep, end=end, file=sys.stdout if file is None else file, flush=flush)
