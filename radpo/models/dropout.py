"""Dropout of every kind switched off for preference training, whose reference is computed without it.

TRL's `disable_dropout` knows `nn.Dropout` alone. Attention in transformers takes its probability from a number on its
module (`attention_dropout` of Granite, StarCoder2, ...), `layerdrop` drops whole layers, and routers of experts add
noise (`router_jitter_noise`). While any of them is on, policy and reference differ before the first step, by noise that
the loss then trains on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ModelError

if TYPE_CHECKING:
    import torch

_MARKS = ("drop", "jitter", "noise")
"""Parts of the names that transformers' models and configurations give to what is random in training."""


@dataclass(frozen=True)
class DropoutOff:
    """What was switched off.

    Args:
        configured: configuration, name and value of what a model's configurations said.
    """

    configured: tuple[tuple[Any, str, float], ...]

    def restore_config(self) -> None:
        """Give the configurations their values back, so that a checkpoint's config.json is the base model's."""
        for config, name, value in self.configured:
            setattr(config, name, value)


def disable_dropout(model: torch.nn.Module) -> DropoutOff:
    """Set every probability of dropout and every amount of noise in a model to 0: modules, numbers on them, configs."""
    import torch

    configs: list[Any] = []
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, _ in _random(vars(module)):
            setattr(module, name, 0.0)
        found = vars(module).get("config")
        if found is not None and all(found is not known for known in configs):
            configs.append(found)
    text = getattr(getattr(model, "config", None), "get_text_config", lambda: None)()
    if text is not None and all(text is not known for known in configs):
        configs.append(text)
    configured = tuple((config, name, value) for config in configs for name, value in _random(vars(config)))
    for config, name, _ in configured:
        setattr(config, name, 0.0)
    return DropoutOff(configured)


def _random(attributes: dict[str, Any]) -> list[tuple[str, float]]:
    """The probabilities and amounts of noise among an object's attributes that are not 0."""
    return [
        (name, value)
        for name, value in attributes.items()
        if isinstance(value, float) and 0 < value <= 1 and any(mark in name for mark in _MARKS)
    ]


def check_deterministic(model: torch.nn.Module) -> None:
    """Try out, on twelve tokens, that a model computes in training, twice, what it computes in evaluation.

    Raises:
        ModelError: it does not.
    """
    import torch

    weight = next(model.parameters())
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(12, device=weight.device) % min(size, 97))[None]
    training = model.training
    try:
        with torch.no_grad():
            found = [model.train(mode)(input_ids=ids, use_cache=False).logits.float() for mode in (True, True, False)]
    finally:
        model.train(training)
    spread = float(found[2].std())
    apart = max(float((logits - found[2]).abs().max()) for logits in found[:2])
    if apart > 1e-3 * max(spread, 1e-6):
        raise ModelError(
            f"{type(model).__name__} computes something else in training than in evaluation (logits apart by "
            f"{apart:.2g}, their spread is {spread:.2g}), though every dropout that it names is off: the policy would "
            "not begin as its own reference; set what is random in it to 0 in config.json"
        )
