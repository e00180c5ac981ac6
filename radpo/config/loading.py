"""Reading a matrix file: YAML comes in, a checked `Matrix` goes out, or an error that says where and what to mend."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from radpo.config.matrix import Matrix
from radpo.errors import ConfigError


def load_matrix(path: Path) -> Matrix:
    """Read and check a matrix file.

    Raises:
        ConfigError: the file is missing, is no YAML, or does not say what a matrix needs.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a matrix file such as benchmarks/quickstart.yaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a matrix file is a mapping with the keys {', '.join(Matrix.model_fields)}")
    try:
        return Matrix.model_validate(document, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_plain(item, document)}" for item in error.errors())) from error


def _plain(error: Any, document: dict[str, Any]) -> str:
    """One pydantic error as: key, what is wrong with which value, what is allowed."""
    key = ".".join(map(str, error["loc"])) or "(whole file)"
    if error["type"] == "extra_forbidden":
        allowed = _allowed(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{key}: no such key; allowed: {', '.join(allowed)}{hint}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], str | int | float | bool | None.__class__):
        return f"{key}: {error['input']!r}: {message}"
    return f"{key}: {message}"


def _allowed(location: tuple[Any, ...]) -> list[str]:
    """The keys that a section takes, found by walking the models along a key's path."""
    section: Any = Matrix
    for part in location:
        fields = {f.alias or name: f for name, f in section.model_fields.items()} if _is_section(section) else {}
        if part in fields:
            section = _section_of(fields[part].annotation)
    return [field.alias or name for name, field in section.model_fields.items()] if _is_section(section) else []


def _section_of(annotation: Any) -> Any:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if _is_section(candidate):
            return candidate
    return None


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
