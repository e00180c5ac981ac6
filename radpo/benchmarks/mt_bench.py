"""MT-Bench: judgments of answers to two-turn questions, and scores from 1 to 10, in FastChat's terms.

FastChat (Zheng et al. 2023, arXiv 2306.05685) grades each turn alone, the second with the conversation so far, and
takes the mean over all judgments; a judgment that could not be parsed scores -1 and is left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.answers import Answers, check_answers, load_model_answers
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context, Whose
from radpo.benchmarks.settings import DataFile, ExistingModel, JudgeSettings, MatrixPath, SamplingSettings, Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import Work, judged
from radpo.core.errors import DataError
from radpo.core.json_rows import first_row, read_rows
from radpo.core.metrics import Metric, result
from radpo.core.progress import Progress, no_progress
from radpo.core.results import Example, Result, Scores
from radpo.core.run import Run
from radpo.core.texts import with_reasons
from radpo.engine.graph import Function, Stage, Task
from radpo.figures.charts import SIDE_BY_SIDE, bars, grid, intervals, radar
from radpo.figures.sections import ReportSection, panel, points, seeds_note, shown_in, sizes, table_rows
from radpo.figures.styles import Styles
from radpo.judges.base import GradeRequest, Judge
from radpo.judges.fastchat import NEED_REFERENCE
from radpo.judges.quality import JUDGE_METRICS, Bias, spearman
from radpo.stats.estimates import mean
from radpo.stats.quantities import Name, subsets

if TYPE_CHECKING:
    from radpo.preferences.questions import Question

NAME = "mt-bench"
METRICS = (
    Metric("score", "score", bounds=(1, 10), primary="all", margin=1.0, overview=True),
    Metric("*_turn", "", bounds=(1, 10), examples=None, overview=True),
    *JUDGE_METRICS,
)
"""By released judgments of 80 questions the standard error of the paired difference of two models is 0.20 to 0.34 of a
grade."""
UNPARSED = -1.0
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
"""What FastChat samples a category's answers at; other categories at `OTHER_TEMPERATURE`."""
OTHER_TEMPERATURE = 0.7


class Sampling(SamplingSettings):
    """MT-Bench's answers as FastChat draws them: 1024 tokens, and unless a temperature is given, one by category."""

    max_new_tokens: int = Field(1024, ge=1)
    temperature: float | None = Field(None, ge=0)  # type: ignore[assignment]

    def by_category(self) -> dict[str, Any]:
        """FastChat's temperatures as an answering stage's settings take them, unless one is given for all."""
        if self.temperature is not None:
            return {}
        return {"temperature": OTHER_TEMPERATURE, "temperature_by_category": TEMPERATURES}


class Settings(Section):
    """Two-turn questions in categories, graded 1-10 by the judge, beside reference answers where there are any."""

    questions: DataFile = Field(
        description="FastChat's question.jsonl, which also holds the categories, or radpo's.",
    )
    judge: JudgeSettings = JudgeSettings()
    sampling: Sampling = Sampling()
    references: MatrixPath | None = Field(None, description="FastChat's reference_answer/gpt-4.jsonl.")


class Existing(ExistingModel):
    """Existing judgments: --judgments scores them, single or pairwise.

    Those that cannot be parsed are left out and counted.
    """

    sources = ("judgments",)
    judgments: Path | None = Field(
        None, description="Judgments in FastChat's format (.jsonl, .gz), single or pairwise."
    )
    questions: MatrixPath | None = None
    only: str | None = Field(None, description="Score only this model, if the file has judgments of several.")
    baseline: str | None = Field(
        None, description="Pairwise judgments: count only pairs with this model, which has no row itself."
    )


@dataclass(frozen=True)
class Judgment:
    """One grade of one turn: `turn` 1 or 2, `score` 1-10 or -1 where it could not be parsed, `category` may be ''."""

    question_id: str
    category: str
    turn: int
    score: float
    reason: str


@dataclass(frozen=True)
class MTBenchScore:
    """MT-Bench's figures, all from 1 to 10; None where no judgment of that turn was parsed."""

    score: float
    first_turn: float | None
    second_turn: float | None
    by_category: Mapping[str, float]
    n_unparsed: int
    n: int


def load_references(path: Path) -> dict[str, tuple[str, ...]]:
    """Reference answers by question_id, from FastChat's reference_answer/MODEL.jsonl or a folder with one such file.

    Raises:
        DataError: a row is malformed, or the folder holds none or several.
    """
    files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
    if len(files) != 1:
        raise DataError(f"{path}: {len(files)} files of reference answers; give one")
    return {question: answered.turns for question, answered in load_model_answers(files[0]).by_question.items()}


def grade(
    questions: Sequence[Question],
    answers: Answers,
    judge: Judge,
    *,
    references: Answers | None = None,
    progress: Progress = no_progress,
) -> list[Judgment]:
    """Have every turn graded, the second with the first and its answer before it.

    Args:
        references: reference answers, shown to the judge for math, reasoning and coding as FastChat does.

    Raises:
        DataError: a question lacks an answer to one of its turns.
        ServiceError: the judge could not be reached.
    """
    check_answers(questions, answers, "answers")
    places = [(question, turn) for question in questions for turn in range(len(question.turns))]
    shown = references or {}
    requests = [_request(question, answers[question.question_id], turn, shown) for question, turn in places]
    return [
        Judgment(
            question_id=question.question_id,
            category=question.category,
            turn=turn + 1,
            score=UNPARSED if given.score is None else given.score,
            reason=given.reason,
        )
        for (question, turn), given in zip(places, judge.grade(requests, progress), strict=True)
    ]


def judge_bias(judgments: Sequence[Judgment], answers: Answers) -> Bias:
    """How the grades go with the answers' lengths; single grading shows no two answers, and so no order."""
    parsed = [judgment for judgment in judgments if judgment.score != UNPARSED]
    lengths = [len(answers[judgment.question_id][judgment.turn - 1]) for judgment in parsed]
    correlation = spearman([judgment.score for judgment in parsed], lengths)
    return Bias(None, None, correlation, None, len(parsed), len(judgments) - len(parsed))


def load_judgments(path: Path, questions: Path | None = None, only: str | None = None) -> list[Judgment]:
    """Read FastChat's single-answer judgments (`.jsonl`, gzipped or not) of one model.

    Args:
        questions: FastChat's question.jsonl, which holds the categories; without it they are empty.
        only: the model, where the file has those of several.

    Raises:
        DataError: a file is malformed, or holds judgments of several models, or none of this one.
    """
    categories = {}
    if questions is not None:
        categories = {str(row.get("question_id")): str(row.get("category", "")) for _, row in read_rows(questions)}
    judgments, models = [], set()
    for place, row in read_rows(path):
        question_id, turn, score = row.get("question_id"), row.get("turn"), row.get("score")
        if question_id is None or turn not in (1, 2) or isinstance(score, bool) or not isinstance(score, int | float):
            raise DataError(f"{place}: a judgment needs question_id, turn (1 or 2) and score (a number)")
        if score != UNPARSED and not 0 <= score <= 10:
            raise DataError(f"{place}: score {score!r} is neither on MT-Bench's scale, up to 10, nor -1 for unparsed")
        models.add(str(row.get("model", "")))
        if only is not None and row.get("model") != only:
            continue
        category = categories.get(str(question_id), "")
        judgments.append(Judgment(str(question_id), category, int(turn), float(score), str(row.get("judgment", ""))))
    if only is not None and only not in models:
        raise DataError(f"{path}: no judgments of {only}; there are {', '.join(sorted(models)) or 'none at all'}")
    if only is None and len(models) > 1:
        raise DataError(
            f"{path}: judgments of {len(models)} models ({', '.join(sorted(models))}); choose one with --only, or give "
            "one model a file"
        )
    if not judgments:
        raise DataError(f"{path}: no judgments in it")
    return judgments


def write_judgments(judgments: Sequence[Judgment], path: Path, model: str, judge: str) -> None:
    """Write judgments as FastChat does, so that its own tools read them."""
    with path.open("w", encoding="utf-8") as stream:
        for one in judgments:
            row = {
                "question_id": one.question_id, "model": model, "judge": [judge, "single"], "judgment": one.reason,
                "score": one.score, "turn": one.turn,
            }  # fmt: skip
            stream.write(json.dumps(row) + "\n")


def score(judgments: Sequence[Judgment]) -> MTBenchScore:
    """FastChat's figures: means over all parsed judgments, several judgments of one turn counting each.

    Raises:
        DataError: no judgment was parsed.
    """
    parsed = _parsed(judgments)
    turns = {turn: [j.score for j in parsed if j.turn == turn] for turn in (1, 2)}
    return MTBenchScore(
        score=_average([j.score for j in parsed]),
        first_turn=_average(turns[1]) if turns[1] else None,
        second_turn=_average(turns[2]) if turns[2] else None,
        by_category={
            category: _average([j.score for j in parsed if j.category == category]) for category in _categories(parsed)
        },
        n_unparsed=len(judgments) - len(parsed),
        n=len(parsed),
    )


def scores(
    judgments: Sequence[Judgment],
    *,
    questions: Sequence[Question] = (),
    answers: Answers | None = None,
    goal: float | None = None,
) -> Scores:
    """Judgments -> results with standard errors clustered by question, and a row a judgment.

    The two turns of a question are no independent facts: the second continues the first.

    Args:
        questions, answers: what was asked and answered, for the examples; without them their texts are empty.
        goal: the score that the model was asked for, for the examples' detail.

    Raises:
        DataError: no judgment was parsed.
    """
    parsed = _parsed(judgments)
    results = [_result("all", "score", parsed)]
    for turn, metric in ((1, "first_turn"), (2, "second_turn")):
        of_turn = [judgment for judgment in parsed if judgment.turn == turn]
        if of_turn:
            results.append(_result("all", metric, of_turn))
    for category in _categories(parsed):
        results.append(_result(category, "score", [j for j in parsed if j.category == category]))
    unparsed = [(f"{j.question_id} turn {j.turn}", j.reason) for j in judgments if j.score == UNPARSED]
    notes: tuple[str, ...] = ()
    if unparsed:
        count = f"{len(unparsed)} of {len(judgments)} judgments"
        notes = (f"mt-bench: {count} could not be parsed and are left out: {with_reasons(unparsed)}.",)
    return Scores(tuple(results), tuple(_examples(parsed, questions, answers, goal)), notes)


def turn_prompt(question: Question, answers: Sequence[str], turn: int) -> list[dict[str, str]]:
    """The conversation up to the user's message of a turn (0 or 1)."""
    prompt = []
    for asked, answered in zip(question.turns[:turn], answers, strict=False):
        prompt += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*prompt, {"role": "user", "content": question.turns[turn]}]


def reference_of(question: Question, turn: int, references: Answers) -> dict[str, Any]:
    """What a judge gets beside a turn: its constraints, and reference answers where FastChat shows them."""
    found: dict[str, Any] = {"constraints": list(question.constraints[turn])}
    if question.category in NEED_REFERENCE:
        if question.question_id in references:
            found["reference_answers"] = list(references[question.question_id])
        else:
            found["lacks_reference"] = True
    return found


def _request(question: Question, answers: Sequence[str], turn: int, references: Answers) -> GradeRequest:
    prompt = turn_prompt(question, answers, turn)
    return GradeRequest(prompt, answers[turn], reference_of(question, turn, references))


def _parsed(judgments: Sequence[Judgment]) -> list[Judgment]:
    parsed = [judgment for judgment in judgments if judgment.score != UNPARSED]
    if not parsed:
        said = with_reasons([(f"{j.question_id} turn {j.turn}", j.reason or "no text") for j in judgments])
        raise DataError(
            f"mt-bench: none of {len(judgments)} judgments was parsed, so there is no score; the judge said: {said}"
        )
    return parsed


def _categories(judgments: Sequence[Judgment]) -> list[str]:
    return sorted({judgment.category for judgment in judgments} - {""})


def _average(values: Sequence[float]) -> float:
    return mean(values).value


def _result(subset: str, metric: str, judgments: Sequence[Judgment]) -> Result:
    estimate = mean([j.score for j in judgments], clusters=[j.question_id for j in judgments])
    return result(NAME, METRICS, subset, metric, estimate.value, estimate.stderr, estimate.n)


def _examples(
    judgments: Sequence[Judgment], questions: Sequence[Question], answers: Answers | None, goal: float | None
) -> Iterator[Example]:
    asked = {question.question_id: question.turns for question in questions}
    seen: Counter[tuple[str, int]] = Counter()
    for judgment in judgments:
        turn = (judgment.question_id, judgment.turn)
        seen[turn] += 1
        again = f"/judgment-{seen[turn]}" if seen[turn] > 1 else ""
        detail: dict[str, Any] = {} if goal is None else {"goal": goal}
        detail |= {"question_id": judgment.question_id, "turn": judgment.turn, "reason": judgment.reason}
        yield Example(
            benchmark=NAME,
            subset=judgment.category or "all",
            example_id=f"{judgment.question_id}/turn-{judgment.turn}{again}",
            prompt=asked[judgment.question_id][judgment.turn - 1] if judgment.question_id in asked else "",
            output=answers[judgment.question_id][judgment.turn - 1] if answers else None,
            baseline_output=None,
            metric="score",
            value=judgment.score,
            detail=json.dumps(detail, ensure_ascii=False),
            prompt_id=judgment.question_id,
        )


def is_pairwise(path: Path) -> bool:
    """Whether a file of FastChat's judgments is of its pairwise mode.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    for _, row in read_rows(path):
        return "g1_winner" in row
    raise DataError(f"{path}: no judgments in it")


def score_existing(existing: Existing) -> dict[str, Any]:
    """MT-Bench's figures of FastChat's judgments, single or pairwise.

    Raises:
        DataError: the file is malformed, or no judgment in it was parsed.
    """
    from radpo.benchmarks.registry import benchmarks

    assert existing.judgments is not None
    if is_pairwise(existing.judgments):
        other = benchmarks()["mt-bench-pairwise"]
        assert other.Existing is not None
        assert other.score_existing is not None
        document: dict[str, Any] = dict(
            other.score_existing(
                other.Existing.model_validate(existing.model_dump(include={"judgments", "baseline", "only"}))
            )
        )
        return document
    return asdict(score(load_judgments(existing.judgments, existing.questions, existing.only)))


def imports(path: Path, whose: Whose) -> Scores | None:
    """The scores of a file of FastChat's single-answer judgments."""
    if not {"question_id", "turn", "score", "judgment"} <= first_row(path).keys():
        return None
    model = whose.choose(path, (str(row.get("model", "")) for _, row in read_rows(path)))
    return scores(load_judgments(path, only=model))


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage:
    """Answers to both turns, then the judge's grades."""
    judge, hints = pieces.judge_settings(context, settings.judge)
    references = None if settings.references is None else context.file(settings.references)
    whose = {"variant": checkpoint.variant, "goal": checkpoint.goal}
    asked = {**context.questions(settings.questions), **judge, "references": references, **whose}
    sampling = settings.sampling
    answers = pieces.answers(context, checkpoint, settings.questions, sampling, **sampling.by_category())
    return context.stage(NAME, checkpoint.label, asked, {"answers": answers}, hints)


def read_references(task: Task) -> dict[str, tuple[str, ...]] | None:
    """The reference answers that a stage's settings name."""
    references = task.stage.settings["references"]
    return None if references is None else load_references(pieces.path_of(references))


def _score(task: Task) -> None:
    """Answers -> judgments, results and examples."""
    questions = pieces.read_questions(task)
    answers = pieces.read_answers(task, questions)
    judge = pieces.open_judge(task)
    judgments = grade(questions, answers, judge, references=read_references(task), progress=task.progress)
    found = scores(judgments, questions=questions, answers=answers, goal=task.stage.settings["goal"])
    write_judgments(judgments, task.out / "judgments.jsonl", task.stage.settings["variant"], judge.name)
    found = replace(found, figures=asdict(score(judgments)))
    pieces.write_judged(task, found, judge, judge_bias(judgments, answers))


def _cost(sizes: Sizes, stage: Stage) -> Work:
    return judged(sizes, stage, pairwise=False)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """Scores by category and by turn."""
    parts = points(run, subsets(run, NAME, "score"))
    turns = {"first_turn": "first turn", "second_turn": "second turn"}
    by_turn = points(run, [Name(NAME, "all", metric) for metric in turns]).replace({"group": turns})
    axis = "score (1–10)"
    panels, counted = [], []
    method = "Intervals are t intervals from the standard error over questions, cut at 1 and 10." + seeds_note(parts)
    if len(parts):
        counted.append(f"{sizes(parts)} judgments per category")
        if parts["variant"].nunique() > SIDE_BY_SIDE:
            panels.append(panel("By category", grid(parts, styles, axis=axis, within=None)))
        elif parts["group"].nunique() >= 3:
            panels.append(panel("By category", radar(parts, styles, within=(1, 10))))
            method += " The radar shows no intervals: with so few judgments, differences between its spokes are rough."
        else:
            panels.append(panel("By category", intervals(parts, styles, axis=axis, within=(1, 10))))
    if len(by_turn):
        panels.append(panel("By turn", bars(by_turn, styles, axis=axis, base=1, within=(1, 10.3))))
        counted.append(f"{sizes(by_turn)} per turn")
        method += " The second turn continues the conversation of the first."
    caption = f"Mean score of the judge (1–10). n = {', '.join(counted)}; whiskers: 95% intervals."
    numbers = table_rows("by category", parts) + table_rows("by turn", by_turn)
    return [ReportSection(NAME, "MT-Bench", caption, panels, 2, shown_in(styles, parts, by_turn), numbers, method)]


BENCHMARK = Benchmark(
    name=NAME,
    title="MT-Bench",
    summary="MT-Bench: two-turn questions in categories, graded 1-10 by a judge.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=8)},
    cost={NAME: _cost},
    sections=sections,
    place=20,
    files={"answers.jsonl": "answers/answers.jsonl", "judgments.jsonl": "judgments.jsonl"},
    elsewhere={"baseline_outputs": "mt-bench-pairwise"},
    imports=imports,
    Existing=Existing,
    score_existing=score_existing,
)
