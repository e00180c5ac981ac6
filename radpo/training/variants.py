"""Alignment variants: each states only how it differs, that is, which pairs it trains on and whether it takes a goal.

A package adds its own through the entry point group `radpo.variants`: a name, and a `Variant` object it points to.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points

from radpo.data.relabel import Kind
from radpo.errors import ConfigError


@dataclass(frozen=True)
class Variant:
    """One way to align a model.

    Args:
        data: how scored pairs become training pairs (`radpo.data.relabel`), None where nothing is trained.
        conditioned: whether the checkpoint is asked for a goal score, so that its chat template carries one.
    """

    data: Kind | None
    conditioned: bool = False


BUILT_IN = {
    "base": Variant(data=None),
    "dpo": Variant(data="plain"),
    "ra-dpo": Variant(data="ra", conditioned=True),
}


def find_variant(method: str) -> Variant:
    """The variant that goes by a name, built in or from an installed package.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if method in BUILT_IN:
        return BUILT_IN[method]
    installed = {entry.name: entry for entry in entry_points(group="radpo.variants")}
    if method not in installed:
        raise ConfigError(f"method {method!r}: no such variant; there are {', '.join([*BUILT_IN, *sorted(installed)])}")
    variant = installed[method].load()
    if not isinstance(variant, Variant):
        raise ConfigError(f"method {method!r}: its entry point {installed[method].value} is not a radpo Variant")
    return variant
