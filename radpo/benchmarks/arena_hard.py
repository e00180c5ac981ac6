"""Arena-Hard-Auto: win rates over the baseline with intervals, from pairwise judgments in its own formats.

Every model is compared with one baseline, twice, in both orders; a verdict is one of A>>B, A>B, A=B, B>A, B>>A, and a
strong one counts three times. A Bradley-Terry model fitted to these games gives each model's chance of beating the
baseline (Li et al. 2024, arXiv 2406.11939), and resampled games its interval: 95% in v0.1, 90% in v2.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from radpo.benchmarks import pieces
from radpo.benchmarks.answers import Answers, check_answers, check_names
from radpo.benchmarks.arena_style import load_answer_folder, style_features
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context, Whose
from radpo.benchmarks.settings import (
    DataFile,
    ExistingModel,
    JudgeSettings,
    MatrixPath,
    Option,
    SamplingSettings,
    Section,
)
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import Work, judged
from radpo.core.errors import ConfigError, DataError
from radpo.core.json_rows import first_row, read_rows
from radpo.core.metrics import Metric, result
from radpo.core.progress import Progress, no_progress
from radpo.core.results import Example, Scores
from radpo.core.run import Run
from radpo.core.texts import with_reasons
from radpo.engine.graph import Function, Stage, Task
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
from radpo.figures.spreads import shares
from radpo.figures.styles import Styles
from radpo.judges.base import CompareRequest, Judge
from radpo.judges.quality import JUDGE_METRICS, Bias, bias, both_orders
from radpo.stats.quantities import Name, of, subsets

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from radpo.preferences.questions import Question

    Floats = npt.NDArray[np.float64]

NAME = "arena-hard"
METRICS = (
    Metric(
        "score",
        "score",
        bounds=(0, 100),
        primary="all",
        margin=7.0,
        even=50.0,
        overview=True,
        example_weight="games.weight",
    ),
    *JUDGE_METRICS,
)
"""The score is the chance in percent of beating the baseline. By released judgments of 500 questions the standard error
of the paired difference of two models is 1.3 to 2.1 points."""
JUDGE_TOKENS = 850
"""What a judge is taken to answer with, who answers the question itself first: 845 in released judgments by GPT-4."""
Version = Literal["v0.1", "v2.0"]
CONFIDENCE: Mapping[Version, float] = {"v0.1": 0.95, "v2.0": 0.90}
BASELINES = {
    "arena-hard-v0.1": "gpt-4-0314",
    "hard_prompt": "o3-mini-2025-01-31",
    "coding": "o3-mini-2025-01-31",
    "math": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
"""The official baseline by a question's category."""

STRONG = 3
"""How many games a verdict of >> or << counts as."""

# What a verdict is worth to A, and how many games it counts as; judges also write the labels the other way round.
VERDICTS: Mapping[str, tuple[float, int]] = {
    "A>>B": (1.0, STRONG), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, STRONG),
    "A<<B": (0.0, STRONG), "A<B": (0.0, 1), "B=A": (0.5, 1), "B<A": (1.0, 1), "B<<A": (1.0, STRONG),
}  # fmt: skip
# Resamples are drawn in blocks of at most so many numbers, so that memory stays low at any number of models.
_BLOCK = 4_000_000
_OFFICIAL_V01 = frozenset({"A>>B", "A>B", "A=B", "B>A", "B>>A"})


class Sampling(SamplingSettings):
    """Arena-Hard's answers as arena-hard-auto draws them: greedily, 4096 tokens."""

    max_new_tokens: int = Field(4096, ge=1)


class Settings(Section):
    """Arena-Hard's questions, compared in both orders with the matrix's baseline, or with `baseline_outputs`."""

    questions: DataFile = Field(description="arena-hard-auto's question.jsonl, or radpo's.")
    judge: JudgeSettings = JudgeSettings()
    sampling: Sampling = Sampling()
    baseline_outputs: MatrixPath | None = Field(
        None, description="The baseline's answers, as arena-hard-auto has them."
    )
    resamples: Annotated[int, Option("rounds")] = Field(1000, ge=10, description="Bootstrap resamples.")


class Existing(ExistingModel):
    """Existing judgments: --battles or --judgments.

    Bradley-Terry by logistic regression; verdicts of >> count three times. The interval is 95% for v0.1 and 90% for
    v2.0, as in the two releases.
    """

    sources = ("battles", "judgments")
    battles: Path | None = Field(None, description="A file of battles (v0.1's, .jsonl or .gz).")
    judgments: tuple[Path, ...] | None = Field(
        None, description="Judgments of v0.1 or v2.0: a file per model, or a folder of such files; repeatable."
    )
    only: str | None = Field(None, description="Show only this model.")
    baseline: str | None = Field(
        None, description="The model the others were compared with. Default: the release's own baseline."
    )
    category: str | None = Field(None, description="v2.0: the category, such as hard_prompt.")
    style_answers: Path | None = Field(
        None, description="Control for style: the folder of all models' answers (model_answer), to measure it on."
    )
    rounds: int = Field(1000, ge=10, description="Bootstrap resamples.")


def score_existing(existing: Existing) -> dict[str, Any]:
    """Arena-Hard's figures of battles or judgments, under style control where the models' answers are given.

    Raises:
        DataError: a file is malformed, or the baseline is not clear.
    """
    if existing.battles is not None:
        games = load_battles(existing.battles, existing.baseline)
    else:
        games = load_judgments(list(existing.judgments or ()), existing.baseline, existing.category)
    style = None
    if existing.style_answers is not None:
        style = style_features(games.frame, games.baseline, load_answer_folder(existing.style_answers))
    return leaderboard(games, only=existing.only, rounds=existing.rounds, style=style)


def imports(path: Path, whose: Whose) -> Scores | None:
    """The scores of one model in a file of Arena-Hard's judgments, or of its battles.

    Raises:
        DataError: it is malformed, or holds several models' and none of them is meant.
    """
    there = first_row(path).keys()
    if not ({"model", "games"} <= there or {"model_a", "model_b", "winner"} <= there):
        return None
    battles = load_judgments([path]) if "games" in there else load_battles(path)
    return scores(battles, score(battles), whose.choose(path, battles.frame["model"]))


@dataclass(frozen=True)
class Battles:
    """Games against one baseline.

    Args:
        frame: a row a game: question_id, model, game (1: the baseline is A; 2: the model is A; 0: not known), score (of
            the model: 1 won, 0.5 tie, 0 lost), weight.
        unparsed: how many games had no verdict that counts, by model.
        unparsed_questions: the questions of those games by model, each with what the judge said.
    """

    frame: pd.DataFrame
    baseline: str
    version: Version
    unparsed: Mapping[str, int]
    unparsed_questions: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class ArenaScore:
    """A model's figures: chance in percent of beating the baseline, the ends of its interval, games it rests on."""

    score: float
    ci_low: float
    ci_high: float
    n_battles: int
    n_unparsed: int


def load_battles(path: Path, baseline: str | None = None) -> Battles:
    """Read v0.1's battles file: question_id, model_a, model_b, winner (model_a, model_b, tie, tie (bothbad)).

    Strong verdicts are repeated rows there already. The baseline is the model that is in every battle.

    Raises:
        DataError: a row is malformed, or no one model is in every battle.
    """
    rows = []
    for place, row in read_rows(path):
        model_a, model_b, winner = row.get("model_a"), row.get("model_b"), row.get("winner")
        if not isinstance(model_a, str) or not isinstance(model_b, str) or "question_id" not in row:
            raise DataError(f"{place}: a battle needs question_id, model_a, model_b and winner")
        if winner not in ("model_a", "model_b", "tie", "tie (bothbad)"):
            raise DataError(f"{place}: winner {str(winner)[:40]!r} is none of model_a, model_b, tie, tie (bothbad)")
        rows.append((str(row["question_id"]), model_a, model_b, winner))
    if not rows:
        raise DataError(f"{path}: no battles in it")
    always = {rows[0][1], rows[0][2]}.intersection(*({a, b} for _, a, b, _ in rows))
    wanted = _one_baseline(always, baseline, str(path))
    games = []
    for question_id, model_a, model_b, winner in rows:
        model, model_wins = (model_b, "model_b") if model_a == wanted else (model_a, "model_a")
        score = 0.5 if winner.startswith("tie") else float(winner == model_wins)
        games.append({"question_id": question_id, "model": model, "game": 0, "score": score, "weight": 1})
    return Battles(_frame(games), wanted, "v0.1", {})


def load_judgments(paths: Sequence[Path], baseline: str | None = None, category: str | None = None) -> Battles:
    """Read judgments of v0.1 (question_id, model, games[].score) or v2.0 (uid in place of question_id, category).

    In game 1 the baseline is A, in game 2 the model is. v0.1 leaves out a game without one of the five labels; v2.0
    leaves out both games of the question, and takes the labels the other way round (A<B) too. These are the rules of
    the two releases' own code. A judgment that is there twice counts once.

    Args:
        paths: files, or folders of .jsonl(.gz) files, one for each model.
        baseline: the model in the baseline's place; unless given, the official one of the release or category.
        category: v2.0's category to score, such as hard_prompt; needed where the files hold several.

    Raises:
        DataError: a row is malformed, a judge judged a question in two ways, releases or categories are mixed, or there
            are none.
    """
    rows = [item for path in _files(paths) for item in read_rows(path)]
    versions: set[Version] = {"v2.0" if "uid" in row else "v0.1" for _, row in rows}
    if len(versions) != 1:
        raise DataError(f"{paths[0]}: {'no judgments' if not rows else 'judgments of v0.1 and v2.0 together'} in it")
    (version,) = versions
    categories = {str(row.get("category", "arena-hard-v0.1")) for _, row in rows}
    if category is not None:
        rows = [(place, row) for place, row in rows if row.get("category") == category]
    elif len(categories) > 1:
        raise DataError(f"judgments of {len(categories)} categories ({', '.join(sorted(categories))}); say which")
    chosen = category or next(iter(categories))
    if not rows:
        raise DataError(f"no judgments of category {category!r}; there are {', '.join(sorted(categories))}")
    wanted = baseline or BASELINES.get(chosen)
    if wanted is None:
        raise DataError(f"category {chosen!r} has no official baseline; say which model the others were compared with")
    games: list[dict[str, Any]] = []
    judged: dict[tuple[str, str, str], tuple[str, Any]] = {}
    unparsed: dict[str, int] = {}
    questions: dict[str, list[tuple[str, str]]] = {}
    for place, row in rows:
        question_id, model = row.get("uid", row.get("question_id")), row.get("model")
        if question_id is None or not isinstance(model, str):
            raise DataError(f"{place}: a judgment needs question_id (or uid), model and games")
        if model == wanted:
            continue
        known = judged.setdefault((str(question_id), model, str(row.get("judge"))), (place, row.get("games")))
        if known[0] != place:
            if known[1] == row.get("games"):
                continue
            raise DataError(
                f"{place}: question {str(question_id)[:80]!r} of {model} is judged again, and not as in {known[0]}; "
                "keep one of the two"
            )
        found = list(_games(row.get("games"), version, place))
        unparsed[model] = unparsed.get(model, 0) + 2 - len(found)
        if len(found) < 2:
            questions.setdefault(model, []).append((str(question_id), _said(row)))
        games += [{"question_id": str(question_id), "model": model, **game} for game in found]
    if not games:
        said = with_reasons([(str(row.get("uid", row.get("question_id"))), _said(row)) for _, row in rows])
        raise DataError(f"{paths[0]}: none of {len(rows)} judgments holds a verdict; the judge said: {said}")
    return Battles(_frame(games), wanted, version, unparsed, questions)


def _said(row: Mapping[str, Any]) -> str:
    """What the judge said in a judgment's games."""
    games = row.get("games")
    texts = [game.get("judgment") for game in games if isinstance(game, dict)] if isinstance(games, list) else []
    return "; ".join(str(text).strip() for text in texts if text) or "no text"


def judge_games(
    questions: Sequence[Question],
    outputs: Answers,
    baseline_outputs: Answers,
    judge: Judge,
    *,
    model: str,
    baseline: str,
    progress: Progress = no_progress,
) -> tuple[list[dict[str, Any]], Bias]:
    """Have both answers to every question compared in both orders; the judgments are rows in v0.1's format.

    Returns:
        The rows, and how order and length sway the judge.

    Raises:
        DataError: a question has no answer.
        ServiceError: the judge could not be reached.
    """
    check_names(model, baseline, "arena-hard")
    check_answers(questions, outputs, f"answers of {model}")
    check_answers(questions, baseline_outputs, f"answers of {baseline}")
    pairs = [
        CompareRequest(
            [{"role": "user", "content": question.turns[0]}],
            baseline_outputs[question.question_id][0],
            outputs[question.question_id][0],
            {"constraints": list(question.constraints[0])},
        )
        for question in questions
    ]
    given, turned = both_orders(judge, pairs, progress)
    rows = [
        {
            "question_id": question.question_id,
            "model": model,
            "judge": judge.name,
            "games": [
                {"score": _label(first.preference), "judgment": first.reason},
                # Turned back, a verdict speaks of the baseline first; the label is of what the judge was shown.
                {
                    "score": _label(None if second.preference is None else 3 - second.preference),
                    "judgment": second.reason,
                },
            ],
        }
        for question, first, second in zip(questions, given, turned, strict=True)
    ]
    return rows, bias(pairs, given, turned)


def _label(preference: float | None) -> str | None:
    """The verdict nearest to a preference from 1 (A) to 2 (B)."""
    labels = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
    return None if preference is None else labels[round(4 * (preference - 1))]


def write_judgments(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write judgments line by line, as arena-hard-auto's model_judgment has them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def score(
    battles: Battles, *, rounds: int = 1000, seed: int = 42, style: Floats | None = None
) -> dict[str, ArenaScore]:
    """Every model's score and interval, the models by score.

    Args:
        rounds: bootstrap resamples of all games (the official code draws 100).
        style: shape (games, features), how each game's answers differ in style (`radpo.benchmarks.arena_style`); the
            score is then the chance of winning at no difference.
    """
    import numpy as np
    from scipy.special import expit

    frame = battles.frame
    models = sorted(frame["model"].unique())
    codes = frame["model"].map({name: place for place, name in enumerate(models)}).to_numpy()
    won, weight = frame["score"].to_numpy(dtype=np.float64), frame["weight"].to_numpy(dtype=np.float64)
    if style is None:
        # Of indicators alone, each game one model's, the maximum-likelihood chance is the share of its games won.
        def chances(counts: Floats) -> Floats:
            return _shares(codes, won, counts, len(models))
    else:
        design = np.hstack([np.eye(len(models))[codes], style[:, np.ptp(style, axis=0) > 0]])

        def chances(counts: Floats) -> Floats:
            fits = [bradley_terry(design, won, drawn)[: len(models)] for drawn in counts]
            return np.asarray(expit(np.array(fits)))

    rng, block = np.random.default_rng(seed), max(_BLOCK // len(frame), 1)
    # A strong verdict is three games, each of which may be drawn without the others.
    drawn = [
        chances(
            rng.multinomial(int(weight.sum()), weight / weight.sum(), size=min(block, rounds - start)).astype(float)
        )
        for start in range(0, rounds, block)
    ]
    centre, resampled = 100 * chances(weight[None])[0], 100 * np.concatenate(drawn)
    tail = (1 - CONFIDENCE[battles.version]) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail], axis=0)
    found = {
        name: ArenaScore(
            score=float(centre[place]),
            ci_low=float(low[place]),
            ci_high=float(high[place]),
            n_battles=int(weight[codes == place].sum()),
            n_unparsed=battles.unparsed.get(name, 0),
        )
        for place, name in enumerate(models)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].score))


def leaderboard(
    battles: Battles, *, only: str | None = None, rounds: int = 1000, style: tuple[Floats, str] | None = None
) -> dict[str, Any]:
    """All models' figures as one document, or one model's at its top where there is one or `only` names it.

    Args:
        style: features and the sentence about them, as `radpo.benchmarks.arena_style.style_features` gives.

    Raises:
        ConfigError: `only` is none of the models.
    """
    found = {
        n: asdict(of) for n, of in score(battles, rounds=rounds, style=None if style is None else style[0]).items()
    }
    if only is not None and only not in found:
        raise ConfigError(f"model {only}: not in the files; there are {', '.join(found)}")
    name = only or (next(iter(found)) if len(found) == 1 else None)
    figures: dict[str, Any] = {"models": found} if name is None else {"model": name, **found[name]}
    about = {"baseline": battles.baseline, "confidence": CONFIDENCE[battles.version], "version": battles.version}
    return {**figures, **about, "notes": [] if style is None else [style[1]]}


def bradley_terry(design: Floats, outcome: Floats, counts: Floats) -> Floats:
    """Maximum-likelihood coefficients of logit P(win) = design @ coefficients; a tie is half a win and half a loss.

    Bradley & Terry 1952, as a logistic regression without intercept or penalty (arXiv 2403.04132, sec. 4): the
    baseline's strength is 0, so a model's coefficient is its log odds against it.

    Args:
        design: shape (cells, coefficients).
        outcome: shape (cells,), 1, 0.5 or 0.
        counts: shape (cells,), how many games each cell stands for.

    Returns:
        shape (coefficients,), in log odds.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    twice = np.vstack([design, design])
    label = np.concatenate([np.ones(len(design)), np.zeros(len(design))])
    weight = np.concatenate([counts * outcome, counts * (1 - outcome)])
    used = weight > 0
    if len(set(label[used])) < 2:  # every game won, or every game lost
        return np.where(np.abs(design[counts > 0]).sum(axis=0) > 0, np.inf if label[used][0] else -np.inf, 0.0)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, solver="newton-cholesky", max_iter=200)
    fitted: Floats = model.fit(twice[used], label[used], sample_weight=weight[used]).coef_[0]
    return fitted


def _shares(codes: Any, won: Floats, counts: Floats, models: int) -> Floats:
    """The share of its games that each model won, shape (resamples, models); counts has shape (resamples, games)."""
    import numpy as np

    own = np.eye(models)[codes]
    with np.errstate(invalid="ignore"):  # a resample may hold no game of a model
        shares: Floats = ((counts * won) @ own) / (counts @ own)
    return shares


def scores(
    battles: Battles,
    found: Mapping[str, ArenaScore],
    model: str,
    *,
    texts: Mapping[str, tuple[str, str, str]] | None = None,
    goal: float | None = None,
    notes: Sequence[str] = (),
) -> Scores:
    """One model's figure as a result, and a row a question: the mean of its games, 100 won to 0 lost.

    Args:
        texts: prompt, output and the baseline's output by question_id.
        goal: the score that the model was asked for, for the examples' detail.
    """
    of = found[model]
    games = battles.frame[battles.frame["model"] == model]
    # From the interval's width, were it normal: results carry one standard error, and the ends are in the note.
    from scipy.stats import norm

    confidence = CONFIDENCE[battles.version]
    error = (of.ci_high - of.ci_low) / (2 * float(norm.ppf(0.5 + confidence / 2)))
    said = [
        f"arena-hard: score of {model} {of.score:.1f}, {confidence:.0%} bootstrap interval "
        f"{of.ci_low:.1f} to {of.ci_high:.1f}, against {battles.baseline}.",
        *notes,
    ]
    if of.n_unparsed:
        named = battles.unparsed_questions.get(model, ())
        said.append(
            f"arena-hard: {of.n_unparsed} games of {model} have no verdict that counts and are left out"
            f"{': ' if named else ''}{with_reasons(named)}."
        )
    examples = tuple(_examples(games, battles.baseline, texts or {}, goal))
    figure = result(NAME, METRICS, "all", "score", of.score, error, of.n_battles)
    return Scores((figure,), examples, tuple(said))


def _examples(
    games: pd.DataFrame, baseline: str, texts: Mapping[str, tuple[str, str, str]], goal: float | None
) -> Iterator[Example]:
    for question_id, part in games.groupby("question_id", sort=False):
        prompt, output, other = texts.get(str(question_id), ("", None, None))
        value = 100 * float((part["score"] * part["weight"]).sum() / part["weight"].sum())
        detail: dict[str, Any] = {} if goal is None else {"goal": goal}
        detail |= {"baseline": baseline, "games": part[["game", "score", "weight"]].to_dict("records")}
        yield Example(
            NAME, "all", str(question_id), prompt, output, other, "score", value, json.dumps(detail),
            opponent=baseline,
        )  # fmt: skip


def _games(games: Any, version: Version, place: str) -> Iterator[dict[str, Any]]:
    """The games of one judgment that count, with the model's score."""
    if not isinstance(games, list) or len(games) != 2:
        raise DataError(f"{place}: games must be a list of two, one for each order of the answers")
    labels = [game.get("score") if isinstance(game, dict) else None for game in games]
    counting = VERDICTS if version == "v2.0" else _OFFICIAL_V01
    known = [label for label in labels if isinstance(label, str) and label in counting]
    if version == "v2.0" and len(known) < 2:
        return
    for number, label in enumerate(labels, start=1):
        if isinstance(label, str) and label in counting:
            of_a, weight = VERDICTS[label]
            yield {"game": number, "score": 1 - of_a if number == 1 else of_a, "weight": weight}


def _frame(games: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(games, columns=["question_id", "model", "game", "score", "weight"])


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
            if not inside:
                raise DataError(f"{path}: no .jsonl files in the folder")
            yield from inside
        else:
            yield path


def _one_baseline(always: set[str], baseline: str | None, where: str) -> str:
    if baseline is not None:
        if baseline not in always:
            raise DataError(f"{where}: {baseline} is not in every battle")
        return baseline
    official = always & set(BASELINES.values())
    found = official or always
    if len(found) != 1:
        raise DataError(
            f"{where}: {', '.join(sorted(always)) or 'no model'} in every battle; say which is the baseline"
        )
    return next(iter(found))


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage | None:
    """Answers of checkpoint and baseline, then verdicts in both orders; None for the matrix's own baseline."""
    compared = pieces.compared_answers(
        context, checkpoint, settings.questions, settings.sampling, settings.baseline_outputs
    )
    if compared is None:
        return None
    judge, hints = pieces.judge_settings(context, settings.judge)
    own = {**judge, "resamples": settings.resamples}
    return context.stage(NAME, checkpoint.label, {**compared[0], **own}, compared[1], hints)


def _score(task: Task) -> None:
    """Answers of variant and baseline -> judgments in both orders, results and examples."""
    settings = task.stage.settings
    questions = pieces.read_questions(task)
    outputs = pieces.read_answers(task, questions)
    name, baseline_outputs = pieces.read_baseline(task, questions)
    judge, model = pieces.open_judge(task), settings["variant"]
    rows, swayed = judge_games(
        questions, outputs, baseline_outputs, judge, model=model, baseline=name, progress=task.progress
    )
    write_judgments(rows, task.out / "judgments.jsonl")
    battles = load_judgments([task.out / "judgments.jsonl"], name)
    texts = {
        q.question_id: (q.turns[0], outputs[q.question_id][0], baseline_outputs[q.question_id][0]) for q in questions
    }
    figures = score(battles, rounds=settings["resamples"])
    found = scores(battles, figures, model, texts=texts, goal=settings["goal"])
    found = replace(found, figures={"model": model, **asdict(figures[model]), "baseline": name})
    pieces.write_judged(task, found, judge, swayed)


def _cost(sizes: Sizes, stage: Stage) -> Work:
    """Every comparison is asked in both orders."""
    turns = sum(len(question.turns) for question in sizes.questions(stage.settings))
    return judged(sizes, stage, pairwise=True, swapped=turns, judge_tokens=JUDGE_TOKENS)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """The score, whole and by category, and how many questions were won and lost."""
    title = "Arena-Hard"
    whole = points(run, [Name(NAME, "all", "score")]).assign(group=lambda rows: rows["variant"])
    if whole.empty:
        return [ReportSection(NAME, title)]
    opponent = opponents(run, NAME, shown_in(styles, whole))
    axis = f"score against {opponent} (0–100)"
    figure = intervals(whole, styles, axis=axis, reference=50, labelled=True, within=(0, 100))
    panels, numbers = [panel("Score", figure)], table_rows("score", whole.assign(group="all"))
    parts = points(run, subsets(run, NAME, "score"))
    if len(parts):
        panels.append(panel("By category", by_group(parts, styles, axis=axis, within=(0, 100), reference=50)))
        numbers += table_rows("by category", parts)
    outcomes = _outcomes(of(run.examples, benchmark=NAME, metric="score"))
    if len(outcomes):
        names = {name: name for name in ("won", "even", "lost")}
        panels.append(panel("Questions won and lost", shares(outcomes, styles, names, axis="questions (%)")))
    games = f"n = {sizes(whole)} games" + (f", {sizes(outcomes)} questions" if len(outcomes) else "")
    caption = (
        f"Chance, in percent, of winning against {opponent}; right of the dotted line the variant is ahead. "
        f"{games}; whiskers: 95% bootstrap intervals."
    )
    method = (
        "The chance is that of a Bradley–Terry model. Each question is judged twice, with the answers in either order, "
        "and a strong verdict counts three times. Intervals are from the benchmark's bootstrap over games, taken as "
        "normal. A question is won if the mean of its games is above 50." + seeds_note(whole)
    )
    return [ReportSection(NAME, title, caption, panels, 2, shown_in(styles, whole), numbers, method)]


def _outcomes(examples: pd.DataFrame) -> pd.DataFrame:
    """The shares of questions won, even and lost by every variant."""
    known = examples[examples["value"].notna()]
    flags = known.assign(won=known["value"] > 50, even=known["value"] == 50, lost=known["value"] < 50)
    found = flags.groupby("variant", sort=False)[["won", "even", "lost"]].mean()
    return found.assign(n=flags.groupby("variant").size()).reset_index()


BENCHMARK = Benchmark(
    name=NAME,
    title="Arena-Hard",
    summary="Arena-Hard-Auto: hard questions, compared with a baseline's answers in both orders by a judge.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=6, packages=("scikit-learn",))},
    cost={NAME: _cost},
    sections=sections,
    place=10,
    files={"answers.jsonl": "answers/answers.jsonl", "judgments.jsonl": "judgments.jsonl"},
    imports=imports,
    Existing=Existing,
    score_existing=score_existing,
)
