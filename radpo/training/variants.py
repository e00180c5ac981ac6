"""Alignment variants: each states only how it differs: its training pairs, its loss, whether it takes a goal.

Each is registered in the entry point group `radpo.variants`, as a package's own are: a name, and a `Variant` object
that it points to, or a function that makes training pairs, which stands for a `Variant` of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from radpo.core.plugins import find_plugin, plugin_entries
from radpo.preferences.goals import Placement, Scale
from radpo.preferences.relabel import Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from radpo.training.trainer import PairLoss

MakePairs = Callable[..., "pa.Table"]
"""Scored pairs and where a goal goes come in; training pairs (`radpo.preferences.relabel.training_schema`) go out.

One that has a parameter `scale` is given the lowest and the highest score there can be, which goals are to state.
"""


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


GROUP = "radpo.variants"

BASE = Variant(data=None)
DPO = Variant(data="plain")
RA_DPO = Variant(data="ra", conditioned=True)
# Half the prompts, so that there are as many pairs as DPO has (arXiv 2410.08067, section 5.3).
HALF_RA = Variant(data="half-ra", conditioned=True)
# Implicit rewards of a DPO policy in place of scores (arXiv 2410.08067, section 5.3).
IRA = Variant(data="ira", conditioned=True, rewards_from="dpo")
RA_ATTRIBUTES = Variant(data="attributes", conditioned=True)
# Every response learned under its own score, none pushed down: SteerLM's conditioning (arXiv 2310.05344).
COND_SFT = Variant(data="ra", conditioned=True, training={"loss": "sft", "label_smoothing": 0.0})
# Log-ratios per token (arXiv 2411.15124, section 5.1.2).
DPO_NORM = Variant(data="plain", training={"loss": "sigmoid_norm", "label_smoothing": 0.0})


def variant_names() -> list[str]:
    """All variants that there are, radpo's own first; nothing is imported."""
    return list(plugin_entries(GROUP))


def find_variant(method: str) -> Variant:
    """The variant that goes by a name, radpo's own or from an installed package.

    Raises:
        ConfigError: there is none; the message lists those there are. Or what its entry point names is none.
    """
    return find_plugin(GROUP, method, Variant, what="variant", key="method", adapt=_from_function)


def make_pairs(function: MakePairs, scored: pa.Table, placement: Placement, scale: Scale) -> pa.Table:
    """The training pairs that a variant's own function makes."""
    stated = {"scale": scale} if "scale" in inspect.signature(function).parameters else {}
    return function(scored, placement, **stated)


def method_training(method: str) -> Mapping[str, Any]:
    """The training settings that make a method; none for one that does not exist, which `find_variant` refuses."""
    return find_variant(method).training if method in plugin_entries(GROUP) else {}


def _from_function(found: Any) -> Any:
    return Variant(data=found) if callable(found) else found
