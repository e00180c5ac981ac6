"""What a run needs of its surroundings, asked before its first stage: everything that is lacking, in one list.

Every part says for itself what it needs, through one seam: `ready` of a judge's kind, a benchmark, an executor and the
function of a stage. Each returns what is lacking, in words, or raises the RadpoError that it would raise later; None
where nothing is. Only what the store lacks is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from radpo.benchmarks.registry import benchmarks
from radpo.core.errors import ConfigError, RadpoError
from radpo.core.files import check_room, check_writable
from radpo.core.paid_work import ACCOUNT, paying
from radpo.engine.executors import ChosenExecutor
from radpo.engine.graph import Stage
from radpo.engine.store import Store
from radpo.judges.lookup import check_settings, find_judge_kind
from radpo.matrix.estimate import Estimate
from radpo.matrix.expand import Plan
from radpo.matrix.settings import Matrix
from radpo.matrix.spending import judges_in
from radpo.models.loading import model_fingerprint

T = TypeVar("T")
SURE = 0.5
"""The share of the estimated disk that is certainly needed: estimates are right within a factor of two."""


class NotReadyError(ConfigError):
    """What a run needs is lacking; `faults` are its lines. The exit status is 3 where only services are lacking."""

    def __init__(self, faults: Sequence[str], exit_status: int) -> None:
        more = f"{len(faults)} things are to be fixed before the first stage can run:\n  "
        super().__init__((more if len(faults) > 1 else "") + "\n  ".join(faults))
        self.faults, self.exit_status = tuple(faults), exit_status


@dataclass
class Faults:
    """Everything found lacking so far: each message once, with the exit status of its kind."""

    placed: Callable[[str], str] = str
    """Gives a message the file and the line of the key that it begins with."""
    found: dict[str, int] = field(default_factory=dict)

    def ask(self, question: Callable[[], T], place: str = "") -> T | None:
        """An answer; None where there is none because something is lacking, which is noted.

        Args:
            place: the key that the question is about, unless the message begins with one.
        """
        try:
            return question()
        except RadpoError as error:
            self.add(str(error), place, error.exit_status)
            return None

    def add(self, message: str, place: str = "", exit_status: int = RadpoError.exit_status) -> None:
        """Note something."""
        for line in message.splitlines():
            known = line in self.found or any(said.endswith(f": {line}") for said in self.found)
            if not known:
                self.found[self.placed(f"{place}: {line}" if place else line)] = exit_status

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            NotReadyError: something is lacking.
        """
        if self.found:
            raise NotReadyError(list(self.found), min(self.found.values()))


def ask_places(
    faults: Faults, folder: Path, store: Store, missing: Sequence[Stage] = (), expected: Estimate | None = None
) -> None:
    """Can the run directory and the store be written, and have they room for what is missing, as it is expected?"""
    work = [] if expected is None else [item.work for item in expected.to_do if item.work is not None]

    def store_is_there() -> None:
        check_writable(store.root, "--store")
        if missing:
            store.check_writable(missing)
        check_room(store.root, SURE * sum(one.disk_bytes + one.scratch_bytes for one in work), "--store")

    faults.ask(lambda: check_writable(folder, "--out"))
    faults.ask(store_is_there)


def ask_plan(faults: Faults, plan: Plan, missing: Sequence[Stage], executor: ChosenExecutor | None) -> None:
    """Has what is to be computed all that it needs?

    Args:
        missing: the stages that the store lacks.
        executor: what is to compute them.
    """
    if executor is not None:
        _ask(faults, "", executor.ready, missing)
    keys = {stage.key for stage in missing}
    cells = (*plan.cells, *(plan.tuning.cells if plan.tuning is not None else ()))
    needed = {name for cell in cells for name, stage in cell.benchmarks.items() if stage.key in keys}
    with paying({} if plan.account is None else {ACCOUNT: asdict(plan.account)}, "preflight", "preflight"):
        _ask_sections(faults, plan.matrix, needed)
        for stage in missing:
            if stage.function.ready is not None:
                _ask(faults, stage.name, stage.function.ready, stage)


def ask_matrix(faults: Faults, matrix: Matrix) -> None:
    """The same of a matrix that cannot be expanded, as far as it goes: are its models, judges and endpoints there?"""
    from radpo.clients.probe import probe

    given = [variant.checkpoint for variant in matrix.variants.values() if variant.checkpoint is not None]
    for model in dict.fromkeys((*matrix.all_models, *given)):
        faults.ask(lambda model=model: model_fingerprint(model))  # type: ignore[misc]
    _ask_sections(faults, matrix, set(matrix.benchmarks.named()))
    for name, variant in matrix.variants.items():
        if variant.endpoint is not None:
            _ask(faults, f"variants.{name}.endpoint", probe, variant.endpoint)


def _ask_sections(faults: Faults, matrix: Matrix, needed: set[str]) -> None:
    for name, section in matrix.benchmarks.named().items():
        if name not in needed:
            continue
        ready = benchmarks()[name].ready
        if ready is not None:
            _ask(faults, f"benchmarks.{name}", ready, section)
        for place, judge in judges_in(f"benchmarks.{name}", section):
            kind = find_judge_kind(judge.kind)
            if kind.ready is not None:
                _ask(faults, place, kind.ready, check_settings(judge.kind, judge.model_extra or {}))


def _ask(faults: Faults, place: str, ready: Callable[[Any], str | None], of: Any) -> None:
    lacking = faults.ask(lambda: ready(of), place)
    if lacking is not None:
        faults.add(lacking, place)
