"""Concise: a judge model says which of two answers tells the user more in fewer words; both orders are asked."""

from __future__ import annotations

import json
import re

from radpo import Benchmark, Metric
from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Checkpoint, Context
from radpo.benchmarks.settings import DataFile, JudgeSettings, MatrixPath, SamplingSettings, Section
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import Work, judged
from radpo.clients.chat import ChatRequest
from radpo.core.errors import DataError
from radpo.core.metrics import result
from radpo.core.results import Example, Scores
from radpo.core.run import Run
from radpo.engine.graph import Function, Stage, Task
from radpo.figures.charts import intervals
from radpo.figures.sections import ReportSection, panel, points, shown_in, sizes, table_rows
from radpo.figures.styles import Styles
from radpo.judges.openai import OpenAIJudge
from radpo.judges.record import read_reply
from radpo.judges.structure import acting_marks, frame_of
from radpo.stats.estimates import mean
from radpo.stats.quantities import Name

NAME = "concise"
METRICS = (Metric("win_rate", f"{NAME} win rate", unit="%", primary="all", margin=5.0, even=50.0, overview=True),)
PROMPT = """Two assistants answered a user. Which answer tells the user more of what was asked in fewer words? A wrong
answer loses to a right one, whatever their lengths. Reply with one line: [[A]], [[B]], or [[C]] if neither does.

[The user's question]
{question}
[Assistant A's answer]
{a}
[Assistant B's answer]
{b}"""
VALUES = {"A": 100.0, "B": 0.0, "C": 50.0}


class Settings(Section):
    """The matrix section: what is asked, who judges, how answers are drawn, and whose they are compared with."""

    questions: DataFile
    judge: JudgeSettings
    sampling: SamplingSettings = SamplingSettings()
    baseline_outputs: MatrixPath | None = None


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage | None:
    """Answers of checkpoint and baseline, then the verdicts; None for the baseline itself."""
    answers = settings.questions, settings.sampling, settings.baseline_outputs
    compared = pieces.compared_answers(context, checkpoint, *answers)
    if compared is None:
        return None
    judge, hints = pieces.judge_settings(context, settings.judge)
    return context.stage(NAME, checkpoint.label, {**compared[0], **judge}, compared[1], hints)


def score(task: Task) -> None:
    """What the stage runs: its inputs' answers -> results, examples and notes in its folder."""
    questions = pieces.read_questions(task)
    ours, (opponent, theirs) = pieces.read_answers(task, questions), pieces.read_baseline(task, questions)
    judge = pieces.open_judge(task)
    assert isinstance(judge, OpenAIJudge), "as the check below has it"
    shown = [(q, ours[q.question_id][0], theirs[q.question_id][0]) for q in questions]
    prompts = [PROMPT.format(question=q.turns[0], a=a, b=b) for q, x, y in shown for a, b in ((x, y), (y, x))]
    asked = [ChatRequest([{"role": "user", "content": prompt}], {"temperature": 0.0}) for prompt in prompts]
    said = [read_reply(reply) for reply in judge.chat.complete(asked, task.progress)]
    verdicts = [re.findall(r"\[\[([ABC])\]\]", one.answer or "")[-1:] for one in said]
    examples = []
    for number, (question, our, their) in enumerate(shown):
        replies, (first, second) = said[2 * number : 2 * number + 2], verdicts[2 * number : 2 * number + 2]
        marks = acting_marks((question.turns[0], our, their), frame_of(PROMPT))
        for reply in replies:
            judge.record.add(reply, question.turns[0], marks)
        if first and second:
            value = (VALUES[first[0]] + 100.0 - VALUES[second[0]]) / 2
            detail = json.dumps({"goal": task.stage.settings["goal"], "reasons": [reply.reason for reply in replies]})
            asked_of = (NAME, "all", question.question_id, question.turns[0])
            examples.append(Example(*asked_of, our, their, "win_rate", value, detail, opponent=opponent))
    if not examples:
        raise DataError(f"{NAME}: none of {len(shown)} pairs has a verdict in both orders")
    found, lost = mean([example.value for example in examples]), len(shown) - len(examples)
    figure = result(NAME, METRICS, "all", "win_rate", found.value, found.stderr, found.n)
    notes = (f"{NAME}: {lost} of {len(shown)} pairs lack a verdict in one order and are left out.",) if lost else ()
    pieces.write_judged(task, Scores((figure,), tuple(examples), notes), judge)


def cost(sizes: Sizes, stage: Stage) -> Work:
    """For `radpo plan`: every question in both orders, and a verdict is one line."""
    return judged(sizes, stage, pairwise=True, swapped=len(sizes.questions(stage.settings)), judge_tokens=8)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """The report's part: the win rates with their intervals, and the numbers below them."""
    rows = points(run, [Name(NAME, "all", "win_rate")]).assign(group="all questions")
    figure = intervals(rows, styles, axis="win rate (%)", within=(0, 100), reference=50) if len(rows) else None
    panels = [] if figure is None else [panel("Win rate", figure)]
    caption = f"How often an answer tells more in fewer words. n = {sizes(rows)} questions; 95% intervals."
    return [ReportSection(NAME, "Concise", caption, panels, 1, shown_in(styles, rows), table_rows("win rate", rows))]


BENCHMARK = Benchmark(
    name=NAME,
    title="Concise",
    summary="Which of two answers tells more in fewer words, by a judge model in both orders.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(score, version=1)},
    cost={NAME: cost},
    sections=sections,
    check=lambda settings, others: None if settings.judge.kind == "openai" else "judge: must be of kind openai",
)
