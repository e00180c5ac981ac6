"""AlpacaEval 2: alpaca-eval's annotations and win rates of a model's answers against a baseline's.

Annotations are in alpaca-eval 0.6.6's own format, and its own code computes the figures: `preference` is 1 where the
baseline wins, 2 where the model wins, 1.5 (or 0) where neither does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.answers import Answers, check_answers, check_names
from radpo.benchmarks.length_control import (
    ESTIMATE,
    GAMED,
    EqualLength,
    at_equal_length,
    find_reference,
    from_weights,
    is_official,
    length_controlled,
    lengths,
)
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context, Whose
from radpo.benchmarks.questions import load_benchmark_questions
from radpo.benchmarks.settings import DataFile, ExistingModel, JudgeSettings, MatrixPath, SamplingSettings, Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import JUDGE_TOKENS, Work, judged
from radpo.core.errors import ConfigError, DataError
from radpo.core.json_rows import first_row, read_rows
from radpo.core.metrics import Metric, result
from radpo.core.named_data import find_named
from radpo.core.progress import Progress, no_progress
from radpo.core.quiet import quiet_package
from radpo.core.results import Example, Result, Scores
from radpo.core.run import Run
from radpo.core.texts import with_reasons
from radpo.engine.graph import Function, Stage, Task
from radpo.engine.sources import Source
from radpo.figures.charts import by_group, intervals
from radpo.figures.sections import (
    ReportSection,
    opponents,
    panel,
    points,
    seeds_note,
    shown_in,
    sizes,
    table_rows,
)
from radpo.figures.spreads import against
from radpo.figures.styles import Styles
from radpo.judges.base import CompareRequest, ComparingJudge, Comparison, Judge, compare
from radpo.judges.quality import JUDGE_METRICS, Bias, bias, unswapped
from radpo.preferences.shares import taken
from radpo.stats.quantities import Name, label_of, subsets

if TYPE_CHECKING:
    import pandas as pd

    from radpo.preferences.questions import Question

NAME = "alpaca-eval"
METRICS = (
    Metric(
        "win_rate", "win rate", "%", primary="all", margin=5.0, even=50.0, examples="preference",
        example_scale=(100.0, -100.0), overview=True,
    ),
    Metric("discrete_win_rate", "win rate, discrete", "%", even=50.0, examples=None),
    Metric(
        "length_controlled_winrate", "length-controlled win rate", "%", even=50.0, examples=None, overview=True,
        leads=True,
    ),
    Metric(
        "win_rate_at_equal_length", "win rate at equal length", "%", even=50.0, examples=None,
        overview=True,
    ),
    Metric("avg_length", "mean length (characters)", higher_is_better=None, examples=None),
    *JUDGE_METRICS,
)  # fmt: skip
"""The margin is wide enough that the benchmark's own questions can tell: by released judgments of its 805 questions the
standard error of the paired difference of two models is 0.4 to 1.6 points, and a gate of three metrics finds drops of
three standard errors."""


CONTROLLED = ("length_controlled_winrate", "win_rate_at_equal_length")
"""The length-controlled rates, the one that the report would rather show first."""


class Sampling(SamplingSettings):
    """AlpacaEval's answers, up to the length that its own models' configurations allow."""

    max_new_tokens: int = Field(2048, ge=1)


class Settings(Section):
    """One-turn questions, answered by variant and baseline, compared by the judge.

    The baseline is the matrix's own, unless `baseline_outputs` gives another model's answers. Without `questions` both
    are AlpacaEval 2's (`alpaca-eval` of `radpo data list`): its 805 instructions, and gpt4_1106_preview's answers.
    `reference` is the folder of the length-controlled win rate's reference files, which are else looked for on the Hub.
    """

    questions: DataFile | None = Field(None, description="The questions, in the benchmark's own format or in radpo's.")
    judge: JudgeSettings = JudgeSettings()
    sampling: Sampling = Sampling()
    baseline_outputs: MatrixPath | None = Field(None, description="The baseline's answers, in alpaca-eval's format.")
    reference: MatrixPath | None = Field(
        None,
        description="A folder with df_gamed.csv (or an estimate, df_gamed_reconstructed.csv), for the "
        "length-controlled rate. Default: from the Hub or its cache.",
    )
    swap_check: int = Field(
        50, ge=0, description="Comparisons to judge again in the other order, to measure position bias."
    )


class Existing(ExistingModel):
    """Existing judgments: --annotations scores them.

    --weights with --generator gives the length-controlled rate of published GLM weights.
    """

    sources = ("annotations", "weights")
    annotations: Path | None = Field(None, description="Annotations in alpaca-eval's format (.json, .jsonl, .gz).")
    weights: Path | None = Field(None, description="A table of published GLM weights.")
    generator: str | None = Field(None, description="The model whose weights to use, by its name in the table.")
    baseline: str = Field("gpt4_1106_preview", description="The baseline's name in the table.")
    reference: Path | None = None


def score_existing(existing: Existing) -> dict[str, Any]:
    """AlpacaEval's figures of annotations, or the length-controlled rate of published weights.

    Raises:
        ConfigError: the table of weights is given, and not whose are to be taken.
        DataError: a file is malformed.
    """
    if existing.annotations is not None:
        return asdict(win_rate(load_annotations(existing.annotations), existing.reference))
    if existing.generator is None:
        raise ConfigError("--weights: say whose with --generator NAME, as the table calls the model")
    assert existing.weights is not None
    found = from_weights(existing.weights, existing.generator, existing.baseline, existing.reference)
    return {"length_controlled_winrate": found.winrate, "notes": [found.note] if found.note else []}


def imports(path: Path, whose: Whose) -> Scores | None:
    """The scores of a file of alpaca-eval's annotations."""
    return scores(load_annotations(path)) if {"preference", "generator_2"} <= first_row(path).keys() else None


def standalone(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run by itself, which is compared with `baseline_outputs`.

    By default these are gpt4_1106_preview's, and the questions are that file's.
    """
    baseline, questions = settings.get("baseline_outputs") or find_named(NAME), settings.get("questions", {})
    if isinstance(questions, Mapping):
        questions = {"path": baseline, **questions}
    return {**settings, "baseline_outputs": baseline, "questions": questions}


@dataclass(frozen=True)
class WinRate:
    """AlpacaEval's figures under its own names: rates in percent, lengths in characters, None where unavailable.

    The win rate at equal length is estimated where the official length-controlled one is not;
    see `radpo.benchmarks.length_control`.
    """

    win_rate: float
    standard_error: float | None
    discrete_win_rate: float
    length_controlled_winrate: float | None
    lc_standard_error: float | None
    win_rate_at_equal_length: float | None
    equal_length_standard_error: float | None
    equal_length_ci_low: float | None
    equal_length_ci_high: float | None
    n_total: int
    avg_length: int | None
    notes: tuple[str, ...]


def annotate(
    questions: Sequence[Question],
    outputs: Answers,
    baseline_outputs: Answers,
    judge: Judge,
    *,
    generator: str,
    baseline: str,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Have both answers to every question compared; a judge that only grades prefers the higher grade.

    Args:
        questions: of one turn each.
        outputs, baseline_outputs: the answers of the model and of the baseline, by question_id.
        generator, baseline: their names.

    Returns:
        A row a question: alpaca-eval's columns index, instruction, dataset (the category), output_1 and generator_1
        (baseline), output_2 and generator_2 (model), annotator, preference (NaN where there is no verdict), and
        question_id, reason; of a judge that grades also score_1, score_2, reason_1, reason_2.

    Raises:
        DataError: a question has more than one turn or no answer, or model and baseline have one name.
        ServiceError: the judge could not be reached.
    """
    import pandas as pd

    pairs = comparisons(questions, outputs, baseline_outputs, generator=generator, baseline=baseline)
    found = compare(judge, pairs, progress)
    rows = []
    for index, (question, pair, comparison) in enumerate(zip(questions, pairs, found, strict=True)):
        row = {
            "index": index,
            "dataset": question.category,
            "instruction": question.turns[0],
            "output_1": pair.first,
            "generator_1": baseline,
            "output_2": pair.second,
            "generator_2": generator,
            "annotator": judge.name,
            "preference": float("nan") if comparison.preference is None else comparison.preference,
            "question_id": question.question_id,
        }
        if comparison.grades is None:
            row["reason"] = comparison.reason
        else:
            first, second = comparison.grades
            row |= {"score_1": first.score, "score_2": second.score}
            row |= {"reason_1": first.reason, "reason_2": second.reason}
        rows.append(row)
    return pd.DataFrame(rows)


def comparisons(
    questions: Sequence[Question], outputs: Answers, baseline_outputs: Answers, *, generator: str, baseline: str
) -> list[CompareRequest]:
    """The pairs to compare, the baseline's answer first. Raises as `annotate`."""
    check_names(generator, baseline, "alpaca-eval")
    check_answers(questions, outputs, f"answers of {generator}")
    check_answers(questions, baseline_outputs, f"answers of {baseline}")
    for question in questions:
        if len(question.turns) != 1:
            raise DataError(
                f"question {question.question_id!r}: {len(question.turns)} turns; AlpacaEval's questions have one"
            )
    return [
        CompareRequest(
            [{"role": "user", "content": question.turns[0]}],
            baseline_outputs[question.question_id][0],
            outputs[question.question_id][0],
            {"constraints": list(question.constraints[0])},
        )
        for question in questions
    ]


def judge_bias(judge: Judge, pairs: Sequence[CompareRequest], annotations: pd.DataFrame, swap_check: int) -> Bias:
    """How order and length sway the judge on these pairs.

    Args:
        pairs: as `comparisons` gives, in the annotations' order.
        swap_check: how many pairs, evenly over all, are judged again in the other order; a judge that only grades sees
            no order, and is not asked again.
    """
    given = [Comparison(None if p != p else float(p), "") for p in annotations["preference"]]
    whole = bias(pairs, given)
    chosen = list(range(0, len(pairs), max(len(pairs) // swap_check, 1)))[:swap_check] if swap_check else []
    if not chosen or not isinstance(judge, ComparingJudge):
        return whole
    asked = [pairs[place] for place in chosen]
    swapped = [unswapped(found) for found in compare(judge, [pair.swapped() for pair in asked])]
    of = bias(asked, [given[place] for place in chosen], swapped)
    return replace(
        whole, swap_agreement=of.swap_agreement, first_shown_rate=of.first_shown_rate, n_swapped=of.n_swapped
    )


def load_annotations(path: Path) -> pd.DataFrame:
    """Read annotations as alpaca-eval writes them (`.json`) or line by line (`.jsonl`), gzipped or not.

    Files that give the lengths of outputs (len_1, len_2) in place of the outputs are read too.

    Raises:
        DataError: the file is malformed, a preference is none of 0 and 1 to 2, or models are mixed in one file; the
            message names line and field.
    """
    import pandas as pd

    rows = []
    for place, row in read_rows(path):
        _check_annotation(row, place)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no annotations in it")
    frame = pd.DataFrame(rows)
    if "index" not in frame.columns:
        frame.insert(0, "index", range(len(frame)))
    for name in ("generator_1", "generator_2"):
        if name in frame.columns and frame[name].nunique() > 1:
            raise DataError(
                f"{path}: {name} holds {frame[name].nunique()} models; give one model and one baseline a file"
            )
    return frame.astype({"preference": "float64"})


def win_rate(annotations: pd.DataFrame, reference_dir: Path | None = None, *, search_hub: bool = True) -> WinRate:
    """AlpacaEval's figures, computed by alpaca-eval itself.

    Args:
        annotations: as `annotate` or `load_annotations` gives.
        reference_dir, search_hub: as for `radpo.benchmarks.length_control.length_controlled`.

    Raises:
        DataError: no annotation holds a preference.
    """
    metrics = _head_to_head(annotations)
    controlled = length_controlled(annotations, reference_dir, search_hub=search_hub)
    instead = at_equal_length(annotations) if controlled.winrate is None else EqualLength(*[None] * 5)
    notes = [note for note in (controlled.note, instead.note) if note]
    lacking = _rows(annotations[annotations["preference"].isna()])
    if lacking:
        shown = with_reasons([(str(row.get("question_id", row["index"])), _reason(row)) for row in lacking])
        notes.append(
            f"alpaca-eval: {len(lacking)} of {len(annotations)} comparisons have no verdict and are left out: {shown}."
        )
    outputs = lengths(annotations, 2)
    return WinRate(
        win_rate=metrics["win_rate"],
        standard_error=metrics["standard_error"],
        discrete_win_rate=metrics["discrete_win_rate"],
        length_controlled_winrate=controlled.winrate,
        lc_standard_error=controlled.standard_error,
        win_rate_at_equal_length=instead.winrate,
        equal_length_standard_error=instead.standard_error,
        equal_length_ci_low=instead.low,
        equal_length_ci_high=instead.high,
        n_total=metrics["n_total"],
        avg_length=None if outputs is None else int(outputs.mean()),  # cut to whole characters, as alpaca-eval does
        notes=tuple(notes),
    )


def _rows(annotations: pd.DataFrame) -> list[dict[Any, Any]]:
    return annotations.to_dict("records")


def _reason(row: Mapping[Any, Any]) -> str:
    """What a judge said that gave no verdict."""
    said = [_text(row.get(name)) for name in ("reason", "reason_1", "reason_2")]
    return "; ".join(text for text in said if text) or "no reason is given"


def _head_to_head(annotations: pd.DataFrame) -> dict[str, Any]:
    """alpaca-eval's win rates without any GLM; `standard_error` is None for a single verdict."""
    with quiet_package():
        from alpaca_eval.metrics.winrate import get_winrate

    if annotations["preference"].isna().all():
        said = with_reasons([(str(row.get("question_id", row["index"])), _reason(row)) for row in _rows(annotations)])
        raise DataError(f"no annotation holds a preference, so there is no win rate; the judge said: {said}")
    found = get_winrate(annotations)
    total = int(found["n_total"])
    return {
        "win_rate": float(found["win_rate"]),
        "standard_error": float(found["standard_error"]) if total > 1 else None,
        "discrete_win_rate": float(found["discrete_win_rate"]),
        "n_total": total,
    }


def scores(
    annotations: pd.DataFrame, *, goal: float | None = None, reference_dir: Path | None = None, search_hub: bool = True
) -> Scores:
    """Annotations -> results (whole and by category) and a row a comparison.

    Args:
        goal: the score that the model was asked for, for the examples' detail.
        reference_dir, search_hub: as for `win_rate`.
    """
    whole = win_rate(annotations, reference_dir, search_hub=search_hub)

    def figure(subset: str, name: str, value: float | None, stderr: float | None, n: int) -> None:
        if value is not None:
            results.append(result(NAME, METRICS, subset, name, value, stderr, n))

    results: list[Result] = []
    total = whole.n_total
    figure("all", "win_rate", whole.win_rate, whole.standard_error, total)
    figure("all", "discrete_win_rate", whole.discrete_win_rate, None, total)
    figure("all", "length_controlled_winrate", whole.length_controlled_winrate, whole.lc_standard_error, total)
    figure("all", "win_rate_at_equal_length", whole.win_rate_at_equal_length, whole.equal_length_standard_error, total)
    figure("all", "avg_length", whole.avg_length, None, len(annotations))
    judged_rows = annotations[annotations["preference"].notna()]
    if "dataset" in judged_rows.columns and judged_rows["dataset"].nunique() > 1:
        for category, part in judged_rows.groupby("dataset"):
            of = _head_to_head(part)
            figure(str(category), "win_rate", of["win_rate"], of["standard_error"], of["n_total"])
    return Scores(tuple(results), tuple(_example(row, goal) for row in judged_rows.to_dict("records")), whole.notes)


_TEXTS = ("instruction", "dataset", "output_1", "output_2", "generator_1", "generator_2", "annotator")
_WHOLE = ("index", "len_1", "len_2")


def _check_annotation(row: Mapping[str, Any], place: str) -> None:
    if "instruction" not in row or "preference" not in row:
        raise DataError(f"{place}: an annotation needs instruction and preference")
    for names, kind, wanted in ((_TEXTS, str, "a text"), (_WHOLE, int, "a whole number")):
        for name in names:
            if name in row and (not isinstance(row[name], kind) or isinstance(row[name], bool)):
                raise DataError(f"{place}, {name}: {str(row[name])[:80]!r} is not {wanted}")
    preference = row["preference"]
    if isinstance(preference, bool) or not isinstance(preference, int | float | None):
        raise DataError(f"{place}: preference {str(preference)[:80]!r} is no number")
    if preference is not None and preference != 0 and not 1 <= preference <= 2:
        raise DataError(f"{place}: preference {preference} is neither 0 (a draw) nor from 1 (baseline) to 2 (model)")


def _example(row: Mapping[Any, Any], goal: float | None) -> Example:
    detail: dict[str, Any] = {} if goal is None else {"goal": goal}
    names = ("score_1", "score_2", "reason_1", "reason_2", "reason", "generator_1")
    # What a row lacks, the frame holds as NaN, which is no JSON.
    detail |= {name: row[name] for name in names if name in row and row[name] == row[name] and row[name] is not None}
    return Example(
        benchmark=NAME,
        subset=_text(row.get("dataset")) or "all",
        example_id=str(row.get("question_id", row["index"])),
        prompt=str(row["instruction"]),
        output=_text(row.get("output_2")),
        baseline_output=_text(row.get("output_1")),
        metric="preference",
        value=1.5 if row["preference"] == 0 else float(row["preference"]),
        detail=json.dumps(detail, ensure_ascii=False),
        opponent=_text(row.get("generator_1")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage | None:
    """Answers of checkpoint and baseline, then the judge's comparisons; None for the matrix's own baseline."""
    questions, baseline_outputs = settings.questions, settings.baseline_outputs
    if questions is None:
        published = find_named(NAME, absent_ok=context.planning)
        questions = DataFile.model_validate({"path": published}, context={"planning": context.planning})
        baseline_outputs = baseline_outputs or published
    compared = pieces.compared_answers(context, checkpoint, questions, settings.sampling, baseline_outputs)
    if compared is None:
        return None
    judge, hints = pieces.judge_settings(context, settings.judge)
    own = {
        **judge,
        "reference": _reference(context, settings, questions),
        "swap_check": settings.swap_check,
    }
    return context.stage(NAME, checkpoint.label, {**compared[0], **own}, compared[1], hints)


def _reference(context: Context, settings: Settings, questions: DataFile) -> Source | None:
    """The file that the length-controlled win rate needs; None where it has no use for one, or there is none."""
    given = settings.reference
    if given is not None and not any((given / name).is_file() for name in (GAMED, ESTIMATE)):
        return context.file(given)  # a file, yet to come, or wrong, which the stage says
    if given is None:
        try:
            asked = taken(load_benchmark_questions(questions.path), questions.limit, questions.share)
        except DataError:  # yet to come, or wrong, which the stage says
            return None
        if not is_official([question.turns[0] for question in asked]):
            return None
    found = find_reference(GAMED, given, cached=context.planning)
    return None if found is None else context.file(found.path)


def _score(task: Task) -> None:
    """Answers of variant and baseline -> annotations, results and examples."""
    settings = task.stage.settings
    questions = pieces.read_questions(task)
    outputs = pieces.read_answers(task, questions)
    name, baseline_outputs = pieces.read_baseline(task, questions)
    names, judge = {"generator": settings["variant"], "baseline": name}, pieces.open_judge(task)
    annotations = annotate(questions, outputs, baseline_outputs, judge, **names, progress=task.progress)
    annotations.to_json(task.out / "annotations.json", orient="records", indent=1, force_ascii=False)
    pairs = comparisons(questions, outputs, baseline_outputs, **names)
    reference = settings["reference"]
    folder = None if reference is None else pieces.path_of(reference)
    # What the Hub's cache has is part of the key, and so was looked for when that was made.
    found = scores(annotations, goal=settings["goal"], reference_dir=folder, search_hub=False)
    found = replace(found, figures=asdict(win_rate(annotations, folder, search_hub=False)))
    pieces.write_judged(task, found, judge, judge_bias(judge, pairs, annotations, settings["swap_check"]))


def _cost(sizes: Sizes, stage: Stage) -> Work:
    """alpaca-eval's weighted annotators answer with a single token, whose probabilities are read."""

    def tokens(judge: Mapping[str, Any]) -> float:
        return 1 if str(judge.get("annotator")).startswith("weighted_") else JUDGE_TOKENS

    return judged(sizes, stage, pairwise=True, swapped=stage.settings["swap_check"], judge_tokens=tokens)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """The win rate, whole and by category, and beside the length-controlled one."""
    return [_win_rates(run, styles), _controlled_against_raw(run, styles)]


def _win_rates(run: Run, styles: Styles) -> ReportSection:
    title = "AlpacaEval win rate"
    whole = points(run, [Name(NAME, "all", "win_rate")]).assign(group=lambda rows: rows["variant"])
    if whole.empty:
        return ReportSection("win-rate", title)
    parts = points(run, subsets(run, NAME, "win_rate"))
    opponent = opponents(run, NAME, shown_in(styles, whole))
    axis = f"win rate against {opponent} (%)"
    figure = intervals(whole, styles, axis=axis, reference=50, suffix="%", labelled=True, within=(0, 100))
    panels = [panel("All instructions", figure, 2 if parts.empty else 1)]
    categories = ""
    if len(parts):
        by_category = by_group(parts, styles, axis=axis, within=(0, 100), reference=50, suffix="%")
        panels.append(panel("By category", by_category))
        categories = f", {sizes(parts)} per category"
    caption = (
        f"How often the judge prefers the variant's answer to that of {opponent}; right of the dotted line the variant "
        f"is ahead. n = {sizes(whole)} instructions{categories}; whiskers: 95% intervals."
    )
    method = (
        "Ties count half. An interval across the dotted line leaves open which answers are preferred. Intervals are t "
        "intervals of the mean, cut at 0 and 100; there is none where all comparisons came out alike."
        + seeds_note(whole)
    )
    numbers = table_rows("all instructions", whole.assign(group="all")) + table_rows("by category", parts)
    return ReportSection("win-rate", title, caption, panels, 2, shown_in(styles, whole), numbers, method)


def _controlled_against_raw(run: Run, styles: Styles) -> ReportSection:
    title = "Length-controlled against raw win rate"
    raw = points(run, [Name(NAME, "all", "win_rate")]).set_index("variant")
    for metric in CONTROLLED:
        controlled = points(run, [Name(NAME, "all", metric)]).set_index("variant")
        if len(controlled):
            break
    else:
        return ReportSection("length-control", title)
    both = raw.join(controlled, how="inner", lsuffix="_raw").reset_index()
    placed = both.rename(
        columns={
            "value_raw": "x", "low_raw": "x_low", "high_raw": "x_high", "value": "y", "low": "y_low", "high": "y_high",
        }
    )  # fmt: skip
    figure = against(placed, styles, axes=("win rate (%)", f"{label_of(run, NAME, metric)} (%)"))
    caption = (
        "Below the dotted line, part of the win rate is due to longer answers. "
        f"n = {sizes(placed)} instructions; whiskers: 95% intervals."
    )
    method = "With lengths held equal, such a variant would win less often. Intervals are t intervals."
    numbers = table_rows("raw", raw.reset_index()) + table_rows("length-controlled", controlled.reset_index())
    panels = [panel("Variants", figure)]
    return ReportSection("length-control", title, caption, panels, 2, shown_in(styles, placed), numbers, method)


BENCHMARK = Benchmark(
    name=NAME,
    title="AlpacaEval",
    summary="AlpacaEval 2: one-turn questions, compared with a baseline's answers by a judge.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=8, packages=("alpaca-eval", "scikit-learn"))},
    cost={NAME: _cost},
    sections=sections,
    place=0,
    files={"answers.jsonl": "answers/answers.jsonl", "annotations.json": "annotations.json"},
    standalone=standalone,
    imports=imports,
    Existing=Existing,
    score_existing=score_existing,
)
