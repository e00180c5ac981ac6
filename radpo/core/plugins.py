"""What installed packages add to radpo: variants, benchmarks, judges and executors, found by entry points.

radpo's own are found the same way. A package is imported only when something of it is asked for, and one that cannot
be imported never hinders the others: it is warned about once, by name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from radpo.core.errors import ConfigError
from radpo.core.suggestions import did_you_mean

T = TypeVar("T")
OWN = "radpo"


class PluginWarning(UserWarning):
    """An installed package's plug-in cannot be used."""


def plugin_entries(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, radpo's own first; of two with one name radpo's own, else the first."""
    entries = sorted(entry_points(group=group), key=lambda entry: (not is_own(entry), entry.name))
    found: dict[str, EntryPoint] = {}
    for entry in entries:
        if entry.name not in found:
            found[entry.name] = entry
        elif found[entry.name].value != entry.value:
            _warn_once(f"{group} {entry.name!r} of {package_of(entry)} is ignored: {package_of(found[entry.name])} "
                       "has that name, too")  # fmt: skip
    return found


def is_own(entry: EntryPoint) -> bool:
    """Whether an entry point is one of radpo's own."""
    return entry.module.split(".")[0] == OWN


def package_of(entry: EntryPoint) -> str:
    """The distribution that an entry point comes from, with its version, as messages name it."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


def load_plugin(group: str, entry: EntryPoint, kind: type[T]) -> T:
    """What an entry point leads to.

    Raises:
        ConfigError: it cannot be imported, whatever the reason, or is not of the kind; the message names the package.
    """
    place = f"{group} {entry.name!r} of {package_of(entry)} ({entry.value})"
    try:
        found = entry.load()
    # A foreign package may fail in any way when it is imported, and even leave the interpreter.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, kind):
        raise ConfigError(f"{place} is no {kind.__name__}, but {type(found).__name__}")
    return found


def find_plugin(group: str, name: str, kind: type[T], *, what: str) -> T:
    """The plug-in of that name; `what` is what messages call it (`judge`).

    Raises:
        ConfigError: there is none of that name (the message lists those there are), or it cannot be loaded.
    """
    entries = plugin_entries(group)
    if name not in entries:
        raise ConfigError(
            f"{what} {name!r}: no such {what}; there are {', '.join(entries)}{did_you_mean(name, entries)}"
        )
    return load_plugin(group, entries[name], kind)


def load_plugins(group: str, kind: type[T]) -> dict[str, T]:
    """All plug-ins of a group that can be loaded, by name; the others are warned about once, by name."""
    found = {}
    for name, entry in plugin_entries(group).items():
        try:
            found[name] = load_plugin(group, entry, kind)
        except ConfigError as error:
            if is_own(entry):
                raise
            _warn_once(f"{error}; everything else works without it")
    return found


@cache
def plugin_code(entry: EntryPoint) -> str | None:
    """What tells a plug-in's code in a stage's key: package, version and a hash of its source; None for radpo's own.

    All Python files of the top-level package count, so that a change in a helper module changes the key, too.
    """
    if is_own(entry):
        return None
    top = entry.module.split(".")[0]
    spec = importlib.util.find_spec(top)
    digest = hashlib.sha256()
    for root in [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []:
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    if spec and spec.origin and not spec.submodule_search_locations:
        digest.update(Path(spec.origin).read_bytes())
    version = f"{entry.dist.name}=={entry.dist.version}" if entry.dist else top
    return f"{version} {entry.value} sha256:{digest.hexdigest()}"


_WARNED: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _WARNED:
        _WARNED.add(message)
        warnings.warn(message, PluginWarning, stacklevel=3)
