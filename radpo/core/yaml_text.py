"""YAML that a person, or a stranger, wrote: read safely, within limits, each fault as one message with its line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from radpo.core.errors import ConfigError
from radpo.core.texts import excerpt

MAX_CHARACTERS = 4 << 20
MAX_NODES = 100_000
"""Values of a document, those that aliases repeat counted every time."""
MAX_DEPTH = 100
MAX_NUMBER = 100
"""Characters of a number; longer ones take long to read, and are none that a setting means."""
MAX_INTEGER = 2**63
"""What files and libraries hold as a whole number is below it."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's own, where it is there: the other takes a second for a thousand open brackets."""
_PREFIX = "tag:yaml.org,2002:"
_MERGE = f"{_PREFIX}merge"
_KINDS = {
    "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing", "timestamp": "a date",
    "str": "a text", "merge": "a text", "value": "a text",
}  # fmt: skip

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")

Location = tuple[Any, ...]


def read_yaml(path: Path) -> Any:
    """The document of a file.

    Raises:
        ConfigError: the file cannot be read, or as `parse_yaml`.
    """
    return parse_yaml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A file's text in UTF-8.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{excerpt(str(path))}: cannot be read: {reason}") from error


def parse_yaml(text: str, place: str, *, max_nodes: int = MAX_NODES) -> Any:
    """The document that a text is; None where it is empty.

    Raises:
        ConfigError: as `compose`, or a value is none of its kind.
    """
    node = compose(text, place, max_nodes=max_nodes)
    return None if node is None else construct(node, place)


def compose(text: str, place: str, *, max_nodes: int = MAX_NODES) -> yaml.Node | None:
    """The syntax tree of a text, which `construct` makes a document of.

    Raises:
        ConfigError: it is no YAML, passes a limit, refers to itself, has a tag other than YAML's usual ones, or a key
            that is no text or is there twice. The message begins with `place` and the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{place}: has {len(text)} characters, more than the {MAX_CHARACTERS} that are read as YAML")
    try:
        aliased = _check_events(text, place, max_nodes)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}:{mark.line + 1}" if mark else place
        raise ConfigError(f"{where}: cannot be read as YAML: {_said(error)}") from error
    if node is not None:
        if aliased:
            _check_size(node, place, max_nodes)
        _check_nodes(node, place)
    return node


def _said(error: Exception) -> str:
    """What the parser says, in one line, without the name that it has for every text."""
    return " ".join(str(error).replace(' in "<unicode string>",', " at").split())


def construct(node: yaml.Node, place: str) -> Any:
    """The document of a syntax tree that `compose` gave.

    Raises:
        ConfigError: a value is none of its kind, such as the 31st of February.
    """
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        for scalar in _nodes(node):
            if isinstance(scalar, yaml.ScalarNode) and scalar.tag != _MERGE:
                _construct_scalar(scalar, place)
        raise ConfigError(f"{place}: cannot be read as YAML: {_said(error)}") from error


def value_of(text: str) -> Any:
    """What a text of the command line means: a number, a list, ... as YAML reads it, else the text as it is."""
    try:
        return parse_yaml(text, "value")
    except ConfigError:
        return text


def unusable_values(document: Any) -> Iterator[tuple[Location, str]]:
    """What no setting can be, and where: numbers without end, texts that no file can hold, keys that are no texts."""
    waiting: list[tuple[Location, Any]] = [((), document)]
    count = 0
    while waiting:
        location, value = waiting.pop()
        count += 1
        if len(location) > MAX_DEPTH or count > MAX_NODES:
            yield location[:5], f"more than {MAX_NODES} values, or than {MAX_DEPTH} one within another"
            return
        if isinstance(value, float) and not math.isfinite(value):
            yield location, f"{value}: must be a finite number"
        elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
            yield location, "must be a whole number below 2^63"
        elif isinstance(value, str) and not _is_storable(value):
            yield location, f"{excerpt(ascii(value))}: a text with characters that no file can hold"
        elif isinstance(value, dict):
            for key, below in value.items():
                if not isinstance(key, str) or not _is_storable(key):
                    yield location, f"{excerpt(ascii(key))}: a key must be a text"
                else:
                    waiting.append(((*location, key), below))
        elif isinstance(value, list | tuple):
            waiting.extend(((*location, number), below) for number, below in enumerate(value))


def _is_storable(text: str) -> bool:
    return _NOT_STORABLE.search(text) is None


def _check_events(text: str, place: str, max_nodes: int) -> bool:
    """See that the document is small and flat as it is written; whether it has aliases."""
    depth = count = 0
    aliased = False
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        count += isinstance(event, yaml.NodeEvent)
        aliased |= isinstance(event, yaml.AliasEvent)
        where = event.start_mark.line + 1 if event.start_mark else 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{place}:{where}: more than {MAX_DEPTH} brackets or levels are open")
        if count > max_nodes:
            raise ConfigError(f"{place}:{where}: more than {max_nodes} values")
    return aliased


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting.extend(reversed(_children(node)))


def _check_size(root: yaml.Node, place: str, max_nodes: int) -> None:
    """See that the document stays small with every alias put in: a few lines of them can stand for billions."""
    sizes: dict[int, tuple[int, int]] = {}
    begun: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, all_below_done = waiting.pop()
        line = node.start_mark.line + 1
        if all_below_done:
            below = [sizes[id(child)] for child in _children(node)]
            count, depth = 1 + sum(each for each, _ in below), 1 + max((each for _, each in below), default=0)
            if count > max_nodes or depth > MAX_DEPTH:
                raise ConfigError(
                    f"{place}:{line}: its aliases stand for more than {max_nodes} values, or {MAX_DEPTH} levels"
                )
            sizes[id(node)] = (count, depth)
        elif id(node) in begun and id(node) not in sizes:
            raise ConfigError(f"{place}:{line}: a value with an alias of itself in it")
        elif id(node) not in sizes:
            begun.add(id(node))
            waiting.append((node, True))
            waiting.extend((child, False) for child in _children(node))


def _check_nodes(root: yaml.Node, place: str) -> None:
    for node in _nodes(root):
        where = f"{place}:{node.start_mark.line + 1}"
        kind = str(node.tag).removeprefix(_PREFIX)
        if kind not in (*_KINDS, "map", "seq"):
            raise ConfigError(f"{where}: cannot be read as YAML: the tag {excerpt(str(node.tag))} is not known here")
        if kind in ("int", "float") and isinstance(node.value, str) and len(node.value) > MAX_NUMBER:
            raise ConfigError(f"{where}: {node.value[:20]}...: a number of {len(node.value)} characters")
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, place)


def _check_keys(node: yaml.MappingNode, place: str) -> None:
    """Of a key that is there twice YAML's reader would silently take the last."""
    names = set()
    for key, _ in node.value:
        where = f"{place}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{where}: a key must be a text, and here is a list or a mapping")
        kind = _KINDS.get(key.tag.removeprefix(_PREFIX), "something else than a text")
        if kind != "a text":
            raise ConfigError(
                f"{where}: {excerpt(key.value)}: YAML reads this key as {kind}; put it in quotes: "
                f'"{excerpt(key.value)}"'
            )
        if key.value in names and key.tag != _MERGE:
            raise ConfigError(f"{where}: {excerpt(key.value)}: the key is given twice")
        names.add(key.value)


def _construct_scalar(node: yaml.ScalarNode, place: str) -> None:
    try:
        yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        kind = _KINDS.get(node.tag.removeprefix(_PREFIX), "a value")
        raise ConfigError(
            f"{place}:{node.start_mark.line + 1}: {excerpt(node.value)}: cannot be read as {kind}; put it in quotes "
            "where a text is meant"
        ) from error
