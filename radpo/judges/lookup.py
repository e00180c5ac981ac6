"""Finding judges: a name and settings come in, a judge goes out.

A package adds its own through the entry point group `radpo.judges`: a name, and a `JudgeKind` that it points to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from radpo.errors import ConfigError
from radpo.judges.base import Judge


class NoSettings(BaseModel):
    """The settings of a judge that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class JudgeKind:
    """One kind of judge.

    Args:
        settings: the pydantic model of what it may be told.
        make: the judge with these settings.
        hints: the settings that cannot change a verdict (speed, limits, keys).
    """

    settings: type[BaseModel]
    make: Callable[[Any], Judge]
    hints: frozenset[str] = frozenset()


def judge_kinds() -> dict[str, JudgeKind]:
    """All kinds of judge by name: radpo's own, and what installed packages add.

    Raises:
        ConfigError: an entry point does not point to a JudgeKind.
    """
    from radpo.judges.verifier import Verifier

    kinds = {"verifier": JudgeKind(NoSettings, lambda settings: Verifier())}
    for entry in entry_points(group="radpo.judges"):
        kind = entry.load()
        if not isinstance(kind, JudgeKind):
            raise ConfigError(f"judge {entry.name!r}: its entry point {entry.value} is not a radpo JudgeKind")
        kinds.setdefault(entry.name, kind)
    return kinds


def check_settings(kind: str, settings: Mapping[str, Any]) -> BaseModel:
    """The checked settings of a judge.

    Raises:
        ConfigError: there is no such kind, or a setting is wrong; the message names it and what is allowed.
    """
    kinds = judge_kinds()
    if kind not in kinds:
        raise ConfigError(f"judge {kind!r}: no such judge; there are {', '.join(kinds)}")
    model = kinds[kind].settings
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        allowed = ", ".join(model.model_fields) or "none"
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigError(f"judge {kind}, {where}: {first['msg']}; settings are: {allowed}") from error


def find_judge(kind: str, settings: Mapping[str, Any] | None = None) -> Judge:
    """The judge of a kind with its settings.

    Raises:
        ConfigError: as `check_settings`.
    """
    checked = check_settings(kind, settings or {})
    return judge_kinds()[kind].make(checked)
