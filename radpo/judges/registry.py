"""Judges by name: a name comes in, perhaps with a model, and a judge goes out.

A package adds its own through the entry point group `radpo.judges`: a name, and a function that takes what follows the
colon in `--judge NAME:MODEL` (empty where nothing does) and returns a `radpo.judges.base.Judge`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import cast

from radpo.errors import ConfigError
from radpo.judges.base import Judge


def find_judge(asked: str) -> Judge:
    """The judge that goes by a name, built in or from an installed package.

    Args:
        asked: NAME, or NAME:MODEL for a judge that works with a model.

    Raises:
        ConfigError: there is none of this name; the message lists those there are.
    """
    name, _, model = asked.partition(":")
    if name == "verifier":
        from radpo.judges.verifier import Verifier

        if model:
            raise ConfigError(f"judge {asked!r}: the verifier is a program and takes no model")
        return Verifier()
    installed = {entry.name: entry for entry in entry_points(group="radpo.judges")}
    if name not in installed:
        raise ConfigError(f"judge {name!r}: no such judge; there are {', '.join(['verifier', *sorted(installed)])}")
    judge = installed[name].load()(model)
    if not callable(getattr(judge, "grade", None)) or not isinstance(getattr(judge, "name", None), str):
        raise ConfigError(f"judge {name!r}: its entry point {installed[name].value} makes no judge (name, grade)")
    return cast(Judge, judge)
