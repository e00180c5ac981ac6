"""The report's sections: a run comes in, figures as JSON with their captions go out.

Every caption says what to see, how large the sample is, and which interval is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.report import figures
from radpo.report.embed import script_json
from radpo.report.figures import Look
from radpo.report.load import Run
from radpo.report.quantities import Name, differ, is_true, measure, of, unit
from radpo.report.summary import spoken

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NOT_ASKED = "The matrix did not ask for this benchmark, so there is nothing to show."
TRAINING = {
    "loss": "Loss",
    "rewards/margins": "Reward margin, chosen minus rejected",
    "rewards/accuracies": "Reward accuracy",
    "logps/chosen": "log p of chosen (nats)",
    "logps/rejected": "log p of rejected (nats)",
    "grad_norm": "Gradient norm",
}


@dataclass(frozen=True)
class Panel:
    """A figure as JSON under a heading; `span` is how many of its section's columns it takes."""

    title: str
    figure: str
    span: int = 1


@dataclass(frozen=True)
class Section:
    """Figures in rows of `columns` with the words below them; without figures, `missing` says why."""

    anchor: str
    title: str
    caption: str
    panels: Sequence[Panel]
    missing: str
    columns: int = 1
    variants: Sequence[str] = ()


def sections(run: Run, looks: Mapping[str, Look]) -> list[Section]:
    """All sections with figures, in the order in which they are read."""
    return [
        _win_rate(run, looks),
        _unlearning(run, looks),
        _mt_bench(run, looks),
        _academic(run, looks),
        _training(run, looks),
    ]


def _win_rate(run: Run, looks: Mapping[str, Look]) -> Section:
    whole = points(run, [Name("alpaca-eval", "all", "win_rate")]).assign(group=lambda rows: rows["variant"])
    parts = points(run, subsets(run, "alpaca-eval", "win_rate"))
    axis = f"win rate against {figures.plain(run.baseline)} (%)"
    panels, caption = [], ""
    if len(whole):
        figure = figures.intervals(whole, looks, axis=axis, reference=50, suffix="%", labelled=True, within=(0, 100))
        panels = [Panel("All instructions", figure_json(figure), 2 if parts.empty else 1)]
        caption = (
            f"Share of instructions on which the judge prefers the variant's answer to that of {run.baseline}; ties "
            f"count half. Right of the dotted line the variant is ahead; an interval across it leaves that open. "
            f"n = {sizes(whole)} instructions. "
        )
        if len(parts):
            figure = figures.intervals(parts, looks, axis=axis, reference=50, suffix="%", within=(0, 100))
            panels.append(Panel("By category", figure_json(figure)))
            caption += f"By category n = {sizes(parts)}: read those as hints. "
        caption += "Whiskers: 95% t interval of the mean, cut at 0 and 100; none where all comparisons came alike."
        caption += seeds_note(whole)
    return Section("win-rate", "Win rate", caption, panels, NOT_ASKED, 2, shown_in(looks, whole))


def _unlearning(run: Run, looks: Mapping[str, Look]) -> Section:
    heading, missing = (
        "Unlearning",
        "There is no likelihoods.parquet: the matrix did not ask for the unlearning analysis.",
    )
    if run.likelihoods is None:
        return Section("unlearning", heading, "", [], missing)
    edges = figures.score_edges(run.likelihoods["score"].dropna())
    changes = figures.unlearning_by_bin(run.likelihoods, edges)
    if changes.empty:
        missing = "No variant differs from the reference in any log-likelihood, so there is no change to draw."
        return Section("unlearning", heading, "", [], missing)
    ends = changes[["value", "low", "high"]].to_numpy(dtype=float)
    low, high = min(float(_finite(ends).min()), 0.0), max(float(_finite(ends).max()), 0.0)
    reach = (low - 0.06 * (high - low), high + 0.06 * (high - low))
    goals = {"none": "asked without a goal", "best": "asked for the best score", "own": "asked for its own score"}
    panels = [
        Panel(
            f"{response.capitalize()}, {words}",
            figure_json(figures.unlearning(part, looks, figures.bin_names(edges), reach)),
        )
        for response in ("rejected", "chosen")
        for goal, words in goals.items()
        if len(part := of(changes, response=response, goal=goal))
    ]
    caption = (
        "Change in log p of held-out responses from reference to policy (nats, summed over tokens), by the "
        "response's own score. Below the dotted line the policy unlearned it. Look at high-scored rejected responses "
        "(towards the right of those panels): they were good answers, and should not sink. All panels share one scale. "
        f"{run.likelihoods['pair_id'].nunique()} pairs, {span_of(changes['n'])} in a bin; points are set beside each "
        "other for legibility. Whiskers: 95% t interval of the mean, clustered by prompt; a bin with one has none."
    )
    return Section("unlearning", heading, caption, panels, missing, 3, shown_in(looks, changes))


def _mt_bench(run: Run, looks: Mapping[str, Look]) -> Section:
    parts = points(run, subsets(run, "mt-bench", "score"))
    names = {Name("mt-bench", "all", "first_turn"): "first turn", Name("mt-bench", "all", "second_turn"): "second turn"}
    by_turn = points(run, list(names)).replace({"group": {name.metric: words for name, words in names.items()}})
    panels, caption = [], ""
    if len(parts):
        if parts["group"].nunique() >= 3:
            panels.append(Panel("By category", figure_json(figures.radar(parts, looks))))
            caption += (
                f"Mean score (1–10) by category, n = {sizes(parts)} judgments each: few, so differences between "
                "spokes are rough; no interval is drawn on the radar. "
            )
        else:
            figure = figures.intervals(parts, looks, axis="score (1–10)", within=(1, 10))
            panels.append(Panel("By category", figure_json(figure)))
            caption += f"Mean score (1–10) by category, n = {sizes(parts)} judgments each. "
    if len(by_turn):
        panels.append(Panel("By turn", figure_json(figures.turns(by_turn, looks))))
        caption += f"By turn: n = {sizes(by_turn)} judgments each; the second continues the conversation of the first. "
    caption += "Whiskers: 95% t interval from the standard error over questions, cut at 1 and 10." + seeds_note(parts)
    return Section("mt-bench", "MT-Bench", caption, panels, NOT_ASKED, 2, shown_in(looks, parts, by_turn))


def _academic(run: Run, looks: Mapping[str, Look]) -> Section:
    rows = of(run.results[is_true(run.results["primary"])], benchmark="academic")
    names = _names(rows)
    tasks = points(run, names)
    if tasks.empty:
        return Section("academic", "Academic retention", "", [], NOT_ASKED)
    shares = {unit(name.metric) for name in names} == {"share"}
    metrics = ", ".join(dict.fromkeys(spoken(name.metric) for name in names))
    slots = tasks["variant"].nunique()
    figure = figures.intervals(tasks, looks, axis=metrics, within=(0, 1) if shares else None, slots=slots)
    panels = [Panel("Each task", figure_json(figure))]
    changes = _differences(run, names)
    if len(changes):
        axis = f"difference from {figures.plain(run.baseline)}"
        figure = figures.intervals(changes, looks, axis=axis, reference=0, slots=slots)
        panels.append(Panel("Against the baseline", figure_json(figure)))
    caption = (
        "Tasks that alignment should not hurt, scored by lm-eval with the chat template applied. "
        f"n = {sizes(tasks)} documents a task. Whiskers, each task: 95% t interval from lm-eval's standard error"
        + (", cut at 0 and 1" if shares else "")
        + ". Against the baseline: mean paired difference over the same documents, 95% t interval"
        + (", or unpaired interval where the figure is no mean of documents" if _any_unpaired(changes) else "")
        + f". Left of the dotted line the variant lost against {run.baseline}; an interval across it leaves that open."
    )
    return Section("academic", "Academic retention", caption, panels, NOT_ASKED, 2, shown_in(looks, tasks))


def _training(run: Run, looks: Mapping[str, Look]) -> Section:
    missing = "There is no training.parquet: the run trained nothing."
    if run.training is None:
        return Section("training", "Training", "", [], missing)
    present = set(run.training["metric"])
    panels = [
        Panel(heading, figure_json(figures.training(run.training, looks, metric)))
        for metric, heading in TRAINING.items()
        if metric in present
    ]
    steps = run.training.groupby(["variant", "seed"])["step"].max()
    long = bool((of(run.training, metric="loss").groupby(["variant", "seed"]).size() > figures.SMOOTHED_FROM).any())
    caption = (
        "TRL's own figures at every logged optimiser step, a line for each variant and seed "
        f"({span_of(steps)} steps). Each point is the mean over one batch, without an interval, so curves jump"
        + ("; the firm line is the running mean over the last 1/25 of the steps" if long else "")
        + ". Variants train on different pairs, so their losses do not compare directly."
    )
    return Section("training", "Training", caption, panels, missing, 3, shown_in(looks, run.training))


def points(run: Run, names: Sequence[Name]) -> pd.DataFrame:
    """Every variant's quantities as the figures take them; the group is the subset, or the metric of the whole."""
    import pandas as pd

    rows = [
        {
            "variant": variant, "group": name.metric if name.subset == "all" else name.subset, "value": found.value,
            "low": None if found.half is None else found.low, "high": None if found.half is None else found.high,
            "n": found.n, "seeds": found.seeds,
        }
        for name in names
        for variant in run.variants
        if (found := measure(run, variant, name)) is not None
    ]  # fmt: skip
    columns = ["variant", "group", "value", "low", "high", "n", "seeds"]
    return pd.DataFrame(rows, columns=columns).astype({"low": "float64", "high": "float64"})


def _differences(run: Run, names: Sequence[Name]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {"variant": variant, "group": name.subset, "value": found.value, "low": found.low, "high": found.high,
         "n": found.n, "kind": found.kind}
        for name in names
        for variant in run.variants
        if (found := differ(run, variant, name)) is not None
    ]  # fmt: skip
    columns = ["variant", "group", "value", "low", "high", "n", "kind"]
    return pd.DataFrame(rows, columns=columns).astype({"low": "float64", "high": "float64"})


def _any_unpaired(changes: pd.DataFrame) -> bool:
    return bool((changes["kind"] == "unpaired").any())


def subsets(run: Run, benchmark: str, metric: str) -> list[Name]:
    rows = of(run.results, benchmark=benchmark, metric=metric)
    return _names(rows[rows["subset"] != "all"])


def _names(rows: pd.DataFrame) -> list[Name]:
    found = rows[list(Name._fields)].drop_duplicates()
    return [Name(*map(str, row)) for row in found.itertuples(index=False)]


def shown_in(looks: Mapping[str, Look], *frames: pd.DataFrame) -> list[str]:
    """The variants that a section shows, in the report's order."""
    present = {str(variant) for frame in frames for variant in frame["variant"].unique()}
    return [variant for variant in looks if variant in present]


def sizes(points: pd.DataFrame) -> str:
    return span_of(points["n"])


def span_of(numbers: Iterable[Any]) -> str:
    found = sorted({int(value) for value in numbers})
    return "0" if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def seeds_note(points: pd.DataFrame) -> str:
    if points.empty or int(points["seeds"].max()) < 2:
        return ""
    return f" Points are means over {span_of(points['seeds'])} seeds, intervals the wider of that and t over seeds."


def _finite(values: Any) -> Any:
    import numpy as np

    return values[np.isfinite(values)]


def figure_json(figure: Figure) -> str:
    return script_json(json.loads(figure.to_json()))
