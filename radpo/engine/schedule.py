"""The schedule: which stage is started when, until every wanted stage is in the store.

The same for every executor: a pool only starts stages and says what becomes of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Protocol

from radpo.core.errors import RadpoError
from radpo.core.messages import clean_message
from radpo.engine.execute import Outcome
from radpo.engine.graph import Stage, in_order
from radpo.engine.store import Store

BUSY_SECONDS = 0.25
"""How often a stage that another run is computing is looked at."""
LOG_LINES = 15
CORRUPTIONS = 3
"""How often a stage is computed again because its folder was damaged, before the disk is taken to be at fault."""


@dataclass(frozen=True)
class Done:
    """How one stage was had. `seconds` and `peak_mib` are of the run that computed it, be it an earlier one."""

    stage: Stage
    from_store: bool
    seconds: float
    peak_mib: float | None


@dataclass(frozen=True)
class Event:
    """What a pool has to say of a stage: how far it is (`done` of `total`), or its outcome."""

    stage: Stage
    done: int = 0
    total: int = 0
    outcome: Outcome | None = None


class Pool(Protocol):
    """Computes stages side by side: an executor.

    It may have two methods besides: `fits(stage, waiting)` says whether it has room for a stage now, `waiting` being
    those more urgent ones for which it had none a moment ago; `expects(stages)` is told all that are to be computed.
    """

    slots: int
    """How many stages it takes at once."""

    def start(self, stage: Stage, notes: Mapping[str, Any]) -> None:
        """Begin a stage whose inputs are in the store (`radpo.engine.execute.execute`)."""
        ...

    def events(self, seconds: float) -> list[Event]:
        """What happened since the last call; waits up to so many seconds for something to happen."""
        ...

    def close(self) -> None:
        """Stop: what is being computed is given up."""
        ...


class Observer(Protocol):
    """The protocol of what follows a run's progress."""

    def begins(self, stage: Stage) -> None:
        """A stage is about to be computed."""
        ...

    def progresses(self, stage: Stage, done: int, total: int) -> None:
        """A stage is `done` of `total` through."""
        ...

    def ends(self, done: Done) -> None:
        """A stage is in the store."""
        ...

    def fails(self, stage: Stage, why: str) -> None:
        """A stage has failed."""
        ...

    def waits(self, stage: Stage) -> None:
        """A stage is being computed by another run on the same store."""
        ...

    def corrupt(self, stage: Stage, what: str) -> None:
        """A stage's folder in the store is damaged, so it will be computed again."""
        ...


class StageError(RadpoError):
    """One or more stages failed. The message has the last lines of each one's log and what depends on it."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def run_stages(
    wanted: Sequence[Stage],
    store: Store,
    pool: Pool,
    observer: Observer,
    *,
    keep_going: bool = False,
    weights: Mapping[str, float] | None = None,
    notes: Mapping[str, Mapping[str, Any]] | None = None,
    on_failure: Callable[[], object] = lambda: None,
) -> list[Done]:
    """Compute what the store lacks, as many stages at once as the pool takes.

    Args:
        keep_going: after a failure, continue with all that does not depend on it; else only what is begun is finished.
        weights: estimated seconds by key: the stages that hold up most work go first. All alike where it is None.
        notes: what is to be noted with a stage, by key.
        on_failure: called when a stage has failed, unless to keep going.

    Raises:
        StageError: a stage failed.
    """
    schedule = _Schedule(in_order(wanted), store, pool, observer, keep_going, weights or {}, notes or {}, on_failure)
    try:
        return schedule.run()
    finally:
        pool.close()


@dataclass
class _Schedule:
    order: list[Stage]
    store: Store
    pool: Pool
    observer: Observer
    keep_going: bool
    weights: Mapping[str, float]
    notes: Mapping[str, Mapping[str, Any]]
    on_failure: Callable[[], object]
    done: dict[str, Done] = field(default_factory=dict)
    running: dict[str, Stage] = field(default_factory=dict)
    busy: dict[str, Stage] = field(default_factory=dict)
    failed: dict[str, tuple[Stage, Outcome]] = field(default_factory=dict)
    corrupted: Counter[str] = field(default_factory=Counter)
    asked: float = 0.0
    queue: list[tuple[float, int]] = field(default_factory=list)
    """A heap of the places in order of stages that could begin when they came in, the most urgent first."""

    def __post_init__(self) -> None:
        urgency = self._urgency()
        self.rank = {stage.key: (-urgency[stage.key], place) for place, stage in enumerate(self.order)}
        self.dependents: dict[str, list[Stage]] = {stage.key: [] for stage in self.order}
        for stage in self.order:
            for key in {needed.key for needed in stage.inputs.values()}:
                self.dependents[key].append(stage)

    def run(self) -> list[Done]:
        missing: list[Stage] = []
        fits: Callable[[Stage, list[Stage]], bool] = getattr(self.pool, "fits", lambda stage, waiting: True)
        for stage in self.order:
            if self.store.has(stage):
                self._end(stage, from_store=True)
                continue
            missing.append(stage)
            if self.store.folder(stage).is_dir() and (what := self.store.damage(stage.key)):
                self.observer.corrupt(stage, what)
        if missing:
            self.store.check_writable(missing)
            if hasattr(self.pool, "expects"):
                self.pool.expects(missing)
        self._offer(missing)
        while len(self.done) < len(self.order):
            self._ask_after_the_busy()
            waiting: list[Stage] = []
            while len(self.running) < self.pool.slots and (first := self._next()) is not None:
                if fits(first, waiting):
                    self.running[first.key] = first
                    self.observer.begins(first)
                    self.pool.start(first, self.notes.get(first.key, {}))
                else:
                    waiting.append(first)
            self._offer(waiting)
            if not self.running and not self.busy:
                break  # only what depends on a failed stage is left
            for event in self.pool.events(BUSY_SECONDS):
                if event.outcome is None:
                    self.observer.progresses(event.stage, event.done, event.total)
                else:
                    self._settle(event.stage, event.outcome)
        if self.failed:
            raise self._error()
        return [self.done[stage.key] for stage in self.order]

    def _offer(self, stages: Iterable[Stage]) -> None:
        """Queue those that could begin now: to be called with all for whom that may have changed."""
        for stage in stages:
            if self._can_begin(stage):
                heappush(self.queue, self.rank[stage.key])

    def _next(self) -> Stage | None:
        """The most urgent stage that could begin now."""
        while self.queue and (not self.failed or self.keep_going):
            stage = self.order[heappop(self.queue)[1]]
            if self._can_begin(stage):
                return stage
        return None

    def _can_begin(self, stage: Stage) -> bool:
        taken = any(stage.key in of for of in (self.done, self.running, self.busy, self.failed))
        return not taken and all(needed.key in self.done for needed in stage.inputs.values())

    def _settle(self, stage: Stage, outcome: Outcome) -> None:
        del self.running[stage.key]
        if outcome.status == "busy":
            self.busy[stage.key] = stage
            self.observer.waits(stage)
        elif outcome.status == "corrupt":
            needed = next(needed for needed in stage.inputs.values() if needed.key == outcome.corrupt)
            if self.done.pop(needed.key, None):  # two stages may find the same damage
                self.observer.corrupt(needed, outcome.message)
                self.corrupted[needed.key] += 1
            if self.corrupted[needed.key] > CORRUPTIONS:
                message = (
                    f"its folder in the store was damaged {CORRUPTIONS} times after it was written "
                    f"({outcome.message}); check the disk"
                )
                self.failed[needed.key] = (needed, Outcome("failed", message))
            self._offer((needed, stage))
        elif outcome.status == "failed":
            self.failed[stage.key] = (stage, outcome)
            self.observer.fails(stage, outcome.message)
            if not self.keep_going:
                self.on_failure()
        else:
            self._end(stage, from_store=outcome.status == "kept")

    def _end(self, stage: Stage, *, from_store: bool) -> None:
        record = self.store.record(stage.key)
        self.done[stage.key] = Done(stage, from_store, seconds=record["seconds"], peak_mib=record["peak_mib"])
        self.observer.ends(self.done[stage.key])
        self._offer(self.dependents[stage.key])

    def _ask_after_the_busy(self) -> None:
        """Stages that another run let go of, done or not, are available again: the next attempt sees which."""
        if self.busy and time.monotonic() - self.asked > BUSY_SECONDS:
            self.asked = time.monotonic()
            asked, self.busy = self.busy, {key: one for key, one in self.busy.items() if self.store.is_busy(key)}
            self._offer(stage for key, stage in asked.items() if key not in self.busy)
            if self.failed and not self.keep_going:
                self.busy = {}

    def _urgency(self) -> dict[str, float]:
        """Seconds from a stage's beginning to the end of the longest chain that hangs on it."""
        urgency = {stage.key: 0.0 for stage in self.order}
        for stage in reversed(self.order):
            urgency[stage.key] += self.weights.get(stage.key, 1.0)
            for needed in stage.inputs.values():
                urgency[needed.key] = max(urgency[needed.key], urgency[stage.key])
        return urgency

    def _error(self) -> StageError:
        parts = []
        for stage, outcome in self.failed.values():
            log = self.store.log(stage)
            parts.append(f"{stage.name} failed: {outcome.message}")
            if lines := last_lines(log):
                parts.append(f"  the last lines of its log, {log}:\n" + "\n".join(f"    {line}" for line in lines))
            if dependent := self._dependent(stage):
                shown = ", ".join(dependent[:5]) + (f" and {len(dependent) - 5} more" if len(dependent) > 5 else "")
                parts.append(f"  not computed, because they depend on it: {shown}")
        left = len(self.order) - len(self.done)
        parts.append(
            f"{len(self.done)} of {len(self.order)} stages are in the store, {left} are left; fix the cause and give "
            "the same command: it resumes from here"
        )
        return StageError("\n".join(parts), max(outcome.exit_status for _, outcome in self.failed.values()))

    def _dependent(self, failed: Stage) -> list[str]:
        """The names of the stages that need a stage, at whatever remove."""
        keys, names = {failed.key}, []
        for stage in self.order:
            if any(needed.key in keys for needed in stage.inputs.values()):
                keys.add(stage.key)
                names.append(stage.name)
        return names


def last_lines(log: Path) -> list[str]:
    """The last lines of a log that are not empty, fit for a terminal; none where it cannot be read."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [clean_message(line) for line in text.splitlines() if line.strip()][-LOG_LINES:]
