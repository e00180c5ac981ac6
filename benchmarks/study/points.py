"""Points of the exact map beside the testbed's language model: the same noise, as many pairs.

With one setting for both methods (`compare`): beta 0.5, 3,000 pairs of uniform gaps, spread scores, the more of the
prompt's words the better. With the settings that suit each (`compare_tuned`), beside the map's own tuned figures.
Differences are RA-DPO minus DPO with 95% t intervals, over seeds of the language model and draws of exact solutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from exact_map import FIXED_TILT, PENALTIES, POLICIES, REPORTED, UNLIMITED, _loglinear, _tables
from exact_map import differences as map_differences
from verdicts import Figure, values

from radpo.core.results import RESULT_DTYPES
from radpo.stats.estimates import mean
from radpo.theory.outcomes import change_of_rejected, change_of_rejected_own
from radpo.theory.raters import GOALS, World

if TYPE_CHECKING:
    import pandas as pd

RUN, BENCHMARK = "points", "exact-point"
"""Under these results.parquet has the exact solutions; their policy is the row's model, their draw its seed."""
RUNS = {"main": 0.0, "noise-1": 1.0, "noise-2": 2.0, "noise-4": 4.0}
TUNED = {"tuned-noise-1": 1.0, "tuned-noise-4": 4.0}
PAIRS, DRAWS = 3_000, 20
SHRUNK = (1.0, 100.0)
"""Penalties of the exact solutions: hardly any, and one that leaves them where a short training would."""
METHODS = ("dpo", "ra-dpo")
HIGH = "delta_logp_rejected_high"
MEASURES: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "score": {"dpo": ("calibration", "goal none", "score"), "ra-dpo": ("calibration", "goal 10", "score")},
    "unlearning": {"dpo": ("unlearning", "none", HIGH), "ra-dpo": ("unlearning", "best", HIGH)},
    "unlearning_own": {"dpo": ("unlearning", "none", HIGH), "ra-dpo": ("unlearning", "own", HIGH)},
}
TUNED_MEASURES: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "score": dict.fromkeys(METHODS, ("reward-kl", "all", "score")),
    "kl": dict.fromkeys(METHODS, ("reward-kl", "all", "kl")),
    **{name: MEASURES[name] for name in ("unlearning", "unlearning_own")},
}


def solve(draws: int) -> pd.DataFrame:
    """The exact solutions of all points, as rows of results.parquet with a column `run`.

    Returns:
        subset "noise=1, penalty=100"; metrics as in `MEASURES`, and kl in nats.
    """
    import pandas as pd

    rows = []
    for noise in RUNS.values():
        for policy in POLICIES:
            for draw in range(draws):
                for method, penalty, figures in _solved(policy, noise, draw):
                    place = {
                        "variant": method, "model": policy, "seed": draw, "benchmark": BENCHMARK,
                        "subset": _subset(noise, penalty), "stderr": None, "n": REPORTED[policy], "primary": False,
                        "higher_is_better": True,
                    }  # fmt: skip
                    rows += [
                        {**place, "metric": name, "value": value}
                        | ({"higher_is_better": None} if name == "kl" else {})
                        for name, value in figures.items()
                    ]  # fmt: skip
    return pd.DataFrame(rows)[list(RESULT_DTYPES)].astype(RESULT_DTYPES).assign(run=RUN)


def _subset(noise: float, penalty: float) -> str:
    return f"noise={noise:g}, penalty={penalty:g}"


def _solved(policy: str, noise: float, draw: int) -> list[tuple[str, float, dict[str, float]]]:
    """Method, penalty and figures of a draw."""
    world = World("more is better", "spread", "uniform", noise)
    solution = _loglinear if policy == "log-linear" else _tables
    tuning, reported, solutions = solution(world, (PAIRS,), np.random.default_rng([7, draw]))
    found = []
    for pairs, method, by_penalty in solutions:
        for penalty in SHRUNK if pairs != UNLIMITED else ():
            by_goal = by_penalty[PENALTIES.index(penalty)][:, len(tuning.score) :]
            kl, score = reported.frontier(by_goal[-1], np.array([FIXED_TILT]))
            used = change_of_rejected(reported, by_goal[-1], FIXED_TILT)
            own = change_of_rejected_own(reported, by_goal, GOALS, FIXED_TILT) if method == "ra-dpo" else used
            figures = {"score": float(score[0]), "unlearning": used, "unlearning_own": own, "kl": float(kl[0])}
            found.append((method, penalty, figures))
    return found


def compare(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each run, measure and kind of policy: the methods' means, their difference, and how far each went.

    Args:
        results: of the runs of `RUNS`, and `solve`'s.

    Returns:
        run, noise, measure, policy (`language model`, `log-linear`, `table`), penalty (of the exact ones), dpo, ra_dpo,
        difference, low, high, n; `sign`: ahead, behind, or unclear where the interval holds 0; for exact policies
        kl_dpo and kl_ra_dpo, in nats.
    """
    import pandas as pd

    exact = results[results["benchmark"] == BENCHMARK]
    rows = []
    for run, noise in RUNS.items():
        place = {"run": run, "noise": noise}
        for measure, by_method in MEASURES.items():
            dpo, ra = (values(results, Figure(run, method, *by_method[method])).to_numpy() for method in METHODS)
            rows.append(place | {"measure": measure, "policy": "language model"} | _difference(dpo, ra))
        for policy in POLICIES:
            for penalty in SHRUNK:
                part = exact[(exact["model"] == policy) & (exact["subset"] == _subset(noise, penalty))]
                wide = part.pivot(index="seed", columns=["metric", "variant"], values="value")
                kls = {f"kl_{method.replace('-', '_')}": wide["kl", method].mean() for method in METHODS}
                for measure in MEASURES:
                    dpo, ra = (wide[measure, method].to_numpy() for method in METHODS)
                    who = {"measure": measure, "policy": policy, "penalty": penalty}
                    rows.append(place | who | _difference(dpo, ra) | kls)
    columns = ["run", "noise", "measure", "policy", "penalty"]
    table = pd.DataFrame(rows)
    return table[[*columns, *table.columns.difference(columns, sort=False)]]


def compare_tuned(results: pd.DataFrame, map_values: pd.DataFrame) -> pd.DataFrame:
    """Each method as it was tuned: the language model's difference beside that of the exact policies in the same cell.

    Args:
        results: of runs of `TUNED`.
        map_values: as `exact_map.measure` gives.

    Returns:
        run, noise, measure, policy, dpo, ra_dpo (of the language model, which alone has measures other than the score),
        difference, low, high, n, sign; `agrees`: whether the exact policy's sign is the language model's, `undecided`
        where one of them is unclear.
    """
    import pandas as pd

    exact = map_differences(map_values, "score_tuned")
    rows: list[dict[str, Any]] = []
    for run, noise in _tuned(results):
        place = {"run": run, "noise": noise}
        for measure, by_method in TUNED_MEASURES.items():
            dpo, ra = (values(results, Figure(run, method, *by_method[method])).to_numpy() for method in METHODS)
            rows.append(place | {"measure": measure, "policy": "language model"} | _difference(dpo, ra))
            for policy in POLICIES if measure == "score" else ():
                drawn = exact.loc[(policy, "more is better", "spread", "uniform", noise, PAIRS, GOALS[-1])].to_numpy()
                found = _signed(drawn)
                both = (rows[-1]["sign"] if policy == POLICIES[0] else rows[-2]["sign"], found["sign"])
                agrees = "undecided" if "unclear" in both else "yes" if both[0] == both[1] else "no"
                rows.append(place | {"measure": measure, "policy": policy} | found | {"agrees": agrees})
    return pd.DataFrame(rows)


def tuning_curves(results: pd.DataFrame) -> pd.DataFrame:
    """The expected best score of so many settings tried, on the prompts that are tuned on (`radpo.stats.tuning`).

    Returns:
        run, noise, variant, budget, expected_best, low, high (the range of 95% of draws), chosen (the settings).
    """
    import pandas as pd

    rows = []
    for run, noise in _tuned(results):
        part = results[(results["run"] == run) & (results["benchmark"] == "tuning")]
        picked = part[(part["metric"] == "chosen") & (part["value"] == 1)].set_index("variant")["subset"]
        best = part[part["subset"].str.startswith("budget ")]
        wide = best.pivot(index=["variant", "subset"], columns="metric", values="value")
        for (variant, subset), row in wide.iterrows():
            rows.append(
                {
                    "run": run, "noise": noise, "variant": variant, "budget": int(subset.removeprefix("budget ")),
                    "expected_best": row["expected_best"], "low": row["expected_best_low"],
                    "high": row["expected_best_high"], "chosen": picked[variant],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _tuned(results: pd.DataFrame) -> list[tuple[str, float]]:
    there = set(results["run"])
    return [(run, noise) for run, noise in TUNED.items() if run in there]


def _difference(dpo: np.ndarray[Any, Any], ra: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"dpo": dpo.mean(), "ra_dpo": ra.mean()} | _signed(ra - dpo)


def _signed(differences: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, Any]:
    effect = mean(np.asarray(differences))
    low, high = float(effect.low or 0), float(effect.high or 0)
    return {
        "difference": effect.value, "low": low, "high": high, "n": effect.n,
        "sign": "ahead" if low > 0 else "behind" if high < 0 else "unclear",
    }  # fmt: skip
