"""Variants as written become variants one by one: `extends` is followed, and every list of values makes its variants.

Works on the plain document, before it is checked, so that a swept value is checked like any other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from radpo.core.suggestions import did_you_mean
from radpo.matrix.settings import GIVEN, Matrix
from radpo.training.settings import TrainingSettings, with_current_names
from radpo.training.variants import find_variant

MAX_CELLS: int = Matrix.model_fields["max_cells"].default
MAX_CHAIN = 50

Location = tuple[Any, ...]


class VariantError(Exception):
    """What is wrong with a variant as written, and where."""

    def __init__(self, location: Location, message: str) -> None:
        super().__init__(message)
        self.location = location


@dataclass(frozen=True)
class Unfolded:
    """A document whose variants are single ones.

    Args:
        original: the document as written.
        written: by the name of each single variant, the chain of variants as written that it comes from, its own first.
    """

    original: dict[str, Any]
    document: dict[str, Any]
    written: Mapping[str, tuple[str, ...]]


def unfold(document: dict[str, Any]) -> Unfolded:
    """Follow `extends`, then make one variant of every combination of swept values.

    A list under `training`, the matrix's or a variant's, is a sweep where the setting takes a single value. A sweep
    in the matrix's own settings goes for every variant that trains and does not set that key itself. Each variant is
    called after its values: `dpo-beta=0.1`.

    Raises:
        VariantError: a variant extends none, or itself.
    """
    document = _with_current_names(document)
    variants, training = document.get("variants"), document.get("training")
    if not isinstance(variants, dict) or not isinstance(training or {}, dict):
        return Unfolded(document, document, {})  # the check of the document says so
    limit = _cells_allowed(document)
    common = {key: value for key, value in (training or {}).items() if _is_sweep(key, value)}
    single: dict[str, Any] = {}
    written: dict[str, tuple[str, ...]] = {}
    for name in variants:
        chain = _chain(name, variants)
        settings = _merged(name, chain, variants)
        own = settings.get("training")
        if not isinstance(own, dict):
            single[name], written[name] = settings, chain
            continue
        merged = {**(common if "method" in settings and _trains(settings["method"]) else {}), **own}
        swept = {key: value for key, value in merged.items() if _is_sweep(key, value)}
        count = len(single) + math.prod(map(len, swept.values()))
        if count > limit:
            raise VariantError(
                ("variants", name),
                f"with it the matrix has {count:,} variants or more, and with its models and seeds more than the "
                f"{document.get('max_cells', MAX_CELLS)} cells that it may have; sweep less, or raise max_cells",
            )
        for values in itertools.product(*swept.values()):
            chosen = dict(zip(swept, values, strict=True))
            label = "-".join([name, *(f"{key}={value}" for key, value in chosen.items())])
            if label in single:
                raise VariantError(("variants", name), f"a second variant of the name {label!r}")
            single[label] = {**settings, "training": {**merged, **chosen}}
            written[label] = chain
    result = {**document, "variants": single}
    if common:
        result["training"] = {key: value for key, value in (training or {}).items() if key not in common}
    return Unfolded(document, result, written)


def _cells_allowed(document: dict[str, Any]) -> float:
    """How many variants the matrix may have, given its models and seeds.

    Raises:
        VariantError: models and seeds alone are more than its cells may be.
    """
    allowed = document.get("max_cells", MAX_CELLS)
    lists = [document.get(key) for key in ("models", "seeds")]
    each = math.prod(len(values) for values in lists if isinstance(values, list) and values)
    if not isinstance(allowed, int):
        allowed = MAX_CELLS  # the check of the document says so
    if each > allowed:
        raise VariantError(
            ("seeds",), f"{each:,} cells of each variant, more than the {allowed} that the matrix may have in all"
        )
    return allowed / each


def _with_current_names(document: dict[str, Any]) -> dict[str, Any]:
    """The document with training settings under their present names, the matrix's own and each variant's."""

    def renamed(section: Any, location: Location) -> Any:
        if not isinstance(section, dict) or not isinstance(section.get("training"), dict):
            return section
        try:
            return {**section, "training": with_current_names(section["training"])}
        except ValueError as error:
            raise VariantError((*location, "training"), str(error)) from error

    document = renamed(document, ())
    if isinstance(document.get("variants"), dict):
        variants = {name: renamed(variant, ("variants", name)) for name, variant in document["variants"].items()}
        document = {**document, "variants": variants}
    return document


def _chain(name: str, variants: Mapping[str, Any]) -> tuple[str, ...]:
    """A variant, the one it extends, the one that extends, and so on."""
    chain = [name]
    while isinstance(settings := variants[chain[-1]], dict) and settings.get("extends") is not None:
        parent, location = settings["extends"], ("variants", chain[-1], "extends")
        if not isinstance(parent, str):
            raise VariantError(location, "must be the name of a variant of this matrix")
        if len(chain) > MAX_CHAIN:
            raise VariantError(location, f"more than {MAX_CHAIN} variants begin with one another")
        if parent in chain:
            raise VariantError(
                location, f"{parent!r}: a variant cannot extend itself ({' -> '.join([*chain, parent])})"
            )
        if parent not in variants:
            known = ", ".join(map(str, variants))
            raise VariantError(
                location, f"{parent!r}: no such variant; there are {known}{did_you_mean(parent, variants)}"
            )
        chain.append(parent)
    return tuple(chain)


def _merged(name: str, chain: tuple[str, ...], variants: Mapping[str, Any]) -> dict[str, Any]:
    """A variant with what it inherits; a method that is nowhere named is the name of the last in the chain."""
    merged: dict[str, Any] = {"training": {}}
    for link in reversed(chain):
        settings = variants[link]
        if settings is None:
            continue
        if not isinstance(settings, dict):
            return {"training": settings}  # fails the check under its own name
        own, inherited = settings.get("training"), merged["training"]
        if own is None:
            own = {}
        merged |= {key: value for key, value in settings.items() if key != "extends"}
        merged["training"] = {**inherited, **own} if isinstance(own, dict) and isinstance(inherited, dict) else own
    if any(merged.get(name) is not None for name in GIVEN):
        return merged  # nothing is trained
    return {"method": chain[-1], **merged}


def _is_sweep(key: str, value: Any) -> bool:
    field = TrainingSettings.model_fields.get(key)
    if field is None or field.annotation is None or not isinstance(value, list) or not value:
        return False
    try:
        TypeAdapter[Any](field.annotation).validate_python(value)
    except ValidationError:
        return True
    return False


def _trains(method: Any) -> bool:
    from radpo.core.errors import ConfigError

    try:
        return find_variant(str(method)).data is not None
    except ConfigError:
        return True  # the check of methods says that there is none
