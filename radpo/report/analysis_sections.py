"""The report's sections on what alignment did beside raising scores: only those that the run has figures for.

A run comes in, figures as JSON with their captions go out, as in `radpo.report.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from radpo.report import figures
from radpo.report.figures import Look
from radpo.report.load import Run
from radpo.report.sections import Panel, Section, figure_json, points, shown_in, span_of, subsets

if TYPE_CHECKING:
    import pandas as pd

GOALS = {"none": "asked without a goal", "best": "asked for the best score", "own": "asked for its own score"}
GROUPS = {
    "rejected_high": "rejected, high", "rejected_low": "rejected, low", "chosen_high": "chosen, high",
    "chosen_low": "chosen, low", "rejected_high_minus_low": "rejected, high − low",
}  # fmt: skip


def analysis_sections(run: Run, looks: Mapping[str, Look]) -> list[Section]:
    """The sections that have something to show."""
    found = [_contrasts(run, looks), _implicit_reward(run, looks)]
    return [section for section in found if section.panels]


def _contrasts(run: Run, looks: Mapping[str, Look]) -> Section:
    from radpo.analysis.contrasts import differences

    title, variants = (
        "Unlearning against the baseline",
        set() if run.likelihoods is None else set(run.likelihoods["variant"]),
    )
    if run.likelihoods is None or run.baseline not in variants or len(variants) < 2:
        return Section("contrasts", title, "", [], "")
    found = differences(run.likelihoods, run.baseline, resamples=1_000)
    found = found[found["unit"] == "nats"].assign(group=lambda rows: rows["group"].map(GROUPS))
    panels = [
        Panel(
            words.capitalize(),
            figure_json(figures.intervals(part, looks, axis="nats against the baseline’s change", reference=0)),
        )
        for goal, words in GOALS.items()
        if len(part := found[found["goal"] == goal])
    ]
    caption = (
        f"Differences-in-differences: how much more than {run.baseline} a variant changed log p of the same held-out "
        "responses, by whether the response scored 5 or more. Left of the dotted line the variant lowers them more. "
        "High − low: whether it lowers high-scored rejected more than low-scored ones. "
        f"n = {span_of(found['n'])} pairs. Whiskers: 95% bootstrap intervals, prompts drawn whole; they speak of these "
        "checkpoints. `radpo analyze compare` gives per-token figures, p-values (Holm), the smallest difference that "
        "could have been found, and, with several seeds, intervals that speak of the method."
    )
    return Section("contrasts", title, caption, panels, "", 3, shown_in(looks, found))


def _implicit_reward(run: Run, looks: Mapping[str, Look]) -> Section:
    names = [name for name in subsets(run, "implicit-reward", "accuracy") if "/gap " in name.subset]
    panels, shown = [], []
    for goal in ("none", "best"):
        own = [name for name in names if name.subset.startswith(f"{goal}/")]
        found = points(run, own)
        if len(found):
            found = found.assign(group=found["group"].str.split("/").str[1])
            figure = figures.intervals(found, looks, axis="accuracy", within=(0, 1), reference=0.5)
            panels.append(Panel(GOALS[goal].capitalize(), figure_json(figure)))
            shown.append(found)
    caption = (
        "Share of held-out pairs whose better response has the higher implicit reward, by the gap of their scores in "
        "points. Right of the dotted line is better than chance. "
        f"n = {span_of(size for frame in shown for size in frame['n'])} pairs in a bin. Whiskers: 95% t intervals, "
        "clustered by prompt. Calibration errors and correlations are in the table of all figures."
    )
    return Section("implicit-reward", "Implicit reward", caption, panels, "", 2, _looks_of(looks, shown))


def _looks_of(looks: Mapping[str, Look], frames: list[pd.DataFrame]) -> list[str]:
    return shown_in(looks, *frames) if frames else []
