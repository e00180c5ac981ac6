"""Finding judges: a name and settings come in, a judge goes out.

A package adds its own through the entry point group `radpo.judges`: a name, and a `JudgeKind` that it points to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from radpo.core.errors import ConfigError
from radpo.judges.base import Judge


class NoSettings(BaseModel):
    """The settings of a judge that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class JudgeKind:
    """One kind of judge.

    Args:
        settings: the pydantic model of what it may be told. Paths in it are files whose content can change a verdict.
        make: the judge with these settings. Whatever is slow (a model, a connection) waits for the first request.
        hints: the settings that cannot change a verdict (speed, limits, keys); no part of a stage's key.
        models: the settings that name a model as `radpo.models.loading` finds it; they count by the model's content.
    """

    settings: type[BaseModel]
    make: Callable[[Any], Judge]
    hints: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()


def judge_kinds() -> dict[str, JudgeKind]:
    """All kinds of judge by name: radpo's own, and what installed packages add.

    Raises:
        ConfigError: an entry point does not point to a JudgeKind.
    """
    from radpo.judges import openai, reward_model
    from radpo.judges.verifier import Verifier

    kinds = {
        "verifier": JudgeKind(NoSettings, lambda settings: Verifier()),
        "openai": JudgeKind(openai.OpenAISettings, openai.OpenAIJudge, openai.HINTS),
        "reward-model": JudgeKind(
            reward_model.RewardModelSettings,
            reward_model.RewardModelJudge,
            reward_model.HINTS,
            models=frozenset({"model"}),
        ),
    }
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
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(model.model_fields) or "none"
            raise ConfigError(f"judge {kind}: no setting {where!r}; allowed: {allowed}") from error
        place = f"judge {kind}, {where}" if where else f"judge {kind}"
        raise ConfigError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


def find_judge(kind: str, settings: Mapping[str, Any] | None = None) -> Judge:
    """The judge of a kind with its settings.

    Raises:
        ConfigError: as `check_settings`.
    """
    checked = check_settings(kind, settings or {})
    return judge_kinds()[kind].make(checked)


@dataclass(frozen=True)
class SettingsApart:
    """A judge's settings: plain values that can change a verdict, values that cannot, files and models that can."""

    counted: Mapping[str, Any]
    hints: Mapping[str, Any]
    files: Mapping[str, Path]
    models: Mapping[str, str]


def split_settings(kind: str, settings: BaseModel) -> SettingsApart:
    """A judge's settings apart, for a key that counts files and models by content."""
    of = judge_kinds()[kind]
    values = settings.model_dump(mode="python")
    files = {name: value for name, value in values.items() if isinstance(value, Path)}
    models = {name: str(values[name]) for name in of.models}
    told = {name: value for name, value in values.items() if name not in files and name not in models}
    return SettingsApart(
        counted={name: value for name, value in told.items() if name not in of.hints},
        hints={name: value for name, value in told.items() if name in of.hints},
        files=files,
        models=models,
    )
