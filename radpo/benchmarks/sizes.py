"""How large models and data are: counted where they are here, else as the matrix file says (`size_hints`).

A hinted text is made of a word that every tokenizer takes for one token, so that it is counted like a real one. A model
or file that is here is counted, whatever the hints say of it. No hint is part of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from radpo.benchmarks.settings import Section, location_beside
from radpo.core.errors import ConfigError
from radpo.core.files import is_there
from radpo.engine.graph import Stage
from radpo.engine.sources import Source
from radpo.preferences.hub import parse_hub

if TYPE_CHECKING:
    from radpo.preferences.questions import Question

SAMPLE = 256
"""Rows of a data set whose tokens are counted; the rest is taken to be like them."""
WORD = " the"
"""One token of any tokenizer, and four bytes."""
BYTES_A_TOKEN = 4
"""Of English text, about, by any tokenizer."""
OVERHEAD = 32
"""Tokens that a chat template adds to a one-message conversation."""


Tokens = Annotated[float, Field(ge=0)]


class ModelSize(Section):
    """A model's size."""

    parameters: float = Field(gt=0, description="Those that compute: without an untied input embedding.")
    layers: int = Field(ge=1)


class PairsSize(Section):
    """A file of scored pairs: its rows, and the mean tokens of their parts."""

    rows: int = Field(ge=1)
    prompt: Tokens
    chosen: Tokens
    rejected: Tokens


class QuestionsSize(Section):
    """A file of questions: its rows, their turns, the mean tokens of a turn, and of an answer to one."""

    rows: int = Field(ge=1)
    turns: int = Field(1, ge=1)
    prompt: Tokens
    answer: Tokens | None = Field(
        None, description="Tokens of an answer, also where the file is here; the longest that is allowed, if not given."
    )


class TaskSize(Section):
    """One of lm-eval's own tasks: its documents, the tokens read for one (all choices and shots), and those written."""

    rows: int = Field(ge=1)
    read: Tokens
    written: Tokens = 0


_Size = TypeVar("_Size", PairsSize, QuestionsSize)


def _by_place(sizes: dict[str, _Size], info: ValidationInfo) -> dict[str, _Size]:
    """Paths begin at the matrix file's own folder, as they do where the files are named."""
    folder: Path = (info.context or {}).get("folder", Path())
    return {location_beside(path, folder): size for path, size in sizes.items()}


class SizeHints(Section):
    """Sizes by model, by file and by task, under the names that the matrix uses, of what is not here yet."""

    models: dict[str, ModelSize] = Field(default_factory=dict)
    pairs: Annotated[dict[str, PairsSize], AfterValidator(_by_place)] = Field(default_factory=dict)
    questions: Annotated[dict[str, QuestionsSize], AfterValidator(_by_place)] = Field(default_factory=dict)
    tasks: dict[str, TaskSize] = Field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """What a model folder says of the model. `parameters`: those that compute, a separate input embedding left out."""

    parameters: int
    layers: int
    count: Callable[[Sequence[str]], list[int]]
    overhead: int


@dataclass(frozen=True)
class Pairs:
    """Scored pairs: how many, and the tokens of some of them."""

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


@dataclass
class Sizes:
    """Reads sizes, and keeps what it has read: stages share data and models."""

    hints: SizeHints = field(default_factory=SizeHints)
    models: dict[str, Model] = field(default_factory=dict)
    rows: dict[tuple[str, int | None, str], Any] = field(default_factory=dict)

    def model(self, stage: Stage) -> Model:
        """The model that a stage computes with, itself or in what it trained."""
        source = _model_source(stage)
        if source.location not in self.models:
            self.models[source.location] = self._hinted_model(source) if source.absent else _read(source.location)
        return self.models[source.location]

    def pairs(self, stage: Stage) -> Pairs:
        """The scored pairs that a stage reads, itself or through what it reads, by its model's tokenizer."""
        model = self.model(stage)
        number, rows = self._rows_of(_pairs_stage(stage).settings)
        prompts = ["\n".join(message["content"] for message in row["prompt"]) for row in rows]
        return Pairs(
            number,
            [tokens + model.overhead for tokens in model.count(prompts)],
            model.count([row["chosen"] for row in rows]),
            model.count([row["rejected"] for row in rows]),
        )

    def file_bytes(self, settings: Mapping[str, Any]) -> float:
        """The size of the file of scored pairs that a stage's settings name, or of all files in a folder."""
        source: Source = settings["pairs"]
        if source.absent or not is_there(place := Path(source.location)):
            number, rows = self._rows_of(settings)
            size = sum(len(row["chosen"]) + len(row["rejected"]) for row in rows)
            return float(number) * size / max(1, len(rows))
        return float(sum(file.stat().st_size for file in (place.rglob("*") if place.is_dir() else [place])))

    def _rows_of(self, settings: Mapping[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """How many pairs a stage's settings name, and some of them: what is on the Hub is read only without a hint."""
        source: Source = settings["pairs"]
        place = (source.location, settings["limit"], str(settings.get("share")))
        if place not in self.rows:
            elsewhere = source.absent or (source.location in self.hints.pairs and parse_hub(source.location))
            self.rows[place] = (self._hinted_pairs if elsewhere else _read_pairs)(source, settings)
        found: tuple[int, list[dict[str, Any]]] = self.rows[place]
        return found

    def questions(self, settings: Mapping[str, Any]) -> list[Question]:
        """The questions that a stage's settings name."""
        from radpo.benchmarks.questions import load_benchmark_questions
        from radpo.preferences.questions import Question
        from radpo.preferences.shares import taken

        source: Source = settings["questions"]
        if not source.absent:
            found = load_benchmark_questions(Path(source.location))
            return taken(found, settings["limit"], settings.get("share"))
        if source.location not in self.hints.questions:
            raise _no_hint(source, "questions")
        said = self.hints.questions[source.location]
        turns = (_words(said.prompt),) * said.turns
        rows = round(said.rows * _part(settings))
        return [Question(f"{n}", "", turns, ((),) * said.turns) for n in range(rows)][: settings["limit"]]

    def longest(self, settings: Mapping[str, Any]) -> float:
        """Tokens of an answer to one turn: as hinted, else the most that are allowed, or as long as those given are."""
        if "answers" in settings:
            return self._mean_answer(settings)
        allowed = float(settings["sampling"]["max_new_tokens"])
        said = self.hints.questions.get(settings["questions"].location)
        return allowed if said is None or said.answer is None else min(allowed, said.answer)

    def count(self, stage: Stage, texts: Sequence[str]) -> list[int]:
        """Tokens of every text, by the tokenizer of a stage's model; guessed where the model is not here."""
        return self.model(stage).count(texts) if _has_model(stage) else _guessed(texts)

    def _mean_answer(self, settings: Mapping[str, Any]) -> float:
        source, said = settings["answers"], self.hints.questions.get(settings["questions"].location)
        if said is not None and said.answer is not None:
            return said.answer
        if source.absent:
            raise _no_hint(settings["questions"], "questions")
        turns = sum(len(question.turns) for question in self.questions(settings))
        return Path(source.location).stat().st_size / BYTES_A_TOKEN / max(1, turns)

    def _hinted_model(self, source: Source) -> Model:
        said = self.hints.models[source.location]
        return Model(int(said.parameters), said.layers, _guessed, OVERHEAD)

    def _hinted_pairs(self, source: Source, settings: Mapping[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        if source.location not in self.hints.pairs:
            raise _no_hint(source, "pairs")
        said, limit = self.hints.pairs[source.location], settings["limit"]
        prompt = [{"content": _words(said.prompt)}]
        row = {"prompt": prompt, "chosen": _words(said.chosen), "rejected": _words(said.rejected)}
        rows = round(said.rows * _part(settings))
        return min(rows, limit or rows), [row]


def _part(settings: Mapping[str, Any]) -> float:
    """The part of a file's prompts that a stage's settings take."""
    low, high = settings.get("share", (0.0, 1.0))
    return float(high - low)


def _guessed(texts: Sequence[str]) -> list[int]:
    return [len(text.encode()) // BYTES_A_TOKEN for text in texts]


def _words(tokens: float) -> str:
    return WORD * round(tokens)


def _no_hint(source: Source, key: str) -> ConfigError:
    return ConfigError(f"{source.location}: is not here; make it, or give its size under size_hints.{key}")


def _read_pairs(source: Source, settings: Mapping[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    from radpo.preferences.preferences import Reading, load_preferences
    from radpo.preferences.streamed import in_part
    from radpo.preferences.training_pairs import load_training_pairs

    if "scale" in settings:
        table = load_preferences(source.read_from, Reading.of(settings)).table
        table = in_part(table, settings.get("share")).slice(0, settings["limit"])
    else:
        table = load_training_pairs(Path(source.location), settings["limit"])
    rows = table.select(["prompt", "chosen", "rejected"]).slice(0, SAMPLE).to_pylist()
    return table.num_rows, rows


def _pairs_stage(stage: Stage) -> Stage:
    return stage if "pairs" in stage.settings else _pairs_stage(stage.inputs["pairs"])


def _has_model(stage: Stage) -> bool:
    return "model" in stage.settings or any(map(_has_model, stage.inputs.values()))


def _model_source(stage: Stage) -> Source:
    if "model" in stage.settings:
        source: Source = stage.settings["model"]
        return source
    return _model_source(next(iter(stage.inputs.values())))


def _read(name: str) -> Model:
    from radpo.models.loading import fast_tokenizer, resolve_model
    from radpo.models.weights import parameter_count, read_json

    folder = resolve_model(name)
    config = read_json(folder / "config.json")
    config = config.get("text_config", config)
    parameters = parameter_count(folder)
    if not config.get("tie_word_embeddings", False):
        parameters -= config.get("vocab_size", 0) * config.get("hidden_size", 0)
    tokenizer = fast_tokenizer(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoded.ids) for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return Model(parameters, config.get("num_hidden_layers", 0), count, OVERHEAD)
