"""The stages that score a checkpoint: log-likelihoods, answers, judges, lm-eval."""

from __future__ import annotations

import json

from radpo.matrix.graph import Function, Source, Task
from radpo.matrix.stages.common import NUMERICS, path_of, policy_folder, write_json


def _likelihood(task: Task) -> None:
    """A checkpoint and held-out scored pairs -> log-likelihoods for every goal (`likelihoods.parquet`)."""
    from radpo.data.preferences import Reading
    from radpo.data.streamed import stream_pairs
    from radpo.models.heldout import write_heldout

    settings = task.stage.settings
    low, high = settings["scale"]
    pairs = stream_pairs(path_of(settings["pairs"]), Reading((low, high)), settings["limit"])
    write_heldout(
        policy_folder(task),
        pairs,
        task.out / "likelihoods.parquet",
        total=pairs.total,
        best=high,
        max_length=settings["max_length"],
        precision=settings["precision"],
        made_by=task.stage.key,
        progress=task.progress,
    )


def _unlearning(task: Task) -> None:
    """Log-likelihoods under policy and reference -> results, examples and the joined `likelihoods.parquet`."""

    from radpo.analysis.unlearning import summarise
    from radpo.models.heldout import side_by_side
    from radpo.results import write_scores

    joined = side_by_side(
        policy=task.inputs["policy"] / "likelihoods.parquet",
        reference=task.inputs["reference"] / "likelihoods.parquet",
    )
    joined.to_parquet(task.out / "likelihoods.parquet", index=False)
    write_scores(summarise(joined, high_score=task.stage.settings["high_score"]), task.out)


def _generate(task: Task) -> None:
    """A checkpoint and questions -> its answer to every turn of every question (`answers.jsonl`)."""
    from radpo.data.questions import load_questions
    from radpo.models.generation import Sampling, answer
    from radpo.models.loading import load_model, load_tokenizer

    settings = task.stage.settings
    questions = load_questions(path_of(settings["questions"]))[: settings["limit"]]
    folder, sampling = policy_folder(task), dict(settings["sampling"])
    batch_size = sampling.pop("batch_size")
    model, tokenizer = load_model(folder, "auto"), load_tokenizer(folder)
    conversations: list[list[dict[str, str]]] = [[] for _ in questions]
    total, done = sum(len(question.turns) for question in questions), 0
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [index for index, question in enumerate(questions) if turn < len(question.turns)]
        for index in asked:
            conversations[index].append({"role": "user", "content": questions[index].turns[turn]})
        answers = answer(
            model,
            tokenizer,
            [conversations[index] for index in asked],
            Sampling(**sampling, seed=settings["seed"] * 1000 + turn),
            batch_size=batch_size,
            progress=lambda now, _, before=done: task.progress(before + now, total),  # type: ignore[misc]
        )
        done += len(asked)
        for index, text in zip(asked, answers, strict=True):
            conversations[index].append({"role": "assistant", "content": text})
    with (task.out / "answers.jsonl").open("w", encoding="utf-8") as stream:
        for question, conversation in zip(questions, conversations, strict=True):
            row = {"question_id": question.question_id, "turns": [message["content"] for message in conversation[1::2]]}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _alpaca_eval(task: Task) -> None:
    """Answers of variant and baseline -> annotations, results and examples."""
    from radpo.data.questions import load_questions
    from radpo.harness.alpaca_eval import annotate, scores
    from radpo.harness.base import load_answers
    from radpo.judges.verifier import Verifier
    from radpo.results import write_scores

    settings = task.stage.settings
    questions = load_questions(path_of(settings["questions"]))[: settings["limit"]]
    annotations = annotate(
        questions,
        load_answers(task.inputs["answers"] / "answers.jsonl", questions),
        load_answers(task.inputs["baseline_answers"] / "answers.jsonl", questions),
        Verifier(),
        generator=settings["variant"],
        baseline=settings["baseline"],
        progress=task.progress,
    )
    annotations.to_json(task.out / "annotations.json", orient="records", indent=1, force_ascii=False)
    write_scores(scores(annotations, goal=settings["goal"]), task.out)


def _mt_bench(task: Task) -> None:
    """Answers -> judgments, results and examples."""
    from radpo.data.questions import load_questions
    from radpo.harness.base import load_answers
    from radpo.harness.mt_bench import grade, scores
    from radpo.judges.verifier import Verifier
    from radpo.results import write_scores

    settings = task.stage.settings
    questions = load_questions(path_of(settings["questions"]))[: settings["limit"]]
    answers = load_answers(task.inputs["answers"] / "answers.jsonl", questions)
    judgments = grade(questions, answers, Verifier(), progress=task.progress)
    write_scores(scores(judgments, questions=questions, answers=answers, goal=settings["goal"]), task.out)


def _academic(task: Task) -> None:
    """A checkpoint -> lm-eval's results (`lm_eval.json`), and ours from them."""
    from radpo.harness.academic import run, scores
    from radpo.results import write_scores

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
    write_json(task.out / "lm_eval.json", outcome.lm_eval_results)
    write_scores(scores(outcome), task.out)


SCORING = {
    "likelihood": Function(_likelihood, version=2, packages=NUMERICS, resumable=True),
    "unlearning": Function(_unlearning, version=2),
    "generate": Function(_generate, version=1, packages=NUMERICS),
    "alpaca-eval": Function(_alpaca_eval, version=2, packages=("alpaca-eval",)),
    "mt-bench": Function(_mt_bench, version=2),
    "academic": Function(_academic, version=1, packages=(*NUMERICS, "lm-eval")),
}
