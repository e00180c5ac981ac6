"""How a checkpoint is made: relabel -> reference -> train, each a stage that variants share where they can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from radpo.benchmarks.pieces import heldout_likelihoods
from radpo.benchmarks.protocol import Checkpoint, Context
from radpo.benchmarks.served import settled
from radpo.benchmarks.settings import DataFile, TrainingFile
from radpo.benchmarks.sources import plugin_source
from radpo.core.errors import ConfigError
from radpo.core.files import is_there
from radpo.engine.graph import Stage
from radpo.matrix.settings import Data, Matrix, VariantSettings
from radpo.models.chat_template import saved_goal, template_environment
from radpo.models.generation import Goal
from radpo.models.loading import resolve_model
from radpo.preferences.training_pairs import are_training_pairs, have_goals
from radpo.training.settings import TrainingSettings
from radpo.training.variants import GROUP, Variant, find_variant


def checkpoint(context: Context, matrix: Matrix, name: str, seed: int) -> Checkpoint:
    """A variant of the matrix with a seed, and the stage that trains it.

    Raises:
        ConfigError: the variant's method does not exist.
    """
    settings, method = matrix.variants[name], matrix.method_of(name)
    asked: Goal = "default" if settings.goal is None else None if settings.goal == "none" else settings.goal
    if settings.is_given:
        found = _given(context, settings, name, seed)
    else:
        variant = find_variant(method)
        goal = matrix.data.scale[1] if variant.conditioned else None
        trains = variant.data is not None
        train = _train(context, matrix, name, method, matrix.training_for(name), seed) if trains else None
        found = Checkpoint(name, seed, train, goal)
    if matrix.draws is not None:
        found = replace(found, sampling=matrix.levels(seed).sampling)
    return found if asked == "default" else replace(found, goal=asked, asked=asked)


def _given(context: Context, settings: VariantSettings, name: str, seed: int) -> Checkpoint:
    """What is scored as it is; the goal of a checkpoint is its chat template's."""
    if settings.endpoint is not None:
        endpoint = settled(settings.endpoint, context.model_source)
        return Checkpoint(name, seed, None, None, endpoint=endpoint, occasion=context.occasion)
    if settings.answers is not None:
        return Checkpoint(name, seed, None, None, answers=context.file(settings.answers))
    assert settings.checkpoint is not None
    given = context.model_source(settings.checkpoint)
    goal = None if given.absent else saved_goal(resolve_model(given.read_from))
    variables = template_environment(settings.chat_template_kwargs, context.environment)
    return Checkpoint(name, seed, None, goal, given=given, environment=variables)


def _train(context: Context, matrix: Matrix, name: str, method: str, training: TrainingSettings, seed: int) -> Stage:
    variant, data, levels = find_variant(method), matrix.data, matrix.levels(seed)
    if levels.data is not None and data.train is not None:
        data = data.model_copy(update={"train": data.train.model_copy(update={"draw": levels.data})})
    rewarded = None
    if variant.rewards_from is not None:
        policy = _train(context, matrix, f"{name}/rewards", variant.rewards_from, training, seed)
        rewarded = _implicit(context, data.train, policy, training)
    relabeled = _relabeled(context, data.train)
    if relabeled is not None and (rewarded is not None or callable(variant.data)):
        raise ConfigError(f"data.train: holds training pairs, and {method!r} makes its own of scored pairs; give those")
    pairs = relabeled or _relabel(context, data, "train", method, rewarded)
    who = _kind(method) + (data.train.label if data.train is not None else "")
    inputs = {"pairs": pairs, "reference": _reference(context, matrix, who, pairs, training)}
    if data.heldout is not None:
        inputs |= _heldout(context, matrix, variant, method, training)
    settings: dict[str, Any] = {
        "model": context.model,
        "training": training.model_dump(mode="json"),
        "seed": levels.order,
        "conditioned": variant.conditioned if relabeled is None else _asks_for_goals(data.train),
        **data.goals,
    }
    if variant.data == "attributes":
        settings["attribute_scale"] = list(data.attribute_scale)
    if variant.loss is not None:
        settings |= {"method": method, "code": plugin_source(GROUP, method)}
    if matrix.track is not None:
        settings["track"], inputs["tracked"] = matrix.track, context.heldout_pairs()
    called = f"{name}/seed-{seed}"
    trackers = {"trackers": list(matrix.report_to), "project": matrix.name, "run_name": called}
    return context.stage("train", called, settings, inputs, {"save_every": matrix.save_every, "report_to": trackers})


def _relabeled(context: Context, file: TrainingFile | None) -> Stage | None:
    """The stage that reads a file of training pairs, which are trained on as they are; None for scored pairs."""
    if file is None or not is_there(file.path) or not are_training_pairs(file.path):
        return None
    for key in ("share", "draw"):
        if getattr(file, key) is not None:
            raise ConfigError(f"data.train.{key}: is for scored pairs, and data.train holds training pairs")
    # The model is that whose tokenizer a plan counts them with.
    settings = {"pairs": context.file(file.path), "limit": file.limit, "model": context.model}
    return context.stage("training-pairs", "train", settings)


def _asks_for_goals(file: DataFile | None) -> bool:
    return file is not None and have_goals(file.path)


def _heldout(
    context: Context, matrix: Matrix, variant: Variant, method: str, training: TrainingSettings
) -> dict[str, Stage]:
    """The held-out pairs that training is watched on, and what the reference makes of them."""
    # Implicit rewards are known of the training pairs alone: held out, the policy is asked with the scores given.
    judged_by = "ra-dpo" if variant.rewards_from is not None or variant.data == "half-ra" else method
    pairs = _relabel(context, matrix.data, "heldout", judged_by, None)
    if find_variant(judged_by).data in ("plain", "ra"):
        return {"heldout_pairs": pairs, "heldout_likelihoods": heldout_likelihoods(context, None, training)}
    return {
        "heldout_pairs": pairs,
        "heldout_reference": _reference(context, matrix, f"heldout/{_kind(judged_by)}", pairs, training),
    }


def _reference(context: Context, matrix: Matrix, who: str, pairs: Stage, training: TrainingSettings) -> Stage:
    """log p under the model that training starts from: the same for all seeds, betas, losses and learning rates."""
    hints = {} if matrix.drops_overlong else {"stop_at_overlong": "held-out" if "/" in who else "training"}
    settings = {"model": context.model, "max_length": training.max_length, "precision": training.precision}
    return context.stage("reference", who, settings, {"pairs": pairs}, hints)


def _implicit(context: Context, scored: DataFile | None, policy: Stage, training: TrainingSettings) -> Stage:
    """The scored training pairs with what a trained policy and its reference make of them."""
    settings = {
        "model": context.model,
        "max_length": training.max_length,
        "precision": training.precision,
    }
    return context.stage(
        "implicit", policy.name.partition("/")[2], settings, {"policy": policy, "pairs": context.pairs(scored, "train")}
    )


def _relabel(context: Context, data: Data, split: str, method: str, rewarded: Stage | None) -> Stage:
    variant = find_variant(method)
    own = callable(variant.data)
    made_of = {"method": method, "code": plugin_source(GROUP, method)} if own else {"kind": variant.data}
    file = data.train if split == "train" else data.heldout
    settings = {"model": context.model, **data.goals, **made_of}
    if variant.data == "attributes":
        settings["attribute_scale"] = list(data.attribute_scale)
    inputs = {"pairs": context.pairs(file, split), **({} if rewarded is None else {"scored": rewarded})}
    label = file.label if file is not None else ""
    return context.stage("relabel", f"{split}/{_kind(method)}{label}", settings, inputs)


def _kind(method: str) -> str:
    """What training pairs are called: methods of one kind share them, and all that depends on them alone."""
    data = find_variant(method).data
    return method if callable(data) else str(data)
