"""How a checkpoint is scored: for every benchmark section of a matrix file, the function that builds its stages.

A benchmark's function gets its section and the checkpoint, and returns the one stage whose folder holds
`results.parquet`, `examples.parquet` and `notes.json` (`radpo.core.results.write_scores`), or None where there is
nothing to score, as when the baseline would be compared with itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radpo.benchmarks.builder import Builder, Checkpoint
from radpo.benchmarks.mt_bench import OTHER_TEMPERATURE, TEMPERATURES
from radpo.benchmarks.questions import hub_baseline
from radpo.benchmarks.section import DataFile
from radpo.benchmarks.sections import Academic, AlpacaEval, ArenaHard, MTBench, Style, Unlearning
from radpo.benchmarks.settings import JudgeSettings, SamplingSettings
from radpo.engine.graph import Source, Stage
from radpo.matrix.analyses import ANALYSES
from radpo.matrix.checkpoints import checkpoint, heldout_likelihoods
from radpo.models.loading import model_fingerprint


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
    questions, baseline_outputs = section.questions, section.baseline_outputs
    if questions is None:
        questions, baseline_outputs = DataFile(path=hub_baseline()), baseline_outputs or hub_baseline()
    settings = {
        "reference": None if section.reference is None else builder.file(section.reference),
        "swap_check": section.swap_check,
    }
    compared = _Compared(questions, section.judge, section.sampling, baseline_outputs)
    return _against_baseline(builder, "alpaca-eval", compared, scored, settings)


def _arena_hard(builder: Builder, section: ArenaHard, scored: Checkpoint) -> Stage | None:
    compared = _Compared(section.questions, section.judge, section.sampling, section.baseline_outputs)
    return _against_baseline(builder, "arena-hard", compared, scored, {"resamples": section.resamples})


@dataclass(frozen=True)
class _Compared:
    """What is asked, who judges, how answers are drawn, and whose they are compared with (None: the baseline's)."""

    questions: DataFile
    judge: JudgeSettings
    sampling: SamplingSettings
    baseline_outputs: Path | None


def _against_baseline(
    builder: Builder, function: str, compared: _Compared, scored: Checkpoint, more: dict[str, Any]
) -> Stage | None:
    """A stage that compares answers with a baseline's; None for the matrix's own baseline, where that is the one."""
    judge, hints = _judge(builder, compared.judge)
    settings = {**builder.questions(compared.questions), **judge, **more}
    settings |= {"variant": scored.variant, "goal": scored.goal}
    inputs = {"answers": _answers(builder, scored, compared.questions, compared.sampling)}
    if compared.baseline_outputs is not None:
        settings["baseline_outputs"] = builder.file(compared.baseline_outputs)
    elif scored.variant == builder.matrix.baseline:
        return None
    else:
        settings["baseline"] = builder.matrix.baseline
        other = checkpoint(builder, builder.matrix.baseline, scored.seed)
        inputs["baseline_answers"] = _answers(builder, other, compared.questions, compared.sampling)
    return builder.stage(function, scored.who, settings, inputs, hints)


def _mt_bench(builder: Builder, section: MTBench, scored: Checkpoint) -> Stage:
    judge, hints = _judge(builder, section.judge)
    references = None if section.references is None else builder.file(section.references)
    return builder.stage(
        "mt-bench",
        scored.who,
        {**builder.questions(section.questions), **judge, "references": references, "goal": scored.goal},
        {"answers": _answers(builder, scored, section.questions, section.sampling)},
        hints,
    )


def _judge(builder: Builder, judge: JudgeSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """A judge as a stage's settings, files and models by content, and what of it cannot change a verdict as hints."""
    parts = judge.parts()
    files = {name: builder.file(path) for name, path in parts.files.items()}
    models = {name: Source(model, model_fingerprint(model)) for name, model in parts.models.items()}
    told = {**parts.counted, **files, **models}
    code = {} if parts.code is None else {"judge_code": parts.code}
    return {"judge": judge.kind, "judge_settings": told, **code}, {"judge_settings": dict(parts.hints)}


def _academic(builder: Builder, section: Academic, scored: Checkpoint) -> Stage:
    settings: dict[str, Any] = {
        "tasks": list(section.tasks),
        "include": None if section.include is None else builder.file(section.include),
        "limit": section.limit,
        "batch_size": section.batch_size,
    }
    return builder.about(scored, "academic", scored.who, settings)


def _answers(builder: Builder, scored: Checkpoint, questions: DataFile, sampling: SamplingSettings) -> Stage:
    drawn = sampling.model_dump(mode="json")
    if drawn["temperature"] is None:
        drawn |= {"temperature": OTHER_TEMPERATURE, "temperature_by_category": TEMPERATURES}
    settings = {**builder.questions(questions), "sampling": drawn, "seed": scored.seed}
    return builder.about(scored, "generate", f"{scored.who}/{questions.path.stem}", settings)


def _style(builder: Builder, section: Style, scored: Checkpoint) -> Stage | None:
    compared = builder.matrix.benchmarks.alpaca_eval
    judged = None if compared is None else _alpaca_eval(builder, compared, scored)
    return None if judged is None else builder.stage("style", scored.who, {}, {"judged": judged})


BENCHMARKS: dict[str, Callable[[Builder, Any, Checkpoint], Stage | None]] = {
    "unlearning": _unlearning,
    "alpaca-eval": _alpaca_eval,
    "mt-bench": _mt_bench,
    "arena-hard": _arena_hard,
    "academic": _academic,
    **ANALYSES,
    "style": _style,
}
