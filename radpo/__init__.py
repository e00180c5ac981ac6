"""radpo: train, score and compare preference-aligned language models, plain and reward-augmented.

Names are imported when they are first used, so that `import radpo` loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from radpo.core.errors import RadpoError

if TYPE_CHECKING:
    from radpo.api import compare, plan, run
    from radpo.benchmarks.protocol import Benchmark
    from radpo.core.metrics import Metric
    from radpo.core.run import load_run
    from radpo.engine.executors import Executor
    from radpo.judges.base import Judge, JudgeKind
    from radpo.training.variants import Variant

__version__ = version("radpo")
__all__ = [
    "Benchmark",
    "Executor",
    "Judge",
    "JudgeKind",
    "Metric",
    "RadpoError",
    "Variant",
    "__version__",
    "compare",
    "load_run",
    "plan",
    "run",
]

_PLACES = {
    "Benchmark": "radpo.benchmarks.protocol",
    "run": "radpo.api",
    "compare": "radpo.api",
    "plan": "radpo.api",
    "load_run": "radpo.core.run",
    "Metric": "radpo.core.metrics",
    "Variant": "radpo.training.variants",
    "Judge": "radpo.judges.base",
    "JudgeKind": "radpo.judges.base",
    "Executor": "radpo.engine.executors",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
