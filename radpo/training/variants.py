"""Alignment variants: each states only how it differs: its training pairs, its loss, whether it takes a goal.

A package adds its own through the entry point group `radpo.variants`: a name, and a `Variant` object that it points to,
or a function that makes training pairs, which stands for a `Variant` of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ConfigError
from radpo.preferences.goals import Placement
from radpo.preferences.relabel import Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from radpo.training.trainer import PairLoss

MakePairs = Callable[["pa.Table", Placement], "pa.Table"]
"""Scored pairs and where a goal goes come in; training pairs (`radpo.preferences.relabel.training_schema`) go out."""


@dataclass(frozen=True)
class Variant:
    """One way to align a model.

    Args:
        data: how scored pairs become training pairs: a kind of `radpo.preferences.relabel`, or a function of one's own;
            None where nothing is trained.
        conditioned: whether the checkpoint is asked for a goal score, so that its chat template carries one.
        training: training settings that make the method; a matrix file's settings for the variant go over them.
        loss: a loss of one's own (`radpo.training.trainer.PairLoss`) instead of one of TRL's.
        rewards_from: the method whose policy, trained first with the same settings, gives implicit rewards in place of
            scores (for the kind `ira`).
    """

    data: Kind | MakePairs | None
    conditioned: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    loss: PairLoss | None = None
    rewards_from: str | None = None


BUILT_IN = {
    "base": Variant(data=None),
    "dpo": Variant(data="plain"),
    "ra-dpo": Variant(data="ra", conditioned=True),
    # Half the prompts, so that there are as many pairs as DPO has (arXiv 2410.08067, section 5.3).
    "half-ra": Variant(data="half-ra", conditioned=True),
    # Implicit rewards of a DPO policy in place of scores (arXiv 2410.08067, section 5.3).
    "ira": Variant(data="ira", conditioned=True, rewards_from="dpo"),
    "ra-attributes": Variant(data="attributes", conditioned=True),
    # Every response learned under its own score, none pushed down: SteerLM's conditioning (arXiv 2310.05344).
    "cond-sft": Variant(data="ra", conditioned=True, training={"loss": "sft", "label_smoothing": 0.0}),
    # Log-ratios per token (arXiv 2411.15124, section 5.1.2).
    "dpo-norm": Variant(data="plain", training={"loss": "sigmoid_norm", "label_smoothing": 0.0}),
}


def find_variant(method: str) -> Variant:
    """The variant that goes by a name, built in or from an installed package.

    Raises:
        ConfigError: there is none; the message lists those there are. Or what its entry point names is none.
    """
    if method in BUILT_IN:
        return BUILT_IN[method]
    installed = _installed()
    if method not in installed:
        raise ConfigError(f"method {method!r}: no such variant; there are {', '.join([*BUILT_IN, *sorted(installed)])}")
    entry = installed[method]
    try:
        variant = entry.load()
    except Exception as error:  # whatever the import of another's package raises
        raise ConfigError(f"method {method!r}: its entry point {entry.value} cannot be imported ({error})") from error
    if isinstance(variant, Variant):
        return variant
    if callable(variant):
        return Variant(data=variant)
    raise ConfigError(f"method {method!r}: its entry point {entry.value} is neither a radpo Variant nor a function")


def method_training(method: str) -> Mapping[str, Any]:
    """The training settings that make a method; none for one that does not exist, which `find_variant` refuses."""
    return find_variant(method).training if method in BUILT_IN or method in _installed() else {}


def variant_code(method: str) -> str | None:
    """What identifies the code of a variant from an installed package, for keys; None for one built in."""
    if method in BUILT_IN:
        return None
    entry = _installed()[method]
    name, version = (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")
    spec = importlib.util.find_spec(entry.module)
    source = Path(spec.origin).read_bytes() if spec and spec.origin and Path(spec.origin).is_file() else b""
    return f"{name}=={version} {entry.value} sha256:{hashlib.sha256(source).hexdigest()}"


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="radpo.variants")}
