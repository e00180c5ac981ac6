"""Matrix files that extend another one: one document, and where each key was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from radpo.core.errors import ConfigError

Parse = Callable[[Path], tuple[yaml.Node | None, Any]]
KEY = "extends"
"""The key of a matrix file that names the file it begins with."""
MAX_FILES = 50


@dataclass(frozen=True)
class Layer:
    """One file: its syntax tree, and what it says. Files are listed with the one that was asked for first."""

    path: Path
    node: yaml.Node | None
    document: Any


def read_layers(path: Path, parse: Parse) -> list[Layer]:
    """A file, the one it extends, the one that extends, and so on.

    Raises:
        ConfigError: a file extends itself, or names something else than a file.
    """
    above = _OVERRIDES.get()
    return [*([Layer(Path("command line"), None, above)] if above else []), *_layers(path, parse, ())]


_OVERRIDES: ContextVar[Mapping[str, Any]] = ContextVar("overrides", default=MappingProxyType({}))


@contextmanager
def overridden(document: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, every matrix file that is read begins with this document, as if it extended the file."""
    token = _OVERRIDES.set(document)
    try:
        yield
    finally:
        _OVERRIDES.reset(token)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted keys (`training.beta`) as the document that a matrix file would say.

    Raises:
        ConfigError: one key is within another.
    """
    document: dict[str, Any] = {}
    for key, value in values.items():
        *folders, last = key.split(".")
        section = document
        for part in folders:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                break
        if not isinstance(section, dict) or last in section:
            raise ConfigError(f"{key}: given twice on the command line, or within another key")
        section[last] = value
    return document


def _layers(path: Path, parse: Parse, before: tuple[Path, ...]) -> Iterator[Layer]:
    node, document = parse(path)
    yield Layer(path, node, document)
    if not isinstance(document, dict) or KEY not in document:
        return
    name = document[KEY]
    if not isinstance(name, str):
        raise ConfigError(f"{path}: {KEY}: must be the path of a matrix file")
    base = path.parent / name
    if len(before) > MAX_FILES:
        raise ConfigError(f"{path}: {KEY}: more than {MAX_FILES} files begin with one another")
    if base.resolve() in (seen.resolve() for seen in (*before, path)):
        raise ConfigError(f"{path}: {KEY}: {name!r}: a matrix file cannot extend itself")
    yield from _layers(base, parse, (*before, path))


def merged(layers: list[Layer]) -> Any:
    """What the files say together: mappings are joined key by key, anything else is the first file's that says it.

    A key that is null in a later file is null, so that settings of a variant can be taken back; a benchmark that is
    there below is left out. A judge or an executor of another `kind` replaces the one below, with all its settings.
    """
    document: Any = {}
    for layer in reversed(layers):
        if not isinstance(layer.document, dict):
            return layer.document if layer is layers[0] else document
        above = {key: value for key, value in layer.document.items() if key != KEY}
        left_out = [name for name in _benchmarks(document) if _benchmarks(above).get(name, "kept") is None]
        document = _joined(document, above)
        for name in left_out:
            del document["benchmarks"][name]
    return document


def _benchmarks(document: Any) -> dict[Any, Any]:
    found = document.get("benchmarks") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _joined(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if "kind" in above and "kind" in below and above["kind"] != below["kind"]:
        return above
    return {**below, **{key: _joined(below.get(key), value) for key, value in above.items()}}


def depth(document: Any, location: tuple[Any, ...]) -> int:
    """How many parts of a location are in a document."""
    for reached, part in enumerate(location):
        if isinstance(document, list):
            document = dict(enumerate(document))
        if not isinstance(document, dict) or part not in document:
            return reached
        document = document[part]
    return len(location)
