"""Tuning: the matrix of the settings that are tried, and the matrix of what is reported with the best of them.

Both are ordinary matrices: a trial has the stages, and so the keys, of a variant that is written with its settings.
They share no prompt. What is tried reads the tuning pairs and questions alone, so that nothing of what is reported can
take part in the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from radpo.benchmarks.settings import DataFile
from radpo.core.errors import ConfigError
from radpo.engine.graph import Stage
from radpo.engine.sources import Source
from radpo.matrix.settings import Cells, Matrix, VariantSettings
from radpo.matrix.tuning_settings import Trial, Tuning
from radpo.preferences.overlap import EvaluationPrompts
from radpo.preferences.preferences import PreferenceReader
from radpo.preferences.shares import first_message, in_share, prompt_words

Change = Callable[[DataFile], DataFile]


def trials_matrix(matrix: Matrix) -> Matrix:
    """The settings that are tried, as the variants of a matrix; besides, the variant that win rates are against.

    That is the matrix's baseline with its own settings, as they are before the choice.
    """
    tune, tried, sections = _tune(matrix), matrix.trials, matrix.benchmarks.named()
    name = tune.figure(sections).benchmark
    if tune.split is None and tune.questions is None and any(_files(sections[name])):
        raise ConfigError(f"tune.questions: missing: {name} asks questions, and those it reports are not for tuning")
    variants = {matrix.baseline: matrix.variants[matrix.baseline]}
    variants |= {trial.name: with_values(matrix, trial) for each in tried.values() for trial in each}
    others = tuple(other for other in sections if other != name)
    exclude = [Cells(benchmark=others)] if others else []
    return _changed(
        _with_files(matrix, partial(_to_tune_on, tune)),
        variants=variants,
        seeds=matrix.tuning_seeds,
        include=(),
        exclude=tuple(exclude),
        data=matrix.data.model_copy(update={"heldout": _heldout(matrix, tune)}),
        track=None,
        tune=None,
    )


def reported_matrix(matrix: Matrix, choices: Mapping[str, Trial]) -> Matrix:
    """What is reported: the matrix without the prompts that tuning takes, its variants with the settings chosen."""
    tune = _tune(matrix)
    variants = {
        name: with_values(matrix, choices[name]) if name in choices else one.model_copy(update={"tune": None})
        for name, one in matrix.variants.items()
    }
    split = tune.split
    data = matrix.data
    if split is not None and data.heldout is not None:
        data = data.model_copy(update={"heldout": _part(data.heldout, split, 1.0)})
    reported = matrix if split is None else _with_files(matrix, lambda file: _part(file, split, 1.0))
    return _changed(reported, variants=variants, data=data, tune=None)


def with_values(matrix: Matrix, trial: Trial) -> VariantSettings:
    """A variant with the settings of a trial."""
    one = matrix.variants[trial.variant]
    method = one.method or trial.variant  # a trial is called otherwise than the variant
    return one.model_copy(update={"training": {**one.training, **trial.values}, "method": method, "tune": None})


@dataclass(frozen=True)
class PromptCounts:
    """How far the prompts that are tuned on are from those that are reported.

    Args:
        tuning, reported: how many different prompts each side has.
        similar: reported prompts that a prompt of tuning's overlaps with (`radpo.preferences.overlap`), word for word
            the same being refused.
    """

    tuning: int
    reported: int
    similar: int


def check_disjoint(matrix: Matrix, tuning: Sequence[Stage], reported: Sequence[Stage]) -> PromptCounts:
    """See that no reported prompt takes part in the choice.

    Files that are yet to come are passed over.

    Args:
        tuning, reported: all stages of either side.

    Raises:
        ConfigError: prompts of tuning are reported; the message has the count.
        DataError: a file cannot be read.
    """
    tuned_on = {prompt_words(text): text for text in _prompts(trials_matrix(matrix), tuning)}
    shown = {prompt_words(text): text for text in _prompts(reported_matrix(matrix, {}), reported)}
    if same := sorted(tuned_on.keys() & shown.keys()):
        instead = (
            "leave them out of one side, or give tune.split in place of files"
            if matrix.tune is not None and matrix.tune.split is None
            else "a benchmark's own questions are not split; name them, as its `questions`"
        )
        raise ConfigError(
            f"tune: {len(same)} of {len(shown)} reported prompts are tuned on, too, such as "
            f"{tuned_on[same[0]]!r:.120}; {instead}"
        )
    index = EvaluationPrompts({"reported": list(shown.values())})
    similar = {place for text in tuned_on.values() for place in index.overlaps(text).get("reported", ())}
    return PromptCounts(len(tuned_on), len(shown), len(similar))


def reads_prompts(scoring: Stage) -> bool:
    """Whether a benchmark's last stage measures on pairs or questions, which can be split; training does not count."""
    return scoring.function_name != "train" and (
        scoring.function_name == "pairs"
        or "questions" in scoring.settings
        or any(map(reads_prompts, scoring.inputs.values()))
    )


def _prompts(matrix: Matrix, stages: Sequence[Stage]) -> list[str]:
    """The first messages of all pairs and questions that a side measures on."""
    from radpo.benchmarks.questions import load_benchmark_questions

    found: dict[str, None] = {}
    heldout = matrix.data.heldout
    pairs = {stage.settings["pairs"] for stage in stages if stage.function_name == "pairs"}
    for source in pairs:
        if heldout is not None and source.location == str(heldout.path) and not source.absent:
            for batch in PreferenceReader(source.read_from, matrix.data.reading):
                texts = map(first_message, batch.column("prompt").to_pylist())
                found.update(dict.fromkeys(text for text in texts if in_share(text, heldout.share)))
    asked = {
        (str(source.location), tuple(stage.settings.get("share", (0.0, 1.0))))
        for stage in stages
        if isinstance(source := stage.settings.get("questions"), Source) and not source.absent
    }
    for location, share in sorted(asked):
        asked_first = (question.turns[0] for question in load_benchmark_questions(Path(location)))
        found.update(dict.fromkeys(text for text in asked_first if in_share(text, share)))
    return list(found)


def _tune(matrix: Matrix) -> Tuning:
    assert matrix.tune is not None
    return matrix.tune


def _heldout(matrix: Matrix, tune: Tuning) -> DataFile | None:
    if tune.split is None:
        return tune.heldout
    return None if matrix.data.heldout is None else _part(matrix.data.heldout, 0.0, tune.split)


def _to_tune_on(tune: Tuning, file: DataFile) -> DataFile:
    """What stands in the place of a benchmark's questions while tuning."""
    return _part(file, 0.0, tune.split) if tune.split is not None else tune.questions or file


def _part(file: DataFile, low: float, high: float) -> DataFile:
    """A part of a file, or of the share of it that the matrix takes."""
    first, last = file.share or (0.0, 1.0)
    width = last - first
    return file.model_copy(update={"share": (first + low * width, last if high == 1 else first + high * width)})


def _files(value: Any) -> Iterator[DataFile]:
    """The data files of a section of a matrix file."""
    if isinstance(value, DataFile):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name))


def _with_files(matrix: Matrix, change: Change) -> Matrix:
    """The matrix with other data files in the places of its benchmarks' own."""
    return _changed(matrix, benchmarks=_replaced(matrix.benchmarks, change))


def _replaced(value: Any, change: Change) -> Any:
    if isinstance(value, DataFile):
        return change(value)
    if not isinstance(value, BaseModel):
        return value
    fields = {name: getattr(value, name) for name in type(value).model_fields}
    changed = {name: _replaced(inner, change) for name, inner in fields.items()}
    return value.model_copy(update={name: inner for name, inner in changed.items() if inner is not fields[name]})


def _changed(matrix: Matrix, **update: Any) -> Matrix:
    """A copy that has been checked already in other words; what was worked out of the first is not carried over."""
    copied = matrix.model_copy(update=update)
    copied.__dict__.pop("drops_overlong", None)
    return copied
