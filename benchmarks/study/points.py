"""Points of the exact map beside the testbed's language model: the same noise, as many pairs, one setting for both.

Run from the repository's root: python benchmarks/study/points.py RESULTS.parquet [--out points.csv]

RESULTS is the study's, with its runs main, noise-1, noise-2 and noise-4: beta 0.5, 3,000 pairs of uniform gaps, spread
scores, the more of the prompt's words the better. Differences are RA-DPO minus DPO with 95% t intervals, over seeds of
the language model and over draws of exact solutions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from exact_map import FIXED_TILT, PENALTIES, POLICIES, UNLIMITED, _loglinear, _tables
from verdicts import Figure, values

from radpo.stats.estimates import mean
from radpo.theory.outcomes import change_of_rejected, change_of_rejected_own
from radpo.theory.raters import GOALS, World

if TYPE_CHECKING:
    import pandas as pd

RUNS = {"main": 0.0, "noise-1": 1.0, "noise-2": 2.0, "noise-4": 4.0}
PAIRS, DRAWS = 3_000, 20
SHRUNK = (1.0, 100.0)
"""Penalties of the exact solutions: hardly any, and one that leaves them where a short training would."""
MEASURES: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "score": {"dpo": ("calibration", "goal none", "score"), "ra-dpo": ("calibration", "goal 10", "score")},
    "unlearning": {
        "dpo": ("unlearning", "none", "delta_logp_rejected_high"),
        "ra-dpo": ("unlearning", "best", "delta_logp_rejected_high"),
    },
    "unlearning_own": {
        "dpo": ("unlearning", "none", "delta_logp_rejected_high"),
        "ra-dpo": ("unlearning", "own", "delta_logp_rejected_high"),
    },
}  # fmt: skip


def main() -> None:
    """Write the table and print it."""
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=Path("points.csv"))
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    table = compare(pd.read_parquet(arguments.results), arguments.draws)
    table.to_csv(arguments.out, index=False, float_format="%.3f")
    print(table.to_string(float_format="{:.2f}".format))


def compare(results: pd.DataFrame, draws: int) -> pd.DataFrame:
    """A row for each run, measure and kind of policy: the methods' means, their difference, and how far each went.

    Returns:
        run, noise, measure, policy (`language model`, `log-linear`, `table`), penalty (of the exact ones), dpo, ra_dpo,
        difference, low, high, n; `sign`: ahead, behind, or unclear where the interval holds 0; for exact policies
        kl_dpo and kl_ra_dpo, in nats.
    """
    import pandas as pd

    rows = []
    for run, noise in RUNS.items():
        found: dict[tuple[str, float], Any] = {("language model", float("nan")): _measured(results, run)}
        for policy in POLICIES:
            found |= {(policy, penalty): by_method for penalty, by_method in _solved(policy, noise, draws).items()}
        for (policy, penalty), by_method in found.items():
            for measure in MEASURES:
                dpo, ra = (np.asarray(by_method[method][measure]) for method in ("dpo", "ra-dpo"))
                effect = mean(ra - dpo)
                low, high = float(effect.low or 0), float(effect.high or 0)
                rows.append(
                    {
                        "run": run, "noise": noise, "measure": measure, "policy": policy, "penalty": penalty,
                        "dpo": dpo.mean(), "ra_dpo": ra.mean(),
                        "difference": effect.value, "low": low, "high": high, "n": effect.n,
                        "sign": "ahead" if low > 0 else "behind" if high < 0 else "unclear",
                        "kl_dpo": np.mean(by_method["dpo"].get("kl", np.nan)),
                        "kl_ra_dpo": np.mean(by_method["ra-dpo"].get("kl", np.nan)),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _measured(results: pd.DataFrame, run: str) -> dict[str, dict[str, Any]]:
    """The language model's figures by method and measure, a value a seed."""
    return {
        method: {
            measure: values(results, Figure(run, method, *places[method])).to_numpy()
            for measure, places in MEASURES.items()
        }
        for method in ("dpo", "ra-dpo")
    }


def _solved(policy: str, noise: float, draws: int) -> dict[float, dict[str, dict[str, list[float]]]]:
    """The exact solutions' figures by penalty, method and measure, a value a draw."""
    world = World("more is better", "spread", "uniform", noise)
    solve = _loglinear if policy == "log-linear" else _tables
    found: dict[float, dict[str, dict[str, list[float]]]] = {
        penalty: {method: {name: [] for name in (*MEASURES, "kl")} for method in ("dpo", "ra-dpo")}
        for penalty in SHRUNK
    }
    for draw in range(draws):
        tuning, reported, solutions = solve(world, (PAIRS,), np.random.default_rng([7, draw]))
        finite = ((method, by_penalty) for pairs, method, by_penalty in solutions if pairs != UNLIMITED)
        for method, by_penalty in finite:
            for penalty in SHRUNK:
                by_goal = by_penalty[PENALTIES.index(penalty)][:, len(tuning.score) :]
                kl, score = reported.frontier(by_goal[-1], np.array([FIXED_TILT]))
                used = change_of_rejected(reported, by_goal[-1], FIXED_TILT)
                own = change_of_rejected_own(reported, by_goal, GOALS, FIXED_TILT) if method == "ra-dpo" else used
                figures = {"kl": float(kl[0]), "score": float(score[0]), "unlearning": used, "unlearning_own": own}
                for name, value in figures.items():
                    found[penalty][method][name].append(value)
    return found


if __name__ == "__main__":
    main()
