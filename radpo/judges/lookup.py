"""Judges by name: radpo's own and those of installed packages, with their settings checked and separated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from radpo.core.optional import package_version
from radpo.core.plugins import check_settings as check_plugin_settings
from radpo.core.plugins import find_plugin
from radpo.judges.base import Judge, JudgeKind

GROUP = "radpo.judges"


def find_judge_kind(kind: str) -> JudgeKind:
    """The kind of judge that goes by a name.

    Raises:
        ConfigError: there is none (the message lists those there are), or it cannot be loaded.
    """
    return find_plugin(GROUP, kind, JudgeKind, what="judge")


def check_settings(kind: str, settings: Mapping[str, Any]) -> BaseModel:
    """The checked settings of a judge.

    Raises:
        ConfigError: there is no such kind, or a setting is wrong; the message names it and what is allowed.
    """
    checked: BaseModel = check_plugin_settings(f"judge {kind}", find_judge_kind(kind).settings, settings)
    return checked


def find_judge(kind: str, settings: Mapping[str, Any] | None = None) -> Judge:
    """The judge of a kind with its settings.

    Raises:
        ConfigError: as `check_settings`.
    """
    return find_judge_kind(kind).make(check_settings(kind, settings or {}))


@dataclass(frozen=True)
class SplitSettings:
    """A judge's settings: plain values that can change a verdict, values that cannot, files and models that can.

    `packages` are the versions of the packages whose arithmetic its verdicts rest on; `members` the judges that it
    asks, by setting, each with its kind.
    """

    settings: BaseModel
    counted: Mapping[str, Any]
    hints: Mapping[str, Any]
    files: Mapping[str, Path]
    models: Mapping[str, str]
    packages: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Sequence[tuple[str, SplitSettings]]] = field(default_factory=dict)


def split_settings(kind: str, settings: BaseModel, settle: Callable[[Any], Any] = lambda same: same) -> SplitSettings:
    """A judge's settings split for a key that counts files and models by content.

    Args:
        settle: makes of the settings, and of those of a panel's judges, what is to be split.
    """
    of, settings = find_judge_kind(kind), settle(settings)
    values = settings.model_dump(mode="python")
    files = {name: value for name, value in values.items() if isinstance(value, Path)}
    files |= {name: find(files[name]) or files[name] for name, find in of.finds.items() if name in files}
    models = {name: str(values[name]) for name in of.models}
    members = {name: [_split_member(member, settle) for member in values[name]] for name in of.members}
    special = files.keys() | models.keys() | members.keys()
    plain = {name: value for name, value in values.items() if name not in special}
    return SplitSettings(
        settings=settings,
        counted={name: value for name, value in plain.items() if name not in of.hints},
        hints={name: value for name, value in plain.items() if name in of.hints},
        files=files,
        models=models,
        packages={package: package_version(package) for package in of.packages},
        members=members,
    )


def _split_member(member: Mapping[str, Any], settle: Callable[[Any], Any]) -> tuple[str, SplitSettings]:
    kind, settings = member["kind"], {name: value for name, value in member.items() if name != "kind"}
    return kind, split_settings(kind, check_settings(kind, settings), settle)
