"""The stages that score a checkpoint: log-likelihoods, answers, judges, lm-eval."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from radpo.engine.graph import Function, Source, Task
from radpo.engine.store import WORK
from radpo.matrix.stages.common import NUMERICS, kept_between_tries, path_of, policy_folder, write_json

if TYPE_CHECKING:
    from radpo.benchmarks.answers import Answers
    from radpo.core.results import Scores
    from radpo.judges.base import Judge
    from radpo.models.backends import Backend
    from radpo.preferences.questions import Question


def _likelihood(task: Task) -> None:
    """A checkpoint and held-out scored pairs -> log-likelihoods for every goal (`likelihoods.parquet`)."""
    from radpo.models.heldout import write_heldout
    from radpo.preferences.preferences import Reading
    from radpo.preferences.streamed import stream_pairs

    settings = task.stage.settings
    low, high = settings["scale"]
    pairs = stream_pairs(path_of(settings["pairs"]), Reading((low, high)), settings["limit"])
    with kept_between_tries(task, "likelihoods.parquet") as out:
        write_heldout(
            policy_folder(task),
            pairs,
            out,
            total=pairs.total,
            scale=(low, high),
            max_length=settings["max_length"],
            precision=settings["precision"],
            made_by=task.stage.key,
            progress=task.progress,
        )


def _unlearning(task: Task) -> None:
    """Log-likelihoods under policy and reference -> results, examples and the joined `likelihoods.parquet`."""

    from radpo.benchmarks.unlearning import summarise
    from radpo.core.results import write_scores
    from radpo.models.heldout import side_by_side
    from radpo.stats.contrasts import whole_pairs

    joined = side_by_side(
        policy=task.inputs["policy"] / "likelihoods.parquet",
        reference=task.inputs["reference"] / "likelihoods.parquet",
    )
    whole_pairs(joined)[0].to_parquet(task.out / "likelihoods.parquet", index=False)
    write_scores(summarise(joined, high_score=task.stage.settings["high_score"]), task.out)


def _generate(task: Task) -> None:
    """A checkpoint and questions -> its answer to every turn of every question (`answers.jsonl`)."""
    from radpo.benchmarks.questions import load_benchmark_questions
    from radpo.models.answers import ANSWERS, NOTES, answer_questions
    from radpo.models.backends import with_transformers, with_vllm
    from radpo.models.generation import Sampling

    settings = task.stage.settings
    questions = load_benchmark_questions(path_of(settings["questions"]))[: settings["limit"]]
    sampling = dict(settings["sampling"])
    by_category: dict[str, float] = sampling.pop("temperature_by_category", {})
    batch_size, kind, precision = (sampling.pop(name) for name in ("batch_size", "backend", "precision"))
    keep_reasoning = sampling.pop("keep_reasoning")
    policy = policy_folder(task)

    def sampling_of(question: Question, turn: int) -> Sampling:
        temperature = by_category.get(question.category, sampling["temperature"])
        drawn = {**sampling, "temperature": temperature, "stop": tuple(sampling["stop"])}
        return Sampling(**drawn, seed=settings["seed"] * 1000 + turn)

    def open_backend() -> Backend:
        if kind == "vllm":
            return with_vllm(policy, precision=precision)
        return with_transformers(policy, batch_size=batch_size, precision=precision)

    with kept_between_tries(task, ANSWERS) as out:
        answer_questions(
            questions, open_backend, sampling_of, out.parent, keep_reasoning=keep_reasoning, progress=task.progress
        )
    (task.out / WORK / NOTES).replace(task.out / NOTES)


def _baseline(task: Task, questions: list[Question]) -> tuple[str, Answers]:
    """The name and the answers that a stage compares with: another variant's, or a file's."""
    from radpo.benchmarks.answers import load_answers
    from radpo.benchmarks.questions import load_outputs

    settings = task.stage.settings
    if "baseline_outputs" in settings:
        return load_outputs(path_of(settings["baseline_outputs"]), questions)
    return settings["baseline"], load_answers(task.inputs["baseline_answers"] / "answers.jsonl", questions)


def _noted(task: Task, found: Scores, judge: Judge) -> Scores:
    """The scores of answers, with what is to be said of the judge's replies and of how the answers came about."""
    from radpo.judges.record import judge_notes
    from radpo.models.answers import answer_notes

    benchmark = found.results[0].benchmark
    notes = [*found.notes, *judge_notes(judge, benchmark)]
    for name, whose in (("answers", ""), ("baseline_answers", "the baseline: ")):
        if name in task.inputs:
            notes += [f"{benchmark}: {whose}{note}" for note in answer_notes(task.inputs[name])]
    return replace(found, notes=tuple(notes))


def _alpaca_eval(task: Task) -> None:
    """Answers of variant and baseline -> annotations, results and examples."""
    from radpo.benchmarks.alpaca_eval import BENCHMARK, annotate, comparisons, judge_bias, scores
    from radpo.benchmarks.answers import load_answers
    from radpo.benchmarks.questions import load_benchmark_questions
    from radpo.core.results import write_scores

    settings = task.stage.settings
    questions = load_benchmark_questions(path_of(settings["questions"]))[: settings["limit"]]
    outputs = load_answers(task.inputs["answers"] / "answers.jsonl", questions)
    name, baseline_outputs = _baseline(task, questions)
    names, judge = {"generator": settings["variant"], "baseline": name}, _judge(task)
    annotations = annotate(questions, outputs, baseline_outputs, judge, **names, progress=task.progress)
    annotations.to_json(task.out / "annotations.json", orient="records", indent=1, force_ascii=False)
    pairs = comparisons(questions, outputs, baseline_outputs, **names)
    of_judge = judge_bias(judge, pairs, annotations, settings["swap_check"]).results(BENCHMARK)
    reference = settings["reference"]
    found = scores(annotations, goal=settings["goal"], reference_dir=None if reference is None else path_of(reference))
    write_scores(_noted(task, replace(found, results=(*found.results, *of_judge)), judge), task.out)
    _note_usage(task, judge)


def _mt_bench(task: Task) -> None:
    """Answers -> judgments, results and examples."""
    from radpo.benchmarks.answers import load_answers
    from radpo.benchmarks.mt_bench import BENCHMARK, grade, judge_bias, load_references, scores
    from radpo.benchmarks.questions import load_benchmark_questions
    from radpo.core.results import write_scores

    settings = task.stage.settings
    questions = load_benchmark_questions(path_of(settings["questions"]))[: settings["limit"]]
    answers = load_answers(task.inputs["answers"] / "answers.jsonl", questions)
    judge, references = _judge(task), settings["references"]
    judgments = grade(
        questions, answers, judge,
        references=None if references is None else load_references(path_of(references)), progress=task.progress,
    )  # fmt: skip
    found = scores(judgments, questions=questions, answers=answers, goal=settings["goal"])
    of_judge = judge_bias(judgments, answers).results(BENCHMARK)
    write_scores(_noted(task, replace(found, results=(*found.results, *of_judge)), judge), task.out)
    _note_usage(task, judge)


def _arena_hard(task: Task) -> None:
    """Answers of variant and baseline -> judgments in both orders, results and examples."""
    from radpo.benchmarks.answers import load_answers
    from radpo.benchmarks.arena_hard import BENCHMARK, judge_games, load_judgments, score, scores, write_judgments
    from radpo.benchmarks.questions import load_benchmark_questions
    from radpo.core.results import write_scores

    settings = task.stage.settings
    questions = load_benchmark_questions(path_of(settings["questions"]))[: settings["limit"]]
    outputs = load_answers(task.inputs["answers"] / "answers.jsonl", questions)
    name, baseline_outputs = _baseline(task, questions)
    judge, model = _judge(task), settings["variant"]
    rows, bias = judge_games(
        questions, outputs, baseline_outputs, judge, model=model, baseline=name, progress=task.progress
    )
    write_judgments(rows, task.out / "judgments.jsonl")
    battles = load_judgments([task.out / "judgments.jsonl"], name)
    texts = {
        q.question_id: (q.turns[0], outputs[q.question_id][0], baseline_outputs[q.question_id][0]) for q in questions
    }
    found = scores(battles, score(battles, rounds=settings["resamples"]), model, texts=texts, goal=settings["goal"])
    write_scores(_noted(task, replace(found, results=(*found.results, *bias.results(BENCHMARK))), judge), task.out)
    _note_usage(task, judge)


def _academic(task: Task) -> None:
    """A checkpoint -> lm-eval's results (`lm_eval.json`), and ours from them."""
    from radpo.benchmarks.academic import run, write_run

    settings = task.stage.settings
    include: Source | None = settings["include"]
    outcome = run(
        policy_folder(task),
        settings["tasks"],
        None if include is None else path_of(include),
        limit=settings["limit"],
        batch_size=settings["batch_size"],
        # In bfloat16 the log-likelihoods of short choices fall on a coarse grid and tie.
        precision="float32",
        progress=task.progress,
    )
    write_run(outcome, task.out)


def _judge(task: Task) -> Judge:
    """The judge that a stage's settings name, with what of it cannot change a verdict from the hints."""
    from radpo.judges.lookup import find_judge

    told = {
        name: value.location if isinstance(value, Source) else value
        for name, value in task.stage.settings["judge_settings"].items()
    }
    return find_judge(task.stage.settings["judge"], {**task.stage.hints["judge_settings"], **told})


def _note_usage(task: Task, judge: Judge) -> None:
    """What a judge was asked and what it cost, where it counts that (`judge_usage.json`)."""
    chat = getattr(judge, "chat", None)
    if chat is not None:
        write_json(task.out / "judge_usage.json", asdict(chat.usage))


SCORING = {
    "likelihood": Function(_likelihood, version=4, packages=NUMERICS, resumable=True),
    "unlearning": Function(_unlearning, version=4),
    "generate": Function(_generate, version=4, packages=NUMERICS, resumable=True),
    "alpaca-eval": Function(_alpaca_eval, version=6, packages=("alpaca-eval",)),
    "mt-bench": Function(_mt_bench, version=6),
    "arena-hard": Function(_arena_hard, version=4, packages=("scikit-learn",)),
    "academic": Function(_academic, version=4, packages=(*NUMERICS, "lm-eval")),
}
