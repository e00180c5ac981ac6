"""How a checkpoint is made: relabel -> reference -> train, each a stage that variants share where they can."""

from __future__ import annotations

from typing import Any

from radpo.benchmarks.builder import Builder, Checkpoint
from radpo.benchmarks.section import DataFile
from radpo.engine.graph import Stage
from radpo.training.settings import TrainingSettings
from radpo.training.variants import find_variant, variant_code


def checkpoint(builder: Builder, name: str, seed: int) -> Checkpoint:
    """A variant of the matrix with a seed, and the stage that trains it.

    Raises:
        ConfigError: the variant's method does not exist.
    """
    method = builder.matrix.variants[name].method or name
    variant = find_variant(method)
    goal = builder.matrix.data.scale[1] if variant.conditioned else None
    if variant.data is None:
        return Checkpoint(name, seed, None, goal)
    return Checkpoint(name, seed, _train(builder, name, method, builder.matrix.training_for(name), seed), goal)


def heldout_likelihoods(builder: Builder, scored: Checkpoint | None, training: TrainingSettings) -> Stage:
    """Log-likelihoods of the held-out responses under a checkpoint; under the matrix's model for None."""
    settings = {
        **builder.pairs(builder.matrix.data.heldout),
        "max_length": training.max_length,
        "precision": training.precision,
    }
    who = "model" if scored is None or scored.train is None else scored.who
    return builder.about(scored, "likelihood", who, settings)


def _train(builder: Builder, name: str, method: str, training: TrainingSettings, seed: int) -> Stage:
    variant, data, matrix = find_variant(method), builder.matrix.data, builder.matrix
    rewarded = None
    if variant.rewards_from is not None:
        policy = _train(builder, f"{name}/rewards", variant.rewards_from, training, seed)
        rewarded = _implicit(builder, policy, training)
    pairs = _relabel(builder, "train", data.train, method, rewarded)
    inputs = {"pairs": pairs, "reference": _reference(builder, _kind(method), pairs, training)}
    # Implicit rewards are known of the training pairs alone: held out, the policy is asked with the scores given.
    judged_by = "ra-dpo" if variant.rewards_from is not None or variant.data == "half-ra" else method
    heldout = _relabel(builder, "heldout", data.heldout, judged_by, None)
    inputs["heldout_pairs"] = heldout
    if find_variant(judged_by).data in ("plain", "ra"):
        inputs["heldout_likelihoods"] = heldout_likelihoods(builder, None, training)
    else:
        inputs["heldout_reference"] = _reference(builder, f"heldout/{_kind(judged_by)}", heldout, training)
    settings: dict[str, Any] = {
        "model": builder.model,
        "training": training.model_dump(mode="json"),
        "seed": seed,
        "conditioned": variant.conditioned,
        "scale": list(data.scale),
    }
    if variant.data == "attributes":
        settings["attribute_scale"] = list(data.attribute_scale)
    if variant.loss is not None:
        settings |= {"method": method, "code": variant_code(method)}
    if matrix.track is not None:
        settings |= {"track": matrix.track, "tracked": builder.pairs(data.heldout)}
    hints = {"save_every": matrix.save_every, "report_to": list(matrix.report_to)}
    return builder.stage("train", f"{name}/seed-{seed}", settings, inputs, hints)


def _reference(builder: Builder, who: str, pairs: Stage, training: TrainingSettings) -> Stage:
    """log p under the model that training starts from: the same for all seeds, betas, losses and learning rates."""
    settings = {"model": builder.model, "max_length": training.max_length, "precision": training.precision}
    return builder.stage("reference", who, settings, {"pairs": pairs})


def _implicit(builder: Builder, policy: Stage, training: TrainingSettings) -> Stage:
    """The scored training pairs with what a trained policy and its reference make of them."""
    settings = {
        **builder.pairs(builder.matrix.data.train),
        "model": builder.model,
        "max_length": training.max_length,
        "precision": training.precision,
    }
    return builder.stage("implicit", policy.name.partition("/")[2], settings, {"policy": policy})


def _relabel(builder: Builder, split: str, file: DataFile, method: str, rewarded: Stage | None) -> Stage:
    variant = find_variant(method)
    made_by = {"method": method, "code": variant_code(method)} if callable(variant.data) else {"kind": variant.data}
    settings = {**builder.pairs(file), "model": builder.model, **made_by}
    if variant.data == "attributes":
        settings["attribute_scale"] = list(builder.matrix.data.attribute_scale)
    inputs = {} if rewarded is None else {"scored": rewarded}
    return builder.stage("relabel", f"{split}/{_kind(method)}", settings, inputs)


def _kind(method: str) -> str:
    """What training pairs are called: methods of one kind share them, and all that depends on them alone."""
    data = find_variant(method).data
    return method if callable(data) else str(data)
