"""Parts of the reference pages that are made from the code, so that they cannot differ from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


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
