"""How a checkpoint is made: relabel -> reference -> train, each a stage that variants share where they can."""

from __future__ import annotations

from radpo.config import DataFile
from radpo.matrix.builder import Builder, Checkpoint
from radpo.matrix.graph import Stage
from radpo.training.settings import TrainingSettings
from radpo.training.variants import Variant, find_variant


def checkpoint(builder: Builder, name: str, seed: int) -> Checkpoint:
    """A variant of the matrix with a seed, and the stage that trains it.

    Raises:
        ConfigError: the variant's method does not exist.
    """
    settings = builder.matrix.variants[name]
    variant = find_variant(settings.method or name)
    goal = builder.matrix.data.scale[1] if variant.conditioned else None
    if variant.data is None:
        return Checkpoint(name, seed, None, goal)
    return Checkpoint(name, seed, _train(builder, name, variant, builder.matrix.training_for(settings), seed), goal)


def heldout_likelihoods(builder: Builder, scored: Checkpoint | None, training: TrainingSettings) -> Stage:
    """Log-likelihoods of the held-out responses under a checkpoint; under the matrix's model for None."""
    settings = {
        **builder.pairs(builder.matrix.data.heldout),
        "max_length": training.max_length,
        "precision": training.precision,
    }
    who = "model" if scored is None or scored.train is None else scored.who
    return builder.about(scored, "likelihood", who, settings)


def _train(builder: Builder, name: str, variant: Variant, training: TrainingSettings, seed: int) -> Stage:
    data = builder.matrix.data
    pairs = _relabel(builder, "train", data.train, variant)
    reference = builder.stage(
        "reference",
        f"{variant.data}",
        {"model": builder.model, "max_length": training.max_length, "precision": training.precision},
        {"pairs": pairs},
    )
    return builder.stage(
        "train",
        f"{name}/seed-{seed}",
        {
            "model": builder.model,
            "training": training.model_dump(),
            "seed": seed,
            "conditioned": variant.conditioned,
            "best": data.scale[1],
        },
        {
            "pairs": pairs,
            "reference": reference,
            "heldout_pairs": _relabel(builder, "heldout", data.heldout, variant),
            "heldout_reference": heldout_likelihoods(builder, None, training),
        },
        {"save_every": builder.matrix.save_every},
    )


def _relabel(builder: Builder, split: str, file: DataFile, variant: Variant) -> Stage:
    settings = {**builder.pairs(file), "kind": variant.data, "model": builder.model}
    return builder.stage("relabel", f"{split}/{variant.data}", settings)
