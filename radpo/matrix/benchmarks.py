"""How a checkpoint is scored: for every benchmark section of a matrix file, the function that builds its stages.

A benchmark's function gets its section and the checkpoint, and returns the one stage whose folder holds
`results.parquet`, `examples.parquet` and `notes.json` (`radpo.results.write_scores`), or None where there is nothing to
score, as when the baseline would be compared with itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from radpo.config.benchmarks import Academic, AlpacaEval, MTBench, SamplingSettings, Style, Unlearning
from radpo.config.section import DataFile
from radpo.matrix.analyses import ANALYSES
from radpo.matrix.builder import Builder, Checkpoint
from radpo.matrix.graph import Stage
from radpo.matrix.training import checkpoint, heldout_likelihoods


def _unlearning(builder: Builder, section: Unlearning, scored: Checkpoint) -> Stage:
    training = builder.matrix.training
    return builder.stage(
        "unlearning",
        scored.who,
        {"high_score": section.high_score},
        {
            "policy": heldout_likelihoods(builder, scored, training),
            "reference": heldout_likelihoods(builder, None, training),
        },
    )


def _alpaca_eval(builder: Builder, section: AlpacaEval, scored: Checkpoint) -> Stage | None:
    baseline = builder.matrix.baseline
    if scored.variant == baseline:
        return None
    return builder.stage(
        "alpaca-eval",
        scored.who,
        {
            **builder.questions(section.questions),
            "variant": scored.variant,
            "baseline": baseline,
            "goal": scored.goal,
        },
        {
            "answers": _answers(builder, scored, section.questions, section.sampling),
            "baseline_answers": _answers(
                builder, checkpoint(builder, baseline, scored.seed), section.questions, section.sampling
            ),
        },
    )


def _mt_bench(builder: Builder, section: MTBench, scored: Checkpoint) -> Stage:
    return builder.stage(
        "mt-bench",
        scored.who,
        {**builder.questions(section.questions), "goal": scored.goal},
        {"answers": _answers(builder, scored, section.questions, section.sampling)},
    )


def _academic(builder: Builder, section: Academic, scored: Checkpoint) -> Stage:
    settings: dict[str, Any] = {
        "tasks": list(section.tasks),
        "include": None if section.include is None else builder.file(section.include),
        "limit": section.limit,
        "batch_size": section.batch_size,
    }
    return builder.about(scored, "academic", scored.who, settings)


def _answers(builder: Builder, scored: Checkpoint, questions: DataFile, sampling: SamplingSettings) -> Stage:
    settings = {**builder.questions(questions), "sampling": sampling.model_dump(), "seed": scored.seed}
    return builder.about(scored, "generate", f"{scored.who}/{questions.path.stem}", settings)


def _style(builder: Builder, section: Style, scored: Checkpoint) -> Stage | None:
    compared = builder.matrix.benchmarks.alpaca_eval
    judged = None if compared is None else _alpaca_eval(builder, compared, scored)
    return None if judged is None else builder.stage("style", scored.who, {}, {"judged": judged})


BENCHMARKS: dict[str, Callable[[Builder, Any, Checkpoint], Stage | None]] = {
    "unlearning": _unlearning,
    "alpaca-eval": _alpaca_eval,
    "mt-bench": _mt_bench,
    "academic": _academic,
    **ANALYSES,
    "style": _style,
}
