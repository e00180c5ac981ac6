"""Which files lm-eval's tasks are made of, found in their YAML without lm-eval, which takes seconds to import.

A task's file, those that it includes, the Python modules that its functions are in, its local data, and the same of the
tasks that a group gathers. What such a module opens by itself is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from radpo.core.files import is_file
from radpo.engine.sources import files_of

YAML = (".yaml", ".yml")


class Function(str):
    """The value of a `!function` tag: a module beside the file, and what is in it."""

    __slots__ = ()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads functions as their names."""


_Loader.add_multi_constructor("!", lambda loader, tag, node: Function(node.value))


def split_shots(entry: str) -> tuple[str, str]:
    """A task's name or file, and `:N` for N few-shot examples, which may be empty."""
    name, sign, shots = entry.rpartition(":")
    return (name, f":{shots}") if sign and shots.isdecimal() else (entry, "")


def files_outside(tasks: Sequence[str], include: Path | None) -> list[Path]:
    """The files that tasks are made of and that the folder `include` does not hold, in a fixed order, each once.

    Args:
        tasks: names or YAML files, without few-shot counts; what is neither in `include` nor a file is lm-eval's own.
    """
    held = {file.resolve() for file in files_of(include)} if include is not None and include.is_dir() else set()
    index = _Index()
    if include is not None:
        index.read_folder(include)
    for name in tasks:
        if name.endswith(YAML):
            index.follow_file(Path(name))
        else:
            index.follow(name)
    return [file for file in dict.fromkeys(index.found) if is_file(file) and file.resolve() not in held]


@dataclass
class _Index:
    """Tasks, groups and tags by name, and the files found so far."""

    by_name: dict[str, list[Path]] = field(default_factory=dict)
    found: list[Path] = field(default_factory=list)
    followed: set[Any] = field(default_factory=set)

    def read_folder(self, folder: Path) -> None:
        for file in sorted(folder.rglob("*.y*ml")) if folder.is_dir() else ():
            config = read_task(file)
            tags = config.get("tag") or []
            named = [config.get("task"), config.get("group"), *(tags if isinstance(tags, list) else [tags])]
            for name in named:
                if isinstance(name, str):
                    self.by_name.setdefault(name, []).append(file)

    def follow(self, name: str) -> None:
        for file in self.by_name.get(name, ()):
            self.follow_file(file)

    def follow_file(self, file: Path) -> None:
        if file in self.followed:
            return
        self.followed.add(file)
        config = read_task(file)
        if isinstance(config.get("group"), str):
            self.read_folder(file.parent)
        self.found.append(file)
        self._add(config, file.parent, file.parent)

    def _add(self, config: Mapping[str, Any], folder: Path, task_folder: Path) -> None:
        """What a configuration names: data and members from its task's folder on, the rest from its own file's."""
        for function in _functions(config):
            module = folder / f"{function.rpartition('.')[0].replace('.', '/')}.py"
            if module.is_file():
                self.found += sorted(module.parent.glob("*.py"))
        included = config.get("include") or []
        for name in included if isinstance(included, list) else [included]:
            file = folder / str(name)
            if (file, task_folder) not in self.followed:
                self.followed.add((file, task_folder))
                self.found.append(file)
                self._add(read_task(file), file.parent, task_folder)
        self.found += _data(config, task_folder)
        members = config.get("task")
        for member in members if isinstance(members, list) else ():
            if isinstance(member, str):
                self.follow(member)
            elif isinstance(member, Mapping):
                if isinstance(member.get("task"), str):
                    self.follow(member["task"])
                self._add(member, folder, task_folder)


def read_task(file: Path) -> Mapping[str, Any]:
    """A task's file; nothing where it cannot be read, which lm-eval then says."""
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _functions(value: Any) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _functions(inner)


def _data(config: Mapping[str, Any], folder: Path) -> list[Path]:
    """The local files that a task's data are read from."""
    kwargs = config.get("dataset_kwargs")
    named = kwargs.get("data_files") if isinstance(kwargs, Mapping) else None
    found = [path for name in _texts(named) if "://" not in name for path in _expanded(folder / name)]
    local = local_dataset(config.get("dataset_path"), folder)
    return found + ([] if local is None else files_of(local))


def local_dataset(path: Any, folder: Path) -> Path | None:
    """The folder or file that a task's `dataset_path` leads to, from its YAML's folder or the working one on.

    None where it is the name of a format (`json`) or of a data set on the Hub.
    """
    if not isinstance(path, str) or ("/" not in path and not path.startswith(".")):
        return None
    return next((place for place in ((folder / path).resolve(), Path(path).resolve()) if place.exists()), None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def _expanded(path: Path) -> list[Path]:
    """A file, or what a pattern with `*`, `?` or `[` stands for."""
    if not any(sign in str(path) for sign in "*?["):
        return [path]
    fixed = path
    while any(sign in str(fixed) for sign in "*?["):
        fixed = fixed.parent
    return sorted(fixed.glob(path.relative_to(fixed).as_posix()))
