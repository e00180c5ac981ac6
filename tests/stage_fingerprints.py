"""What source each stage function reaches inside radpo, and the committed record of it.

    python tests/stage_fingerprints.py            # what changed since the record was written
    python tests/stage_fingerprints.py --accept   # no output changed, or the versions were raised: write it anew

A stage's version is raised by hand when a change alters what the stage writes. The record makes a change of the source
noticed: tests/test_stage_fingerprints.py fails until the version is raised or the change is accepted.

The source is read and never run. From a stage's function on, every definition at the top of a module (function, class,
assignment) that a reached one names is reached, too; comments, docstrings and functions' annotations do not count. What
is found by name through an entry point (judges, variants) reaches all of radpo's own of that group.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Another Python may write the same source down otherwise."""
PLUGIN_LOOKUPS = frozenset({"find_plugin", "load_plugins"})

Place = tuple[str, str]
"""A module and a name defined at its top."""


@dataclass
class Module:
    """One module: its definitions by the names that they bind, and what its imports' names stand for."""

    name: str
    folder: Path
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The source of one package."""

    modules: Mapping[str, Module]
    entry_points: Mapping[str, tuple[Place, ...]]

    def closure(self, start: Place) -> dict[str, str]:
        """Every definition that a stage's function reaches, `module:name`, with the hash of its source."""
        found: dict[str, str] = {}
        waiting = [start]
        while waiting:
            place = self.resolve(waiting.pop())
            if place is None or (label := ":".join(place)) in found:
                continue
            module, statement = self.modules[place[0]], self.modules[place[0]].definitions[place[1]]
            found[label] = hash_of(statement)
            waiting += self.named_in(module, statement)
            for file in sorted(files_named_in(module, statement)):
                content = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
                found[f"{module.name}:{file.name}"] = content
        return dict(sorted(found.items()))

    def resolve(self, place: Place) -> Place | None:
        """Where a name is defined, imports followed; None for what is not a definition of the package."""
        seen = set()
        while place not in seen:
            seen.add(place)
            module = self.modules.get(place[0])
            if module is None:
                return None
            if place[1] in module.definitions:
                return place
            if place[1] not in module.imports:
                return None
            place = module.imports[place[1]]
        return None

    def named_in(self, module: Module, statement: ast.stmt) -> Iterator[Place]:
        """What a definition names: names of its module, of its own and the module's imports, attributes of modules."""
        imports = {**module.imports, **imports_in(statement, module.name)}
        stripped = without_annotations(statement)
        for node in ast.walk(stripped):
            if isinstance(node, ast.Name):
                yield imports.get(node.id, (module.name, node.id))
                if node.id in PLUGIN_LOOKUPS:
                    yield from self.own_plugins(module)
            elif isinstance(node, ast.Attribute) and (dotted := dotted_name(node)) is not None:
                first, *rest = dotted.split(".")
                place = imports.get(first)
                for part in rest if place is not None else ():
                    inner = ".".join(filter(None, place))  # type: ignore[arg-type]
                    place = (inner, part)
                    yield place

    def own_plugins(self, module: Module) -> Iterable[Place]:
        """What is registered in the entry point group that a module's GROUP names."""
        group = module.definitions.get("GROUP")
        if isinstance(group, ast.Assign) and isinstance(group.value, ast.Constant):
            return self.entry_points.get(str(group.value.value), ())
        return ()


def read_source(root: Path, package: str) -> Source:
    """The modules of a package, and what its pyproject.toml registers."""
    modules = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = read_module(name, path)
    groups = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("entry-points", {})
    entries = {group: tuple(split(value) for value in lines.values()) for group, lines in groups.items()}
    return Source(modules, entries)


def split(value: str) -> Place:
    module, _, name = value.partition(":")
    return module, name


def read_module(name: str, path: Path) -> Module:
    module = Module(name, path.parent)
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        module.imports |= imports_in(statement, name)
        for bound in names_bound(statement):
            module.definitions.setdefault(bound, statement)
    return module


def names_bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module defines, imports apart."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def imports_in(statement: ast.stmt, importer: str) -> dict[str, Place]:
    """What the names stand for that a statement imports, wherever within it; a module has an empty second part."""
    found: dict[str, Place] = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                base = importer.split(".")[: -node.level]
                origin = ".".join([*base, *filter(None, [node.module])])
            found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                found[alias.asname or first] = (alias.name if alias.asname else first, "")
    return found


def dotted_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted_name(node.value)) is not None:
        return f"{before}.{node.attr}"
    return None


class _Stripped(ast.NodeTransformer):
    """Without docstrings, and without annotations of functions, which change no value."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        every = node.args
        for argument in (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg):
            if argument is not None:
                argument.annotation = None
        node.returns = None
        node.body = [self._plain(inner) for inner in _without_docstring(node.body)] or [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.body = _without_docstring(node.body) or [ast.Pass()]
        return node

    @staticmethod
    def _plain(statement: ast.stmt) -> ast.stmt:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            return ast.Assign(targets=[statement.target], value=statement.value)
        return statement


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """A text that stands by itself anywhere in a body documents it."""
    return [
        statement
        for statement in body
        if not (isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str))
    ]


@cache
def without_annotations(statement: ast.stmt) -> ast.stmt:
    copied = ast.parse(ast.unparse(statement)).body[0]
    stripped: ast.stmt = _Stripped().visit(copied)
    return stripped


@cache
def hash_of(statement: ast.stmt) -> str:
    return hashlib.sha256(ast.dump(without_annotations(statement)).encode()).hexdigest()[:16]


def files_named_in(module: Module, statement: ast.stmt) -> set[Path]:
    """The files beside a module that a definition names, such as a template."""
    texts = {node.value for node in ast.walk(without_annotations(statement)) if isinstance(node, ast.Constant)}
    names = {text for text in texts if isinstance(text, str) and "." in text and "/" not in text and len(text) < 80}
    return {module.folder / name for name in names if not name.endswith(".py") and (module.folder / name).is_file()}


def fingerprints(source: Source, stages: Mapping[str, tuple[Place, int]]) -> dict[str, Any]:
    """The record of stages, given by name as their function's place and their version."""
    definitions: dict[str, str] = {}
    recorded = {}
    for name, (place, version) in sorted(stages.items()):
        reached = source.closure(place)
        definitions |= reached
        digest = hashlib.sha256(json.dumps(reached, sort_keys=True).encode()).hexdigest()
        recorded[name] = {"version": version, "fingerprint": digest[:32], "definitions": len(reached)}
    return {"python": PYTHON, "stages": recorded, "definitions": dict(sorted(definitions.items()))}


def unaccepted(record: Mapping[str, Any], source: Source, stages: Mapping[str, tuple[Place, int]]) -> dict[str, str]:
    """The stages whose source changed while neither their version nor the record did, and what changed, in words."""
    now, found = fingerprints(source, stages), {}
    for name, current in now["stages"].items():
        before = record["stages"].get(name)
        if before is None:
            found[name] = "it is new: its source is not in the record"
        elif before["version"] == current["version"] and before["fingerprint"] != current["fingerprint"]:
            known = record["definitions"]
            reached = source.closure(stages[name][0])
            changed = [place for place, content in reached.items() if known.get(place) != content]
            found[name] = f"changed: {', '.join(changed)}" if changed else "it no longer reaches all that it reached"
    return found


def radpo_stages() -> dict[str, tuple[Place, int]]:
    """Every stage of radpo's own: its function's place and its version."""
    from radpo.benchmarks.registry import function_codes, stage_functions
    from radpo.matrix.training_stages import FUNCTIONS

    return {
        name: ((function.run.__module__, function.run.__qualname__), function.version)
        for name, function in {**FUNCTIONS, **stage_functions()}.items()
        if name not in function_codes()  # another package's
    }


def main(words: list[str]) -> int:
    source, stages = read_source(ROOT, "radpo"), radpo_stages()
    if words == ["--accept"]:
        RECORD.write_text(json.dumps(fingerprints(source, stages), indent=1) + "\n", encoding="utf-8")
        return 0
    changed = unaccepted(json.loads(RECORD.read_text(encoding="utf-8")), source, stages)
    for name, what in changed.items():
        print(f"{name}: {what}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
