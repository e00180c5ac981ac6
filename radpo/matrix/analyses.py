"""The benchmarks that ask what training did to a checkpoint, as `radpo.matrix.benchmarks` builds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from radpo.benchmarks.builder import Builder, Checkpoint
from radpo.benchmarks.sections import Calibration, Displacement, ImplicitReward, RewardKL
from radpo.engine.graph import Stage
from radpo.matrix.checkpoints import heldout_likelihoods
from radpo.models.generation import Goal


def _implicit_reward(builder: Builder, section: ImplicitReward, scored: Checkpoint) -> Stage | None:
    if scored.train is None:  # the model as it is has no implicit reward: its own reference gives 0 throughout
        return None
    beta = scored.train.settings["training"]["beta"]
    return builder.stage("implicit-reward", scored.who, {"beta": beta}, _both(builder, scored))


def _displacement(builder: Builder, section: Displacement, scored: Checkpoint) -> Stage | None:
    if scored.train is None:  # nothing was trained, so nothing was displaced
        return None
    training = builder.matrix.training
    settings = {**builder.pairs(builder.matrix.data.heldout), "max_length": training.max_length}
    ches = builder.about(None, "ches", "model", settings)
    return builder.stage("displacement", scored.who, {}, {**_both(builder, scored), "ches": ches})


def _reward_kl(builder: Builder, section: RewardKL, scored: Checkpoint) -> Stage:
    questions = builder.questions(section.questions)
    samples = _samples(builder, section, scored, "reward-kl", ["default"], reference=True)
    return builder.stage("reward-kl", scored.who, {**questions, "judge": section.judge}, {"samples": samples})


def _calibration(builder: Builder, section: Calibration, scored: Checkpoint) -> Stage:
    questions = builder.questions(section.questions)
    best_seen = builder.matrix.data.scale[1] if section.best_seen is None else section.best_seen
    samples = _samples(builder, section, scored, "calibration", [None, *section.goals], reference=False)
    settings = {**questions, "judge": section.judge, "best_seen": best_seen}
    return builder.stage("calibration", scored.who, settings, {"samples": samples})


def _both(builder: Builder, scored: Checkpoint) -> dict[str, Stage]:
    training = builder.matrix.training
    return {
        "policy": heldout_likelihoods(builder, scored, training),
        "reference": heldout_likelihoods(builder, None, training),
    }


def _samples(
    builder: Builder,
    section: RewardKL | Calibration,
    scored: Checkpoint,
    what: str,
    goals: list[Goal],
    *,
    reference: bool,
) -> Stage:
    settings = {
        **builder.questions(section.questions),
        "goals": goals,
        "per_prompt": section.per_prompt,
        "max_new_tokens": section.max_new_tokens,
        "batch_size": section.batch_size,
        "seed": scored.seed,
        "scale": list(builder.matrix.data.scale),
        "reference": builder.model if reference else None,
    }
    return builder.about(scored, "samples", f"{scored.who}/{what}", settings)


ANALYSES: dict[str, Callable[[Builder, Any, Checkpoint], Stage | None]] = {
    "implicit-reward": _implicit_reward,
    "displacement": _displacement,
    "reward-kl": _reward_kl,
    "calibration": _calibration,
}
