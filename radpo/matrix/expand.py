"""Expansion of a checked matrix into its cells and the stages that each is made of. Nothing is run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from radpo.benchmarks.protocol import NO_MODEL, Checkpoint, Context
from radpo.benchmarks.registry import benchmarks, function_codes, stage_functions
from radpo.benchmarks.sources import model_source
from radpo.core.errors import ConfigError, ModelError
from radpo.core.paid_work import RunAccount
from radpo.core.suggestions import did_you_mean
from radpo.engine.graph import Function, Stage, in_order
from radpo.engine.sources import ABSENT, Source
from radpo.matrix import training_stages
from radpo.matrix.checkpoints import checkpoint
from radpo.matrix.draws import PLACE
from radpo.matrix.settings import Matrix
from radpo.matrix.tuning import PromptCounts, check_disjoint, reads_prompts, reported_matrix, trials_matrix
from radpo.matrix.tuning_settings import Figure, Trial
from radpo.models.chat_template import DATE, USUAL_DATE, template_date, template_environment, template_variables
from radpo.models.precision import Settled, settle, settled


@dataclass(frozen=True)
class Cell:
    """A model's variant with one seed: its training stage (None for a model as it is), a scoring stage a benchmark."""

    model: str
    variant: str
    seed: int
    train: Stage | None
    benchmarks: Mapping[str, Stage]
    given: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from, where it is scored as it is (`Checkpoint.described`)."""

    @property
    def wanted(self) -> list[Stage]:
        """The last stage of every chain; what they need follows from them."""
        return [*self.benchmarks.values(), *([self.train] if self.train else [])]


Choices = Mapping[str, Mapping[str, Trial]]
"""The setting that each tuned variant gets, by model and variant."""


@dataclass(frozen=True)
class Tuned:
    """The settings that are tried before a matrix is reported with the best of them.

    Args:
        asked: the matrix as it is written.
        figure: what they are chosen by.
        trials: what is tried for each tuned variant.
        cells: the cells of all trials, by the trials' names; each with the one benchmark that has the figure.
        prompts: how far the prompts that are tuned on are from those that are reported.
        matrices: what is reported, by model: with the settings chosen; before the choice, with some that are tried.
        expand: the plan with other choices.
    """

    asked: Matrix
    figure: Figure
    trials: Mapping[str, tuple[Trial, ...]]
    cells: tuple[Cell, ...]
    prompts: PromptCounts
    matrices: Mapping[str, Matrix]
    expand: Callable[[Choices], Plan]

    @property
    def stages(self) -> list[Stage]:
        """All stages of all trials, each once, inputs first."""
        return in_order(stage for cell in self.cells for stage in cell.wanted)

    def cells_of(self, model: str, trial: Trial) -> list[Cell]:
        """A trial's cells, one for each seed."""
        return [cell for cell in self.cells if (cell.model, cell.variant) == (model, trial.name)]

    def models_of(self, variant: str) -> list[str]:
        """The models for which a variant is tuned."""
        first = self.trials[variant][0].name
        return list(dict.fromkeys(cell.model for cell in self.cells if cell.variant == first))


@dataclass(frozen=True)
class Plan:
    """A matrix with its sources identified by content and its cells expanded."""

    matrix: Matrix
    models: tuple[Source, ...]
    files: Mapping[str, Source]
    cells: tuple[Cell, ...]
    precision: Settled | None = None
    """What `precision: auto` was settled to, where it is not what this machine is faster in."""
    account: RunAccount | None = None
    """On which account of the run the work goes that costs money."""
    members: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)
    """The models that each name stands for: one, unless models are drawn."""
    tuning: Tuned | None = None
    """What its variants' settings are chosen from."""

    def matrix_of(self, model: Source) -> Matrix:
        """The matrix with the settings that were chosen for one of its models."""
        return self.matrix if self.tuning is None else self.tuning.matrices[model.location]

    @cached_property
    def labels(self) -> dict[str, str]:
        """What tells each model in the names of stages and folders; empty where there is one model."""
        return _labels(_locations(self.matrix))

    def auto_precision(self) -> Settled:
        """What `precision: auto` was settled to."""
        return self.precision or settle("auto")

    @property
    def asks_for_auto(self) -> bool:
        """Whether the matrix leaves a precision of what it computes to the machine."""
        asked: list[None] = []
        settled(self.matrix.model_dump(mode="json"), lambda: asked.append(None) or "float32")  # type: ignore[func-returns-value]
        return bool(asked)

    @property
    def absent(self) -> list[str]:
        """The models and files that are yet to come, by the names that the matrix gives them."""
        return [
            source.identity.removeprefix(ABSENT) for source in (*self.models, *self.files.values()) if source.absent
        ]

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages of all cells, and of what is tried before them, each once, inputs first."""
        tried = self.tuning.cells if self.tuning is not None else ()
        return in_order(stage for cell in (*self.cells, *tried) for stage in cell.wanted)

    @property
    def reported(self) -> list[Stage]:
        """All stages of all cells, without what is tried before them."""
        return in_order(stage for cell in self.cells for stage in cell.wanted)

    def cells_of(self, model: Source) -> list[Cell]:
        """The cells of one model."""
        return [cell for cell in self.cells if cell.model == model.location]


def expand(
    matrix: Matrix,
    *,
    planning: bool = False,
    precision: Settled | None = None,
    occasion: str = "",
    account: RunAccount | None = None,
    choices: Choices | None = None,
) -> Plan:
    """The cells and stages of a matrix. Cells share every stage whose settings and inputs are the same.

    Args:
        choices: the settings of tuned variants; the first of those that are tried, unless given.
        precision: what `precision: auto` is on the machine that is to compute, where that is not this one.
        planning: files, and models whose size the matrix states, may be yet to come.
        occasion: what tells this run's answers of an endpoint without a version from another run's.
        account: on which account the stages' work goes that costs money.

    Raises:
        ConfigError: a variant's method does not exist, or no cell is left.
        ModelError: a model is unavailable.
    """

    def expanded(asked: Matrix, **more: Any) -> Plan:
        return _expand(
            asked, planning=planning, precision=precision, occasion=occasion, account=account, files=files, **more
        )

    files: dict[str, Source] = {}
    if matrix.tune is None:
        return expanded(matrix)
    tried = expanded(trials_matrix(matrix), tuning=True)
    owners = {trial.name: trial.variant for each in matrix.trials.values() for trial in each}
    cells = tuple(
        cell
        for cell in tried.cells
        if cell.variant in owners
        and any(matrix.has_cell(model=cell.model, variant=owners[cell.variant], seed=seed) for seed in matrix.seeds)
    )
    figure = matrix.tune.figure(matrix.benchmarks.named())
    for cell in cells:
        scoring = cell.benchmarks.get(figure.benchmark)
        if scoring is None or not reads_prompts(scoring):
            raise ConfigError(
                f"tune.metric: {matrix.tune.metric!r}: {figure.benchmark} measures neither on held-out pairs nor on a "
                "file of questions, so that it cannot be tuned on others than it reports; choose by another"
            )
    first = {name: each[0] for name, each in matrix.trials.items()}
    chosen = choices or dict.fromkeys(_locations(matrix), first)
    matrices = {location: reported_matrix(matrix, chosen.get(location, {})) for location in _locations(matrix)}
    reported = expanded(reported_matrix(matrix, {}), matrices=matrices)
    counts = check_disjoint(matrix, in_order(s for c in cells for s in c.wanted), reported.stages)
    again = partial(expand, matrix, planning=planning, precision=precision, occasion=occasion, account=account)
    tuned = Tuned(matrix, figure, matrix.trials, cells, counts, matrices, lambda choices: again(choices=choices))
    return replace(reported, tuning=tuned)


def _expand(
    matrix: Matrix,
    *,
    planning: bool,
    precision: Settled | None,
    occasion: str,
    account: RunAccount | None,
    files: dict[str, Source],
    matrices: Mapping[str, Matrix] | None = None,
    tuning: bool = False,
) -> Plan:
    """`expand` of a matrix without tuning.

    Args:
        files: every file and folder that was named so far.
        matrices: the matrix with each model's own settings, by model, where they differ.
        tuning: whether these are the settings that are tried, as the stages' names are to tell.
    """
    functions = {**training_stages.FUNCTIONS, **stage_functions()}
    for function in matrix.resources:
        if function not in functions:
            known = ", ".join(functions)
            raise ConfigError(
                f"resources.{function}: no such stage; there are {known}{did_you_mean(function, functions)}"
            )
    labels = _labels(_locations(matrix))

    @cache
    def source(name: str) -> Source:
        return _model(name, planning and name in matrix.size_hints.models)

    members = {name: _members(name, matrix, source) for name in matrix.all_models}
    models = tuple(_family(name, each) for name, each in members.items()) or (NO_MODEL,)
    cells = []
    for model in models:
        own = matrix if matrices is None else matrices[model.location]
        label = "/".join(part for part in ("tuning" if tuning else "", labels[model.location]) if part)
        contexts = {
            level: _context(
                own, member, functions, files, f"{label}/model-{level}".lstrip("/") if level is not None else label,
                precision, planning, occasion, account, source, tuning,
            )
            for level, member in members.get(model.location, {None: NO_MODEL}).items()
        }  # fmt: skip
        for seed in matrix.seeds:
            context = contexts[matrix.levels(seed).model]
            for name in matrix.variants:
                cell = _cell(own, model, context, context.checkpoint_of(name, seed))
                if cell is not None:
                    cells.append(cell)
    if not cells:
        raise ConfigError(f"{matrix.name}: include and exclude leave no cell of the matrix")
    left = tuple(model for model in models if any(cell.model == model.location for cell in cells))
    drawn = {name: tuple(each.values()) for name, each in members.items()}
    return Plan(matrix, left, files, tuple(cells), precision, account, drawn)


def _members(name: str, matrix: Matrix, source: Callable[[str], Source]) -> dict[int | None, Source]:
    """The models that a name stands for, by their level; one, unless models are drawn."""
    levels = matrix.draws.model if matrix.draws is not None else ()
    return {level: source(name.replace(PLACE, str(level))) for level in levels} or {None: source(name)}


def _family(name: str, members: Mapping[int | None, Source]) -> Source:
    """Models that were made alike as the one that results name: known by the content of them all."""
    if None in members:
        return members[None]
    absent = next((member.identity for member in members.values() if member.absent), None)
    content = hashlib.sha256(" ".join(member.identity for member in members.values()).encode()).hexdigest()
    return Source(name, absent or f"sha256:{content}")


def _model(name: str, may_lack: bool) -> Source:
    try:
        return model_source(name)
    except ModelError:
        if not may_lack:
            raise
        return Source(name, ABSENT + name)


def _context(
    matrix: Matrix,
    model: Source,
    functions: Mapping[str, Function],
    files: dict[str, Source],
    label: str,
    precision: Settled | None,
    planning: bool,
    occasion: str,
    account: RunAccount | None,
    model_source: Callable[[str], Source],
    tuning: bool,
) -> Context:
    def checkpoint_of(name: str, seed: int) -> Checkpoint:
        return checkpoint(context, matrix, name, seed)

    when = template_date() if matrix.date is None else matrix.date
    kwargs = matrix.chat_template_kwargs
    context = Context(
        model=model,
        goals=matrix.data.goals,
        heldout=matrix.data.heldout,
        training=matrix.training,
        baseline=matrix.baseline,
        sections=matrix.benchmarks.named(),
        benchmarks=benchmarks(),
        checkpoint_of=checkpoint_of,
        functions=functions,
        codes=function_codes(),
        resources={name: asked.model_dump(exclude_none=True) for name, asked in matrix.resources.items()},
        files=files,
        label=label,
        heldout_name="tuning" if tuning else "heldout",
        reading=matrix.data.reading.settings(),
        environment={
            **({} if when.isoformat() == USUAL_DATE else {DATE: when.isoformat()}),
            **template_environment(template_variables() if kwargs is None else kwargs),
        },
        precision=precision,
        planning=planning,
        occasion=occasion,
        account={} if account is None else asdict(account),
        model_source=model_source,
    )
    return context


def _cell(matrix: Matrix, model: Source, context: Context, scored: Checkpoint) -> Cell | None:
    """The cell of a checkpoint; None where the matrix leaves it out."""
    stages = dict[str, Stage]()
    place: dict[str, Any] = {"model": model.location, "variant": scored.variant, "seed": scored.seed}
    if not matrix.has_cell(**place):
        return None
    for name in context.sections:
        stage = context.scored(name, scored) if matrix.has_cell(**place, benchmark=name) else None
        if stage is not None:
            stages[name] = stage
    return Cell(model.location, scored.variant, scored.seed, scored.train, stages, scored.described())


def _locations(matrix: Matrix) -> Sequence[str]:
    return matrix.all_models or (NO_MODEL.location,)


def _labels(models: Sequence[str]) -> dict[str, str]:
    """The models' own names without the folders or organisations before them, where those tell them apart."""
    if len(models) == 1:
        return {models[0]: ""}
    for named in (lambda model: Path(model).name, lambda model: model):
        labels = {model: re.sub(r"[^A-Za-z0-9._-]+", "-", named(model)).strip("-.") for model in models}
        if len(set(labels.values())) == len(models) and all(labels.values()):
            return labels
    return {model: f"model-{number}" for number, model in enumerate(models)}
