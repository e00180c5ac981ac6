"""What benchmarks are made of: answers to questions, a judge, held-out log-likelihoods, scored samples.

A benchmark's `stages` asks these for the stages that its own reads, and its stage function reads their folders with the
functions beside them. Checkpoints and benchmarks share every stage whose settings and inputs are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from radpo.benchmarks.protocol import Checkpoint, Context, Cost
from radpo.benchmarks.settings import DataFile, JudgeSettings, SamplingSettings, Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import GOAL_TOKENS, Work, judged_samples, of_model
from radpo.core.files import write_json
from radpo.core.results import Scores, write_scores
from radpo.engine.graph import WORK, Function, Source, Stage, Task, kept_between_tries
from radpo.judges.base import Judge
from radpo.judges.lookup import find_judge
from radpo.judges.quality import Bias
from radpo.models.generation import Goal
from radpo.models.loading import model_fingerprint
from radpo.training.settings import TrainingSettings

if TYPE_CHECKING:
    import pandas as pd

    from radpo.benchmarks.answers import Answers
    from radpo.models.backends import Backend
    from radpo.models.decoding import Sampling
    from radpo.preferences.questions import Question
    from radpo.preferences.streamed import CheckedPairs

PAIRS = "pairs.parquet"
NUMERICS = ("torch", "transformers")
"""The packages whose versions change what a model computes."""


def path_of(source: Source) -> Path:
    """Where a stage's setting lies that names a file or a folder."""
    return Path(source.location)


def policy_folder(task: Task) -> Path:
    """The checkpoint that a stage is about: the one that its input trained, else the matrix's model."""
    from radpo.models.loading import resolve_model

    if "policy" in task.inputs:
        return task.inputs["policy"] / "policy"
    return resolve_model(cast(Source, task.stage.settings["model"]).location)


# Answers to questions


def answers(
    context: Context, checkpoint: Checkpoint, questions: DataFile, sampling: SamplingSettings, **more: Any
) -> Stage:
    """The stage whose folder holds a checkpoint's answers to every turn of every question (`answers.jsonl`).

    Args:
        more: settings in place of the sampling's own, such as `temperature_by_category`.
    """
    settings = {
        **context.questions(questions),
        "sampling": {**sampling.model_dump(mode="json"), **more},
        "seed": checkpoint.seed,
    }
    return context.about(checkpoint, "generate", f"{checkpoint.label}/{questions.path.stem}", settings)


def compared_answers(
    context: Context,
    checkpoint: Checkpoint,
    questions: DataFile,
    sampling: SamplingSettings,
    baseline_outputs: Path | None,
    **more: Any,
) -> tuple[dict[str, Any], dict[str, Stage]] | None:
    """A stage's settings and inputs for a comparison of a checkpoint's answers with a baseline's.

    The baseline's answers are those of `baseline_outputs`, else of the matrix's own baseline; None for that baseline
    itself, which would be compared with itself.
    """
    settings = {**context.questions(questions), "variant": checkpoint.variant, "goal": checkpoint.goal}
    inputs = {"answers": answers(context, checkpoint, questions, sampling, **more)}
    if baseline_outputs is not None:
        return {**settings, "baseline_outputs": context.file(baseline_outputs)}, inputs
    if checkpoint.variant == context.baseline:
        return None
    other = context.checkpoint_of(context.baseline, checkpoint.seed)
    inputs["baseline_answers"] = answers(context, other, questions, sampling, **more)
    return {**settings, "baseline": context.baseline}, inputs


def read_questions(task: Task) -> list[Question]:
    """The questions that a stage's settings name."""
    from radpo.benchmarks.questions import load_benchmark_questions

    settings = task.stage.settings
    return load_benchmark_questions(path_of(settings["questions"]))[: settings["limit"]]


def read_answers(task: Task, questions: Sequence[Question], name: str = "answers") -> Answers:
    """The answers of an input of a stage, by question_id."""
    from radpo.benchmarks.answers import load_answers

    return load_answers(task.inputs[name] / "answers.jsonl", questions)


def read_baseline(task: Task, questions: list[Question]) -> tuple[str, Answers]:
    """The name and the answers that a stage compares with: another variant's, or a file's."""
    from radpo.benchmarks.answers import load_outputs

    settings = task.stage.settings
    if "baseline_outputs" in settings:
        return load_outputs(path_of(settings["baseline_outputs"]), questions)
    return settings["baseline"], read_answers(task, questions, "baseline_answers")


def _generate(task: Task) -> None:
    """A checkpoint's answers (`answers.jsonl`), and how they came about (`answer_notes.json`)."""
    from radpo.benchmarks.questions import load_benchmark_questions
    from radpo.models.answers import ANSWERS, NOTES, answer_questions
    from radpo.models.backends import with_transformers, with_vllm
    from radpo.models.decoding import Sampling

    settings = task.stage.settings
    questions = load_benchmark_questions(path_of(settings["questions"]))[: settings["limit"]]
    sampling = dict(settings["sampling"])
    by_category: dict[str, float] = sampling.pop("temperature_by_category", {})
    batch_size, kind, precision = (sampling.pop(name) for name in ("batch_size", "backend", "precision"))
    keep_reasoning = sampling.pop("keep_reasoning")
    policy = policy_folder(task)

    def sampling_of(question: Question, turn: int) -> Sampling:
        temperature = by_category.get(question.category, sampling["temperature"])
        chosen = {**sampling, "temperature": temperature, "stop": tuple(sampling["stop"])}
        return Sampling(**chosen, seed=settings["seed"] * 1000 + turn)

    def open_backend() -> Backend:
        if kind == "vllm":
            return with_vllm(policy, precision=precision)
        return with_transformers(policy, batch_size=batch_size, precision=precision)

    with kept_between_tries(task, ANSWERS) as out:
        answer_questions(
            questions, open_backend, sampling_of, out.parent, keep_reasoning=keep_reasoning, progress=task.progress
        )
    (task.out / WORK / NOTES).replace(task.out / NOTES)


def _generate_cost(sizes: Sizes, stage: Stage) -> Work:
    settings, model = stage.settings, sizes.model(stage)
    questions = sizes.questions(settings)
    longest = sizes.longest(settings)
    prefill = generated = steps = 0.0
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [question for question in questions if turn < len(question.turns)]
        texts = ["\n".join(question.turns[: turn + 1]) for question in asked]
        prefill += sum(model.count(texts)) + len(asked) * (model.overhead + turn * longest)
        generated += len(asked) * longest
        steps += math.ceil(len(asked) / settings["sampling"]["batch_size"]) * longest
    return of_model(
        sizes, stage, prefill_tokens=prefill, generated_tokens=generated, decode_steps=steps, disk_bytes=4 * generated
    )


# A judge


def judge_settings(context: Context, judge: JudgeSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """A judge as a stage's settings, files and models by content, and what of it cannot change a verdict as hints."""
    parts = judge.parts()
    files = {name: context.file(path) for name, path in parts.files.items()}
    models = {name: Source(model, model_fingerprint(model)) for name, model in parts.models.items()}
    counted = {**parts.counted, **files, **models}
    code = {} if parts.code is None else {"judge_code": parts.code}
    return {"judge": judge.kind, "judge_settings": counted, **code}, {"judge_settings": dict(parts.hints)}


def open_judge(task: Task) -> Judge:
    """The judge that a stage's settings name, with what of it cannot change a verdict from the hints."""
    settings = {
        name: value.location if isinstance(value, Source) else value
        for name, value in task.stage.settings["judge_settings"].items()
    }
    return find_judge(task.stage.settings["judge"], {**task.stage.hints["judge_settings"], **settings})


def write_judged(task: Task, scores: Scores, judge: Judge, bias: Bias | None = None) -> None:
    """Write a judged benchmark's tables: its scores, the judge's bias, notes on the answers, what the judge cost.

    Args:
        bias: how the judge was swayed on these answers; None where that is not measured.
    """
    from radpo.judges.record import judge_notes
    from radpo.models.answers import answer_notes

    benchmark = scores.results[0].benchmark
    notes = [*scores.notes, *judge_notes(judge, benchmark)]
    for name, whose in (("answers", ""), ("baseline_answers", "the baseline: ")):
        if name in task.inputs:
            notes += [f"{benchmark}: {whose}{note}" for note in answer_notes(task.inputs[name])]
    results = scores.results if bias is None else (*scores.results, *bias.results(benchmark))
    write_scores(replace(scores, results=results, notes=tuple(notes)), task.out)
    chat = getattr(judge, "chat", None)
    if chat is not None:
        write_json(task.out / "judge_usage.json", asdict(chat.usage))


# Scored pairs


def read_pairs(task: Task) -> CheckedPairs:
    """The checked scored pairs of the input `pairs`, batch by batch."""
    from radpo.preferences.streamed import CheckedPairs

    return CheckedPairs.open(task.inputs["pairs"] / PAIRS)


def _pairs(task: Task) -> None:
    """A file of scored pairs -> the checked ones (`pairs.parquet`), and what became of the rest (`counts.json`)."""
    from radpo.preferences.preferences import Reading
    from radpo.preferences.streamed import write_checked

    settings = task.stage.settings
    low, high = settings["scale"]
    source, out = path_of(settings["pairs"]), task.out / PAIRS
    write_json(task.out / "counts.json", write_checked(source, Reading((low, high)), out, settings["limit"]))


def _pairs_cost(sizes: Sizes, stage: Stage) -> Work:
    return Work(disk_bytes=sizes.file_bytes(stage.settings["pairs"]))


# Held-out log-likelihoods


def heldout_likelihoods(
    context: Context, checkpoint: Checkpoint | None, training: TrainingSettings | None = None
) -> Stage:
    """Log-likelihoods of the held-out responses under a checkpoint; under the matrix's model for None.

    Args:
        training: whose greatest length and precision to measure with; the matrix's own unless given.
    """
    training = training or context.training
    settings = {
        "scale": list(context.scale),
        "max_length": training.max_length,
        "precision": training.precision,
    }
    label = "model" if checkpoint is None or checkpoint.train is None else checkpoint.label
    return context.about(checkpoint, "likelihood", label, settings, {"pairs": context.heldout_pairs()})


def policy_and_reference(context: Context, checkpoint: Checkpoint) -> dict[str, Stage]:
    """The inputs that `read_likelihoods` reads."""
    return {"policy": heldout_likelihoods(context, checkpoint), "reference": heldout_likelihoods(context, None)}


def read_likelihoods(task: Task) -> pd.DataFrame:
    """Held-out log-likelihoods under policy and reference, side by side (`radpo.models.heldout.side_by_side`)."""
    from radpo.models.heldout import side_by_side

    return side_by_side(
        policy=task.inputs["policy"] / "likelihoods.parquet",
        reference=task.inputs["reference"] / "likelihoods.parquet",
    )


def _likelihood(task: Task) -> None:
    """Log-likelihoods of held-out scored pairs under a checkpoint, for every goal (`likelihoods.parquet`)."""
    from radpo.models.heldout import write_heldout

    settings, pairs = task.stage.settings, read_pairs(task)
    with kept_between_tries(task, "likelihoods.parquet") as out:
        write_heldout(
            policy_folder(task),
            pairs,
            out,
            total=pairs.total,
            scale=tuple(settings["scale"]),
            max_length=settings["max_length"],
            precision=settings["precision"],
            made_by=task.stage.key,
            progress=task.progress,
        )


def _likelihood_cost(sizes: Sizes, stage: Stage) -> Work:
    from radpo.models.heldout import GOALS

    pairs, length = sizes.pairs(stage), stage.settings["max_length"]
    tokens = pairs.sequences(length) + (len(GOALS) - 1) * pairs.sequences(length, GOAL_TOKENS)
    return of_model(sizes, stage, prefill_tokens=tokens, disk_bytes=20 * 2 * len(GOALS) * pairs.number)


# Scored samples


class SampledSettings(Section):
    """Samples of the policy at temperature 1, scored by the judge."""

    questions: DataFile
    judge: JudgeSettings = JudgeSettings()
    per_prompt: int = Field(1, ge=1)
    max_new_tokens: int = Field(512, ge=1)
    batch_size: int = Field(32, ge=1)


def samples(
    context: Context,
    settings: SampledSettings,
    checkpoint: Checkpoint,
    label: str,
    goals: Sequence[Goal],
    *,
    reference: bool,
) -> Stage:
    """The stage whose folder holds a checkpoint's samples at temperature 1 (`samples.parquet`).

    Args:
        goals: what is asked for; every question is asked with each.
        reference: whether the matrix's model reads the samples, too.
    """
    asked = {
        **context.questions(settings.questions),
        "goals": list(goals),
        "per_prompt": settings.per_prompt,
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        "scale": list(context.scale),
        "seed": checkpoint.seed,
        "reference": context.model if reference else None,
    }
    return context.about(checkpoint, "samples", f"{checkpoint.label}/{label}", asked)


def read_scored_samples(task: Task) -> tuple[pd.DataFrame, Judge]:
    """The samples of the input `samples` with the judge's scores, and that judge."""
    import pandas as pd

    from radpo.judges.samples import with_scores

    judge = open_judge(task)
    found = pd.read_parquet(task.inputs["samples"] / "samples.parquet")
    return with_scores(found, _single_turn_questions(task), judge, task.progress), judge


def scored_samples_cost(sizes: Sizes, stage: Stage) -> Work:
    """The judge is asked about every sample."""
    drawn = stage.inputs["samples"]
    return judged_samples(sizes, stage, _number_of_samples(sizes, drawn), drawn.settings["max_new_tokens"])


def _single_turn_questions(task: Task) -> list[Question]:
    from radpo.preferences.questions import load_questions

    return load_questions(path_of(task.stage.settings["questions"]))[: task.stage.settings["limit"]]


def _samples(task: Task) -> None:
    """Answers drawn at temperature 1 with their log-likelihoods (`samples.parquet`)."""
    from radpo.models.loading import resolve_model
    from radpo.models.samples import Drawing, write_samples

    settings = task.stage.settings
    reference = settings["reference"]
    drawing = Drawing(
        goals=tuple(settings["goals"]),
        per_prompt=settings["per_prompt"],
        max_new_tokens=settings["max_new_tokens"],
        seed=settings["seed"],
        batch_size=settings["batch_size"],
        scale=tuple(settings["scale"]),
    )
    with kept_between_tries(task, "samples.parquet") as out:
        write_samples(
            policy_folder(task),
            None if reference is None else resolve_model(reference.location),
            _single_turn_questions(task),
            out,
            drawing,
            made_by=task.stage.key,
            progress=task.progress,
        )


def _samples_cost(sizes: Sizes, stage: Stage) -> Work:
    """Every sample is drawn, then read by the policy and, where there is one, by the reference."""
    settings, model = stage.settings, sizes.model(stage)
    questions = sizes.questions(settings)
    each, longest = settings["per_prompt"], settings["max_new_tokens"]
    asked = sum(model.count([question.turns[0] for question in questions])) + model.overhead * len(questions)
    goals = [0 if goal in (None, "default") else GOAL_TOKENS for goal in settings["goals"]]
    prompts = float(each * sum(asked + goal * len(questions) for goal in goals))
    number = _number_of_samples(sizes, stage)
    generated = float(number * longest)
    readers = 1 if settings["reference"] is None else 2
    return of_model(
        sizes,
        stage,
        prefill_tokens=prompts + readers * (prompts + generated),
        generated_tokens=generated,
        decode_steps=math.ceil(number / settings["batch_size"]) * longest,
        precision="float32",
        disk_bytes=4 * generated + 60 * number,
    )


def _number_of_samples(sizes: Sizes, stage: Stage) -> int:
    return len(sizes.questions(stage.settings)) * len(stage.settings["goals"]) * int(stage.settings["per_prompt"])


FUNCTIONS: Mapping[str, Function] = {
    "pairs": Function(_pairs, version=1, packages=("pyarrow",)),
    "likelihood": Function(_likelihood, version=4, packages=NUMERICS, resumable=True),
    "generate": Function(_generate, version=4, packages=NUMERICS, resumable=True),
    "samples": Function(_samples, version=2, packages=NUMERICS, resumable=True),
}
COSTS: Mapping[str, Cost] = {
    "pairs": _pairs_cost,
    "likelihood": _likelihood_cost,
    "generate": _generate_cost,
    "samples": _samples_cost,
}
