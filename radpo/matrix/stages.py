"""What the stages of a matrix run: each reads its inputs' folders, calls one room, and writes its own folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast

from radpo.matrix.graph import Function, Source, Task
from radpo.training.settings import TrainingSettings


def _relabel(task: Task) -> None:
    """Scored pairs -> training pairs (`pairs.parquet`) and what was dropped on the way (`counts.json`)."""
    import pyarrow.parquet as pq

    from radpo.data.goals import detect_placement, original_template
    from radpo.data.preferences import Reading, load_preferences
    from radpo.data.relabel import relabel
    from radpo.models.loading import load_tokenizer, resolve_model

    settings = task.stage.settings
    low, high = settings["scale"]
    preferences = load_preferences(_path(settings["pairs"]), Reading((low, high)))
    table = preferences.table.slice(0, settings["limit"])
    tokenizer = load_tokenizer(resolve_model(settings["model"].location))
    placement = detect_placement(original_template(str(tokenizer.chat_template)))
    relabeled = relabel(table, settings["kind"], placement=placement)
    pq.write_table(relabeled.table, task.out / "pairs.parquet")
    counts = {
        "rows_read": preferences.rows_read,
        "dropped": dict(preferences.dropped),
        "used": table.num_rows,
        "ties_dropped": relabeled.ties_dropped,
        "pairs": relabeled.table.num_rows,
    }
    _write_json(task.out / "counts.json", counts)


def _reference(task: Task) -> None:
    """Training pairs -> their log-likelihoods under the model that training starts from (`reference.parquet`)."""
    import pyarrow.parquet as pq

    from radpo.models.loading import resolve_model
    from radpo.training.reference import reference_log_likelihoods

    settings = task.stage.settings
    table = reference_log_likelihoods(
        resolve_model(settings["model"].location),
        pq.read_table(task.inputs["pairs"] / "pairs.parquet"),
        max_length=settings["max_length"],
        precision=settings["precision"],
        progress=task.progress,
    )
    pq.write_table(table, task.out / "reference.parquet")


def _train(task: Task) -> None:
    """Training pairs and references -> `policy/`, `training.parquet`, `heldout.json`."""
    import pandas as pd
    import pyarrow.parquet as pq

    from radpo.data.goals import detect_placement, goal_aware_template, original_template
    from radpo.models.heldout import heldout_reference
    from radpo.models.loading import load_tokenizer, resolve_model
    from radpo.training.trainer import train

    settings = task.stage.settings
    folder = resolve_model(settings["model"].location)
    template = original_template(str(load_tokenizer(folder).chat_template))
    if settings["conditioned"]:
        template = goal_aware_template(template, best=settings["best"], placement=detect_placement(template))
    heldout = pq.read_table(task.inputs["heldout_pairs"] / "pairs.parquet")
    measured = pd.read_parquet(task.inputs["heldout_reference"] / "likelihoods.parquet")
    train(
        folder,
        pq.read_table(task.inputs["pairs"] / "pairs.parquet"),
        pq.read_table(task.inputs["reference"] / "reference.parquet"),
        task.out,
        TrainingSettings.model_validate(settings["training"]),
        seed=settings["seed"],
        chat_template=template,
        heldout=heldout,
        heldout_reference=heldout_reference(measured, heldout),
        save_every=task.stage.hints["save_every"],
        progress=task.progress,
    )


def _likelihood(task: Task) -> None:
    """A checkpoint and held-out scored pairs -> log-likelihoods for every goal (`likelihoods.parquet`)."""
    from radpo.data.preferences import Reading, load_preferences
    from radpo.models.heldout import heldout_log_likelihoods

    settings = task.stage.settings
    low, high = settings["scale"]
    pairs = load_preferences(_path(settings["pairs"]), Reading((low, high))).table.slice(0, settings["limit"])
    frame = heldout_log_likelihoods(
        _policy(task),
        pairs,
        best=high,
        max_length=settings["max_length"],
        precision=settings["precision"],
        progress=task.progress,
    )
    frame.to_parquet(task.out / "likelihoods.parquet", index=False)


def _unlearning(task: Task) -> None:
    """Log-likelihoods under policy and reference -> results, examples and the joined `likelihoods.parquet`."""
    import pandas as pd

    from radpo.analysis.unlearning import summarise
    from radpo.models.heldout import side_by_side
    from radpo.results import write_scores

    joined = side_by_side(
        policy=pd.read_parquet(task.inputs["policy"] / "likelihoods.parquet"),
        reference=pd.read_parquet(task.inputs["reference"] / "likelihoods.parquet"),
    )
    joined.to_parquet(task.out / "likelihoods.parquet", index=False)
    write_scores(summarise(joined, high_score=task.stage.settings["high_score"]), task.out)


def _generate(task: Task) -> None:
    """A checkpoint and questions -> its answer to every turn of every question (`answers.jsonl`)."""
    from radpo.data.questions import load_questions
    from radpo.models.generation import Sampling, answer
    from radpo.models.loading import load_model, load_tokenizer

    settings = task.stage.settings
    questions = load_questions(_path(settings["questions"]))[: settings["limit"]]
    folder, sampling = _policy(task), dict(settings["sampling"])
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
    questions = load_questions(_path(settings["questions"]))[: settings["limit"]]
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
    questions = load_questions(_path(settings["questions"]))[: settings["limit"]]
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
        _policy(task),
        settings["tasks"],
        None if include is None else _path(include),
        limit=settings["limit"],
        batch_size=settings["batch_size"],
        # In bfloat16 the log-likelihoods of short choices fall on a coarse grid and tie.
        precision="float32",
        progress=task.progress,
    )
    _write_json(task.out / "lm_eval.json", outcome.lm_eval_results)
    write_scores(scores(outcome), task.out)


_NUMERICS = ("torch", "transformers")

FUNCTIONS: dict[str, Function] = {
    "relabel": Function(_relabel, version=1),
    "reference": Function(_reference, version=1, packages=_NUMERICS),
    "train": Function(_train, version=1, packages=(*_NUMERICS, "trl", "accelerate"), resumable=True),
    "likelihood": Function(_likelihood, version=1, packages=_NUMERICS),
    "unlearning": Function(_unlearning, version=1),
    "generate": Function(_generate, version=1, packages=_NUMERICS),
    "alpaca-eval": Function(_alpaca_eval, version=2, packages=("alpaca-eval",)),
    "mt-bench": Function(_mt_bench, version=2),
    "academic": Function(_academic, version=1, packages=(*_NUMERICS, "lm-eval")),
}
FunctionName = Literal[
    "relabel", "reference", "train", "likelihood", "unlearning", "generate", "alpaca-eval", "mt-bench", "academic"
]


def _policy(task: Task) -> Path:
    """The checkpoint that a stage is about: the one that its input trained, else the matrix's model."""
    from radpo.models.loading import resolve_model

    if "policy" in task.inputs:
        return task.inputs["policy"] / "policy"
    return resolve_model(cast(Source, task.stage.settings["model"]).location)


def _path(source: Source) -> Path:
    return Path(source.location)


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str), encoding="utf-8")
