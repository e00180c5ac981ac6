"""radpo: train, score and compare preference-aligned language models, plain and reward-augmented."""

from __future__ import annotations

from importlib.metadata import version

from radpo.core.errors import RadpoError

__version__ = version("radpo")
__all__ = ["RadpoError", "__version__"]
