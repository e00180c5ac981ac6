"""The GPUs of a machine, which stages take and give back, and how many of them a stage takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from radpo.engine.graph import Stage

_FREE = 1e-6


def gpus_of(stage: Stage) -> float:
    """How many GPUs a stage takes where there are any: what the matrix file says under `resources`, else one or none.

    None, where it is known that its function and its judge load no model; what other packages bring may load one.
    """
    asked = stage.hints.get("resources", {}).get("gpus")
    if asked is not None:
        return float(asked)
    packages = {*stage.function.packages, *stage.settings.get("judge_packages", ())}
    return float("torch" in packages or not stage.settings.keys().isdisjoint({"code", "judge_code"}))


class Devices:
    """GPUs by CUDA's names for them. A stage takes some of them whole, or a share of one."""

    def __init__(self, names: Sequence[str]) -> None:
        self._free = dict.fromkeys(names, 1.0)

    def __len__(self) -> int:
        return len(self._free)

    def have(self, *amounts: float) -> bool:
        """Whether so many are free, one amount beside the other."""
        tried = Devices(())
        tried._free = dict(self._free)
        for amount in sorted(amounts, reverse=True):
            if tried._find(amount, ()) is None:
                return False
            tried.take(amount)
        return True

    def take(self, amount: float, preferred: Iterable[tuple[str, ...]] = ()) -> tuple[str, ...]:
        """Take so many, or so much of one.

        Args:
            preferred: GPUs to take together, if they are free and as many as are needed; the first that fit.
        """
        found = self._find(amount, preferred)
        assert found is not None, "ask `have` before"
        for name in found:
            self._free[name] -= min(amount, 1.0)
        return found

    def give_back(self, names: Iterable[str], amount: float) -> None:
        """Give back what `take` returned for that amount."""
        for name in names:
            self._free[name] += min(amount, 1.0)

    def _find(self, amount: float, preferred: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
        number = math.ceil(amount)
        free = [name for name, share in self._free.items() if share + _FREE >= min(amount, 1.0)]
        for together in preferred:
            if len(together) == number and set(together) <= set(free):
                return together
        free.sort(key=lambda name: self._free[name])  # stable: what is in part taken goes before what is whole
        return tuple(free[:number]) if len(free) >= number else None
