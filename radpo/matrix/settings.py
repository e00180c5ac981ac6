"""The sections of a matrix file other than its benchmarks, and the matrix as a whole."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, create_model, field_validator, model_validator

from radpo.benchmarks.registry import benchmarks
from radpo.benchmarks.settings import (
    DataFile,
    MatrixPath,
    ModelName,
    Section,
    TrainingFile,
    served_beside_the_matrix,
)
from radpo.benchmarks.sizes import SizeHints
from radpo.clients.endpoint import Endpoint
from radpo.core.published import read_published
from radpo.core.suggestions import did_you_mean
from radpo.engine.executors import ExecutorChoice
from radpo.matrix.draws import PLACE, Draws, Levels
from radpo.matrix.tuning_settings import Trial, Tuning, VariantTuning, trials
from radpo.models.chat_template import check_variables
from radpo.preferences.goals import goal_text_problem
from radpo.preferences.pairing import Rule
from radpo.preferences.preferences import OnError, Reading
from radpo.preferences.rows import FalseTens
from radpo.training.settings import TrainingSettings
from radpo.training.variants import find_variant, method_training, variant_names

TemplateVariables = Annotated[dict[str, Any], AfterValidator(check_variables)]


class Data(Section):
    """The scored pairs: to train on, and held out. Neither is needed where nothing is trained or measured on them."""

    train: TrainingFile | None = None
    heldout: DataFile | None = None
    scale: tuple[float, float] = Field((1.0, 10.0), description="The lowest and the highest possible score.")

    goal_text: str | None = Field(
        None,
        description="The wording of a goal: {g} once, where the score goes, and {low} and {high} for the ends of the "
        "scale. Default: the paper's sentence. Goals by attribute keep theirs.",
    )
    attribute_scale: tuple[float, float] = Field(
        (1.0, 5.0), description="The same for an attribute's score, for ra-attributes; HelpSteer's is 0 to 4."
    )

    on_error: OnError = Field("raise", description="Stop at a bad row (raise), or leave bad rows out and count (skip).")
    swap: bool = Field(
        False, description="Swap the responses of pairs whose chosen response scores below the rejected one."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Columns that have other names in the files, as ours: theirs, such as score_chosen: rating_a.",
    )
    pairing: Rule = Field("best-other", description="Which responses to pair where a prompt has several.")
    false_tens: FalseTens = Field(
        "keep",
        description="UltraFeedback's responses scored 10 overall whose ratings are all 1: keep, drop or repair them.",
    )

    @property
    def reading(self) -> Reading:
        """How the files are read."""
        return Reading(
            scale=self.scale,
            on_error=self.on_error,
            swap=self.swap,
            columns=self.columns,
            pairing=self.pairing,
            false_tens=self.false_tens,
        )

    @property
    def goals(self) -> dict[str, Any]:
        """How goals are asked for, as stages' settings have it."""
        return {"scale": list(self.scale), **({} if self.goal_text is None else {"goal_text": self.goal_text})}

    @field_validator("goal_text")
    @classmethod
    def _has_a_place(cls, text: str | None) -> str | None:
        if text is not None and (problem := goal_text_problem(text)):
            raise ValueError(problem)
        return text

    @field_validator("scale", "attribute_scale")
    @classmethod
    def _rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError("the scale's lowest score must be below its highest")
        return scale


class Benchmarks(Section):
    """What every variant is scored on; a benchmark that is not named is not run."""

    names: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _all_default(cls, sections: Any) -> Any:
        # A name with nothing behind it asks for the benchmark as it is by default, as a variant's does.
        if not isinstance(sections, Mapping):
            return sections
        return {name: {} if section is None else section for name, section in sections.items()}

    @model_validator(mode="after")
    def _fit_together(self) -> Benchmarks:
        named = self.named()
        for name, section in named.items():
            check = benchmarks()[name].check
            problem = None if check is None else check(section, named)
            if problem is not None:
                raise ValueError(f"{name}: {problem}")
        return self

    def named(self) -> dict[str, Section]:
        """The sections that the matrix has, by benchmark, in the order in which benchmarks are listed."""
        found = {name: getattr(self, _field(name)) for name in self.names}
        return {name: section for name, section in found.items() if section is not None}


def _field(benchmark: str) -> str:
    return benchmark.replace("-", "_")


class VariantSettings(Section):
    """A column of the matrix: a method (by default the variant's own name), and training settings that differ.

    Or something that is scored as it is: a trained checkpoint, a model behind an endpoint, or a file of answers.
    """

    extends: str | None = Field(
        None, description="A variant of this matrix whose method and settings this one starts from."
    )
    method: str | None = Field(None, description="An alignment method, where it is not the variant's own name.")
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings that differ from the matrix's; a list where one value is wanted makes a variant of each.",
    )
    checkpoint: ModelName | None = Field(
        None,
        description="A trained checkpoint, scored as it is: a folder, a bundled model, a .gguf file, or a Hub id. Its "
        "goal is that of its chat template.",
    )
    endpoint: Annotated[Endpoint, AfterValidator(served_beside_the_matrix)] | None = Field(
        None,
        description="A model behind an OpenAI-compatible endpoint, which answers the benchmarks' questions: one that "
        "is there (base_url), or one that radpo starts (serve).",
    )
    answers: MatrixPath | None = Field(
        None, description="A file of answers to a benchmark's questions, in any of the benchmarks' formats."
    )
    chat_template_kwargs: TemplateVariables | None = Field(
        None, description="Variables of the checkpoint's chat template, over the matrix's own of that name."
    )
    goal: float | Literal["none"] | None = Field(
        None, description="The goal for answers and samples; none for no goal. Default: that of its chat template."
    )
    tune: VariantTuning | Literal[False] | None = Field(
        None, description="What differs for this variant from the matrix's `tune`; false to leave it as it is."
    )

    @property
    def is_given(self) -> bool:
        """Whether it is scored as it is, and nothing of it is trained."""
        return any(value is not None for value in (self.checkpoint, self.endpoint, self.answers))

    @model_validator(mode="after")
    def _trained_or_given(self) -> VariantSettings:
        there = {name: getattr(self, name) is not None for name in GIVEN}
        given = [name for name, is_there in there.items() if is_there]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: a variant is one of {', '.join(GIVEN)}, and this is {' and '.join(given)}")
        if self.chat_template_kwargs is not None and self.checkpoint is None:
            raise ValueError(
                "chat_template_kwargs: is for a checkpoint; for what is trained give it beside model, for an endpoint "
                "among its settings"
            )
        for name in ("method", "training", "tune"):
            if given and getattr(self, name):
                raise ValueError(f"{name}: is for variants that are trained; {given[0]} is scored as it is")
        return self


GIVEN = ("checkpoint", "endpoint", "answers")
"""What makes a variant one that is scored as it is."""


class Cells(Section):
    """Some cells of the matrix: those to which all that is given applies. Names may hold * and ?."""

    model: str | tuple[str, ...] = "*"
    variant: str | tuple[str, ...] = "*"
    seed: int | tuple[int, ...] | None = None
    benchmark: str | tuple[str, ...] = "*"

    def hold(self, *, model: str, variant: str, seed: int, benchmark: str | None) -> bool:
        """Whether a cell is among them; a cell as a whole (benchmark None) is, if any part of it is."""
        return (
            _fits(self.model, model)
            and _fits(self.variant, variant)
            and (self.seed is None or seed in _as_tuple(self.seed))
            and (benchmark is None or _fits(self.benchmark, benchmark))
        )

    @property
    def whole(self) -> bool:
        """Whether they are cells with all their benchmarks."""
        return self.benchmark == "*"


class Resources(Section):
    """What one stage takes of a cluster, and of GPUs, of this machine."""

    cpus: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[float, Field(ge=0)] | None = Field(
        None, description="A share lets stages share one. Default: one, if there are GPUs and the stage loads a model."
    )
    memory_gib: Annotated[float, Field(gt=0)] | None = None


class Matrix(Section):
    """A whole matrix: models, variants and seeds, the data, the settings, the benchmarks."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: ModelName | None = Field(None, description="A bundled model's name, a folder, a .gguf file, or a Hub id.")
    models: tuple[ModelName, ...] = Field((), description="Several models, instead of `model`.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field((0,), min_length=1)
    draws: Draws | None = Field(
        None, description="In place of `seeds`, what is drawn anew: models, data, their order and samples, each apart."
    )
    variants: dict[str, VariantSettings] = Field(min_length=1)
    max_cells: int = Field(
        10_000, ge=1, description="Cells (models x variants x seeds, sweeps unfolded) that the matrix may have."
    )
    baseline: str = Field("base", description="The variant that the others are compared with.")
    include: tuple[Cells, ...] = Field((), description="The only cells to run. Default: all.")
    exclude: tuple[Cells, ...] = Field((), description="Cells to leave out.")
    data: Data = Data()
    training: TrainingSettings = TrainingSettings()
    tune: Tuning | None = Field(
        None, description="Training settings to try for every variant that is trained, before the best are reported."
    )
    save_every: int = Field(50, ge=1, description="Optimiser steps between resumable checkpoints.")
    track: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Optimiser steps between measurements of the held-out log-likelihoods during training."
    )
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        (),
        description="Trackers that training is reported to meanwhile, as runs VARIANT/seed-N of a project with "
        "the matrix's name; `radpo[trackers]` has their packages. With tensorboard the run directory keeps its files.",
    )
    resources: dict[str, Resources] = Field(
        default_factory=dict, description="Resources that stages request from a cluster, by function, such as `train`."
    )
    executor: ExecutorChoice | None = Field(
        None,
        description="The executor that computes the stages, unless --executor names another: local, ray, or one of an "
        "installed package; a name, or a mapping with its options, such as {kind: ray, address: auto}.",
    )
    max_cost: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Dollars that the whole run may spend, over all its stages, processes and reruns in one run "
        "directory; checked before each request is sent, at the most it could cost. Everything asked needs prices.",
    )
    max_requests: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Requests that the whole run may send likewise, repeated ones counted."
    )
    benchmarks: Benchmarks
    published: MatrixPath | None = Field(
        None,
        description="A CSV file of published figures for the report to show beside these: variant, benchmark, subset, "
        "metric, value, source.",
    )
    date: datetime.date | None = Field(
        None, description="The date for chat templates that print one. Default: 2024-07-26, on any day."
    )
    chat_template_kwargs: TemplateVariables | None = Field(
        None,
        description="Variables of the chat templates of all models that are computed with here, such as "
        "{enable_thinking: false}. An endpoint has its own.",
    )
    size_hints: SizeHints = Field(
        SizeHints(), description="Sizes for `radpo plan` of models and files that are not here yet."
    )

    @property
    def all_models(self) -> tuple[str, ...]:
        """Every model of the matrix; none, where every variant is scored as it is and measured against no model."""
        return (self.model,) if self.model is not None else self.models

    @model_validator(mode="before")
    @classmethod
    def _runs_of_draws(cls, document: Any) -> Any:
        """Runs that are made by `draws` are numbered, and these are their seeds."""
        if not isinstance(document, dict) or not isinstance(document.get("draws"), dict):
            return document
        try:
            runs = list(range(len(Draws.model_validate(document["draws"]).runs)))
        except ValidationError:
            return document  # the check of the section says so
        if document.get("seeds", runs) != runs:
            raise ValueError("draws: stands in place of seeds; leave one of them out")
        return {**document, "seeds": runs}

    def levels(self, seed: int) -> Levels:
        """What the run with a seed is made with."""
        return Levels(None, None, seed, seed) if self.draws is None else self.draws.runs[seed]

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is named twice")
        return seeds

    @field_validator("variants", mode="before")
    @classmethod
    def _empty_means_default(cls, variants: Any) -> Any:
        if isinstance(variants, dict):
            return {name: {} if settings is None else settings for name, settings in variants.items()}
        return variants

    @model_validator(mode="after")
    def _fits_together(self) -> Matrix:
        if self.model is None and not self.models and not all(one.is_given for one in self.variants.values()):
            raise ValueError("model: missing: give a model as a string, or several under models")
        if self.model is not None and self.models:
            raise ValueError("models: give either model or models, not both")
        if len(set(self.models)) != len(self.models):
            raise ValueError("models: a model is named twice")
        if self.baseline not in self.variants:
            known = ", ".join(self.variants)
            hint = did_you_mean(self.baseline, self.variants)
            raise ValueError(f"baseline {self.baseline!r} is none of the variants: {known}{hint}")
        self._draws_fit()
        if self.data.train is None and any(map(self.trains, self.variants)):
            name = next(filter(self.trains, self.variants))
            raise ValueError(f"data.train: missing: variant {name!r} is trained on scored pairs")
        for name in self.variants:
            try:
                self.training_for(name)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"variants.{name}.training.{where}: {first['msg']}") from error
        if self.tune is not None:
            self._tuning_fits(self.tune)
        elif tuned := next((name for name, one in self.variants.items() if one.tune), None):
            raise ValueError(f"variants.{tuned}.tune: the matrix itself has no tune, with a metric to choose by")
        if self.published is not None and self.published.is_file():
            try:
                read_published(self.published, self.variants, benchmarks())
            except (ValueError, OSError) as error:
                raise ValueError(f"published: {error}") from error
        for key in ("include", "exclude"):
            for number, cells in enumerate(getattr(self, key)):
                self._there_are(f"{key}.{number}", cells)
        return self

    def _draws_fit(self) -> None:
        """There is something to draw of, in the model's name and of the training pairs."""
        cells = len(self.seeds) * len(self.variants) * max(1, len(self.all_models))
        if cells > self.max_cells:
            raise ValueError(f"draws: {cells:,} cells, more than max_cells ({self.max_cells:,}); take fewer levels")
        models = bool(self.draws and self.draws.model)
        for model in self.all_models:
            if models != (PLACE in model):
                what = "model names no {seed} to put them in" if models else f"{model!r} needs levels for {{seed}}"
                raise ValueError(f"{'draws.model' if self.draws else 'model'}: {what}")
        if self.draws and self.draws.data and (self.data.train is None or self.data.train.limit is None):
            raise ValueError("data.train.limit: missing: how many of the pairs a draw has (draws.data)")
        if self.draws and self.tune and not set(self.tuning_seeds) <= set(self.seeds):
            raise ValueError(f"tune.seeds: runs are numbered 0 to {len(self.seeds) - 1} by draws; take some of these")

    def _tuning_fits(self, tune: Tuning) -> None:
        """There is such a figure, something to tune, and every value that is tried may be."""
        tune.figure(self.benchmarks.named())
        tried = self.trials
        if not tried:
            raise ValueError("tune: no variant is trained with a setting that it does not have itself")
        for name, one in self.variants.items():
            if one.tune and name not in tried:
                raise ValueError(f"variants.{name}.tune: the variant is not trained, or has nothing to try")
        for name, each in tried.items():
            for trial in each:
                try:
                    self.training_for(name, trial.values)
                except ValidationError as error:
                    first = error.errors()[0]
                    key = str(first["loc"][0]) if first["loc"] else next(iter(trial.values))
                    own = self.variants[name].tune
                    where = f"variants.{name}.tune" if own and key in own.training else "tune"
                    raise ValueError(f"{where}.training.{key}: {trial.values.get(key)!r}: {first['msg']}") from error
                if trial.name in self.variants:
                    raise ValueError(f"tune: a setting of {name!r} would be called {trial.name!r}, as a variant is")
        cells = sum(map(len, tried.values())) * len(self.tuning_seeds) * max(1, len(self.all_models))
        if cells > self.max_cells:
            raise ValueError(f"tune: {cells:,} trials, more than max_cells ({self.max_cells:,}); lower the budget")

    @property
    def trials(self) -> dict[str, tuple[Trial, ...]]:
        """The settings that are tried, by variant; only of variants that are tuned."""
        if self.tune is None:
            return {}
        found = {
            name: trials(name, self.tune, one.tune or None, one.training)
            for name, one in self.variants.items()
            if one.tune is not False and not one.is_given and self.trains(name)
        }
        return {name: each for name, each in found.items() if each}

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """The seeds that every setting is tried with."""
        return self.seeds if self.tune is None or self.tune.seeds is None else self.tune.seeds

    def _there_are(self, key: str, cells: Cells) -> None:
        """A rule that fits nothing is a slip of the pen."""
        named = tuple(self.benchmarks.named())
        there = {"model": self.all_models or ("none",), "variant": tuple(self.variants), "benchmark": named}
        for part, names in there.items():
            for pattern in _as_tuple(getattr(cells, part)):
                if not any(fnmatchcase(name, pattern) for name in names):
                    hint = did_you_mean(pattern, names)
                    raise ValueError(f"{key}.{part}: {pattern!r} fits none of {', '.join(names)}{hint}")
        for seed in () if cells.seed is None else _as_tuple(cells.seed):
            if seed not in self.seeds:
                raise ValueError(f"{key}.seed: {seed} is none of the seeds {', '.join(map(str, self.seeds))}")

    def has_cell(self, *, model: str, variant: str, seed: int, benchmark: str | None = None) -> bool:
        """Whether a cell, or one benchmark of it, is left by `include` and `exclude`."""
        place: dict[str, Any] = {"model": model, "variant": variant, "seed": seed, "benchmark": benchmark}
        included = not self.include or any(cells.hold(**place) for cells in self.include)
        return included and not any(
            cells.hold(**place) for cells in self.exclude if cells.whole or benchmark is not None
        )

    def training_for(self, name: str, tried: Mapping[str, Any] | None = None) -> TrainingSettings:
        """The matrix's training settings, with those that make the variant's method and then its own on top.

        Args:
            tried: settings in place of its own.
        """
        method = method_training(self.method_of(name))
        own = {**self.variants[name].training, **(tried or {})}
        return TrainingSettings.model_validate({**self.training.model_dump(), **method, **own})

    @cached_property
    def drops_overlong(self) -> bool:
        """Whether any variant leaves out pairs whose prompt fills max_length, for which others stop."""
        settings = (variant.training.get("overlong_prompts") for variant in self.variants.values())
        return self.training.overlong_prompts == "drop" or "drop" in settings

    def method_of(self, name: str) -> str:
        """The method that makes a variant; that of the model as it is, where nothing is trained."""
        variant = self.variants[name]
        return "base" if variant.is_given else variant.method or name

    def trains(self, name: str) -> bool:
        """Whether a variant is trained; one of a method that does not exist is not."""
        method = self.method_of(name)
        return method in variant_names() and find_variant(method).data is not None


@cache
def matrix_type() -> type[Matrix]:
    """The matrix with a section for every benchmark that is installed."""
    there = benchmarks()
    fields: dict[str, Any] = {
        _field(name): (one.Settings | None, Field(None, alias=name, description=one.summary))
        for name, one in there.items()
    }
    sections = create_model("Benchmarks", __base__=Benchmarks, __doc__=Benchmarks.__doc__, **fields)
    sections.names = tuple(there)
    return create_model("Matrix", __base__=Matrix, __doc__=Matrix.__doc__, benchmarks=(sections, ...))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _fits(patterns: str | tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _as_tuple(patterns))
