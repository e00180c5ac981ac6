"""radpo: train, score and compare preference-aligned language models, plain and reward-augmented."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from radpo.core.errors import RadpoError

if TYPE_CHECKING:
    from radpo.core.run import load_run

__version__ = version("radpo")
__all__ = ["RadpoError", "__version__", "load_run"]

_LAZY = {"load_run": "radpo.core.run"}
"""Public names by the module that is imported when one is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
