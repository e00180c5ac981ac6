"""From questions to a score in one folder.

The folder gets answers.jsonl, the benchmark's own judgments, results.parquet, examples.parquet, notes.json and
scores.json. A killed run, run again, goes on from the answers and verdicts that it had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from radpo.benchmarks.answers import Answers, check_names
from radpo.core.errors import ConfigError, DataError
from radpo.core.files import write_json
from radpo.core.progress import Progress, no_progress
from radpo.core.reasoning import cut_reasoning
from radpo.core.results import Scores, write_scores
from radpo.judges.base import Judge
from radpo.judges.quality import Bias
from radpo.models.decoding import Sampling
from radpo.models.generation import Goal

if TYPE_CHECKING:
    from radpo.clients.endpoint import Endpoint
    from radpo.models.backends import Backend
    from radpo.preferences.questions import Question

REPLIES = "replies.sqlite"
"""What an endpoint answered, until all is answered: an interrupted call goes on from it."""

Watch = Mapping[Literal["answers", "judge"], Progress]
"""Who is told how the two long steps go."""


@dataclass(frozen=True)
class Answering:
    """Whose answers, and how they are drawn: exactly one of model, endpoint and file.

    Args:
        model: a bundled model, a folder, a .gguf file, or a Hub id.
        file: answers that there are, in any of the benchmarks' formats.
        temperatures: by category, before `temperature`.
    """

    model: str | None = None
    endpoint: Endpoint | None = None
    file: Path | None = None
    name: str | None = None
    backend: Literal["transformers", "vllm"] = "transformers"
    goal: Goal = "default"
    max_new_tokens: int = 2048
    temperature: float = 0.0
    temperatures: Mapping[str, float] | None = None
    seed: int = 0
    batch_size: int = 32
    use_model_config: bool = False
    keep_reasoning: bool = False


def alpaca_eval(
    answering: Answering,
    judge: Judge,
    out: Path,
    *,
    questions: Path | None = None,
    baseline_outputs: Path | None = None,
    reference_dir: Path | None = None,
    limit: int | None = None,
    swap_check: int = 50,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """AlpacaEval 2: answers, then the judge's comparisons with the baseline's answers, then alpaca-eval's figures.

    Args:
        questions: where they come from; unless given, from the baseline's file.
        baseline_outputs: the baseline's answers in alpaca-eval's format; gpt4_1106_preview's from the Hub unless given.
        limit: take only the first so many questions.

    Raises:
        ConfigError, DataError, ModelError, ServiceError: as the steps do; what was finished is kept.
    """
    from radpo.benchmarks.alpaca_eval import annotate, comparisons, judge_bias, scores, win_rate
    from radpo.benchmarks.length_control import hub_baseline
    from radpo.benchmarks.questions import load_benchmark_questions

    baseline = baseline_outputs or hub_baseline()
    asked = load_benchmark_questions(questions or baseline)[:limit]
    name, outputs = answers_of(answering, asked, out, watch)
    asked = [question for question in asked if question.question_id in outputs]
    other, baseline_answers = _given(baseline, asked, answering, out, "the baseline: ")
    names = {"generator": name, "baseline": other}
    annotations = annotate(asked, outputs, baseline_answers, judge, **names, progress=_judging(watch))
    annotations.to_json(out / "annotations.json", orient="records", indent=1, force_ascii=False)
    pairs = comparisons(asked, outputs, baseline_answers, **names)
    bias = judge_bias(judge, pairs, annotations, swap_check)
    found = scores(annotations, goal=_asked_goal(answering), reference_dir=reference_dir)
    return _finish(found, asdict(win_rate(annotations, reference_dir)), answering, judge, bias, out)


def mt_bench(
    answering: Answering,
    judge: Judge,
    out: Path,
    *,
    questions: Path,
    references: Path | None = None,
    baseline_outputs: Path | None = None,
    limit: int | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """MT-Bench: answers to both turns, then single grades (pairwise verdicts with a baseline's answers), then figures.

    Args:
        references: FastChat's reference answers, for math, reasoning and coding.
        baseline_outputs: answers to compare with, in both orders, in place of grading.

    Raises:
        ConfigError, DataError, ModelError, ServiceError: as the steps do; what was finished is kept.
    """
    from radpo.benchmarks import mt_bench_pairs
    from radpo.benchmarks.mt_bench import (
        grade,
        judge_bias,
        load_references,
        score,
        scores,
        write_judgments,
    )
    from radpo.benchmarks.mt_bench_pairs import judge_pairs, score_pairs, write_pair_judgments
    from radpo.benchmarks.questions import load_benchmark_questions

    asked = load_benchmark_questions(questions)[:limit]
    name, answers = answers_of(answering, asked, out, watch)
    asked = [question for question in asked if question.question_id in answers]
    shown = None if references is None else load_references(references)
    if baseline_outputs is None:
        judgments = grade(asked, answers, judge, references=shown, progress=_judging(watch))
        write_judgments(judgments, out / "judgments.jsonl", name, judge.name)
        found = scores(judgments, questions=asked, answers=answers, goal=_asked_goal(answering))
        return _finish(found, asdict(score(judgments)), answering, judge, judge_bias(judgments, answers), out)
    other, baseline = _given(baseline_outputs, asked, answering, out, "the baseline: ")
    check_names(name, other, str(baseline_outputs))
    pairs = judge_pairs(asked, (answers, baseline), (name, other), judge, references=shown, progress=_judging(watch))
    write_pair_judgments(pairs, out / "judgments.jsonl", judge.name)
    figures = score_pairs(pairs, other)
    found = mt_bench_pairs.scores(
        pairs, name, other, questions=asked, answers=(answers, baseline), goal=_asked_goal(answering)
    )
    return _finish(found, asdict(figures), answering, judge, mt_bench_pairs.bias_of(figures), out)


def arena_hard(
    answering: Answering,
    judge: Judge,
    out: Path,
    *,
    questions: Path,
    baseline_outputs: Path,
    limit: int | None = None,
    rounds: int = 1000,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Arena-Hard: answers, then verdicts against the baseline's answers in both orders, then the score.

    Raises:
        ConfigError, DataError, ModelError, ServiceError: as the steps do; what was finished is kept.
    """
    from radpo.benchmarks.arena_hard import judge_games, load_judgments, score, scores, write_judgments
    from radpo.benchmarks.questions import load_benchmark_questions

    asked = load_benchmark_questions(questions)[:limit]
    name, outputs = answers_of(answering, asked, out, watch)
    asked = [question for question in asked if question.question_id in outputs]
    other, baseline = _given(baseline_outputs, asked, answering, out, "the baseline: ")
    check_names(name, other, str(baseline_outputs))
    rows, bias = judge_games(asked, outputs, baseline, judge, model=name, baseline=other, progress=_judging(watch))
    write_judgments(rows, out / "judgments.jsonl")
    battles = load_judgments([out / "judgments.jsonl"], other)
    figures = score(battles, rounds=rounds)
    texts = {q.question_id: (q.turns[0], outputs[q.question_id][0], baseline[q.question_id][0]) for q in asked}
    found = scores(battles, figures, name, texts=texts, goal=_asked_goal(answering))
    document = {"model": name, **asdict(figures[name]), "baseline": other}
    return _finish(found, document, answering, judge, bias, out)


def answers_of(
    answering: Answering, questions: list[Question], out: Path, watch: Watch | None = None
) -> tuple[str, Answers]:
    """The name and the answers: read from the file, or drawn into `out`, going on from what is there.

    A question that an endpoint could not answer is not among them; the notes of `out` say which and why.

    Raises:
        ConfigError: not exactly one of model, endpoint and file is given.
        DataError: `out` holds another call's answers.
    """
    from radpo.benchmarks.answers import load_answers
    from radpo.clients.reply_cache import remove_cache
    from radpo.models.answers import answer_questions, unanswered_questions

    sources = [answering.model, answering.endpoint, answering.file]
    if sum(source is not None for source in sources) != 1:
        raise ConfigError("give one of --model, --endpoint and --answers")
    out.mkdir(parents=True, exist_ok=True)
    if answering.file is not None:
        name, given = _given(answering.file, questions, answering, out)
        return answering.name or name, given
    _claim(out, _identity(answering, questions))
    temperatures = answering.temperatures or {}

    def sampling_of(question: Question, turn: int) -> Sampling:
        temperature = temperatures.get(question.category, answering.temperature)
        seed = answering.seed * 1000 + turn
        return Sampling(answering.max_new_tokens, temperature, seed=seed, use_model_config=answering.use_model_config)

    progress = (watch or {}).get("answers", no_progress)
    path = answer_questions(
        questions, lambda: _backend(answering, out), sampling_of, out,
        keep_reasoning=answering.keep_reasoning, progress=progress,
    )  # fmt: skip
    default = answering.endpoint.model if answering.endpoint else Path(str(answering.model)).name
    lacking = unanswered_questions(path)
    answers = load_answers(path, questions)
    remove_cache(out / REPLIES)
    return answering.name or default, {name: turns for name, turns in answers.items() if name not in lacking}


def _given(
    path: Path, questions: list[Question], answering: Answering, out: Path, whose: str = ""
) -> tuple[str, Answers]:
    """A model's name and answers from a file, without reasoning; what was cut is added to the notes of `out`."""
    from radpo.benchmarks.answers import load_outputs
    from radpo.models.answers import NOTES, answer_notes

    name, found = load_outputs(path, questions)
    if not answering.keep_reasoning:
        found, notes = cut_reasoning(found)
        write_json(out / NOTES, list(dict.fromkeys([*answer_notes(out), *(whose + note for note in notes)])))
    return name, found


def _backend(answering: Answering, out: Path) -> Backend:
    from radpo.clients.chat import Chat
    from radpo.core.cache import cache_folder
    from radpo.models.backends import with_endpoint, with_transformers, with_vllm
    from radpo.models.loading import resolve_model

    if answering.endpoint is not None:
        # The same name may stand for another model tomorrow: without a version, answers are this folder's alone.
        cache = cache_folder() / "chat.sqlite" if answering.endpoint.version else out / REPLIES
        return with_endpoint(Chat(answering.endpoint, cache), goal=answering.goal)
    folder = resolve_model(str(answering.model))
    if answering.backend == "vllm":
        return with_vllm(folder, goal=answering.goal)
    return with_transformers(folder, goal=answering.goal, batch_size=answering.batch_size)


def _identity(answering: Answering, questions: list[Question]) -> dict[str, Any]:
    """All that the answers follow from."""
    from radpo.clients.endpoint import RESULT_FIELDS
    from radpo.models.loading import model_fingerprint

    asked = json.dumps([[q.question_id, q.category, *q.turns] for q in questions])
    told = asdict(replace(answering, endpoint=None, file=None, name=None, model=None))
    if answering.endpoint is not None:
        who: Any = {name: getattr(answering.endpoint, name) for name in sorted(RESULT_FIELDS)}
        told.pop("batch_size")
    else:
        who = model_fingerprint(str(answering.model))
    return {"who": who, "questions": hashlib.sha256(asked.encode()).hexdigest(), **told}


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Note whose answers a folder holds, so that no other call takes them up."""
    path = out / "asked.json"
    document = json.dumps(identity, indent=1, sort_keys=True)
    if path.exists():
        if path.read_text(encoding="utf-8") != document:
            raise DataError(f"{out}: holds the answers of another model or other settings; give another --out")
        return
    path.write_text(document, encoding="utf-8")


def _finish(
    found: Scores, document: dict[str, Any], answering: Answering, judge: Judge, bias: Bias, out: Path
) -> dict[str, Any]:
    """Write the tables and the document of figures, and return it with goal, notes, the judge's bias and its cost."""
    from radpo.benchmarks.answers import fault_notes
    from radpo.judges.record import judge_notes
    from radpo.models.answers import answer_notes

    if answering.file is None:
        document["goal"] = answering.goal
    document["judge"] = {"name": judge.name, **asdict(bias)}
    found = replace(found, results=(*found.results, *bias.results(found.results[0].benchmark)))
    chat = getattr(judge, "chat", None)
    if chat is not None:
        document["judge"]["usage"] = asdict(chat.usage)
    benchmark = found.results[0].benchmark
    found = replace(
        found, notes=(*found.notes, *judge_notes(judge, benchmark), *fault_notes(found.examples), *answer_notes(out))
    )
    notes = list(dict.fromkeys((*document.pop("notes", ()), *found.notes)))
    document = {**document, "notes": notes}
    write_scores(found, out)
    partial = out / ".scores.partial"
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(out / "scores.json")
    return document


def _judging(watch: Watch | None) -> Progress:
    return (watch or {}).get("judge", no_progress)


def _asked_goal(answering: Answering) -> float | None:
    return answering.goal if isinstance(answering.goal, int | float) else None
