"""The map: where reward-augmented DPO beats DPO, on policies that are solved exactly.

Over rater noise, number of pairs, gaps, where scores lie and the shape of quality (`radpo.theory.raters`), both methods
are solved on the same rated pairs, as tables (goals and prompts share nothing) and as log-linear policies (they share
features): `study.py` measures it, keeps it as rows of results.parquet (`map_rows`) and draws it (`map_page`). What was
foreseen is in predictions.yaml.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radpo.theory.bandit import log_softmax
from radpo.theory.outcomes import Prompts, change_of_rejected, change_of_rejected_own
from radpo.theory.raters import (
    GOALS,
    RANGES,
    Rated,
    World,
    best_attributes,
    draw_attributes,
    features,
    goal_basis,
    population,
    rated_attributes,
    rated_places,
    true_score,
)
from radpo.theory.solving import loglinear, tables

if TYPE_CHECKING:
    import pandas as pd

SHAPES = ("more is better", "optimum in the middle", "trade-off")
LOCATIONS = ("all high", "spread", "all low")
GAPS = ("near ties", "uniform", "wide")
NOISES = (0.0, 1.0, 2.0, 4.0)
POLICIES = ("log-linear", "table")
PROMPTS = {"log-linear": 72, "table": 16}
TUNED_ON = {"log-linear": 24, "table": 8}
REPORTED = {policy: PROMPTS[policy] - TUNED_ON[policy] for policy in POLICIES}
"""How many of the prompts figures are means over; settings are chosen on the others."""
UNLIMITED = float("inf")
"""The number of pairs of the closed form."""
PENALTIES = (100.0, 10.0, 1.0, 0.1, 0.01)
FIXED_PENALTY, FIXED_TILT = 1.0, 2.0
"""One setting for all, as the tiny model's study has it: beta 0.5."""
MATCHED = 1.0
"""The KL, in nats, at which policies are compared."""
CURVE = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
CELL = ("policy", "shape", "location", "gaps", "noise", "pairs", "asked")
OUTCOMES = {
    "score": (0.1, "points", "expected true score at a KL of 1 nat"),
    "score_tuned": (0.1, "points", "expected true score, beta and penalty chosen on other prompts"),
    "score_fixed": (0.1, "points", "expected true score at beta 0.5 and penalty 1"),
    "unlearning": (0.1, "nats", "change of log p of good rejected responses at a KL of 1 nat, asked for the goal"),
    "unlearning_own": (0.1, "nats", "the same, asked for the response's own score"),
    "over_optimisation": (0.1, "points", "score kept between the best KL and answering greedily"),
}
"""The smallest difference that matters, its unit, and what it is; more is better for all."""


WORLDS = tuple(World(*axes) for axes in itertools.product(SHAPES, LOCATIONS, GAPS, NOISES))


@dataclass(frozen=True)
class Size:
    """How much of the map, in how many draws of everything random in it."""

    name: str
    sizes: tuple[int, ...]
    draws: int
    worlds: tuple[World, ...] = WORLDS


COARSE, FULL = Size("coarse", (300, 3_000), 10), Size("full", (300, 1_000, 3_000, 10_000), 20)
TOY = Size(
    "toy", (60,), 2,
    (
        World("more is better", "spread", "uniform", 1.0), World("more is better", "spread", "uniform", 4.0),
        World("optimum in the middle", "spread", "near ties", 1.0), World("trade-off", "all low", "wide", 0.0),
    ),
)  # fmt: skip
"""As few worlds as leave no prediction without a cell."""


def measure(size: Size, seed: int, kept: Path, jobs: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every cell, method and draw with its outcomes, and the curves' points.

    Args:
        kept: a folder that gets each draw once it is done, and from which those that are done are taken.
    """
    import pandas as pd

    kept.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool:
        files = list(pool.map(_draw, [(size, seed, draw, kept) for draw in range(size.draws)]))
    values, curves = (pd.concat([pd.read_parquet(file) for file in part]) for part in zip(*files, strict=True))
    return values.reset_index(drop=True), curves.reset_index(drop=True)


def _draw(work: tuple[Size, int, int, Path]) -> tuple[Path, Path]:
    """The files of a draw, all worlds in it, made unless they are there."""
    import pandas as pd

    size, seed, draw, kept = work
    name = f"{size.name}-seed-{seed}-draw-{draw}.parquet"
    values, curves = kept / f"values-{name}", kept / f"curves-{name}"
    if not (values.exists() and curves.exists()):
        parts = zip(*(_one((world, size.sizes, seed, draw)) for world in size.worlds), strict=True)
        for file, part in zip((values, curves), parts, strict=True):
            partial = file.with_suffix(".partial")
            pd.DataFrame(list(itertools.chain.from_iterable(part))).to_parquet(partial, index=False)
            partial.replace(file)
        print(f"draw {draw} of the {size.name} map, seed {seed}, is done", file=sys.stderr, flush=True)
    return values, curves


def _one(work: tuple[World, tuple[int, ...], int, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A world and a draw of everything random in it: prompts, pairs, ratings."""
    world, sizes, seed, draw = work
    rows, points = [], []
    for policy, solve in (("log-linear", _loglinear), ("table", _tables)):
        # Worlds that differ in noise alone have the same responses.
        rng = np.random.default_rng([seed, draw, POLICIES.index(policy)])
        tuning, reported, solutions = solve(world, sizes, rng)
        start = time.process_time()
        for pairs, method, by_goal in solutions:
            solved = time.process_time()
            for asked in _asked(world):
                cell = dict(zip(CELL, (policy, *astuple(world), pairs, asked), strict=True))
                tagged = cell | {"method": method, "draw": draw}
                found, curve = outcomes(tuning, reported, by_goal, asked)
                rows.append(tagged | found | {"cpu_seconds": (solved - start)})
                points += [tagged | {"kl": kl, "score": score} for kl, score in curve]
            start = time.process_time()
    return rows, points


def _asked(world: World) -> tuple[int, ...]:
    """The goals that policies are asked for: 10, and where there is no such score also the best that there is."""
    best = int(RANGES[world.location][1])
    return (GOALS[-1],) if best == GOALS[-1] else (GOALS[-1], best)


Solutions = Iterator[tuple[float, str, list[np.ndarray[Any, Any]]]]
"""Number of pairs, method, and for every penalty the implicit rewards by goal on tuning and reported prompts together;
one goal where the method takes none."""


def _loglinear(world: World, sizes: Sequence[int], rng: np.random.Generator) -> tuple[Prompts, Prompts, Solutions]:
    responses = draw_attributes(world, (PROMPTS["log-linear"], 24), rng)
    everything = _prompts(world, responses, np.zeros(responses.shape[:2]))
    rated = rated_attributes(world, max(sizes), rng)
    seen, basis = features(responses), goal_basis()
    differences = features(rated.chosen) - features(rated.rejected)
    no_goals = np.zeros(len(differences), dtype=np.intp)

    def solutions() -> Solutions:
        for pairs in sizes:
            rows = differences[:pairs]
            both, goals = np.concatenate([rows, -rows]), _goals(rated, pairs)
            for method, x, g, b in (("dpo", rows, no_goals[:pairs], np.ones((1, 1))), ("ra-dpo", both, goals, basis)):
                thetas = loglinear(x, g, b, PENALTIES)
                yield pairs, method, [np.moveaxis(seen @ theta @ b.T, -1, 0) for theta in thetas]
        yield from _unlimited(world, everything)

    return *_halves(everything, TUNED_ON["log-linear"]), solutions()


def _tables(world: World, sizes: Sequence[int], rng: np.random.Generator) -> tuple[Prompts, Prompts, Solutions]:
    prompts, per_prompt = PROMPTS["table"], 6
    responses = draw_attributes(world, (prompts, per_prompt), rng)
    responses[:, 0] = best_attributes(world)
    everything = _prompts(world, responses, rng.normal(0.0, 0.5, (prompts, per_prompt)))
    rated = rated_places(world, everything.score, everything.reference, max(sizes), rng)

    def solutions() -> Solutions:
        for pairs in sizes:
            won, lost = rated.chosen[:pairs], rated.rejected[:pairs]
            prompt = won // per_prompt
            wins = np.zeros((1, prompts, per_prompt, per_prompt))
            np.add.at(wins, (0, prompt, won % per_prompt, lost % per_prompt), 1)
            goals = np.zeros((len(GOALS), prompts, per_prompt, per_prompt))
            np.add.at(goals, (rated.rating_chosen[:pairs] - 1, prompt, won % per_prompt, lost % per_prompt), 1)
            np.add.at(goals, (rated.rating_rejected[:pairs] - 1, prompt, lost % per_prompt, won % per_prompt), 1)
            for method, counts in {"dpo": wins, "ra-dpo": goals}.items():
                found = tables(counts.reshape(-1, per_prompt, per_prompt), PENALTIES)
                yield pairs, method, [h.reshape(-1, prompts, per_prompt) for h in found]
        yield from _unlimited(world, everything)

    return *_halves(everything, TUNED_ON["table"]), solutions()


def _goals(rated: Rated, pairs: int) -> np.ndarray[Any, Any]:
    """The row of the basis for each pair as it is and with its sides changed."""
    return np.concatenate([rated.rating_chosen[:pairs], rated.rating_rejected[:pairs]]) - GOALS[0]


def _unlimited(world: World, prompts: Prompts) -> Solutions:
    plain, conditioned = population(world, prompts.score)
    yield UNLIMITED, "dpo", [plain[None]]
    yield UNLIMITED, "ra-dpo", [conditioned]


def _prompts(world: World, responses: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> Prompts:
    return Prompts(true_score(world, responses), log_softmax(logits))


def _halves(prompts: Prompts, tuning: int) -> tuple[Prompts, Prompts]:
    """Prompts to choose settings on, and those that are reported."""
    first, second = slice(0, tuning), slice(tuning, None)
    return (
        Prompts(prompts.score[first], prompts.reference[first]),
        Prompts(prompts.score[second], prompts.reference[second]),
    )


def outcomes(
    tuning: Prompts, reported: Prompts, solutions: Sequence[np.ndarray[Any, Any]], asked: int
) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """The `OUTCOMES` of a method, and its score at each KL of `CURVE` that it reaches.

    Args:
        solutions: implicit rewards by goal, of tuning prompts followed by reported ones, for each penalty.
    """
    split = len(tuning.score)
    used = [h[asked - GOALS[0] if len(h) > 1 else 0] for h in solutions]
    best: tuple[float, int, float] = (-np.inf, 0, 0.0)
    matched: list[float] = []
    for number, h in enumerate(used):
        tilts = tuning.tilts(h[:split])
        kls, scores = tuning.frontier(h[:split], tilts)
        matched.append(float(np.interp(MATCHED, kls, scores)))
        best = max(best, (float(scores.max()), number, float(tilts[scores.argmax()])))
    chosen = int(np.argmax(matched))
    h, by_goal = used[chosen][split:], solutions[chosen][:, split:]
    curve = reported.tilts_at(h, CURVE)
    kls, scores = reported.frontier(h, curve)
    tilt = float(curve[CURVE.index(MATCHED)])
    along = reported.frontier(h, reported.tilts(h))[1]
    fixed = used[PENALTIES.index(FIXED_PENALTY) if len(used) > 1 else 0][split:]
    asked_own = (
        change_of_rejected_own(reported, by_goal, GOALS, tilt)
        if len(by_goal) > 1
        else change_of_rejected(reported, h, tilt)
    )
    found = {
        "score": float(scores[CURVE.index(MATCHED)]),
        "score_tuned": float(reported.frontier(used[best[1]][split:], np.array([best[2]]))[1][0]),
        "score_fixed": float(reported.frontier(fixed, np.array([FIXED_TILT]))[1][0]),
        "unlearning": change_of_rejected(reported, h, tilt),
        "unlearning_own": asked_own,
        "over_optimisation": float(along[-1] - along.max()),
    }
    reached = np.abs(kls - np.array(CURVE)) < 1e-3
    return found, [(kl, float(s)) for kl, s, there in zip(CURVE, scores, reached, strict=True) if there]


def compare(values: pd.DataFrame) -> pd.DataFrame:
    """RA-DPO minus DPO of every cell and outcome: mean over draws, 95% t interval, verdict."""
    import pandas as pd

    frames = []
    for outcome, (smallest, unit, _) in OUTCOMES.items():
        table = differences(values, outcome)
        mean, low, high = interval(table.to_numpy())
        frame = table.index.to_frame(index=False).assign(outcome=outcome, unit=unit, value=mean, low=low, high=high)
        frames.append(frame.assign(verdict=verdicts(mean, low, high, smallest), draws=table.shape[1]))
    return pd.concat(frames, ignore_index=True)


def over_draws(curves: pd.DataFrame) -> pd.DataFrame:
    """Score at each KL that all draws reach, by cell and method: mean over draws, 95% t interval."""
    wide = curves.pivot_table(index=[*CELL, "method", "kl"], columns="draw", values="score", sort=False).dropna()
    mean, low, high = interval(wide.to_numpy())
    return wide.index.to_frame(index=False).assign(value=mean, low=low, high=high, n=wide.shape[1])


def differences(values: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """A row a cell, a column a draw: RA-DPO minus DPO on the same draw."""
    wide = values.pivot_table(index=[*CELL], columns=["method", "draw"], values=outcome, sort=False)
    return wide["ra-dpo"] - wide["dpo"]


def interval(table: np.ndarray[Any, Any]) -> tuple[Any, Any, Any]:
    """Means over the last axis with 95% t intervals."""
    draws = table.shape[-1]
    mean = table.mean(axis=-1)
    width = _t_quantile(draws - 1) * table.std(axis=-1, ddof=1) / draws**0.5
    return mean, mean - width, mean + width


@functools.cache
def _t_quantile(degrees: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))


def verdicts(mean: Any, low: Any, high: Any, smallest: float) -> Any:
    """Ahead and behind: the difference matters and its interval is on one side of 0. Alike: none that matters is within
    the interval. Else unclear."""
    return np.select(
        [(low > 0) & (mean >= smallest), (high < 0) & (mean <= -smallest), (low > -smallest) & (high < smallest)],
        ["ahead", "behind", "alike"],
        "unclear",
    )
