"""What installed packages add to radpo: variants, benchmarks, judges and executors, found by entry points.

radpo's own are found the same way. A package is imported only when something of it is asked for, and one that cannot
be imported, or whose metadata cannot be read, never hinders the others: it is warned about once, by name.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError

from radpo.core import warn
from radpo.core.errors import ConfigError
from radpo.core.optional import search_path
from radpo.core.suggestions import did_you_mean

T = TypeVar("T")
OWN = "radpo"


class PluginWarning(warn.RadpoWarning):
    """An installed package's plug-in cannot be used."""


class NoSettings(BaseModel):
    """The settings of a plug-in that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def plugin_entries(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, radpo's own first; of two with one name radpo's own, else the first.

    Raises:
        ConfigError: radpo's own are not there, because its installed metadata are an older version's.
    """
    entries = sorted(_readable_entries(group), key=lambda entry: (not is_own(entry), entry.name))
    if not entries or not is_own(entries[0]):
        raise ConfigError(
            f"radpo's installed metadata name none of its own {group}: they are of another version than its code; "
            "install it again (pip install -e . in a source tree)"
        )
    found: dict[str, EntryPoint] = {}
    for entry in entries:
        if entry.name not in found:
            found[entry.name] = entry
        elif found[entry.name].value != entry.value:
            warn_once(f"{group} {entry.name!r} of {package_of(entry)} is ignored: {package_of(found[entry.name])} "
                       "has that name, too")  # fmt: skip
    return found


def is_own(entry: EntryPoint) -> bool:
    """Whether an entry point is one of radpo's own."""
    return _top_package(entry) == OWN


def package_of(entry: EntryPoint) -> str:
    """The distribution that an entry point comes from, with its version, as messages name it."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value.partition(":")[0]


def load_plugin(group: str, entry: EntryPoint, kind: type[T], adapt: Callable[[Any], Any] | None = None) -> T:
    """What an entry point leads to.

    Args:
        adapt: makes a `kind` of other things that an entry point of the group may lead to; what it returns as it was
            is refused.

    Raises:
        ConfigError: it cannot be imported, whatever the reason, or is not of the kind; the message names the package.
    """
    try:
        found = entry.load()
    # A foreign package may fail in any way when it is imported, and even leave the interpreter.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{_place(group, entry)} cannot be loaded: {type(error).__name__}: {error}") from error
    if adapt is not None and not isinstance(found, kind):
        found = adapt(found)
    if not isinstance(found, kind):
        raise ConfigError(f"{_place(group, entry)} is no {kind.__name__}, but {type(found).__name__}")
    return found


def _place(group: str, entry: EntryPoint) -> str:
    """What messages call a plug-in. Made only for them: it reads the package's metadata, which takes milliseconds."""
    return f"{group} {entry.name!r} of {package_of(entry)} ({entry.value})"


def find_plugin(
    group: str,
    name: str,
    kind: type[T],
    *,
    what: str,
    key: str | None = None,
    adapt: Callable[[Any], Any] | None = None,
) -> T:
    """The plug-in of that name.

    Args:
        what: what messages call it, such as `judge`.
        key: the key or option that names it, where that is called otherwise (`method` of a variant).
        adapt: as `load_plugin` takes it.

    Raises:
        ConfigError: there is none of that name (the message lists those there are), or it cannot be loaded.
    """
    entries = plugin_entries(group)
    if name not in entries:
        known, hint = ", ".join(entries), did_you_mean(name, entries)
        raise ConfigError(f"{key or what} {name!r}: no such {what}; there are {known}{hint}")
    return load_plugin(group, entries[name], kind, adapt)


def load_plugins(group: str, kind: type[T]) -> dict[str, T]:
    """All plug-ins of a group that can be loaded, by name; the others are warned about once, by name."""
    found = {}
    for name, entry in plugin_entries(group).items():
        try:
            found[name] = load_plugin(group, entry, kind)
        except ConfigError as error:
            if is_own(entry):
                raise
            warn_once(f"{error}; everything else works without it")
    return found


def check_settings(place: str, model: type[BaseModel], settings: Mapping[str, Any]) -> Any:
    """A plug-in's settings as its own model has them; `place` is what messages call it (`judge openai`).

    Raises:
        ConfigError: a setting is wrong; the message names it and what is allowed.
    """
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        # A misspelt setting that is required is missing, too; its spelling is what to tell.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(model.model_fields) or "none"
            hint = did_you_mean(where, model.model_fields)
            raise ConfigError(f"{place}: no setting {where!r}; allowed: {allowed}{hint}") from error
        at = f"{place}, {where}" if where else place
        raise ConfigError(f"{at}: {first['msg'].removeprefix('Value error, ')}") from error


def choice_schema(
    handler: GetJsonSchemaHandler, settings: Mapping[str, type[BaseModel]], *, default: str
) -> dict[str, Any]:
    """The JSON schema of a key that chooses a plug-in: its name, or a mapping of `kind` and its own settings.

    Args:
        settings: each plug-in's settings by its name.
        default: the kind of a mapping that names none.
    """
    choices: list[dict[str, Any]] = [{"type": "string", "enum": list(settings)}]
    for name, model in settings.items():
        found = handler.resolve_ref_schema(handler(model.__pydantic_core_schema__))
        kind = {"const": name, **({"default": name} if name == default else {})}
        required = [*([] if name == default else ["kind"]), *found.get("required", [])]
        choices.append({**found, "properties": {"kind": kind, **found.get("properties", {})}, "required": required})
    return {"anyOf": choices}


def plugin_code(entry: EntryPoint) -> str | None:
    """What tells a plug-in's code in a stage's key: package, version and a hash of its files; None for radpo's own.

    All files of all modules and packages that its distribution installed count: helpers, compiled modules, and what it
    reads, such as prompts.
    """
    if is_own(entry):
        return None
    digest = hashlib.sha256()
    for name, path in _files_of(entry):
        status = path.stat()
        digest.update(f"{name}\0{_file_hash(path, status.st_mtime_ns, status.st_ctime_ns, status.st_size)}\0".encode())
    version = f"{entry.dist.name}=={entry.dist.version}" if entry.dist else _top_package(entry)
    return f"{version} {entry.value} sha256:{digest.hexdigest()}"


def plugin_places(entry: EntryPoint) -> list[Path]:
    """The files of a plug-in's code, and the folders in which they are, but for Python's own folder of packages."""
    files = [path for _, path in _files_of(entry)]
    roots = [root for top in _modules_of(entry) for root in _roots(top) if root.is_dir()]
    return [*files, *dict.fromkeys(file.parent for file in files if any(root in file.parents for root in roots))]


def _top_package(entry: EntryPoint) -> str:
    """Not `entry.module`, which fails on a value that is no place in a module."""
    return entry.value.partition(":")[0].strip().split(".")[0]


def _files_of(entry: EntryPoint) -> list[tuple[str, Path]]:
    """The files of a plug-in's distribution, by their names from its modules on; nothing is imported."""
    found = []
    for top in _modules_of(entry):
        for root in _roots(top):
            if not root.is_dir():
                found.append((top, root))
                continue
            files = ((path.relative_to(root), path) for path in root.rglob("*") if path.is_file())
            found += [(f"{top}/{name.as_posix()}", path) for name, path in sorted(files) if not _left_out(name)]
    return found


def _left_out(name: Path) -> bool:
    return name.suffix == ".pyc" or any(part.startswith(".") or part == "__pycache__" for part in name.parts)


def _modules_of(entry: EntryPoint) -> list[str]:
    """The modules and packages at the top of what a plug-in's distribution installed, its own among them."""
    found = {_top_package(entry)}
    for file in (entry.dist.files or ()) if entry.dist else ():
        first = file.parts[0]
        if len(file.parts) > 1 or first.endswith((".py", ".so", ".pyd")):
            name = first.split(".")[0]
            if not first.endswith((".dist-info", ".egg-info", ".data")) and name.isidentifier():
                found.add(name)
    return sorted(found - {"__pycache__"})


def _roots(top: str) -> list[Path]:
    """The folders of a package, or the file of a module, without importing it."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return [Path(root) for root in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and Path(spec.origin).is_file() else []


@cache
def _file_hash(path: Path, modified_ns: int, changed_ns: int, size: int) -> str:
    """Times and size are arguments so that a file that has changed is read again."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _readable_entries(group: str) -> list[EntryPoint]:
    return list(_read_entries(group, search_path()))


@cache
def _read_entries(group: str, path: tuple[tuple[str, int], ...]) -> list[EntryPoint]:
    """The entry points of a group; where one distribution's metadata cannot be parsed, those of all others.

    Args:
        path: `search_path`, so that what is installed meanwhile is found; reading all metadata takes 10 ms, and a
            matrix asks hundreds of times.
    """
    try:
        return list(entry_points(group=group))
    except Exception:  # noqa: BLE001 - the parser fails on another's broken file in ways of its own
        return [entry for distribution in distributions() for entry in _entries_of(distribution, group)]


def _entries_of(distribution: Any, group: str) -> list[EntryPoint]:
    try:
        return [entry for entry in distribution.entry_points if entry.group == group]
    except Exception as error:  # noqa: BLE001 - as above
        warn_once(
            f"the entry points of {distribution.metadata['Name']} cannot be read: {type(error).__name__}: {error}; "
            "everything else works without them"
        )
        return []


def warn_once(message: str) -> None:
    """Warn about a package once in a process."""
    warn.warn_once(message, PluginWarning)
