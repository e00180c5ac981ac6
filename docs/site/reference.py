"""Parts of the reference pages that are made from the code, so that they cannot differ from it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KINDS = {"STR": "TEXT", "INT": "INTEGER", "FLOAT": "NUMBER", "TUPLE": "LOW HIGH", "LIST": "TEXT"}


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    import typer

    from radpo.cli.main import app

    return "\n".join(_command(typer.main.get_command(app), "radpo"))


def _command(command: Any, name: str) -> Iterator[str]:
    """One command, or a group's commands one after another."""
    context = command.context_class(command)
    if hasattr(command, "list_commands"):
        for word in command.list_commands(context):
            yield from _command(command.get_command(context, word), f"{name} {word}")
        return
    yield f"## `{name}`\n"
    yield f"{_plain(command.help or '')}\n"
    shown = [each for each in command.params if not getattr(each, "hidden", False) and each.name != "help"]
    if shown:
        yield "| | | |\n| --- | --- | --- |"
    for each in shown:
        argument = each.param_type_name == "argument"
        kind = each.metavar or getattr(each.type_descriptor.annotation, "__name__", "text").upper()
        name = f"`{kind if each.metavar else each.name.upper()}`" if argument else _names(each)
        kind = KINDS.get(kind, kind)
        taken = "" if argument or getattr(each, "is_flag", False) else kind
        needed = " Required." if each.required and not argument else ""
        yield f"| {name} | {_cell(taken)} | {_cell(getattr(each, 'help', '') or '')}{needed}{_default(each)} |"
    yield ""


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    """The default in words, where it says something."""
    value = option.default
    if value is None or callable(value) or value in (False, [], ()) or getattr(option, "is_flag", False):
        return ""
    return f" Default: `{' '.join(map(str, value)) if isinstance(value, (tuple, list)) else value}`."


def _plain(text: str) -> str:
    """A docstring's paragraphs, each on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))


def _cell(text: str) -> str:
    """A text as one cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def matrix() -> str:
    """Every key of a matrix file, from its JSON schema."""
    from radpo.matrix.schema import matrix_schema

    schema = matrix_schema()
    sections = {"": schema} | {
        f"`{name}`": schema["$defs"][kind]
        for name, kind in (
            ("data", "Data"), ("data.train and data.heldout, and every questions", "DataFile"),
            ("variants.NAME", "VariantSettings"), ("training", "TrainingSettings"), ("training.lora", "Lora"),
            ("endpoint, and a judge of kind openai", "Endpoint"), ("judge", "JudgeSettings"),
            ("resources.FUNCTION", "Resources"), ("include and exclude", "Cells"), ("size_hints", "SizeHints"),
        )
    }  # fmt: skip
    for name, setting in schema["$defs"]["Benchmarks"]["properties"].items():
        reference = next((each["$ref"] for each in setting.get("anyOf", []) if "$ref" in each), None)
        if reference:
            described = schema["$defs"][reference.rpartition("/")[2]]
            sections[f"`benchmarks.{name}`"] = {**described, "description": setting.get("description", "")}
    return "\n".join(line for title, section in sections.items() for line in _section(title, section))


def _section(title: str, section: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {title or 'The whole file'}\n"
    if title and section.get("description"):
        yield f"{_plain(section['description'])}\n"
    yield "| key | value | default | |\n| --- | --- | --- | --- |"
    required = section.get("required", [])
    for key, setting in section.get("properties", {}).items():
        default = setting.get("default")
        shown = "required" if key in required else f"`{default}`" if default not in (None, "", [], {}) else ""
        if isinstance(default, dict) and default:
            shown = ""
        yield f"| `{key}` | {_cell(_kind(setting))} | {shown} | {_cell(setting.get('description', ''))} |"
    yield ""


def _kind(setting: Mapping[str, Any]) -> str:
    """A schema's type in words."""
    if "enum" in setting:
        return ", ".join(f"`{each}`" for each in setting["enum"])
    if "const" in setting:
        return f"`{setting['const']}`"
    if "anyOf" in setting:
        kinds = dict.fromkeys(_kind(each) for each in setting["anyOf"] if each.get("type") != "null")
        return " or ".join(kinds)
    if "$ref" in setting:
        name = setting["$ref"].rpartition("/")[2]
        return "section" if "__" in name or name[:1].isupper() else name
    kind = str(setting.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(setting['items'])}" if isinstance(setting.get("items"), dict) else "list"
    bounds = [f"{sign} {setting[key]:g}" for key, sign in _BOUNDS.items() if key in setting]
    return {"object": "mapping", "string": "text"}.get(kind, kind) + (f" {', '.join(bounds)}" if bounds else "")


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def tables() -> str:
    """The tables of a run directory: names and types of their columns, and what they hold."""
    from radpo.core import results, run
    from radpo.core.published import COLUMNS

    types: dict[str, Mapping[str, str]] = {
        "results": results.RESULT_DTYPES, "examples": results.EXAMPLE_DTYPES, "comparisons": results.COMPARISON_DTYPES
    }  # fmt: skip
    for name, columns in (
        ("likelihoods", run.LIKELIHOODS), ("training", run.TRAINING), ("trajectory", run.TRAJECTORY),
        ("verdicts", run.PANEL), ("published", COLUMNS),
    ):  # fmt: skip
        types[name] = dict.fromkeys(columns, "")
    words = dict(re.findall(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", run.Run.__doc__ or "", re.M | re.S))
    lines = []
    for name, columns in types.items():
        ending = "csv" if name == "published" else "parquet"
        lines += [f"## `{name}.{ending}`", "", _plain(words[name]).strip(), ""]
        listed = ", ".join(f"`{column}`" + (f" ({kind})" if kind else "") for column, kind in columns.items())
        lines += [f"Columns: {listed}.", ""]
    return "\n".join(lines)


def errors() -> str:
    """The family of errors with their exit statuses, read from the source."""
    package = Path(str(importlib.util.find_spec("radpo").submodule_search_locations[0]))  # type: ignore[union-attr,index]
    classes = {
        node.name: (node, path.relative_to(package.parent).with_suffix("").as_posix().replace("/", "."))
        for path in sorted(package.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    rows = ["| error | exit status | module | |", "| --- | ---: | --- | --- |"]
    family = {"RadpoError": 2}
    waiting = ["RadpoError"]
    while waiting:
        name = waiting.pop(0)
        node, module = classes[name]
        status = family[name] = _exit_status(node, family[name])
        about = (ast.get_docstring(node) or "").split("\n\n")[0]
        rows.append(f"| `{name}` | {status} | `{module}` | {_cell(about)} |")
        below = [each for each, (child, _) in classes.items() if name in {getattr(b, "id", "") for b in child.bases}]
        family |= dict.fromkeys(below, status)
        waiting += below
    return "\n".join(rows)


def _exit_status(node: ast.ClassDef, inherited: int) -> int:
    """What the class sets its exit status to, else that of its base."""
    for line in node.body:
        if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "exit_status":
            return int(ast.literal_eval(line.value))
    return inherited
