"""A running matrix on standard error: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from radpo.core.console import PLAIN_SECONDS, bars
from radpo.core.messages import printable
from radpo.core.say import Level, say, shows
from radpo.engine.graph import Stage
from radpo.engine.schedule import Done

if TYPE_CHECKING:
    from rich.progress import TaskID


class MatrixView:
    """Shows a matrix at work; an `Observer` of `radpo.engine.schedule`, used as a context.

    On a terminal: a bar for every stage that is being computed and one for the whole. Elsewhere: plain lines.

    Args:
        stages: how many stages the matrix has.
        weights: estimated seconds of the stages that are to be computed, by key; the whole's bar goes by them.
    """

    def __init__(self, stages: int, weights: Mapping[str, float]) -> None:
        self._stages = stages
        self._weights = weights
        self._finished = 0
        self._bars = bars() if sys.stderr.isatty() and shows("info") else None
        self._tasks: dict[str, TaskID] = {}
        self._shares: dict[str, float] = {}
        """How much of each stage is done, from 0 to 1, by key; those that were in the store are not among them."""
        self._whole: TaskID | None = None
        self._began: dict[str, float] = {}
        self._last_line: dict[str, float] = {}

    def __enter__(self) -> MatrixView:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def begins(self, stage: Stage) -> None:
        """A stage is about to be computed."""
        self._began[stage.key] = self._last_line[stage.key] = time.monotonic()
        self._shares[stage.key] = 0.0
        if self._bars:
            from rich.markup import escape

            self._tasks[stage.key] = self._bars.add_task(escape(printable(stage.name)), total=None)
            self._show_whole()
        else:
            self._line(f"{stage.name} …")

    def progresses(self, stage: Stage, done: int, total: int) -> None:
        """A stage is `done` of `total` through."""
        self._shares[stage.key] = done / total if total else 0.0
        now = time.monotonic()
        if self._bars and stage.key in self._tasks:
            self._bars.update(self._tasks[stage.key], completed=done, total=total)
            self._show_whole()
        elif now - self._last_line[stage.key] > PLAIN_SECONDS:
            self._last_line[stage.key] = now
            rate = done / (now - self._began[stage.key])
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            self._line(f"{stage.name} {done}/{total}, {rate:.3g}/s{left}")

    def ends(self, done: Done) -> None:
        """A stage is in the store."""
        self._finished += 1
        self._leave(done.stage, 1.0)
        how = "from the store" if done.from_store else f"{done.seconds:.1f} s"
        self._line(f"{done.stage.name} {how}")

    def fails(self, stage: Stage, why: str) -> None:
        """A stage has failed."""
        self._leave(stage, 0.0)
        self._line(f"{stage.name} FAILED: {why.splitlines()[0] if why else ''}", "error")

    def waits(self, stage: Stage) -> None:
        """A stage is being computed by another run on the same store."""
        self._leave(stage, 0.0)
        self._line(f"{stage.name} is being computed by another run: waiting for it")

    def corrupt(self, stage: Stage, what: str) -> None:
        """A stage's folder in the store is damaged, so it will be computed again."""
        self._line(f"{stage.name} is damaged in the store ({stage.key}: {what}): computing it again", "warning")

    def _leave(self, stage: Stage, share: float) -> None:
        if stage.key in self._shares:
            self._shares[stage.key] = share
        if self._bars and stage.key in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage.key))
            self._show_whole()

    def _show_whole(self) -> None:
        assert self._bars
        if self._whole is None:
            self._whole = self._bars.add_task(
                "all stages (seconds of work)", total=max(1.0, sum(self._weights.values()))
            )
        work = sum(share * self._weights.get(key, 0.0) for key, share in self._shares.items())
        self._bars.update(self._whole, completed=round(work, 1))

    def _line(self, text: str, level: Level = "info") -> None:
        if not shows(level):
            return
        text = f"[{self._finished}/{self._stages}] {text}"
        if self._bars:
            self._bars.console.print(printable(text), markup=False, highlight=False)
        else:
            say(text, file=sys.stderr, flush=True)
