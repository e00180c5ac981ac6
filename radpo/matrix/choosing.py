"""The choice among the settings that were tried: read from the store, recorded in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from radpo.benchmarks.registry import benchmarks
from radpo.benchmarks.sizes import Sizes
from radpo.core.errors import DataError
from radpo.core.metrics import Metric, find_metric
from radpo.engine.store import Store
from radpo.matrix.estimate import count_work
from radpo.matrix.expand import Cell, Choices, Plan, Tuned
from radpo.matrix.plan_text import TuningPlan
from radpo.matrix.tuning_settings import Figure, Trial
from radpo.stats.tuning import chosen, expected_best, mean_over

CHOICES = "choices.json"
"""What was tried for every variant, and what was chosen, in the run directory."""
BENCHMARK = "tuning"
"""Under this name results.parquet has what was tried."""
EXPECTED = (
    Metric("expected_best", "expected best", higher_is_better=None, examples=None),
    Metric("expected_best_unbiased", "expected best, without replacement", higher_is_better=None, examples=None),
    Metric("expected_best_low", "expected best, lower end", higher_is_better=None, examples=None),
    Metric("expected_best_high", "expected best, upper end", higher_is_better=None, examples=None),
    Metric("chosen", "chosen", higher_is_better=None, examples=None),
)


@dataclass(frozen=True)
class Measured:
    """What one trial came to with one seed; `failed` says why there is no value."""

    seed: int
    value: float | None
    stderr: float | None = None
    n: int = 0
    failed: str | None = None


@dataclass(frozen=True)
class Choice:
    """What was tried for a variant, and which of it is chosen.

    Args:
        place: of the trial that is chosen.
        measured: of each trial, with every seed.
    """

    trials: tuple[Trial, ...]
    measured: tuple[tuple[Measured, ...], ...]
    place: int

    @property
    def chosen(self) -> Trial:
        """The setting that is reported."""
        return self.trials[self.place]

    def means(self) -> list[float | None]:
        """Each trial's mean over the seeds; None where one of them failed."""
        return [
            mean_over({one.seed: one.value for one in each if one.value is not None}, [one.seed for one in each])
            for each in self.measured
        ]


def choose(tuned: Tuned, store: Store) -> dict[str, dict[str, Choice]]:
    """The best setting of every tuned variant, by model: the best mean over seeds, the first of equals.

    Raises:
        DataError: no setting of a variant has the figure for every seed.
    """
    found: dict[str, dict[str, Choice]] = {}
    for variant, trials in tuned.trials.items():
        for model in tuned.models_of(variant):
            measured = [[_measured(cell, tuned.figure, store) for cell in tuned.cells_of(model, t)] for t in trials]
            seeds = [one.seed for one in measured[0]]
            values = [{one.seed: one.value for one in each if one.value is not None} for each in measured]
            place = chosen(values, seeds, upward=tuned.figure.upward)
            if place is None:
                why = next(one.failed for each in measured for one in each if one.failed)
                raise DataError(
                    f"tune.metric: none of {len(trials)} settings of {variant!r} has {tuned.figure} for every seed; "
                    f"the first: {why}. With another metric of the benchmark nothing is trained again"
                )
            found.setdefault(model, {})[variant] = Choice(trials, tuple(map(tuple, measured)), place)
    return found


def settle(plan: Plan, store: Store, *, failed: bool = False) -> tuple[Plan, bool]:
    """A plan with its settings chosen, where the store has all that was tried; else with those that take most work.

    Args:
        failed: choose among what the store has, because the rest has failed.

    Returns:
        The plan, and whether the settings are chosen.
    """
    tuned = plan.tuning
    if tuned is None:
        return plan, True
    if failed or all(store.has(stage) for stage in tuned.stages):
        return tuned.expand(trials_chosen(choose(tuned, store))), True
    sizes = Sizes(tuned.asked.size_hints)

    def work(model: str, trial: Trial) -> float:
        train = tuned.cells_of(model, trial)[0].train
        counted = None if train is None else count_work(sizes, train)
        return 0.0 if counted is None else counted.flops

    costliest: dict[str, dict[str, Trial]] = {model.location: {} for model in plan.models}
    for variant, trials in tuned.trials.items():
        for model in tuned.models_of(variant):
            costliest[model][variant] = max(trials, key=lambda trial: work(model, trial))
    return tuned.expand(costliest), False


def tuning_plan(tuned: Tuned | None, is_chosen: bool) -> TuningPlan | None:
    """What a plan says of what is tried before."""
    if tuned is None:
        return None
    trials = {name: len(each) for name, each in tuned.trials.items()}
    chosen = {
        label: {name: dict(matrix.variants[name].training) for name in trials}
        for label, matrix in tuned.matrices.items()
    }
    seeds = len(tuned.asked.tuning_seeds)
    keys = frozenset(stage.key for stage in tuned.stages)
    return TuningPlan(str(tuned.figure), trials, seeds, asdict(tuned.prompts), chosen if is_chosen else None, keys)


def trials_chosen(choices: Mapping[str, Mapping[str, Choice]]) -> Choices:
    """The settings that are reported, by model and variant."""
    return {model: {name: one.chosen for name, one in each.items()} for model, each in choices.items()}


def choices_json(tuned: Tuned, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """What a run directory's choices.json holds."""
    return {
        "metric": str(tuned.figure),
        "better": "higher" if tuned.figure.upward else "lower",
        "chosen_by": "the best mean over seeds, the first of equals",
        "prompts": {
            "tuning": tuned.prompts.tuning,
            "reported": tuned.prompts.reported,
            "similar": tuned.prompts.similar,
        },
        "variants": {
            name: {
                "chosen": dict(choice.chosen.values),
                "value": choice.means()[choice.place],
                "trials": [
                    {"settings": dict(trial.values), "mean": mean, "seeds": [asdict(one) for one in measured]}
                    for trial, mean, measured in zip(choice.trials, choice.means(), choice.measured, strict=True)
                ],
            }
            for name, choice in choices.items()
        },
    }


def result_rows(tuned: Tuned, model: str, choices: Mapping[str, Choice]) -> list[dict[str, Any]]:
    """What was tried, as rows of results.parquet: benchmark `tuning`, the settings as the subset.

    What is of no one seed (which setting is chosen, the expected best of so many) stands under the first.
    """
    rows: list[dict[str, Any]] = []
    for name, choice in choices.items():
        place = {"variant": name, "model": model, "benchmark": BENCHMARK, "higher_is_better": None, "primary": False}

        def row(seed: int, subset: str, metric: str, value: float, n: int, stderr: float | None = None) -> None:
            figures = {"subset": subset, "metric": metric, "value": value, "stderr": stderr, "n": n}
            rows.append({**place, "seed": seed, **figures})  # noqa: B023

        first = choice.measured[0][0].seed
        for at, (trial, measured) in enumerate(zip(choice.trials, choice.measured, strict=True)):
            for one in measured:
                if one.value is not None:
                    row(one.seed, trial.settings, tuned.figure.metric, one.value, one.n, one.stderr)
            row(first, trial.settings, "chosen", float(at == choice.place), len(choice.trials))
        whole = [mean for mean in choice.means() if mean is not None]
        for best in expected_best(whole, upward=tuned.figure.upward):
            figures = {"": best.value, "_unbiased": best.unbiased, "_low": best.low, "_high": best.high}
            for end, value in figures.items():
                row(first, f"budget {best.budget}", f"expected_best{end}", value, len(whole))
    return rows


def described(figure: Figure) -> tuple[Metric, ...]:
    """What the figures of `result_rows` mean."""
    own = find_metric(benchmarks()[figure.benchmark].metrics, figure.metric)
    tried = replace(own, primary=None, margin=None, overview=False, leads=False, examples=None, parts=())
    *ends, is_chosen = EXPECTED
    return (tried, *(replace(metric, unit=own.unit, bounds=own.bounds) for metric in ends), is_chosen)


def tuning_notes(tuned: Tuned, choices: Mapping[str, Choice]) -> list[str]:
    """What is to be known of the choice, in sentences."""
    notes = []
    for name, choice in choices.items():
        failed = [
            (trial, one)
            for trial, each in zip(choice.trials, choice.measured, strict=True)
            for one in each
            if one.failed is not None
        ]
        if failed:
            trial, one = failed[0]
            trials = len({trial.name for trial, _ in failed})
            notes.append(
                f"tuning: {trials} of {len(choice.trials)} settings of {name} could not be chosen, such as "
                f"{trial.settings} with seed {one.seed}: {one.failed}."
            )
    if similar := tuned.prompts.similar:
        notes.append(
            f"tuning: {similar} of {tuned.prompts.reported} reported prompts are similar to prompts that were tuned on "
            "(more than half of their words are in common runs of 8); none is the same."
        )
    return notes


def _measured(cell: Cell, figure: Figure, store: Store) -> Measured:
    import pandas as pd

    stage = cell.benchmarks[figure.benchmark]
    if not store.has(stage):
        return Measured(cell.seed, None, failed=f"{stage.name} failed")
    rows = pd.read_parquet(store.open(stage) / "results.parquet")
    there = dict.fromkeys(f"{figure.benchmark}/{row.subset}/{row.metric}" for row in rows.itertuples(index=False))
    rows = rows[(rows["subset"] == figure.subset) & (rows["metric"] == figure.metric)]
    if rows.empty:
        named = ", ".join(name for name in there if name.endswith(f"/{figure.metric}")) or ", ".join(there)
        return Measured(cell.seed, None, failed=f"{stage.name} has no {figure}, it has {named:.300}")
    row = rows.iloc[0]
    if pd.isna(row["value"]):
        return Measured(cell.seed, None, failed=f"{stage.name} has {figure} that is no number")
    stderr = None if pd.isna(row["stderr"]) else float(row["stderr"])
    return Measured(cell.seed, float(row["value"]), stderr, int(row["n"]))
