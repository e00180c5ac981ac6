"""What a benchmark is: one object that says how a checkpoint is scored, what its figures mean and what it costs.

radpo's own benchmarks and those of a user's package are alike, and are found the same way: by an entry point of the
group `radpo.benchmarks` that leads to a `Benchmark`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.benchmarks.settings import DataFile, ExistingModel, SamplingSettings, Section
from radpo.benchmarks.sources import file_source, model_source
from radpo.benchmarks.work import Work
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError, DataError
from radpo.core.metrics import Metric
from radpo.core.paid_work import ACCOUNT
from radpo.core.results import Scores
from radpo.engine.graph import Function, Stage
from radpo.engine.sources import Source
from radpo.models.generation import Goal
from radpo.models.precision import Settled, settle, settled
from radpo.training.settings import TrainingSettings

if TYPE_CHECKING:
    import pandas as pd

    from radpo.benchmarks.sizes import Sizes
    from radpo.core.run import Run
    from radpo.figures.sections import ReportSection
    from radpo.figures.styles import Styles

Cost = Callable[["Sizes", Stage], Work | None]
"""What a stage has to do; None where that cannot be said beforehand."""
Sections = Callable[["Run", "Styles"], Sequence["ReportSection"]]
"""A benchmark's part of the report on a run, with how the run's variants look (`radpo.figures`).

It is asked about every run, also one that lacks the benchmark: a section without panels is not shown, and its title is
named among what there are no figures of.
"""


@dataclass(frozen=True)
class Checkpoint:
    """What a benchmark scores: a variant with a seed.

    It is trained by `train`, or is the `given` folder as it is, or answers behind an `endpoint`, or is known by its
    `answers` alone; with none of these it is the matrix's model as it is.

    Args:
        goal: the score it is asked for, None for a checkpoint that takes no goal.
        given: a checkpoint that is scored as it is.
        endpoint: where it is asked. Without a version its answers are known by `occasion`.
        answers: a file of its answers, in any of the benchmarks' formats.
        asked: the goal that it is asked with, `default` for its chat template's own.
        occasion: whose one time of asking it is, as the same name may stand for another model tomorrow.
        sampling: the seed of what is sampled of it, where that is not its own.
        environment: what stages that compute with it find in their environment besides the matrix's.
    """

    variant: str
    seed: int
    train: Stage | None
    goal: float | None
    given: Source | None = None
    endpoint: Endpoint | None = None
    answers: Source | None = None
    asked: Goal = "default"
    occasion: str = ""
    sampling: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def sampling_seed(self) -> int:
        """What is sampled of it begins with this."""
        return self.seed if self.sampling is None else self.sampling

    @property
    def label(self) -> str:
        """Its place in the names of stages."""
        return f"{self.variant}/seed-{self.seed}"

    @property
    def is_base(self) -> bool:
        """Whether it is the matrix's model as it is."""
        return self.train is None and self.given is None and self.has_weights

    @property
    def has_weights(self) -> bool:
        """Whether it is here to be computed with."""
        return self.endpoint is None and self.answers is None

    def described(self) -> dict[str, Any]:
        """Where it comes from, for a record; empty for what the matrix trains and for its model."""
        if self.given is not None:
            return {"checkpoint": self.given.location, "fingerprint": self.given.identity}
        if self.endpoint is not None:
            return {"endpoint": self.endpoint.identity()}
        return {} if self.answers is None else {"answers": Path(self.answers.location).name}


NO_MODEL = Source("none", "none")
"""The model of a matrix that names none, because nothing in it is trained or measured against one."""


class NoWeightsError(ConfigError):
    """A stage needs weights that a variant does not have."""


@dataclass(frozen=True)
class Context:
    """What a matrix gives a benchmark to build its stages from, about one of its models.

    Args:
        model: the model that training starts from.
        goals: how goals are asked for, as stages' settings have it: `scale`, the lowest and the highest score there can
            be, and where the matrix has a wording of its own, `goal_text` (`radpo.preferences.goals.asked_in`).
        heldout: the file of held-out scored pairs; None where the matrix has none.
        training: the matrix's own training settings.
        baseline: the variant that the others are compared with.
        sections: the settings of the matrix's benchmarks, by name.
        benchmarks: all benchmarks there are, by name.
        checkpoint_of: a variant of the matrix with a seed, as a checkpoint.
        functions: what stages can run, by name.
        codes: what tells the code of a function that another package brings, by the function's name.
        resources: what stages take of a cluster, by function.
        files: every file and folder that was named so far, by its location.
        label: what tells this model's stages from another model's in their names; empty where there is one model.
        heldout_name: what the held-out pairs are called there.
        environment: what stages find in their environment that can change a result, such as the date that chat
            templates print.
        reading: how files of scored pairs are read, where not as usual (`Reading.settings` in
            `radpo.preferences.preferences`).
        precision: what `auto` is, where it is not what this machine is faster in.
        planning: whether files may be yet to come; what reads them then has no key that lasts.
        occasion: what tells this run's answers of an endpoint without a version from another run's.
        account: on which account of the run the work goes that costs money, as a mapping
            (`radpo.core.paid_work.RunAccount`); empty where there is none.
        model_source: a model by its name, known by its content.
    """

    model: Source
    goals: Mapping[str, Any]
    heldout: DataFile | None
    training: TrainingSettings
    baseline: str
    sections: Mapping[str, Section]
    benchmarks: Mapping[str, Benchmark]
    checkpoint_of: Callable[[str, int], Checkpoint]
    functions: Mapping[str, Function]
    codes: Mapping[str, Source] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: dict[str, Source] = field(default_factory=dict)
    label: str = ""
    heldout_name: str = "heldout"
    environment: Mapping[str, str] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    precision: Settled | None = None
    planning: bool = False
    occasion: str = ""
    account: Mapping[str, Any] = field(default_factory=dict)
    model_source: Callable[[str], Source] = model_source

    @cached_property
    def auto_precision(self) -> Settled:
        """What `precision: auto` is; the machine is asked once, not for every stage."""
        return self.precision or settle("auto")

    def stage(
        self,
        function: str,
        label: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage] | None = None,
        hints: Mapping[str, Any] | None = None,
    ) -> Stage:
        """A stage called `function/label`.

        Args:
            function: the name of its function, among the benchmark's `functions`.
            label: what tells it from the function's other stages, such as the checkpoint's label.
            settings: all that can change its result, except its inputs: JSON values and `Source`s. A `precision` in
                them that is auto gets settled here, so that no key holds it.
            inputs: the stages whose folders it reads, by the name it reads them under.
            hints: what it needs that cannot change its result.
        """
        name = "/".join(part for part in (function, self.label, label) if part)
        if any(value is NO_MODEL for value in settings.values()):
            raise ConfigError(f"model: missing: {function} reads the model that training starts from")
        resources = self.resources.get(function)
        asked: dict[str, Any] = {"resources": dict(resources)} if resources else {}
        if self.account:
            asked[ACCOUNT] = dict(self.account)
        code: dict[str, Any] = {"code": self.codes[function]} if function in self.codes else {}
        run = self.functions[function]
        settings = settled(dict(settings), lambda: self.auto_precision)
        if self.environment:
            code = {**code, "environment": dict(self.environment)}
        return Stage(name, function, run, {**settings, **code}, inputs or {}, {**asked, **(hints or {})})

    def about(
        self,
        checkpoint: Checkpoint | None,
        function: str,
        label: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage] | None = None,
    ) -> Stage:
        """A stage that reads a checkpoint's weights: trained, given, or (None, too) the matrix's model as it is.

        Raises:
            NoWeightsError: it is an endpoint, or a file of answers.
        """
        if checkpoint is not None and not checkpoint.has_weights:
            what = "an endpoint" if checkpoint.endpoint is not None else "a file of answers"
            raise NoWeightsError(f"variants.{checkpoint.variant}: is {what}, and {function} needs weights")
        if checkpoint is not None and checkpoint.environment:
            own = replace(self, environment={**self.environment, **checkpoint.environment})
            return own.about(replace(checkpoint, environment={}), function, label, settings, inputs)
        if checkpoint is not None and checkpoint.train is not None:
            return self.stage(function, label, settings, {"policy": checkpoint.train, **(inputs or {})})
        model = None if checkpoint is None else checkpoint.given
        return self.stage(function, label, {**settings, "model": model or self.model}, inputs)

    def scored(self, benchmark: str, checkpoint: Checkpoint) -> Stage | None:
        """The last stage of another benchmark of the matrix for a checkpoint; None where it has nothing to score.

        Raises:
            ConfigError: the benchmark measures weights, which the checkpoint does not have.
        """
        try:
            return self.benchmarks[benchmark].stages(self, self.sections[benchmark], checkpoint)
        except NoWeightsError as error:
            cell = f"{{variant: {checkpoint.variant}, benchmark: {benchmark}}}"
            raise ConfigError(f"{error}; leave it out of that benchmark, with `exclude: [{cell}]`") from error

    def pairs(self, file: DataFile | None, split: str) -> Stage:
        """The stage whose folder holds a file's scored pairs, read and checked (`pairs.parquet`).

        Args:
            file: where they are, as the matrix says.
            split: what they are for, `train` or `heldout`, in the stage's name.

        Raises:
            ConfigError: the matrix names no such file.
        """
        if file is None:
            what = "held-out scored pairs" if split == "heldout" else "scored pairs to train on"
            raise ConfigError(f"data.{split}: missing: a stage of the matrix reads {what}")
        settings: dict[str, Any] = {"pairs": self.file(file.path), **file.rows, "scale": self.goals["scale"]}
        if self.reading:
            settings["reading"] = dict(self.reading)
        # Models share it, and so its name has none of them.
        name = (self.heldout_name if split == "heldout" else split) + file.label
        return replace(self.stage("pairs", split, settings), name=f"pairs/{name}")

    @property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest score there can be."""
        low, high = self.goals["scale"]
        return low, high

    def heldout_pairs(self) -> Stage:
        """The matrix's held-out pairs, as `pairs`.

        Raises:
            ConfigError: it names none.
        """
        return self.pairs(self.heldout, "heldout")

    def questions(self, file: DataFile) -> dict[str, Any]:
        """The settings that name questions."""
        return {"questions": self.file(file.path), **file.rows}

    def file(self, path: Path) -> Source:
        """A file or folder, known by its content."""
        location = str(path)
        if location not in self.files:
            self.files[location] = file_source(path, planning=self.planning)
        return self.files[location]


@dataclass(frozen=True)
class Whose:
    """Which model's rows of a file of finished results count.

    Args:
        only: the model, if it is named.
        variant: what the results will be called.
    """

    only: str | None = None
    variant: str | None = None

    def choose(self, path: Path, models: Iterable[str]) -> str:
        """The model among those of a file: the one that is named, else the only one, else that of the variant's name.

        Raises:
            DataError: there is no such model, or several and none is meant.
        """
        there = sorted(set(models))
        if self.only is not None and self.only not in there:
            raise DataError(f"{path}: no judgments of {self.only}; there are {', '.join(there) or 'none at all'}")
        if self.only is not None or len(there) == 1:
            return self.only or there[0]
        if self.variant in there:
            return str(self.variant)
        raise DataError(
            f"{path}: has judgments of {len(there)} models ({', '.join(there)}): call the variant as one of them, or "
            "name one with --only"
        )


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, or one analysis of what training did: everything that radpo knows of it.

    Args:
        name: as in matrix files and tables, such as `concise`.
        title: as the report calls it.
        summary: one sentence for `--help` and the schema.
        Settings: the section of a matrix file.
        metrics: what its figures mean, the first description that fits a figure's name counting.
        stages: the one stage whose folder holds results.parquet, examples.parquet and notes.json
            (`radpo.core.results.write_scores`), with all that it needs as its inputs; None where there is nothing to
            score, as when the baseline would be compared with itself.
        functions: what its own stages run, by name; module-level, so that another process finds them.
        cost: what its own stages have to do, by function.
        sections: its own part of the report; None where the overview and the tables say all.
        answers: whether the outputs of its examples are answers, of which the report shows how long they are.
        rendered_prompts: whether its examples' prompts are as the model saw them, goal and all, which is the variant's
            own; two runs' examples are then alike where the `target` of their details is.
        check: what is wrong with its settings beside the matrix's other benchmarks' (by name); None if nothing is.
        ready: what of the machine or the outside a run with its settings lacks, asked before the first stage; None if
            nothing. Its judge and its stages' functions are asked, too, by their own.
        tables: the files of its stage's folder that the run directory gathers, by the table's name.
        place: where it is listed, rising.
        command: what runs it alone, `radpo eval NAME` (it scores answers) or `radpo analyze NAME` (it measures what
            training did).
        files: what a run of it alone leaves in its folder: the file's name, and where it is found, a name in the
            stage's own folder or INPUT/NAME in that of one of its inputs.
        standalone: completes the settings, as written, of a run of it by itself, where a matrix has its own baseline.
        elsewhere: options of its command that another benchmark takes, by that one's name: it then runs in its place.
        imports: the scores in a file of finished results, of the one model that is chosen where the file has several;
            None where the file is of another kind.
        Existing: judgments that there are, which `score_existing` scores without a model.
        score_existing: a document of figures under the benchmark's own names, or a tidy frame.
    """

    name: str
    title: str
    summary: str
    Settings: type[Section]
    metrics: tuple[Metric, ...]
    stages: Callable[[Context, Any, Checkpoint], Stage | None]
    functions: Mapping[str, Function]
    cost: Mapping[str, Cost]
    sections: Sections | None = None
    answers: bool = True
    rendered_prompts: bool = False
    check: Callable[[Any, Mapping[str, Section]], str | None] | None = None
    ready: Callable[[Any], str | None] | None = None
    tables: Mapping[str, str] = field(default_factory=dict)
    place: int = 1000
    command: Literal["eval", "analyze"] = "eval"
    files: Mapping[str, str] = field(default_factory=dict)
    standalone: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    imports: Callable[[Path, Whose], Scores | None] | None = None
    Existing: type[ExistingModel] | None = None
    score_existing: Callable[[Any], Mapping[str, Any] | pd.DataFrame] | None = None

    @property
    def takes_answers(self) -> bool:
        """Whether it scores answers, whoever gave them: its settings say how they are sampled."""
        kinds = (field.annotation for field in self.Settings.model_fields.values())
        return any(isinstance(kind, type) and issubclass(kind, SamplingSettings) for kind in kinds)
