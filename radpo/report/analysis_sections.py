"""The report's sections on what alignment did beside raising scores: only those that the run has figures for.

A run comes in, figures as JSON with their captions go out, as in `radpo.report.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from radpo.report import figures
from radpo.report.analysis_figures import goal_curve, over_training, reward_kl
from radpo.report.figures import Look
from radpo.report.load import Run
from radpo.report.quantities import Name, of
from radpo.report.sections import Panel, Section, figure_json, points, shown_in, span_of, subsets

if TYPE_CHECKING:
    pass

GOALS = {"none": "asked without a goal", "best": "asked for the best score", "own": "asked for its own score"}
GROUPS = {
    "rejected_high": "rejected, high", "rejected_low": "rejected, low", "chosen_high": "chosen, high",
    "chosen_low": "chosen, low", "rejected_high_minus_low": "rejected, high − low",
}  # fmt: skip


def analysis_sections(run: Run, looks: Mapping[str, Look]) -> list[Section]:
    """The sections that have something to show."""
    found = [
        _contrasts(run, looks),
        _trajectory(run, looks),
        _implicit_reward(run, looks),
        _reward_kl(run, looks),
        _calibration(run, looks),
        _style(run, looks),
    ]
    return [section for section in found if section.panels]


def _contrasts(run: Run, looks: Mapping[str, Look]) -> Section:
    from radpo.analysis.contrasts import differences

    title, variants = (
        "Unlearning against the baseline",
        set() if run.likelihoods is None else set(run.likelihoods["variant"]),
    )
    if run.likelihoods is None or run.baseline not in variants or len(variants) < 2:
        return Section("contrasts", title, "", [], "")
    found = differences(run.likelihoods, run.baseline, units=["nats"], resamples=1_000)
    found = found.assign(group=found["group"].map(GROUPS))
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
        "checkpoints. radpo analyze compare gives per-token figures, p-values (Holm), the smallest difference that "
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
    return Section("implicit-reward", "Implicit reward", caption, panels, "", 2, shown_in(looks, *shown))


def _trajectory(run: Run, looks: Mapping[str, Look]) -> Section:
    import pandas as pd

    from radpo.analysis.trajectory import trajectory

    heading = "Unlearning over training"
    if run.trajectory is None or run.likelihoods is None:
        return Section("trajectory", heading, "", [], "")
    scores = run.likelihoods.drop_duplicates(["pair_id", "response"]).rename(columns={"pair_id": "id"})
    scores = scores.pivot(index="id", columns="response", values="score").add_prefix("score_").reset_index()
    found = pd.concat(
        [
            trajectory(part, scores).assign(variant=str(variant), seed=int(str(seed)))
            for (variant, seed), part in run.trajectory.groupby(["variant", "seed"], sort=False)
        ]
    )
    shown = found[found["goal"].isin(["none", "own"]) & found["group"].str.startswith("rejected")]
    panels = [
        Panel(f"{GROUPS[str(group)]}, {GOALS[str(goal)]}".capitalize(), figure_json(over_training(part, looks)))
        for (goal, group), part in shown.groupby(["goal", "group"], sort=False)
    ]
    caption = (
        "Mean change of log p of held-out rejected responses since before the first step (nats, summed over tokens), "
        f"by whether the response scored 5 or more. n = {span_of(shown['n'])} pairs. Whiskers: 95% t intervals."
    )
    return Section("trajectory", heading, caption, panels, "", 2, shown_in(looks, shown))


def _reward_kl(run: Run, looks: Mapping[str, Look]) -> Section:
    from radpo.analysis.reward_kl import frontier
    from radpo.analysis.reward_kl import points as on_plane

    heading, rows = "Reward against KL", of(run.results, benchmark="reward-kl")
    if rows.empty or not (rows["metric"] == "score").any():
        return Section("reward-kl", heading, "", [], "")
    placed = frontier(on_plane(run.results, {}))
    placed = placed.assign(kl_half=1.96 * placed["kl_stderr"], score_half=1.96 * placed["score_stderr"])
    caption = (
        "Answers drawn at temperature 1: the judge's mean score against how far the policy is from the reference. The "
        "dotted line joins the variants that no other beats in both. Whiskers: 1.96 standard errors, clustered by "
        f"prompt. n = {span_of(of(rows, metric='kl')['n'])} answers."
    )
    panels = [Panel("Variants", figure_json(reward_kl(placed, looks)), 2)]
    return Section("reward-kl", heading, caption, panels, "", 2, shown_in(looks, placed))


def _calibration(run: Run, looks: Mapping[str, Look]) -> Section:
    names = [name for name in subsets(run, "calibration", "score") if name.subset != "goal none"]
    curve = points(run, names)
    if curve.empty:
        return Section("calibration", "Goal calibration", "", [], "")
    curve = curve.assign(goal=curve["group"].str.removeprefix("goal ").astype(float))
    caption = (
        "Mean score of answers against the score that was asked for; on the dotted line the policy gives what it is "
        f"asked for. Goals above 10 ask for more than the scale has. n = {span_of(curve['n'])} answers a goal. "
        "Whiskers: 95% t intervals, clustered by prompt. Rank correlation, monotonicity and extrapolation are in the "
        "table of all figures."
    )
    panels = [Panel("Calibration curve", figure_json(goal_curve(curve, looks)), 2)]
    return Section("calibration", "Goal calibration", caption, panels, "", 2, shown_in(looks, curve))


def _style(run: Run, looks: Mapping[str, Look]) -> Section:
    longer = points(run, [Name("style", "all", "words_difference")]).assign(group="longer by")
    wins = points(run, [name for name in subsets(run, "style", "win_rate") if name.subset.startswith("length ")])
    panels = []
    if len(longer):
        panels.append(Panel("Length", figure_json(figures.intervals(longer, looks, axis="words", reference=0))))
    if len(wins):
        axis = "win rate (%)"
        figure = figures.intervals(wins, looks, axis=axis, within=(0, 100), reference=50)
        panels.append(Panel("Win rate by length over the baseline’s", figure_json(figure)))
    caption = (
        "Judges favour long answers: where the win rate rises with length alone, the gain may be style. Bins are of "
        "an answer's words over those of the baseline's answer to the same prompt. Whiskers: 95% intervals. Refusals, "
        "repetition and variety are in the table of all figures."
    )
    return Section(
        "style", "Length and style", caption, panels, "", 2, shown_in(looks, *(f for f in (longer, wins) if len(f)))
    )
