"""How much there is to do: a stage comes in, its tokens, judge calls and bytes go out. No model is loaded.

Tokens are counted with the model's own tokenizer on a sample of the data; of what is not here, as the matrix states it
(`radpo.matrix.sizes`). What stands after a stage that is yet to be computed is taken at its largest, every answer as
long as it may become, unless the matrix states how long answers are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from radpo.engine.graph import Stage
from radpo.matrix.sizes import Sizes

PROGRAMS = ("verifier", "reward-model")
"""Judges that run here and cost nothing."""
JUDGE_WORDS = 200
"""Tokens that a judge is taken to answer with: 177 in released judgments of MT-Bench by GPT-4."""
ARENA_WORDS = 850
"""The same for Arena-Hard, whose judges answer the question themselves first: 845 in released judgments by GPT-4."""


@dataclass(frozen=True)
class Work:
    """What one stage has to do. Token counts are of the model whose `parameters` and `layers` are given.

    Args:
        read_tokens: tokens that go through the model once, forward.
        trained_tokens: tokens that go forward and backward.
        written_tokens: tokens that are generated; in `write_steps` steps, each for a batch.
        judge_calls: requests to a judge; `judge_read_tokens` and `judge_written_tokens` are theirs in all.
        judge_dollars: what they cost, None where no price is known.
        disk_bytes: what the stage leaves in the store.
        scratch_bytes: what it writes besides while it runs.
        memory_bytes: what weights, gradients and optimiser take in memory at least, where a model is trained.
        precision: of the arithmetic, `auto` being bfloat16 where the machine has it.
    """

    parameters: int = 0
    layers: int = 0
    read_tokens: float = 0
    trained_tokens: float = 0
    written_tokens: float = 0
    write_steps: float = 0
    judge_calls: int = 0
    judge_read_tokens: float = 0
    judge_written_tokens: float = 0
    judge_dollars: float | None = 0.0
    disk_bytes: float = 0
    scratch_bytes: float = 0
    memory_bytes: float = 0
    precision: str = "auto"

    @property
    def tokens(self) -> float:
        """All tokens that the model sees or writes."""
        return self.read_tokens + self.trained_tokens + self.written_tokens

    @property
    def flops(self) -> float:
        """Floating-point operations: 2N a token forward, 6N forward and backward, for N parameters.

        Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, without the term for attention, which is small
        where the context is shorter than the model is wide times its layers.
        """
        return self.parameters * (2 * (self.read_tokens + self.written_tokens) + 6 * self.trained_tokens)


class Estimator(Sizes):
    """Counts work; keeps what it has read, for stages share data and models."""

    def work(self, stage: Stage) -> Work | None:
        """What a stage has to do; None where that cannot be said beforehand.

        Raises:
            RadpoError: the model or the data that it reads cannot be had, and the matrix does not state its size.
        """
        count = WORK.get(stage.function_name)
        return None if count is None else count(self, stage)


GOAL_TOKENS = 42
"""Of the goal's text, in any tokenizer about as many."""


def _relabel(estimator: Estimator, stage: Stage) -> Work:
    pairs = estimator.pairs(stage)
    return Work(disk_bytes=4 * pairs.sequences(2**30) * _copies(stage))


def _reference(estimator: Estimator, stage: Stage) -> Work:
    tokens = _training_tokens(estimator, stage.inputs["pairs"], stage.settings["max_length"])
    return _of_model(estimator, stage, read_tokens=tokens, disk_bytes=32 * _training_pairs(estimator, stage))


def _implicit(estimator: Estimator, stage: Stage) -> Work:
    """Every scored pair is read by the policy and by the reference."""
    pairs = estimator.pairs(stage)
    tokens = 2 * pairs.sequences(stage.settings["max_length"])
    return _of_model(estimator, stage, read_tokens=tokens, disk_bytes=4 * pairs.sequences(2**30))


def _train(estimator: Estimator, stage: Stage) -> Work:
    settings = stage.settings["training"]
    length = settings["max_length"]
    trained = settings["epochs"] * _training_tokens(estimator, stage.inputs["pairs"], length)
    heldout = _training_tokens(estimator, stage.inputs["heldout_pairs"], length)
    again = trained if settings.get("gradient_checkpointing") else 0.0  # activations are computed a second time
    parameters = estimator.model(stage).parameters
    return _of_model(
        estimator,
        stage,
        trained_tokens=trained,
        read_tokens=heldout + again,
        precision=settings["precision"],
        disk_bytes=4 * parameters,
        scratch_bytes=2 * 12 * parameters,  # two resumable checkpoints of weights and Adam's two moments
        memory_bytes=16 * parameters if settings.get("lora") is None else 4 * parameters,  # and gradients
    )


def _likelihood(estimator: Estimator, stage: Stage) -> Work:
    from radpo.models.heldout import GOALS

    pairs, length = estimator.pairs(stage), stage.settings["max_length"]
    tokens = pairs.sequences(length) + (len(GOALS) - 1) * pairs.sequences(length, GOAL_TOKENS)
    return _of_model(estimator, stage, read_tokens=tokens, disk_bytes=20 * 2 * len(GOALS) * pairs.number)


def _generate(estimator: Estimator, stage: Stage) -> Work:
    settings, model = stage.settings, estimator.model(stage)
    questions = estimator.questions(settings)
    longest = estimator.longest(settings)
    read = written = steps = 0.0
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [question for question in questions if turn < len(question.turns)]
        texts = ["\n".join(question.turns[: turn + 1]) for question in asked]
        read += sum(model.count(texts)) + len(asked) * (model.overhead + turn * longest)
        written += len(asked) * longest
        steps += math.ceil(len(asked) / settings["sampling"]["batch_size"]) * longest
    return _of_model(
        estimator, stage, read_tokens=read, written_tokens=written, write_steps=steps, disk_bytes=4 * written
    )


def _judged(estimator: Estimator, stage: Stage) -> Work:
    """Programs judge every answer by itself; another judge sees each pair of answers that is compared at once."""
    settings, questions = stage.settings, estimator.questions(stage.settings)
    kind = settings.get("judge", "verifier")
    answers = [stage.inputs[name] for name in ("answers", "baseline_answers") if name in stage.inputs]
    turns = sum(len(question.turns) for question in questions)
    compared = stage.function_name != "mt-bench" and kind not in PROGRAMS
    again = turns if stage.function_name == "arena-hard" else min(turns, settings.get("swap_check", 0))
    calls = turns + again if compared else turns * len(answers)
    longest = estimator.longest(answers[0].settings)
    asked = sum(estimator.model(answers[0]).count([turn for question in questions for turn in question.turns]))
    read = asked * calls / max(1, turns) + calls * longest * (2 if compared else 1)
    written = float(calls * _judge_words(stage))
    return Work(
        judge_calls=calls,
        judge_read_tokens=read,
        judge_written_tokens=written,
        judge_dollars=_dollars(stage, kind, read, written),
        disk_bytes=calls * (2000 + 5 * longest),
    )


def _judge_words(stage: Stage) -> int:
    """alpaca-eval's weighted annotators answer with a single token, whose probabilities are read."""
    if stage.function_name == "arena-hard":
        return ARENA_WORDS
    annotator = stage.settings.get("judge_settings", {}).get("annotator")
    weighted = isinstance(annotator, str) and annotator.startswith("weighted_")
    return 1 if weighted and stage.function_name == "alpaca-eval" else JUDGE_WORDS


def _dollars(stage: Stage, kind: str, read: float, written: float) -> float | None:
    """By the judge's prices, `price_in` and `price_out`, in dollars for a million tokens; a program costs nothing."""
    if kind in PROGRAMS:
        return 0.0
    said = {**stage.settings.get("judge_settings", {}), **stage.hints.get("judge_settings", {})}
    prices = said.get("price_in"), said.get("price_out")
    if prices[0] is None or prices[1] is None:
        return None
    return float(read * prices[0] + written * prices[1]) / 1e6


def _unlearning(estimator: Estimator, stage: Stage) -> Work:
    pairs = estimator.pairs(stage.inputs["policy"])
    return Work(disk_bytes=400 * pairs.number)


def _judged_samples(estimator: Estimator, stage: Stage) -> Work:
    """The judge is asked about every sample."""
    drawn = stage.inputs["samples"].settings
    calls = _samples_of(estimator, stage.inputs["samples"])
    kind = stage.settings.get("judge", "verifier")
    read, written = float(calls * drawn["max_new_tokens"]), float(calls * JUDGE_WORDS)
    return Work(
        judge_calls=calls,
        judge_read_tokens=read,
        judge_written_tokens=written,
        judge_dollars=_dollars(stage, kind, read, written),
        disk_bytes=calls * (1000 + 5 * drawn["max_new_tokens"]),
    )


def _stated_tasks(estimator: Estimator, stage: Stage) -> Work | None:
    """What the matrix states of lm-eval's own tasks; None unless it does of all."""
    from radpo.benchmarks.academic import NAMED

    settings, stated = stage.settings, estimator.stated.tasks
    names = [member for name in settings["tasks"] for member in NAMED.get(name, (name,))]
    if not set(names) <= stated.keys():
        return None
    read = written = steps = 0.0
    for name in names:
        task = stated[name]
        documents = min(task.rows, settings["limit"] or task.rows)
        read += documents * task.read
        written += documents * task.written
        steps += math.ceil(documents / settings["batch_size"]) * task.written
    counted = _of_model(estimator, stage, read_tokens=read, written_tokens=written, write_steps=steps)
    return replace(counted, precision="float32", disk_bytes=2e5)


def _academic(estimator: Estimator, stage: Stage) -> Work | None:
    """Of tasks in the folder `include` the documents are there to count; of lm-eval's own what is stated."""
    settings = stage.settings
    if settings["include"] is None:
        return _stated_tasks(estimator, stage)
    tasks = _local_tasks(Path(settings["include"].location))
    if not set(settings["tasks"]) <= tasks.keys():
        return None
    model, read, written, steps = estimator.model(stage), 0.0, 0.0, 0.0
    for name in settings["tasks"]:
        task, documents = tasks[name]
        documents = documents[: settings["limit"]]
        tokens = model.count([" ".join(_texts(document)) for document in documents])
        if task.get("output_type") == "multiple_choice":
            choices = [document.get(task.get("doc_to_choice", "choices")) for document in documents]
            number = [len(choice) if isinstance(choice, list) else 4 for choice in choices]
            read += sum(n * (t + model.overhead) for n, t in zip(number, tokens, strict=True))
        else:
            longest = task.get("generation_kwargs", {}).get("max_gen_toks", 256)
            read += sum(tokens) + len(documents) * model.overhead
            written += len(documents) * longest
            steps += math.ceil(len(documents) / settings["batch_size"]) * longest
    counted = _of_model(estimator, stage, read_tokens=read, written_tokens=written, write_steps=steps)
    return replace(counted, precision="float32", disk_bytes=2e5)


def _ches(estimator: Estimator, stage: Stage) -> Work:
    """Both responses of every pair are read one by one, each with its prompt."""
    pairs, length = estimator.pairs(stage), stage.settings["max_length"]
    prompts = sum(min(length, prompt) for prompt in pairs.prompts) * pairs.number / max(1, len(pairs.prompts))
    read = pairs.sequences(length) + prompts
    return _of_model(estimator, stage, read_tokens=read, precision="float32", disk_bytes=80 * pairs.number)


def _samples(estimator: Estimator, stage: Stage) -> Work:
    """Every sample is drawn, then read by the policy and, where there is one, by the reference."""
    settings, model = stage.settings, estimator.model(stage)
    questions = estimator.questions(settings)
    each, longest = settings["per_prompt"], settings["max_new_tokens"]
    asked = sum(model.count([question.turns[0] for question in questions])) + model.overhead * len(questions)
    goals = [0 if goal in (None, "default") else GOAL_TOKENS for goal in settings["goals"]]
    prompts = float(each * sum(asked + goal * len(questions) for goal in goals))
    samples = _samples_of(estimator, stage)
    written = float(samples * longest)
    readers = 1 if settings["reference"] is None else 2
    return _of_model(
        estimator,
        stage,
        read_tokens=prompts + readers * (prompts + written),
        written_tokens=written,
        write_steps=math.ceil(samples / settings["batch_size"]) * longest,
        precision="float32",
        disk_bytes=4 * written + 60 * samples,
    )


def _samples_of(estimator: Estimator, stage: Stage) -> int:
    return len(estimator.questions(stage.settings)) * len(stage.settings["goals"]) * int(stage.settings["per_prompt"])


def _figures(estimator: Estimator, stage: Stage) -> Work:
    """Figures alone come out of what other stages measured."""
    return Work(disk_bytes=2e4)


WORK: dict[str, Callable[[Estimator, Stage], Work | None]] = {
    "relabel": _relabel,
    "reference": _reference,
    "implicit": _implicit,
    "train": _train,
    "likelihood": _likelihood,
    "unlearning": _unlearning,
    "generate": _generate,
    "alpaca-eval": _judged,
    "mt-bench": _judged,
    "arena-hard": _judged,
    "academic": _academic,
    "implicit-reward": _figures,
    "ches": _ches,
    "displacement": _figures,
    "samples": _samples,
    "reward-kl": _judged_samples,
    "calibration": _judged_samples,
    "style": _figures,
}


def _of_model(estimator: Estimator, stage: Stage, **work: Any) -> Work:
    model = estimator.model(stage)
    precision = work.pop("precision", stage.settings.get("precision", "auto"))
    return Work(parameters=model.parameters, layers=model.layers, precision=precision, **work)


def _copies(relabel: Stage) -> int:
    """Training pairs that a scored pair becomes; at most, where a method makes them by code of its own."""
    return 1 if relabel.settings.get("kind") in ("plain", "half-ra") else 2


def _training_pairs(estimator: Estimator, stage: Stage) -> int:
    relabel = stage.inputs["pairs"]
    return estimator.pairs(relabel).number * _copies(relabel)


def _training_tokens(estimator: Estimator, relabel: Stage, max_length: int) -> float:
    goal = 0 if relabel.settings.get("kind") == "plain" else GOAL_TOKENS
    return _copies(relabel) * estimator.pairs(relabel).sequences(max_length, goal)


def _local_tasks(folder: Path) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """lm-eval's tasks in a folder whose documents lie in JSON Lines files beside them."""
    tasks = {}
    for file in folder.rglob("*.yaml"):
        task = yaml.safe_load(file.read_text(encoding="utf-8"))
        place = task.get("dataset_kwargs", {}).get("data_files") if isinstance(task, dict) else None
        if isinstance(place, str) and (data := file.parent / place).is_file():
            lines = data.read_text(encoding="utf-8").splitlines()
            tasks[task["task"]] = (task, [json.loads(line) for line in lines if line.strip()])
    return tasks


def _texts(document: Mapping[str, Any]) -> Iterable[str]:
    return (value for value in document.values() if isinstance(value, str))
