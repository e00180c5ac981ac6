"""How much there is to do: a stage comes in, its tokens, judge calls and bytes go out. No model is loaded.

Tokens are counted with the model's own tokenizer on a sample of the data. What stands after a stage that is yet to be
computed is taken at its largest: every answer as long as it may become.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from radpo.matrix.graph import Source, Stage

SAMPLE = 256
"""Rows of a data set whose tokens are counted; the rest is taken to be like them."""
PROGRAMS = ("verifier", "reward-model")
"""Judges that run here and cost nothing."""
JUDGE_WORDS = 200
"""Tokens that a judge is taken to answer with."""


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


@dataclass(frozen=True)
class Model:
    """What a model folder says of the model. `parameters`: those that compute, a separate input embedding left out."""

    parameters: int
    layers: int
    count: Callable[[Sequence[str]], list[int]]
    overhead: int
    """Tokens that the chat template adds to a one-message conversation."""


@dataclass
class Estimator:
    """Counts work; keeps what it has read, for stages share data and models."""

    models: dict[str, Model] = field(default_factory=dict)
    rows: dict[tuple[str, int | None], Any] = field(default_factory=dict)

    def work(self, stage: Stage) -> Work | None:
        """What a stage has to do; None where that cannot be said beforehand.

        Raises:
            RadpoError: the model or the data that it reads cannot be had.
        """
        count = WORK.get(stage.function_name)
        return None if count is None else count(self, stage)

    def model(self, stage: Stage) -> Model:
        """The model that a stage computes with, itself or in what it trained."""
        source = _model_source(stage)
        if source.location not in self.models:
            self.models[source.location] = _read_model(source.location)
        return self.models[source.location]

    def pairs(self, stage: Stage) -> _Pairs:
        """The scored pairs that a stage's settings name, counted with its model's tokenizer."""
        from radpo.data.preferences import Reading, load_preferences

        settings, model = stage.settings, self.model(stage)
        source: Source = settings["pairs"]
        place = (source.location, settings["limit"])
        if place not in self.rows:
            low, high = settings["scale"]
            table = load_preferences(Path(source.location), Reading((low, high))).table.slice(0, settings["limit"])
            rows = table.select(["prompt", "chosen", "rejected"])
            self.rows[place] = (table.num_rows, rows.slice(0, SAMPLE).to_pylist())
        number, rows = self.rows[place]
        prompts = ["\n".join(message["content"] for message in row["prompt"]) for row in rows]
        return _Pairs(
            number,
            [tokens + model.overhead for tokens in model.count(prompts)],
            model.count([row["chosen"] for row in rows]),
            model.count([row["rejected"] for row in rows]),
        )


@dataclass(frozen=True)
class _Pairs:
    number: int
    prompts: list[int]
    chosen: list[int]
    rejected: list[int]

    def sequences(self, max_length: int, goal: int = 0) -> float:
        """Tokens of all pairs, prompt once and both responses, each of the two sequences cut at max_length."""
        cut = [
            sum(min(max_length, prompt + goal + response) for response in responses) - min(max_length, prompt + goal)
            for prompt, *responses in zip(self.prompts, self.chosen, self.rejected, strict=True)
        ]
        return sum(cut) * self.number / max(1, len(self.prompts))


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
    parameters = estimator.model(stage).parameters
    return _of_model(
        estimator,
        stage,
        trained_tokens=trained,
        read_tokens=heldout,
        precision=settings["precision"],
        disk_bytes=4 * parameters,
        scratch_bytes=2 * 12 * parameters,  # two resumable checkpoints of weights and Adam's two moments
    )


def _likelihood(estimator: Estimator, stage: Stage) -> Work:
    from radpo.models.heldout import GOALS

    pairs, length = estimator.pairs(stage), stage.settings["max_length"]
    tokens = pairs.sequences(length) + (len(GOALS) - 1) * pairs.sequences(length, GOAL_TOKENS)
    return _of_model(estimator, stage, read_tokens=tokens, disk_bytes=20 * 2 * len(GOALS) * pairs.number)


def _generate(estimator: Estimator, stage: Stage) -> Work:
    settings, model = stage.settings, estimator.model(stage)
    questions = _questions(settings)
    longest = settings["sampling"]["max_new_tokens"]
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
    settings, questions = stage.settings, _questions(stage.settings)
    kind = settings.get("judge", "verifier")
    answers = [stage.inputs[name] for name in ("answers", "baseline_answers") if name in stage.inputs]
    turns = sum(len(question.turns) for question in questions)
    compared = stage.function_name != "mt-bench" and kind not in PROGRAMS
    again = turns if stage.function_name == "arena-hard" else min(turns, settings.get("swap_check", 0))
    calls = turns + again if compared else turns * len(answers)
    longest = answers[0].settings["sampling"]["max_new_tokens"]
    asked = sum(estimator.model(answers[0]).count([turn for question in questions for turn in question.turns]))
    read = asked * calls / max(1, turns) + calls * longest * (2 if compared else 1)
    written = float(calls * JUDGE_WORDS)
    return Work(
        judge_calls=calls,
        judge_read_tokens=read,
        judge_written_tokens=written,
        judge_dollars=_dollars(stage, kind, read, written),
        disk_bytes=calls * (2000 + 5 * longest),
    )


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
    calls = _samples_of(stage.inputs["samples"])
    kind = stage.settings.get("judge", "verifier")
    read, written = float(calls * drawn["max_new_tokens"]), float(calls * JUDGE_WORDS)
    return Work(
        judge_calls=calls,
        judge_read_tokens=read,
        judge_written_tokens=written,
        judge_dollars=_dollars(stage, kind, read, written),
        disk_bytes=calls * (1000 + 5 * drawn["max_new_tokens"]),
    )


def _academic(estimator: Estimator, stage: Stage) -> Work | None:
    """Of tasks in the folder `include` the documents are there to count; of lm-eval's own they are not."""
    settings = stage.settings
    if settings["include"] is None:
        return None
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
    questions = _questions(settings)
    each, longest = settings["per_prompt"], settings["max_new_tokens"]
    asked = sum(model.count([question.turns[0] for question in questions])) + model.overhead * len(questions)
    goals = [0 if goal in (None, "default") else GOAL_TOKENS for goal in settings["goals"]]
    prompts = float(each * sum(asked + goal * len(questions) for goal in goals))
    samples = _samples_of(stage)
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


def _samples_of(stage: Stage) -> int:
    return len(_questions(stage.settings)) * len(stage.settings["goals"]) * int(stage.settings["per_prompt"])


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


def _questions(settings: Mapping[str, Any]) -> list[Any]:
    from radpo.harness.questions import load_benchmark_questions

    return load_benchmark_questions(Path(settings["questions"].location))[: settings["limit"]]


def _model_source(stage: Stage) -> Source:
    if "model" in stage.settings:
        source: Source = stage.settings["model"]
        return source
    return _model_source(next(iter(stage.inputs.values())))


def _read_model(name: str) -> Model:
    from tokenizers import Tokenizer

    from radpo.models.loading import resolve_model

    folder = resolve_model(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    parameters = sum(_parameters(file) for file in folder.glob("*.safetensors"))
    if not config.get("tie_word_embeddings", False):
        parameters -= config.get("vocab_size", 0) * config.get("hidden_size", 0)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoded.ids) for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return Model(parameters, config.get("num_hidden_layers", 0), count, overhead=32)


def _parameters(file: Path) -> int:
    """The numbers in a safetensors file, by its header: 8 bytes of its length, then JSON with every tensor's shape."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


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
