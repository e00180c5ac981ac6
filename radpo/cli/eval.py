"""The `radpo eval` commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from radpo.cli.options import Json, Model, figures, need_one, one_of, parse_pairs, quiet_libraries, show
from radpo.core.errors import ConfigError

if TYPE_CHECKING:
    from radpo.clients.endpoint import Endpoint
    from radpo.core.progress import Progress
    from radpo.judges.base import Judge as JudgeOf

eval_app = typer.Typer(help="Score one checkpoint, or existing judgments, on one benchmark.", no_args_is_help=True)

Reference = Annotated[
    Path | None,
    typer.Option(
        help="A folder with df_gamed.csv (or an estimate, df_gamed_reconstructed.csv), for the length-controlled rate; "
        "else it is looked for in the Hub's cache and on the Hub."
    ),
]
ANSWERS, JUDGING = "Answering", "Judging"
Checkpoint = Annotated[
    str | None,
    typer.Option("--model", help="Who answers: a bundled model, a folder, a .gguf, a Hub id.", rich_help_panel=ANSWERS),
]
EndpointSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        metavar="KEY=VALUE",
        help="Or who answers: an OpenAI-compatible endpoint, as model=NAME base_url=URL; repeatable. Others: "
        "version (answers are cached only where it says which model the name stands for), api_key_env, token_limit, "
        "sampling_options, max_unanswered, concurrency, requests_per_minute, timeout, attempts, price_in, price_out, "
        "max_cost, max_requests.",
        rich_help_panel=ANSWERS,
    ),
]
AnswersFile = Annotated[
    Path | None,
    typer.Option(
        "--answers", help="Or answers that there are, in the benchmark's own format.", rich_help_panel=ANSWERS
    ),
]
Name = Annotated[str | None, typer.Option(help="What to call the model.", rich_help_panel=ANSWERS)]
Backend = Annotated[str, typer.Option(help="transformers or vllm, for --model.", rich_help_panel=ANSWERS)]
Goal = Annotated[
    str,
    typer.Option(help="The score to ask for; default: the checkpoint's own; none: no goal.", rich_help_panel=ANSWERS),
]
NewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens of an answer; the benchmark's own unless given.", rich_help_panel=ANSWERS),
]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="The benchmark's own unless given.", rich_help_panel=ANSWERS)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts answered at once.", rich_help_panel=ANSWERS)]
AnswerSeed = Annotated[int, typer.Option("--seed", help="Random seed.", rich_help_panel=ANSWERS)]
Judge = Annotated[
    str, typer.Option(help="openai, reward-model, verifier, or an installed judge.", rich_help_panel=JUDGING)
]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option(
        "--judge-set",
        metavar="KEY=VALUE",
        help="A judge's setting, such as model=gpt-4; repeatable.",
        rich_help_panel=JUDGING,
    ),
]
Out = Annotated[Path | None, typer.Option(help="The run's own folder: answers, judgments, tables, scores.json.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions; the figure is then partial.")]
Questions = Annotated[Path | None, typer.Option(help="The questions, in the benchmark's own format or radpo's.")]
BaselineOutputs = Annotated[Path | None, typer.Option(help="The baseline's answers, in the benchmark's own format.")]


@eval_app.command("alpaca-eval")
def eval_alpaca_eval(
    annotations: Annotated[
        Path | None, typer.Option(help="Score these annotations, in alpaca-eval's format (.json, .jsonl, .gz).")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Or take the length-controlled rate from this table of published GLM weights.")
    ] = None,
    generator: Annotated[str | None, typer.Option(help="Whose weights: the model's name in the table.")] = None,
    baseline: Annotated[str, typer.Option(help="The baseline's name in the table.")] = "gpt4_1106_preview",
    out: Out = None,
    questions: Questions = None,
    baseline_outputs: BaselineOutputs = None,
    limit: Limit = None,
    reference: Reference = None,
    model: Checkpoint = None,
    endpoint: EndpointSettings = None,
    answers: AnswersFile = None,
    name: Name = None,
    backend: Backend = "transformers",
    goal: Goal = "default",
    max_new_tokens: NewTokens = None,
    temperature: Temperature = None,
    seed: AnswerSeed = 0,
    batch_size: BatchSize = 32,
    judge: Judge = "openai",
    judge_set: JudgeSet = None,
    swap_check: Annotated[
        int, typer.Option(min=0, help="Comparisons judged again in the other order.", rich_help_panel=JUDGING)
    ] = 50,
    as_json: Json = False,
) -> None:
    """AlpacaEval 2: win rates by the alpaca-eval package's own code.

    --annotations FILE scores judgments that there are. --weights FILE --generator NAME gives the length-controlled
    rate that published GLM weights stand for. --out DIR runs the whole: --model, --endpoint or --answers against
    --baseline-outputs (gpt4_1106_preview's, from the Hub, unless given), judged by --judge. Interrupted, the same
    command goes on.
    """
    need_one({"--annotations": annotations, "--weights": weights, "--out": out})
    if weights is not None:
        from radpo.benchmarks.length_control import from_weights

        if generator is None:
            raise ConfigError("--weights: say whose with --generator NAME, as the table calls the model")
        found = from_weights(weights, generator, baseline, reference)
        show({"length_controlled_winrate": found.winrate, "notes": [found.note] if found.note else []}, as_json)
        return
    if annotations is not None:
        from radpo.benchmarks.alpaca_eval import load_annotations, win_rate

        show(asdict(win_rate(load_annotations(annotations), reference)), as_json)
        return
    assert out is not None
    from radpo.benchmarks.pipeline import Answering, alpaca_eval

    answering = Answering(
        model, _endpoint(endpoint), answers, name, **_backend_and_goal(backend, goal), seed=seed, batch_size=batch_size,
        max_new_tokens=max_new_tokens or 2048, temperature=temperature or 0.0,
    )  # fmt: skip
    with _watched() as watch:
        document = alpaca_eval(
            answering, _judge(judge, judge_set), out, questions=questions, baseline_outputs=baseline_outputs,
            reference_dir=reference, limit=limit, swap_check=swap_check, watch=watch,
        )  # fmt: skip
    show(document, as_json)


@eval_app.command("mt-bench")
def eval_mt_bench(
    judgments: Annotated[
        Path | None, typer.Option(help="Score these judgments, in FastChat's format (.jsonl, .gz), single or pairwise.")
    ] = None,
    out: Out = None,
    questions: Annotated[
        Path | None, typer.Option(help="FastChat's question.jsonl, which also holds the categories, or radpo's.")
    ] = None,
    references: Annotated[Path | None, typer.Option(help="FastChat's reference_answer/gpt-4.jsonl.")] = None,
    only: Annotated[
        str | None, typer.Option(help="The one model to score, where the file has judgments of several.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Pairwise judgments: count only pairs with this model, which has no row itself.")
    ] = None,
    baseline_outputs: Annotated[
        Path | None, typer.Option(help="Pairwise mode: another model's answers to compare with, in both orders.")
    ] = None,
    limit: Limit = None,
    model: Checkpoint = None,
    endpoint: EndpointSettings = None,
    answers: AnswersFile = None,
    name: Name = None,
    backend: Backend = "transformers",
    goal: Goal = "default",
    max_new_tokens: NewTokens = None,
    temperature: Temperature = None,
    seed: AnswerSeed = 0,
    batch_size: BatchSize = 32,
    judge: Judge = "openai",
    judge_set: JudgeSet = None,
    as_json: Json = False,
) -> None:
    """MT-Bench: scores from 1 to 10, or win rates from pairwise judgments.

    --judgments FILE scores judgments that there are. --out DIR --questions FILE runs the whole, at FastChat's
    temperatures by category; --judge-set prompts=FOLDER gives FastChat's judge prompts. Judgments that could not be
    parsed are left out and counted.
    """
    need_one({"--judgments": judgments, "--out": out})
    if judgments is not None:
        from radpo.benchmarks.mt_bench import load_judgments, score
        from radpo.benchmarks.mt_bench_pairs import is_pairwise, load_pair_judgments, score_pairs

        if is_pairwise(judgments):
            show(asdict(score_pairs(load_pair_judgments(judgments), baseline, only)), as_json)
        else:
            show(asdict(score(load_judgments(judgments, questions, only))), as_json)
        return
    assert out is not None
    if questions is None:
        raise ConfigError("--out: say which questions with --questions FILE")
    from radpo.benchmarks.mt_bench import OTHER_TEMPERATURE, TEMPERATURES
    from radpo.benchmarks.pipeline import Answering, mt_bench

    drawn = {"temperature": OTHER_TEMPERATURE, "temperatures": TEMPERATURES}
    answering = Answering(
        model, _endpoint(endpoint), answers, name, **_backend_and_goal(backend, goal), seed=seed, batch_size=batch_size,
        max_new_tokens=max_new_tokens or 1024, **(drawn if temperature is None else {"temperature": temperature}),
    )  # fmt: skip
    with _watched() as watch:
        document = mt_bench(
            answering, _judge(judge, judge_set, {"annotator": "fastchat"} if baseline_outputs else {}), out,
            questions=questions, references=references, baseline_outputs=baseline_outputs, limit=limit, watch=watch,
        )  # fmt: skip
    show(document, as_json)


@eval_app.command("arena-hard")
def eval_arena_hard(
    battles: Annotated[Path | None, typer.Option(help="Score this file of battles (v0.1's, .jsonl or .gz).")] = None,
    judgments: Annotated[
        list[Path] | None,
        typer.Option(help="Or these judgments of v0.1 or v2.0: a file a model, or a folder of them; repeatable."),
    ] = None,
    only: Annotated[str | None, typer.Option(help="The one model to show; all of the files' unless given.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The model the others were compared with; the release's own unless given.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="v2.0: the category, such as hard_prompt.")] = None,
    style_answers: Annotated[
        Path | None,
        typer.Option(help="Control for style: the folder of all models' answers (model_answer), to measure it on."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=10, help="Bootstrap resamples.")] = 1000,
    out: Out = None,
    questions: Questions = None,
    baseline_outputs: BaselineOutputs = None,
    limit: Limit = None,
    model: Checkpoint = None,
    endpoint: EndpointSettings = None,
    answers: AnswersFile = None,
    name: Name = None,
    backend: Backend = "transformers",
    goal: Goal = "default",
    max_new_tokens: NewTokens = None,
    temperature: Temperature = None,
    seed: AnswerSeed = 0,
    batch_size: BatchSize = 32,
    judge: Judge = "openai",
    judge_set: JudgeSet = None,
    as_json: Json = False,
) -> None:
    """Arena-Hard-Auto: the chance in percent of beating the baseline, with a bootstrap interval.

    --battles or --judgments score what there is: Bradley-Terry by logistic regression, verdicts of >> counting three
    times, the interval 95% for v0.1 and 90% for v2.0, as the two releases have it. --out DIR runs the whole, in both
    orders; --judge-set arena_config=FILE gives arena-hard-auto's judge configuration.
    """
    need_one({"--battles": battles, "--judgments": judgments or None, "--out": out})
    if out is not None:
        if questions is None or baseline_outputs is None:
            raise ConfigError("--out: give --questions and --baseline-outputs, arena-hard-auto's files")
        from radpo.benchmarks.pipeline import Answering, arena_hard

        answering = Answering(
            model, _endpoint(endpoint), answers, name, **_backend_and_goal(backend, goal), seed=seed,
            batch_size=batch_size, max_new_tokens=max_new_tokens or 4096, temperature=temperature or 0.0,
        )  # fmt: skip
        with _watched() as watch:
            document = arena_hard(
                answering, _judge(judge, judge_set), out, questions=questions, baseline_outputs=baseline_outputs,
                limit=limit, rounds=rounds, watch=watch,
            )  # fmt: skip
        show(document, as_json)
        return
    from radpo.benchmarks.arena_hard import leaderboard, load_battles, load_judgments
    from radpo.benchmarks.arena_style import load_answer_folder, style_features

    games = load_battles(battles, baseline) if battles else load_judgments(judgments or [], baseline, category)
    style = (
        None
        if style_answers is None
        else style_features(games.frame, games.baseline, load_answer_folder(style_answers))
    )
    show(leaderboard(games, only=only, rounds=rounds, style=style), as_json)


@eval_app.command("judge")
def eval_judge(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="Pairs with verdicts: alpaca-eval's (instruction, output_1, output_2, preference) or RewardBench's "
            "(prompt, chosen, rejected).",
        ),
    ],
    judge: Judge = "openai",
    judge_set: JudgeSet = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")] = None,
    as_json: Json = False,
) -> None:
    """How good a judge is: agreement with the verdicts, Cohen's kappa, and its bias for order and length.

    Every pair is judged in both orders. Of several verdicts on one pair the majority counts.
    """
    from radpo.judges.agreement import load_verdicts, measure

    with _watched() as watch:
        show(measure(load_verdicts(pairs)[:limit], _judge(judge, judge_set), watch["judge"]), as_json)


@eval_app.command("academic")
def eval_academic(
    model: Model,
    tasks: Annotated[
        list[str],
        typer.Option(
            "--task",
            help="An lm-eval task, group or tag; NAME:N with N few-shot examples; a task's YAML file; or `paper`: the "
            "paper's six (GSM8K 5-shot, GPQA 0, MuSR 0, TruthfulQA 0, BBH 3, ARC-Challenge 25). Repeatable.",
        ),
    ],
    include: Annotated[Path | None, typer.Option(help="A folder of task YAML files, searched first.")] = None,
    goal: Annotated[
        str, typer.Option(help="The score to ask for; default: the checkpoint's own; none: none.")
    ] = "default",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; all unless given.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    out: Annotated[
        Path | None, typer.Option(help="A folder for lm-eval's own document (lm_eval.json), results and examples.")
    ] = None,
    as_json: Json = False,
) -> None:
    """lm-eval tasks with the checkpoint's chat template, through lm-eval's own evaluation."""
    from radpo.benchmarks.academic import run, scores, write_run
    from radpo.models.loading import resolve_model

    asked = _backend_and_goal("transformers", goal)["goal"]
    quiet_libraries()
    outcome = run(
        resolve_model(model), tasks, include, goal=asked, limit=limit, batch_size=batch_size, precision="float32"
    )
    if out is not None:
        write_run(outcome, out)
    show(figures(scores(outcome)), as_json)


def _endpoint(settings: list[str] | None) -> Endpoint | None:
    if not settings:
        return None
    from pydantic import ValidationError

    from radpo.clients.endpoint import Endpoint

    try:
        return Endpoint.model_validate(parse_pairs("--endpoint", settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"--endpoint {where}: {first['msg'].removeprefix('Value error, ')}") from error


def _judge(kind: str, settings: list[str] | None, more: Mapping[str, Any] | None = None) -> JudgeOf:
    from radpo.judges.lookup import find_judge

    quiet_libraries()
    defaults = dict(more or {}) if kind == "openai" else {}
    return find_judge(kind, {**defaults, **parse_pairs("--judge-set", settings or [])})


def _backend_and_goal(backend: str, goal: str) -> dict[str, Any]:
    one_of("--backend", backend, ("transformers", "vllm"))
    if goal in ("default", "none"):
        return {"backend": backend, "goal": "default" if goal == "default" else None}
    try:
        return {"backend": backend, "goal": float(goal)}
    except ValueError:
        raise ConfigError(f"--goal {goal!r}: must be a number, default or none") from None


@contextmanager
def _watched() -> Iterator[dict[Literal["answers", "judge"], Progress]]:
    """Bars for the two long steps of a run."""
    from radpo.core.console import progress_bar

    with progress_bar("answers") as answers, progress_bar("judging") as judge:
        yield {"answers": answers, "judge": judge}
