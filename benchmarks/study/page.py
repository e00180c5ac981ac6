"""The study's page: the table of claims and its runs' results as one HTML file without a script."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.figures.styles import VariantStyle, variant_styles
from radpo.report.svg import INK, Point, Series, chart
from radpo.stats.estimates import Estimate, mean

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).parent
GOALS = range(1, 11)
HIGH = "delta_logp_rejected_high"
Cell = tuple[str, str, str]
"""Benchmark, subset and metric of a figure."""


def write_claims_page(path: Path, table: pd.DataFrame, results: pd.DataFrame, conditioned: Collection[str]) -> Path:
    """Write the page, in one step.

    Args:
        table: as `verdicts.judge` gives.
        results: `results.parquet` with a column `run`: `main`, and others named `noise-SD`, `capped` and `tuned-...`.
        conditioned: the variants that take a goal, and are used asked for 10.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    study = _Study(results, frozenset(conditioned))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    figures = [(heading, Markup(drawn), caption) for heading, drawn, caption in _figures(study)]
    page = environment.get_template("claims.html.j2").render(
        table=table.to_dict("records"), figures=figures, columns=study.columns(), rows=list(study.rows())
    )
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


class _Study:
    """Looks figures up, each as a mean over seeds with its 95% interval."""

    def __init__(self, results: pd.DataFrame, conditioned: frozenset[str]) -> None:
        key = ["run", "variant", "benchmark", "subset", "metric"]
        self._values: Mapping[Any, list[float]] = results.groupby(key)["value"].apply(list).to_dict()
        self.variants: list[str] = list(dict.fromkeys(results[results["run"] == "main"]["variant"]))
        self.runs: list[str] = list(dict.fromkeys(results["run"]))
        trained = [variant for variant in self.variants if variant != "base"]
        self.styles: dict[str, VariantStyle] = {
            "base": VariantStyle(INK, "circle"),
            **variant_styles(trained, "dpo"),
        }
        self._conditioned = conditioned

    def estimate(self, variant: str, cell: Cell, run: str = "main") -> Estimate | None:
        """None where the figure is not there."""
        found = self._values.get((run, variant, *cell))
        return None if found is None else mean(found)

    def takes_goals(self, variant: str) -> bool:
        return variant in self._conditioned

    def score(self, variant: str) -> Cell:
        """The mean score of answers, the variant asked as it is used."""
        return ("calibration", "goal 10" if self.takes_goals(variant) else "goal none", "score")

    def lost(self, variant: str) -> Cell:
        """The change of log p of high-scored rejected responses, the variant asked as it is used."""
        return ("unlearning", "best" if self.takes_goals(variant) else "none", HIGH)

    def columns(self) -> list[str]:
        """The headings of the table of what was learned and unlearned."""
        return [*self._cells("base")]

    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """A variant and its figures in words."""
        for variant in self.variants:
            found = [self.estimate(variant, cell) for cell in self._cells(variant).values()]
            yield variant, ["–" if estimate is None else spoken(estimate) for estimate in found]

    def _cells(self, variant: str) -> dict[str, Cell]:
        return {
            "score as used": self.score(variant),
            "win rate over dpo, %": ("alpaca-eval", "all", "win_rate"),
            "preference accuracy, own goal": ("unlearning", "own", "preference_accuracy"),
            "goal–score rank correlation": ("calibration", "all", "rank_correlation"),
            "high rejected, as used": self.lost(variant),
            "high rejected, own goal": ("unlearning", "own", HIGH),
            "high rejected, no goal": ("unlearning", "none", HIGH),
            "chosen, as used": ("unlearning", self.lost(variant)[1], "delta_logp_chosen"),
        }


def spoken(estimate: Estimate) -> str:
    """A mean with its interval, as 7.81 [7.60, 8.02]."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _figures(study: _Study) -> Iterator[tuple[str, str, str]]:
    """Heading, SVG and caption of every figure."""
    nats = "change of log p, high-scored rejected (nats)"
    used = [(v, study.score(v), study.lost(v), False) for v in study.variants]
    own = [(v, study.score(v), ("unlearning", "own", HIGH), True) for v in study.variants if study.takes_goals(v)]
    yield (
        "Learned and unlearned",
        chart(_crossed(study, [*used, *own]), title="Mean score against unlearning", x="mean score of answers, as used",
              y=nats, zero=True),
        "Right is better answers, up is less unlearned of held-out rejected responses that scored 5 or more. Full: "
        "asked as the variant is used (10, or nothing). Hollow: likelihoods asked for the response's own score.",
    )  # fmt: skip
    learned = [(v, ("unlearning", "own", "preference_accuracy"), study.lost(v), False) for v in study.variants]
    yield (
        "Is the goal learned?",
        chart(_crossed(study, learned), title="Conditioned preference accuracy against unlearning",
              x="preference accuracy, asked for each response's own score", y=nats, zero=True),
        "The share of held-out relabeled pairs whose fitting response gained more; 0.5 is chance, which is also all "
        "that a variant without goals can reach.",
    )  # fmt: skip
    for run in ("main", "capped"):
        if run in study.runs:
            what = "" if run == "main" else ", no response above 8 in training"
            yield (
                f"Goal and score{what}",
                chart(_calibration(study, run), title=f"Mean score by goal{what}", x="score asked for",
                      y="mean score of answers", diagonal=True),
                "Exact mean scores of sampled answers; the dotted line is perfect obedience.",
            )  # fmt: skip
    noises = {0.0: "main"} | {float(run.removeprefix("noise-")): run for run in study.runs if run.startswith("noise-")}
    if len(noises) > 1:
        for heading, y, zero, cell in (
            ("Noisy scores", "mean score of answers, as used", False, study.score),
            ("Noisy scores and unlearning", nats, True, study.lost),
        ):
            yield (
                heading,
                chart(_sweep(study, noises, cell), title=heading, x="standard deviation of the noise on scores", y=y,
                      zero=zero),
                "Training scores with normal noise, rounded; held-out scores are exact.",
            )  # fmt: skip
    for run in (run for run in study.runs if run.startswith("tuned-")):
        yield (
            f"Settings tried, {run.removeprefix('tuned-').replace('-', ' of ')}",
            chart(_tried(study, run), title=f"Expected best score by settings tried, {run}", x="settings tried",
                  y="expected best mean score"),
            "The expected best of so many settings drawn from those that were tried, with the range of 95% of draws, "
            "on the prompts that settings are chosen on.",
        )  # fmt: skip


def _tried(study: _Study, run: str) -> list[Series]:
    lines = []
    for variant in study.variants:
        points = []
        for budget in itertools.count(1):
            best, low, high = (
                study.estimate(variant, ("tuning", f"budget {budget}", f"expected_best{end}"), run)
                for end in ("", "_low", "_high")
            )
            if best is None or low is None or high is None:
                break
            points.append(Point(budget, best.value, low.value, high.value))
        if points:
            lines.append(Series(variant, study.styles[variant].colour, tuple(points), line=True))
    return lines


def _crossed(study: _Study, wanted: Sequence[tuple[str, Cell, Cell, bool]]) -> list[Series]:
    series = []
    for variant, across, up, hollow in wanted:
        x, y = study.estimate(variant, across), study.estimate(variant, up)
        if x is not None and y is not None:
            point = Point(x.value, y.value, y.low, y.high, x.low, x.high)
            name = f"{variant}, own goal" if hollow else variant
            series.append(Series(name, study.styles[variant].colour, (point,), hollow=hollow))
    return series


def _calibration(study: _Study, run: str) -> list[Series]:
    lines = []
    for variant in study.variants:
        found = {goal: study.estimate(variant, ("calibration", f"goal {goal}", "score"), run) for goal in GOALS}
        points = tuple(Point(goal, e.value, e.low, e.high) for goal, e in found.items() if e is not None)
        if points and (study.takes_goals(variant) or variant == "dpo"):
            lines.append(Series(variant, study.styles[variant].colour, points, line=True))
    return lines


def _sweep(study: _Study, noises: Mapping[float, str], cell: Any) -> list[Series]:
    lines = []
    for variant in study.variants:
        found = {sd: study.estimate(variant, cell(variant), run) for sd, run in sorted(noises.items())}
        points = tuple(Point(sd, e.value, e.low, e.high) for sd, e in found.items() if e is not None)
        if len(points) == len(noises):
            lines.append(Series(variant, study.styles[variant].colour, points, line=True))
    return lines
