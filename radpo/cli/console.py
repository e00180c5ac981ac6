"""What a person sees while a command works: progress on standard error, live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from radpo.core.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from radpo.engine.graph import Stage
    from radpo.engine.schedule import Done

PLAIN_SECONDS = 20.0
"""Where there is no terminal, a stage that works on says so no more often than this."""


def _bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.progress import Task as RichTask
    from rich.text import Text

    class RateColumn(TextColumn):
        """Steps a second."""

        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: RichTask) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.3g}/s" if speed else "")

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A progress callback that shows one bar, or plain lines where there is no terminal."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > PLAIN_SECONDS:
                last = time.monotonic()
                print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

        yield line
        return
    with _bars() as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


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
        self._bars = _bars() if sys.stderr.isatty() else None
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
            self._tasks[stage.key] = self._bars.add_task(stage.name, total=None)
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
        self._line(f"{stage.name} FAILED: {why.splitlines()[0] if why else ''}")

    def waits(self, stage: Stage) -> None:
        """A stage is being computed by another run on the same store."""
        self._leave(stage, 0.0)
        self._line(f"{stage.name} is being computed by another run: waiting for it")

    def hurt(self, stage: Stage, what: str) -> None:
        """A stage's folder in the store is damaged, so it will be computed again."""
        self._line(f"{stage.name} is damaged in the store ({stage.key}: {what}): computing it again")

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

    def _line(self, text: str) -> None:
        text = f"[{self._finished}/{self._stages}] {text}"
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
