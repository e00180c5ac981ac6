"""What a run may spend: its judges and endpoints, their keys and prices, its account and what can go on it at most."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from radpo.benchmarks.settings import JudgeSettings
from radpo.benchmarks.work import judges_of
from radpo.clients.account import begin_account, read_account, stop_paying
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError
from radpo.core.paid_work import RunAccount
from radpo.engine.graph import Stage
from radpo.judges.lookup import check_settings, find_judge_kind
from radpo.matrix.settings import Matrix

Number = TypeVar("Number", int, float)

FOLDER = "spending"
"""Of the run directory: what was spent over all stages, processes and reruns."""


def paid(matrix: Matrix) -> dict[str, BaseModel]:
    """The settings of everything in a matrix that may cost money, by its place in the file."""
    found: dict[str, BaseModel] = {
        f"variants.{name}.endpoint": variant.endpoint
        for name, variant in matrix.variants.items()
        if variant.endpoint is not None
    }
    for name, section in matrix.benchmarks.named().items():
        for place, judge in judges_in(f"benchmarks.{name}", section):
            if not find_judge_kind(judge.kind).free:
                found[place] = check_settings(judge.kind, judge.model_extra or {})
    return found


def judges_in(place: str, value: Any) -> Iterator[tuple[str, JudgeSettings]]:
    """The judges of a section of a matrix file, each with its place, which begins with the section's."""
    if isinstance(value, JudgeSettings):
        yield place, value
        yield from judges_in(place, value.model_extra)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from judges_in(f"{place}.{name}", getattr(value, name))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from judges_in(f"{place}.{name}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from judges_in(f"{place}.{number}", inner)


def check_prices(matrix: Matrix) -> None:
    """See that a limit of dollars can be held.

    Raises:
        ConfigError: there is one, and the price of something that may cost money is not known.
    """
    for place, settings in paid(matrix).items() if matrix.max_cost is not None else ():
        if getattr(settings, "price_in", None) is None or getattr(settings, "price_out", None) is None:
            raise ConfigError(
                f"{place}: max_cost limits what the run may spend, and the price of this is not known; give price_in "
                "and price_out, in dollars for a million tokens (0 where asking costs nothing)"
            )


def endpoint_of(stage: Stage) -> Endpoint | None:
    """The endpoint that a stage asks, as a model under test or as a judge; None where it asks none.

    Of a panel's endpoints, which share its limits, the first.
    """
    if "endpoint" in stage.settings and "endpoint" in stage.hints:
        return _endpoint({**stage.hints["endpoint"], **stage.settings["endpoint"]})
    judges = judges_of(stage) if "judge" in stage.settings else []
    asked = [said for kind, said in judges if issubclass(find_judge_kind(kind).settings, Endpoint)]
    return _endpoint(asked[0]) if asked else None


def _endpoint(given: Mapping[str, Any]) -> Endpoint:
    return Endpoint.model_validate({name: value for name, value in given.items() if name in Endpoint.model_fields})


def account_of(matrix: Matrix, out: Path) -> RunAccount | None:
    """The account of a run in a run directory, begun where it is new; None where nothing costs money.

    Raises:
        ConfigError: a price that a limit needs is not known.
        DataError: the run directory cannot be written.
    """
    if not paid(matrix):
        return None
    check_prices(matrix)
    folder = (out / FOLDER).absolute()
    return RunAccount(str(folder), begin_account(folder), matrix.max_cost, matrix.max_requests, uuid.uuid4().hex)


def stop(account: RunAccount | None) -> None:
    """Have all stages of a run pay for nothing more."""
    if account is not None:
        stop_paying(Path(account.folder), account.occasion)


@dataclass(frozen=True)
class Most:
    """What a run can spend at most over all its reruns, None where nothing limits it, and what it has spent."""

    dollars: float | None
    requests: int | None
    spent_dollars: float
    spent_requests: int


def most(matrix: Matrix, out: Path, to_do: Sequence[Stage]) -> Most | None:
    """What the run of a matrix can spend at most; None where nothing that is to do costs money.

    Args:
        out: its run directory.
        to_do: the stages that the store lacks.

    Raises:
        ConfigError: as `account_of`.
    """
    check_prices(matrix)
    asking = {stage.key: endpoint for stage in to_do if (endpoint := endpoint_of(stage)) is not None}
    if not asking:
        return None
    state = read_account(out / FOLDER)
    spent = state.spent()
    of = {key: state.spent(key) for key in asking}
    dollars = [
        None if one.max_cost is None else max(0.0, one.max_cost - of[key].dollars) for key, one in asking.items()
    ]
    sent = [
        None if one.max_requests is None else max(0, one.max_requests - of[key].sent) for key, one in asking.items()
    ]
    return Most(
        _least(matrix.max_cost, _sum(spent.dollars, dollars)),
        _least(matrix.max_requests, _sum(spent.sent, sent)),
        spent.dollars,
        spent.sent,
    )


def _sum(spent: Number, limits: Sequence[Number | None]) -> Number | None:
    known = [limit for limit in limits if limit is not None]
    return sum(known, spent) if len(known) == len(limits) else None


def _least(*limits: Number | None) -> Number | None:
    return min((limit for limit in limits if limit is not None), default=None)


def spending(matrix: Matrix, out: Path) -> dict[str, Any] | None:
    """What a run has spent so far, for its manifest; None where it has no account."""
    state = read_account(out / FOLDER)
    if not state.identity:
        return None
    requests, dollars = state.reserved()
    whole = {name: value for name, value in asdict(state.spent()).items() if name != "name"}
    return {
        **whole,
        "unclear_cost": whole["unclear_cost"] + dollars,
        "on_the_way": requests,
        "max_cost": matrix.max_cost,
        "max_requests": matrix.max_requests,
        "stages": [{"key": key, **asdict(of)} for key, of in state.stages.items()],
    }
