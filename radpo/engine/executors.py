"""Executors by name, each with options of its own: radpo's `local` and `ray`, and those of installed packages.

Each is registered in the entry point group `radpo.executors`, as a package's own are: a name, and the `Executor` that
it points to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator

from radpo.core.errors import ConfigError
from radpo.core.plugins import check_settings, choice_schema, find_plugin, load_plugins
from radpo.engine.graph import Stage
from radpo.engine.schedule import Pool
from radpo.engine.store import Store

GROUP = "radpo.executors"


@dataclass(frozen=True)
class Executor:
    """One way to compute stages side by side.

    Args:
        name: as matrix files and `--executor` name it.
        Settings: the pydantic model of its options (`radpo.core.plugins.NoSettings` where it has none). They cannot
            change a result, so they are no part of a stage's key.
        make: the pool for a store, so many stages at once (None: the executor decides) and checked options. Whatever
            is slow (a connection, a cluster) waits for the first stage.
        ready: what these options and stages need and is not there, asked before the first stage; None if nothing. May
            raise a RadpoError instead.
    """

    name: str
    Settings: type[BaseModel]
    make: Callable[[Store, int | None, Any], Pool]
    ready: Callable[[Any, Sequence[Stage]], str | None] | None = None


@dataclass(frozen=True)
class ChosenExecutor:
    """An executor with checked options."""

    executor: Executor
    options: Any

    def __call__(self, store: Store, jobs: int | None) -> Pool:
        """Its pool."""
        return self.executor.make(store, jobs, self.options)

    def ready(self, stages: Sequence[Stage]) -> str | None:
        """What it needs to compute these stages and is not there; None if nothing."""
        return None if self.executor.ready is None else self.executor.ready(self.options, stages)


class ExecutorChoice(BaseModel):
    """An executor and its options, as a matrix file names them; a name alone is an executor without any."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = "local"

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_fit(self) -> ExecutorChoice:
        try:
            check_options(self.kind, self.options)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        known = load_plugins(GROUP, Executor)
        return choice_schema(handler, {name: known[name].Settings for name in known}, default="local")

    @property
    def options(self) -> dict[str, Any]:
        """The executor's own options, as they were written."""
        return dict(self.model_extra or {})


def find_executor(name: str) -> Executor:
    """The executor that goes by a name.

    Raises:
        ConfigError: there is none (the message lists those there are), or it cannot be loaded.
    """
    return find_plugin(GROUP, name, Executor, what="executor")


def check_options(name: str, options: Mapping[str, Any]) -> Any:
    """An executor's options as its own settings have them.

    Raises:
        ConfigError: there is no such executor, or an option is wrong; the message names it and what is allowed.
    """
    return check_settings(f"executor {name}", find_executor(name).Settings, options)


def choose_executor(written: ExecutorChoice | None, name: str | None, options: Mapping[str, Any]) -> ChosenExecutor:
    """The executor that a matrix file and the command line together ask for.

    Args:
        written: the matrix file's choice.
        name: the command line's, which goes over it.
        options: the command line's; the matrix file's hold for those that are not given, if the executor is the same.

    Raises:
        ConfigError: as `check_options`.
    """
    kept = written or ExecutorChoice()
    kind = name or kept.kind
    executor = find_executor(kind)
    checked = check_options(kind, {**(kept.options if kind == kept.kind else {}), **options})
    return ChosenExecutor(executor, checked)
