"""Progress on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from radpo.core.progress import Progress, no_progress
from radpo.core.say import say, shows

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 20.0
"""Where there is no terminal, a stage that works on says so no more often than this."""


def bars() -> RichProgress:
    """Bars on standard error: what, how far, how fast, how long."""
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
    if not shows("info"):
        yield no_progress
        return
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > PLAIN_SECONDS:
                last = time.monotonic()
                say(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

        yield line
        return
    with bars() as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
