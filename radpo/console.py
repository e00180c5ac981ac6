"""What a person sees while a command works: progress on standard error, live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from radpo.judges.base import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from radpo.matrix.executors import Done
    from radpo.matrix.graph import Stage

PLAIN_SECONDS = 20.0
"""Where there is no terminal, a stage that works on says so no more often than this."""


def _bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
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
    """Shows a matrix at work; an `Observer` of `radpo.matrix.executors`, used as a context."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._finished = 0
        self._bars = _bars() if sys.stderr.isatty() else None
        self._task: TaskID | None = None
        self._last_line = 0.0

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
        self._last_line = time.monotonic()
        if self._bars:
            self._task = self._bars.add_task(self._label(stage.name), total=None)
        else:
            self._line(f"{self._label(stage.name)} …")

    def progresses(self, stage: Stage, done: int, total: int) -> None:
        """A stage is `done` of `total` through."""
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._line(f"{self._label(stage.name)} {done}/{total}")

    def ends(self, done: Done) -> None:
        """A stage is in the store."""
        how = "from the store" if done.from_store else f"{done.seconds:.1f} s"
        self._line(f"{self._label(done.stage.name)} {how}")
        if self._bars and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._finished += 1

    def _label(self, name: str) -> str:
        return f"[{min(self._finished + 1, self._total)}/{self._total}] {name}"

    def _line(self, text: str) -> None:
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
