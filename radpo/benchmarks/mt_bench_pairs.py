"""MT-Bench's pairwise mode: win rates from FastChat's judgments of two models' answers.

Both orders of the answers are judged (Zheng et al. 2023, arXiv 2306.05685, sec. 3.4): a model wins a turn if it wins in
both, and anything else is a tie. A turn with a verdict that could not be parsed is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from radpo.benchmarks import mt_bench, pieces
from radpo.benchmarks.answers import Answers, check_answers
from radpo.benchmarks.mt_bench import reference_of, turn_prompt
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context, Whose
from radpo.benchmarks.settings import ExistingModel, MatrixPath
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import Work, judged
from radpo.core.errors import DataError
from radpo.core.json_rows import first_row, read_rows
from radpo.core.metrics import Metric, result
from radpo.core.progress import Progress, no_progress
from radpo.core.results import Example, Scores
from radpo.core.texts import with_reasons
from radpo.engine.graph import Function, Stage, Task
from radpo.judges.base import CompareRequest, Comparison, Judge, compare
from radpo.judges.quality import JUDGE_METRICS, Bias, unswapped, verdict
from radpo.stats.estimates import mean

if TYPE_CHECKING:
    from radpo.preferences.questions import Question

NAME = "mt-bench-pairwise"
METRICS = (
    Metric("win_rate_adjusted", "win rate", "%", primary="all", margin=5.0, even=50.0, overview=True),
    *JUDGE_METRICS,
)
"""A tie is half a win."""


class Settings(mt_bench.Settings):
    """MT-Bench's questions, both turns compared in both orders with the matrix's baseline or `baseline_outputs`."""

    baseline_outputs: MatrixPath | None = Field(
        None, description="Pairwise mode: another model's answers to compare with, in both orders."
    )

    @field_validator("judge", mode="before")
    @classmethod
    def _fastchats_prompt(cls, judge: Any) -> Any:
        """An endpoint judges with FastChat's prompt, unless another annotator is named."""
        from radpo.judges.openai import COMPARISON_SETTINGS

        if isinstance(judge, dict) and isinstance(judge.get("judges"), list):
            return {**judge, "judges": [cls._fastchats_prompt(member) for member in judge["judges"]]}
        if isinstance(judge, dict) and judge.get("kind") == "openai" and not COMPARISON_SETTINGS & judge.keys():
            return {**judge, "annotator": "fastchat"}
        return judge


class Existing(ExistingModel):
    """Judgments that there are."""

    sources = ("judgments",)
    judgments: Path | None = Field(None, description="Pairwise judgments in FastChat's format (.jsonl, .gz).")
    baseline: str | None = Field(None, description="Count only pairs with this model, which has no row itself.")
    only: str | None = Field(None, description="Show only this model.")


def score_existing(existing: Existing) -> dict[str, Any]:
    """FastChat's table of its pairwise judgments.

    Raises:
        DataError: the file is malformed, or no judgment in it was parsed.
    """
    assert existing.judgments is not None
    return asdict(score_pairs(load_pair_judgments(existing.judgments), existing.baseline, existing.only))


def imports(path: Path, whose: Whose) -> Scores | None:
    """The scores of one model in a file of FastChat's pairwise judgments, over all that it was compared with.

    Raises:
        DataError: it is malformed, or holds several models' and none of them is meant.
    """
    if not {"model_1", "model_2", "g1_winner", "g2_winner"} <= first_row(path).keys():
        return None
    judgments = load_pair_judgments(path)
    model = whose.choose(path, (name for j in judgments for name in (j.model_1, j.model_2)))
    return scores(judgments, model)


WINNERS = ("model_1", "model_2", "tie", "error")


@dataclass(frozen=True)
class PairJudgment:
    """One turn's two games: who won with model_1's answer first (`first`), and with model_2's first (`second`)."""

    question_id: str
    turn: int
    model_1: str
    model_2: str
    first: str
    second: str
    reasons: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class PairScore:
    """FastChat's figures for one model: counts, shares from 0 to 1; a tie is half a win in `win_rate_adjusted`."""

    win: int
    loss: int
    tie: int
    win_rate: float
    loss_rate: float
    win_rate_adjusted: float


@dataclass(frozen=True)
class PairScores:
    """Every model's figures, how often the two orders agree (a share, None without games), what was not parsed."""

    models: Mapping[str, PairScore]
    swap_agreement: float | None
    n: int
    n_unparsed: int


def load_pair_judgments(path: Path) -> list[PairJudgment]:
    """Read FastChat's pairwise judgments (`.jsonl`, gzipped or not).

    Raises:
        DataError: a row is malformed.
    """
    judgments = []
    for place, row in read_rows(path):
        names = [row.get(name) for name in ("model_1", "model_2")]
        winners = [row.get(name) for name in ("g1_winner", "g2_winner")]
        if row.get("question_id") is None or not all(isinstance(name, str) for name in names):
            raise DataError(f"{place}: a pairwise judgment needs question_id, model_1, model_2, g1_winner, g2_winner")
        if not all(winner in WINNERS for winner in winners):
            raise DataError(f"{place}: winners {winners} are none of {', '.join(WINNERS)}")
        reasons = (str(row.get("g1_judgment", "")), str(row.get("g2_judgment", "")))
        turn = row.get("turn", 1)
        if turn not in (1, 2):
            raise DataError(f"{place}: turn {turn!r} is neither 1 nor 2")
        judgments.append(
            PairJudgment(
                str(row["question_id"]), turn, str(names[0]), str(names[1]), str(winners[0]), str(winners[1]), reasons
            )
        )
    if not judgments:
        raise DataError(f"{path}: no judgments in it")
    return judgments


def judge_pairs(
    questions: Sequence[Question],
    answers: tuple[Answers, Answers],
    names: tuple[str, str],
    judge: Judge,
    *,
    references: Answers | None = None,
    progress: Progress = no_progress,
) -> list[PairJudgment]:
    """Have two models' answers to every turn compared in both orders.

    Raises:
        DataError: a question lacks an answer to one of its turns.
        ServiceError: the judge could not be reached.
    """
    for name, of in zip(names, answers, strict=True):
        check_answers(questions, of, f"answers of {name}")
    places = [(question, turn) for question in questions for turn in range(len(question.turns))]
    pairs = []
    for question, turn in places:
        one, two = (of[question.question_id] for of in answers)
        reference = reference_of(question, turn, references or {}) | {"first_answers": (one[0], two[0])}
        pairs.append(CompareRequest(turn_prompt(question, one, turn), one[turn], two[turn], reference))
    turned = [_with_first_answers(pair.swapped()) for pair in pairs]
    found = compare(judge, [*pairs, *turned], progress)
    given, swapped = found[: len(pairs)], [unswapped(comparison) for comparison in found[len(pairs) :]]
    return [
        PairJudgment(question.question_id, turn + 1, *names, _winner(a), _winner(b), (a.reason, b.reason))
        for (question, turn), a, b in zip(places, given, swapped, strict=True)
    ]


def _with_first_answers(swapped: CompareRequest) -> CompareRequest:
    """The other order, the two models' first answers in it too."""
    first, second = swapped.reference["first_answers"]
    prompt = [{**message} for message in swapped.prompt]
    if len(prompt) > 1:
        prompt[1]["content"] = second
    return replace(swapped, prompt=prompt, reference={**swapped.reference, "first_answers": (second, first)})


def _winner(comparison: Comparison) -> str:
    if comparison.preference is None:
        return "error"
    return ("tie", "model_1", "model_2")[verdict(comparison.preference)]


def write_pair_judgments(judgments: Sequence[PairJudgment], path: Path, judge: str) -> None:
    """Write judgments as FastChat does, so that its own tools read them."""
    with path.open("w", encoding="utf-8") as stream:
        for one in judgments:
            row = {
                "question_id": one.question_id, "model_1": one.model_1, "model_2": one.model_2, "turn": one.turn,
                "g1_winner": one.first, "g2_winner": one.second, "judge": [judge, "pair"],
                "g1_judgment": one.reasons[0], "g2_judgment": one.reasons[1],
            }  # fmt: skip
            stream.write(json.dumps(row) + "\n")


def outcome(judgment: PairJudgment) -> str | None:
    """The winner by name, `tie`, or None where a verdict could not be parsed."""
    if "error" in (judgment.first, judgment.second):
        return None
    if judgment.first == judgment.second and judgment.first != "tie":
        return judgment.model_1 if judgment.first == "model_1" else judgment.model_2
    return "tie"


def score_pairs(judgments: Sequence[PairJudgment], baseline: str | None = None, only: str | None = None) -> PairScores:
    """FastChat's table, over all pairs, or over those with the baseline, which then has no row itself.

    Args:
        only: the one model to have a row; the pairs that it is in.

    Raises:
        DataError: nothing was parsed, or the baseline or that model is in no pair.
    """
    if only is not None:
        names = sorted({name for j in judgments for name in (j.model_1, j.model_2)})
        if only not in names:
            raise DataError(f"mt-bench: no judgment of {only}; there are {', '.join(names)}")
        judgments = [j for j in judgments if only in (j.model_1, j.model_2)]
    if baseline is not None:
        judgments = [j for j in judgments if baseline in (j.model_1, j.model_2)]
        if not judgments:
            raise DataError(f"mt-bench: no judgment has the baseline {baseline}")
    counts: dict[str, dict[str, int]] = {}
    parsed = agreed = 0
    for judgment in judgments:
        winner = outcome(judgment)
        if winner is None:
            continue
        parsed += 1
        agreed += judgment.first == judgment.second
        for name in (judgment.model_1, judgment.model_2):
            found = "tie" if winner == "tie" else "win" if winner == name else "loss"
            counts.setdefault(name, {"win": 0, "loss": 0, "tie": 0})[found] += 1
    if not parsed:
        said = with_reasons([(f"{j.question_id} turn {j.turn}", "; ".join(j.reasons) or "no text") for j in judgments])
        raise DataError(
            f"mt-bench: none of {len(judgments)} judgments was parsed, so there is no win rate; the judge said: {said}"
        )
    shown = [name for name in counts if name != baseline and only in (None, name)]
    models = {name: _score(**counts[name]) for name in shown}
    ranked = dict(sorted(models.items(), key=lambda item: -item[1].win_rate_adjusted))
    return PairScores(ranked, agreed / parsed, parsed, len(judgments) - parsed)


def bias_of(found: PairScores) -> Bias:
    """How the order of the answers sways the judge."""
    return Bias(found.swap_agreement, None, None, None, found.n, found.n_unparsed, found.n)


def scores(
    judgments: Sequence[PairJudgment],
    model: str,
    *,
    questions: Sequence[Question] = (),
    answers: tuple[Answers, Answers] | None = None,
    goal: float | None = None,
) -> Scores:
    """One model's win rate over the others in percent, standard error clustered by question, and a row a comparison.

    Args:
        model: whose judgments count.
        questions, answers: what was asked, and the model's and the baseline's answers, for the examples.
        goal: the score that the model was asked for, for the examples' detail.

    Raises:
        DataError: nothing was parsed.
    """
    judgments = [j for j in judgments if model in (j.model_1, j.model_2)]
    several = len({*(j.model_1 for j in judgments), *(j.model_2 for j in judgments)}) > 2
    score_pairs(judgments, only=model)
    asked = {question.question_id: question.turns for question in questions}
    examples = []
    for judgment in judgments:
        winner = outcome(judgment)
        if winner is None:
            continue
        turn, other = judgment.turn - 1, judgment.model_2 if judgment.model_1 == model else judgment.model_1
        texts = [None, None] if answers is None else [of[judgment.question_id][turn] for of in answers]
        detail: dict[str, Any] = {} if goal is None else {"goal": goal}
        detail |= {"question_id": judgment.question_id, "turn": judgment.turn, "baseline": other}
        examples.append(
            Example(
                benchmark=NAME,
                subset="all",
                example_id=f"{judgment.question_id}/turn-{judgment.turn}" + (f"/{other}" if several else ""),
                prompt=asked[judgment.question_id][turn] if judgment.question_id in asked else "",
                output=texts[0],
                baseline_output=texts[1],
                prompt_id=judgment.question_id,
                opponent=other,
                metric="win_rate_adjusted",
                value=50.0 if winner == "tie" else 100.0 * (winner == model),
                detail=json.dumps({**detail, "reasons": judgment.reasons}, ensure_ascii=False),
            )
        )
    estimate = mean([e.value for e in examples], clusters=[str(e.prompt_id) for e in examples])
    figure = result(NAME, METRICS, "all", "win_rate_adjusted", estimate.value, estimate.stderr, estimate.n)
    return Scores((figure,), tuple(examples), _unparsed_note(judgments))


def _unparsed_note(judgments: Sequence[PairJudgment]) -> tuple[str, ...]:
    """Says which turns are left out, and what the judge said of them."""
    lacking = [j for j in judgments if outcome(j) is None]
    if not lacking:
        return ()
    named = with_reasons([(f"{j.question_id} turn {j.turn}", "; ".join(j.reasons)) for j in lacking])
    return (f"{NAME}: {len(lacking)} turns have a verdict that could not be parsed, and are left out: {named}.",)


def _score(win: int, loss: int, tie: int) -> PairScore:
    total = win + loss + tie
    return PairScore(win, loss, tie, win / total, loss / total, (win + 0.5 * tie) / total)


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage | None:
    """Answers of checkpoint and baseline, then verdicts in both orders; None for the matrix's own baseline."""
    sampling = settings.sampling
    compared = pieces.compared_answers(
        context, checkpoint, settings.questions, sampling, settings.baseline_outputs, **sampling.by_category()
    )
    if compared is None:
        return None
    judge, hints = pieces.judge_settings(context, settings.judge)
    references = None if settings.references is None else context.file(settings.references)
    own = {**compared[0], **judge, "references": references}
    return context.stage(NAME, checkpoint.label, own, compared[1], hints)


def _run(task: Task) -> None:
    """Answers of variant and baseline -> judgments, results and examples."""
    questions, model = pieces.read_questions(task), task.stage.settings["variant"]
    outputs = pieces.read_answers(task, questions)
    name, baseline = pieces.read_baseline(task, questions)
    judge = pieces.open_judge(task)
    references = mt_bench.read_references(task)
    answers = (outputs, baseline)
    judgments = judge_pairs(questions, answers, (model, name), judge, references=references, progress=task.progress)
    write_pair_judgments(judgments, task.out / "judgments.jsonl", judge.name)
    goal = task.stage.settings["goal"]
    found = scores(judgments, model, questions=questions, answers=answers, goal=goal)
    figures = score_pairs(judgments, name)
    pieces.write_judged(task, replace(found, figures=asdict(figures)), judge, bias_of(figures))


def _cost(sizes: Sizes, stage: Stage) -> Work:
    """Every turn is asked in both orders."""
    turns = sum(len(question.turns) for question in sizes.questions(stage.settings))
    return judged(sizes, stage, pairwise=True, swapped=turns)


BENCHMARK = Benchmark(
    name=NAME,
    title="MT-Bench, pairwise",
    summary="MT-Bench's questions, both turns compared with a baseline's answers in both orders by a judge.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_run, version=3)},
    cost={NAME: _cost},
    place=21,
    files={"answers.jsonl": "answers/answers.jsonl", "judgments.jsonl": "judgments.jsonl"},
    Existing=Existing,
    imports=imports,
    score_existing=score_existing,
)
