"""Executors by name: `local` and `ray`, or one that an installed package adds.

A package adds its own through the entry point group `radpo.executors`: a name, and a function (store, jobs, address) ->
`radpo.engine.schedule.Pool`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from radpo.core.errors import ConfigError
from radpo.engine.schedule import Pool
from radpo.engine.store import Store

MakePool = Callable[[Store, int | None, str | None], Pool]


def find_executor(name: str) -> MakePool:
    """The function that makes an executor's pool.

    Raises:
        ConfigError: no executor goes by that name; the message lists those there are.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    installed = {entry.name: entry for entry in entry_points(group="radpo.executors")}
    if name not in installed:
        known = ", ".join([*BUILT_IN, *sorted(installed)])
        raise ConfigError(f"--executor {name!r}: no such executor; there are {known}")
    make: MakePool = installed[name].load()
    return make


def _local(store: Store, jobs: int | None, address: str | None) -> Pool:
    from radpo.engine.local import LocalPool

    if address is not None:
        raise ConfigError("--address: the local executor has none; it is for --executor ray")
    return LocalPool(store, jobs or 1)


def _ray(store: Store, jobs: int | None, address: str | None) -> Pool:
    from radpo.engine.ray_pool import RayPool

    return RayPool(store, jobs, address)


BUILT_IN: dict[str, MakePool] = {"local": _local, "ray": _ray}
