"""Reading a matrix file: a checked `Matrix`, or errors that say where, what and how to fix it."""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from radpo.benchmarks.protocol import Benchmark
from radpo.benchmarks.registry import GROUP as BENCHMARKS
from radpo.core.errors import ConfigError
from radpo.core.files import is_there
from radpo.core.plugins import load_plugin, plugin_entries
from radpo.core.suggestions import did_you_mean
from radpo.core.texts import LONGEST_PATH, excerpt
from radpo.core.yaml_text import compose, construct, read_text, unusable_values
from radpo.matrix.layers import Layer, depth, merged, read_layers
from radpo.matrix.settings import Matrix, matrix_type
from radpo.matrix.unfold import Location, Unfolded, VariantError, unfold
from radpo.training.settings import TrainingSettings, setting_hint
from radpo.training.variants import method_training, variant_names

MAX_ERRORS, MAX_LINES = 100, 20
"""How many faults are looked at, and how many of them told."""
SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)
"""The value of a key called so is never shown, so that a secret that a file holds does not get into a log."""


def load_matrix(path: Path, *, planning: bool = False) -> Matrix:
    """Read and check a matrix file, and those that it extends.

    Args:
        planning: files that the matrix names may be yet to come.

    Raises:
        ConfigError: the file is missing, is no YAML, or does not say what a matrix needs. One line for each thing that
            is wrong: file and line, key, value, what is allowed, and the nearest allowed word.
    """
    layers = read_layers(path, _read)
    document = merged(layers)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a matrix file is a mapping with the keys {', '.join(Matrix.model_fields)}")
    problems = list(_problems(document, {"folder": path.resolve().parent, "planning": planning}))
    if isinstance(problems[-1], Matrix):
        return problems[-1]
    raise ConfigError(_listed(f"{_place(layers, location)}: {message}" for location, message in problems))


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Give what turns out to be wrong with a matrix only as it is expanded the file and the line of its key."""
    try:
        yield
    except ConfigError as error:
        message = placed(path, f"{error}")
        if message != f"{error}":
            raise ConfigError(message) from error
        raise


def placed(path: Path, message: str) -> str:
    """A message with the file and the line of the key that it begins with; as it is where it begins with none."""
    layers, location = read_layers(path, _read), _first_word(message)
    known = location[:1] and location[0] in Matrix.model_fields
    return f"{_place(layers, location)}: {message}" if known else message


def check_matrix(document: dict[str, Any]) -> Matrix:
    """A matrix from a document that is in no file; its paths begin at the working folder.

    Raises:
        ConfigError: as `load_matrix`, without file and line.
    """
    problems = list(_problems(document, {"folder": Path(), "planning": False}))
    if isinstance(problems[-1], Matrix):
        return problems[-1]
    raise ConfigError(_listed(f"{message}" for _, message in problems))


def _listed(messages: Iterable[str]) -> str:
    """Each message once, a line each, and no more of them than a person reads."""
    lines = list(dict.fromkeys(messages))
    return "\n".join([*lines[:MAX_LINES], *(["and more"] if lines[MAX_LINES:] else [])])


RENAMED = {"stated": "size_hints"}
"""Keys of a matrix file by their old names, which are read with a warning."""


def _read(path: Path) -> tuple[yaml.Node | None, Any]:
    if not is_there(path):
        shown = excerpt(str(path), LONGEST_PATH)
        raise ConfigError(f"{shown}: no such file; give a matrix file, such as `radpo init` writes")
    node = compose(read_text(path), str(path))
    if node is None:
        return None, None
    _rename(path, node)
    return node, construct(node, str(path))


def _place(layers: list[Layer], location: Location) -> str:
    """File and line of the key at a location: of the file that says most of it, the first of those."""
    layer = max(layers, key=lambda layer: depth(layer.document, location))
    return f"{layer.path}" if layer.node is None and layer.document else f"{layer.path}:{_line(layer.node, location)}"


def _rename(path: Path, node: yaml.Node) -> None:
    """Give keys of the file that are called otherwise now their new names."""
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value in RENAMED:
            place = f"{path}:{key.start_mark.line + 1}"
            warnings.warn(f"{place}: {key.value} is called {RENAMED[key.value]} now", FutureWarning, stacklevel=2)
            key.value = RENAMED[key.value]


def _problems(document: dict[str, Any], context: dict[str, Any]) -> Iterator[tuple[Location, str] | Matrix]:
    """Everything that is wrong with a document, as (where it is written, message); the matrix, if nothing is."""
    unusable = [(location, f"{_key(location)}: {message}") for location, message in unusable_values(document)]
    if unusable:
        yield from unusable
        return
    try:
        unfolded = unfold(document)
    except VariantError as error:
        yield error.location, f"{_key(error.location)}: {error}"
        return
    wrong = list(_wrong_variants(unfolded))
    yield from wrong
    try:
        matrix = matrix_type().model_validate(unfolded.document, context=context)
    except ValidationError as error:
        errors = error.errors()[:MAX_ERRORS]
        told = [_written(_location(item, unfolded.document), unfolded) for item in errors]
        problems = [(location, _plain(item, location)) for item, location in zip(errors, told, strict=True)]
        # The matrix as a whole repeats what is wrong with a variant's training; only the first account has its place.
        yield from (problem for problem in problems if not (wrong and problem[1].startswith("variants.")))
        return
    if not wrong:
        yield matrix


def _location(error: Any, document: Any) -> Location:
    """The key that an error is about: where a check of a whole section begins with a key below it, that one."""
    location: Location = error["loc"]
    below = (*location, *_first_word(error["msg"]))
    if not location:
        return below
    reached = depth(document, below)
    return below[:reached] if reached > len(location) else location


def _first_word(message: str) -> Location:
    """The key with which a message about the whole matrix, or a whole section, begins."""
    words = re.match(r"[\w.*=-]+", message.removeprefix("Value error, "))
    parts = words[0].split(".") if words else []
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in parts)


def _wrong_variants(unfolded: Unfolded) -> Iterator[tuple[Location, str]]:
    """What is wrong with the variants' methods and training settings."""
    methods = variant_names()
    common = unfolded.document.get("training") or {}
    for name, settings in (unfolded.document.get("variants") or {}).items() if unfolded.written else ():
        method, training = settings.get("method"), settings.get("training")
        known = method_training(method) if isinstance(method, str) else {}
        if isinstance(method, str) and method not in methods:
            location = _written(("variants", name, "method"), unfolded)
            hint = did_you_mean(method, methods)
            yield location, f"{_key(location)}: {method!r}: no such variant; there are {', '.join(methods)}{hint}"
        if not isinstance(training, dict) or not isinstance(common, dict):
            continue
        try:
            TrainingSettings.model_validate({**common, **known, **training})
        except ValidationError as error:
            for item in error.errors()[:MAX_ERRORS]:
                if not item["loc"] or item["loc"][0] in training:  # else it is the matrix's own, told once
                    location = _written(("variants", name, "training", *item["loc"]), unfolded)
                    yield location, _plain(item, location)


def _written(location: Location, unfolded: Unfolded) -> Location:
    """Where a key of a single variant was written: in its own variant, one it extends, or the matrix's training."""
    if len(location) < 2 or location[0] != "variants" or location[1] not in unfolded.written:
        return location
    chain, rest = unfolded.written[location[1]], location[2:]
    for name in chain:
        if depth(unfolded.original["variants"][name], rest) == len(rest):
            return ("variants", name, *rest)
    swept = rest[0:1] == ("training",) and rest[1:2] and rest[1] in (unfolded.original.get("training") or {})
    return rest if swept else ("variants", chain[0], *rest)


def _line(node: yaml.Node | None, location: Location) -> int:
    """The line on which a key is written; where it is not, that of the nearest thing around it that is."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            break
        key, node = found
        line = key.start_mark.line + 1
    return line


def _key(location: Location) -> str:
    return ".".join(excerpt(str(part)) for part in location) or "(whole file)"


def _plain(error: Any, location: Location) -> str:
    """One pydantic error as: key, what is wrong with which value, what is allowed, the nearest allowed word."""
    key = _key(location)
    if error["type"] == "extra_forbidden" and (broken := _broken_benchmark(location)) is not None:
        return f"{key}: {broken}"
    if error["type"] == "extra_forbidden":
        section = error["loc"][:-1] if error["loc"][:-1] or len(location) == 1 else location[:-1]
        allowed = _allowed(section)
        in_training = location[-2:-1] == ("training",)
        hint = setting_hint(str(error["loc"][-1])) if in_training else did_you_mean(error["loc"][-1], allowed)
        return f"{key}: no such key; allowed: {', '.join(allowed)}{hint}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    message = message.removeprefix(f"{_key(location[len(error['loc']) :])}: ")
    if error["type"] == "literal_error":
        message += did_you_mean(error["input"], re.findall(r"'([^']*)'", error["ctx"]["expected"]))
    if error["type"] == "string_type" and isinstance(error["input"], int | float | datetime.date):
        message += "; YAML reads it as something else than a text: put it in quotes"
    if "endpoint" in location:  # an address may hold a password
        return f"{key}: {message}"
    if isinstance(error["input"], str | int | float | bool | None.__class__) and not SECRET.search(key):
        return f"{key}: {excerpt(repr(error['input']))}: {message}"
    return f"{key}: {message}"


def _broken_benchmark(location: Location) -> str | None:
    """Why a benchmark that a matrix names is not there although its package is installed."""
    entry = plugin_entries(BENCHMARKS).get(str(location[1])) if len(location) == 2 else None
    if entry is None or location[0] != "benchmarks":
        return None
    try:
        load_plugin(BENCHMARKS, entry, Benchmark)
    except ConfigError as error:
        return str(error)
    return None


def _allowed(location: Location) -> list[str]:
    """The keys that a section takes, found by walking the models along a key's path."""
    if location and location[-1] == "training":
        return list(TrainingSettings.model_fields)
    section: Any = matrix_type()
    for part in location:
        fields = {f.alias or name: f for name, f in section.model_fields.items()} if _is_section(section) else {}
        if part in fields:
            section = _section_of(fields[part].annotation)
    return [field.alias or name for name, field in section.model_fields.items()] if _is_section(section) else []


def _section_of(annotation: Any) -> Any:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if _is_section(candidate):
            return candidate
        if getattr(candidate, "__args__", ()) and candidate is not annotation:
            return _section_of(candidate)
    return None


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
