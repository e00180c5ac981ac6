"""The report's sections on what alignment did beside raising scores: a run comes in, captioned figures go out.

As in `radpo.report.sections`, a section without panels has nothing to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from radpo.core.run import Run
from radpo.figures import figures, unlearning_figures
from radpo.figures.analysis_figures import goal_curve, over_training, reward_kl
from radpo.figures.figures import Look
from radpo.figures.panels import SIDE_BY_SIDE, Panel, Section, figure_json, points, shown_in, sizes, span_of, told
from radpo.stats.quantities import Name, of, subsets

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

GOALS = {"none": "asked without a goal", "best": "asked for the best score", "own": "asked for its own score"}
GROUPS = {
    "rejected_high": "rejected, high", "rejected_low": "rejected, low", "chosen_high": "chosen, high",
    "chosen_low": "chosen, low", "rejected_high_minus_low": "rejected, high − low",
}  # fmt: skip
DISPLACED = {
    "share_chosen_lost": "chosen sank", "share_rejected_lost": "rejected sank", "share_both_lost": "both sank",
}  # fmt: skip
CHES = {"ches_correlation": "CHES", "ches_normalised_correlation": "CHES, normalised"}


def analysis_sections(run: Run, looks: Mapping[str, Look]) -> list[Section]:
    """The sections in the order in which they are read."""
    return [
        _unlearning(run, looks),
        _contrasts(run, looks),
        _trajectory(run, looks),
        _displacement(run, looks),
        _implicit_reward(run, looks),
        _reward_kl(run, looks),
        _calibration(run, looks),
        _style(run, looks),
    ]


def _unlearning(run: Run, looks: Mapping[str, Look]) -> Section:
    heading = "Unlearning"
    if run.likelihoods is None:
        return Section("unlearning", heading)
    edges = unlearning_figures.score_edges(run.likelihoods["score"].dropna())
    changes = unlearning_figures.unlearning_by_bin(run.likelihoods, edges)
    if changes.empty:
        return Section("unlearning", heading)
    ends = changes[["value", "low", "high"]].to_numpy(dtype=float)
    low, high = min(float(_finite(ends).min()), 0.0), max(float(_finite(ends).max()), 0.0)
    reach = (low - 0.06 * (high - low), high + 0.06 * (high - low))
    bins = unlearning_figures.bin_names(edges)
    panels = [
        Panel(
            f"{response.capitalize()}, {words}",
            figure_json(unlearning_figures.unlearning(part, looks, bins, reach)),
        )
        for response in ("rejected", "chosen")
        for goal, words in GOALS.items()
        if len(part := of(changes, response=response, goal=goal))
    ]
    caption = (
        "Change in log p of held-out responses from reference to policy (nats, summed over tokens), by the "
        "response's own score. Below the dotted line the policy unlearned it. Look at high-scored rejected responses "
        "(towards the right of those panels): they were good answers, and should not sink. All panels share one scale. "
        f"{run.likelihoods['pair_id'].nunique():,} pairs, {span_of(changes['n'])} in a bin; points are set beside each "
        "other for legibility. Whiskers: 95% t interval of the mean, clustered by prompt; a bin with one has none."
    )
    return Section("unlearning", heading, caption, panels, 3, shown_in(looks, changes), _unlearning_numbers(run))


def _unlearning_numbers(run: Run) -> list[Any]:
    """The groups' changes, from results: the bins of the figures are wider than those of results.parquet."""
    found = []
    for goal, words in GOALS.items():
        for metric, group in (("rejected_high", "rejected, high"), ("rejected_low", "rejected, low"),
                              ("chosen_high", "chosen, high"), ("chosen_low", "chosen, low")):  # fmt: skip
            frame = points(run, [Name("unlearning", goal, f"delta_logp_{metric}")])
            found += told(words, frame.assign(group=group))
    return found


def _contrasts(run: Run, looks: Mapping[str, Look]) -> Section:
    from radpo.stats.contrasts import differences

    title = "Unlearning against the baseline"
    variants = set() if run.likelihoods is None else set(run.likelihoods["variant"])
    if run.likelihoods is None or run.baseline not in variants or len(variants) < 2:
        return Section("contrasts", title)
    inside = [v for v in variants if v in run.source_of and run.comparable(v, run.baseline)]
    likelihoods = run.likelihoods[run.likelihoods["variant"].isin(inside)]
    if len(inside) < 2:
        return Section("contrasts", title)
    resamples = (
        1_000 if len(inside) <= SIDE_BY_SIDE else 200
    )  # of many, a grid shows the means and only hints at the rest
    found = differences(likelihoods, run.baseline, units=["nats"], resamples=resamples)
    found = found.assign(group=found["group"].map(GROUPS))
    panels = [
        Panel(words.capitalize(), figure_json(_contrast(part, looks)))
        for goal, words in GOALS.items()
        if len(part := found[found["goal"] == goal])
    ]
    caption = (
        f"Differences-in-differences: how much more than {run.baseline} a variant changed log p of the same held-out "
        "responses, by whether the response scored 5 or more. Left of the dotted line the variant lowers them more. "
        "High − low: whether it lowers high-scored rejected more than low-scored ones. "
        f"n = {span_of(found['n'])} pairs. Whiskers: 95% bootstrap intervals, prompts drawn whole "
        f"({resamples:,} resamples); they speak of these checkpoints. radpo analyze compare gives per-token figures, "
        "p-values (Holm), the smallest difference that could have been found, and, with several seeds, intervals that "
        "speak of the method."
    )
    return Section("contrasts", title, caption, panels, 3, shown_in(looks, found))


def _contrast(part: pd.DataFrame, looks: Mapping[str, Look]) -> Figure:
    axis = "nats against the baseline’s change"
    if part["variant"].nunique() > SIDE_BY_SIDE:
        return figures.grid(part, looks, axis=axis, within=None)
    return figures.intervals(part, looks, axis=axis, reference=0)


def _trajectory(run: Run, looks: Mapping[str, Look]) -> Section:
    import pandas as pd

    from radpo.benchmarks.trajectory import trajectory

    heading = "Unlearning over training"
    if run.trajectory is None or run.likelihoods is None:
        return Section("trajectory", heading)
    parts = []
    for (variant, seed), part in run.trajectory.groupby(["variant", "seed"], sort=False):
        own = run.likelihoods[run.likelihoods["variant"] == variant]
        scores = own.drop_duplicates(["pair_id", "response"]).rename(columns={"pair_id": "id"})
        scores = scores.pivot(index="id", columns="response", values="score").add_prefix("score_").reset_index()
        parts.append(trajectory(part, scores).assign(variant=str(variant), seed=int(str(seed))))
    found = pd.concat(parts)
    shown = found[found["goal"].isin(["none", "own"]) & found["group"].str.startswith("rejected")]
    panels = [
        Panel(f"{GROUPS[str(group)]}, {GOALS[str(goal)]}".capitalize(), figure_json(over_training(part, looks)))
        for (goal, group), part in shown.groupby(["goal", "group"], sort=False)
    ]
    caption = (
        "Mean change of log p of held-out rejected responses since before the first step (nats, summed over tokens), "
        f"by whether the response scored 5 or more. n = {span_of(shown['n'])} pairs. Whiskers: 95% t intervals."
    )
    return Section("trajectory", heading, caption, panels, 2, shown_in(looks, shown))


def _displacement(run: Run, looks: Mapping[str, Look]) -> Section:
    heading = "Likelihood displacement"
    sank = points(run, [Name("displacement", "all", metric) for metric in DISPLACED]).replace({"group": DISPLACED})
    ranks = points(run, [Name("displacement", "all", metric) for metric in CHES]).replace({"group": CHES})
    if sank.empty:
        return Section("displacement", heading)
    panels = [Panel("Share of pairs", figure_json(_by_group(sank, looks, "share of pairs", (0, 1), None)))]
    if len(ranks):
        axis = "rank correlation with the change of log p of chosen"
        panels.append(Panel("Did CHES foretell it?", figure_json(_by_group(ranks, looks, axis, (-1, 1), 0))))
    caption = (
        "Training may lower the chosen response along with the rejected one (Razin et al., arXiv 2410.08847). Left: "
        "the share of held-out pairs whose log p fell, asked without a goal; chosen should not sink. Right of it, if "
        "it was computed: Spearman's correlation of CHES, the likeness of both responses before training, with the "
        "change of log p of the chosen one; left of the dotted line CHES foretells displacement. "
        f"n = {sizes(sank)} pairs. Whiskers: shares, 95% t intervals clustered by prompt; correlations, 95% intervals "
        "from the bootstrap's standard error."
    )
    numbers = told("share of pairs", sank) + told("rank correlation", ranks)
    return Section("displacement", heading, caption, panels, 2, shown_in(looks, sank), numbers)


def _implicit_reward(run: Run, looks: Mapping[str, Look]) -> Section:
    names = [name for name in subsets(run, "implicit-reward", "accuracy") if "/gap " in name.subset]
    panels, shown, numbers = [], [], []
    for goal in ("none", "best"):
        found = points(run, [name for name in names if name.subset.startswith(f"{goal}/")])
        if len(found):
            found = found.assign(group=found["group"].str.split("/").str[1])
            panels.append(
                Panel(GOALS[goal].capitalize(), figure_json(_by_group(found, looks, "accuracy", (0, 1), 0.5)))
            )
            numbers += told(GOALS[goal], found)
            shown.append(found)
    caption = (
        "Share of held-out pairs whose better response has the higher implicit reward, by the gap of their scores in "
        "points. Right of the dotted line is better than chance. "
        f"n = {span_of(size for frame in shown for size in frame['n'])} pairs in a bin. Whiskers: 95% t intervals, "
        "clustered by prompt. Calibration errors and correlations are in the table of all figures."
    )
    return Section("implicit-reward", "Implicit reward", caption, panels, 2, shown_in(looks, *shown), numbers)


def _reward_kl(run: Run, looks: Mapping[str, Look]) -> Section:
    from radpo.benchmarks.reward_kl import frontier
    from radpo.benchmarks.reward_kl import points as on_plane

    heading, rows = "Reward against KL", of(run.results, benchmark="reward-kl")
    if rows.empty or not (rows["metric"] == "score").any():
        return Section("reward-kl", heading)
    placed = frontier(on_plane(run.results, {}))
    placed = placed.assign(kl_half=1.96 * placed["kl_stderr"], score_half=1.96 * placed["score_stderr"])
    caption = (
        "Answers drawn at temperature 1: the judge's mean score against how far the policy is from the reference. The "
        "dotted line joins the variants that no other beats in both. Whiskers: 1.96 standard errors, clustered by "
        f"prompt. n = {span_of(of(rows, metric='kl')['n'])} answers."
    )
    numbers = [
        number
        for metric, words in (("kl", "KL (nats a response)"), ("score", "score"))
        for number in told(words, points(run, [Name("reward-kl", "all", metric)]).assign(group="all"))
    ]
    panels = [Panel("Variants", figure_json(reward_kl(placed, looks)), 2)]
    return Section("reward-kl", heading, caption, panels, 2, shown_in(looks, placed), numbers)


def _calibration(run: Run, looks: Mapping[str, Look]) -> Section:
    names = [name for name in subsets(run, "calibration", "score") if name.subset != "goal none"]
    curve = points(run, names)
    if curve.empty:
        return Section("calibration", "Goal calibration")
    curve = curve.assign(goal=curve["group"].str.removeprefix("goal ").astype(float))
    caption = (
        "Mean score of answers against the score that was asked for; on the dotted line the policy gives what it is "
        f"asked for. Goals above 10 ask for more than the scale has. n = {span_of(curve['n'])} answers a goal. "
        "Whiskers: 95% t intervals, clustered by prompt. Rank correlation, monotonicity and extrapolation are in the "
        "table of all figures."
    )
    panels = [Panel("Calibration curve", figure_json(goal_curve(curve, looks)), 2)]
    numbers = told("mean score", curve)
    return Section("calibration", "Goal calibration", caption, panels, 2, shown_in(looks, curve), numbers)


def _style(run: Run, looks: Mapping[str, Look]) -> Section:
    longer = points(run, [Name("style", "all", "words_difference")]).assign(group="longer by")
    wins = points(run, [name for name in subsets(run, "style", "win_rate") if name.subset.startswith("length ")])
    panels = []
    if len(longer):
        panels.append(Panel("Length", figure_json(_by_group(longer, looks, "words", None, 0))))
    if len(wins):
        figure = _by_group(wins, looks, "win rate (%)", (0, 100), 50)
        panels.append(Panel("Win rate by length over the baseline’s", figure_json(figure)))
    caption = (
        "Judges favour long answers: where the win rate rises with length alone, the gain may be style. Bins are of "
        "an answer's words over those of the baseline's answer to the same prompt. "
        f"n = {span_of([*longer['n'], *wins['n']])} answers. Whiskers: 95% intervals, length's from a bootstrap over "
        "prompts. Refusals, repetition and variety are in the table of all figures."
    )
    numbers = told("words", longer) + told("win rate by length", wins)
    return Section("style", "Length and style", caption, panels, 2, shown_in(looks, longer, wins), numbers)


def _by_group(
    frame: pd.DataFrame, looks: Mapping[str, Look], axis: str, within: tuple[float, float] | None,
    reference: float | None,
) -> Figure:  # fmt: skip
    if frame["variant"].nunique() > SIDE_BY_SIDE and frame["group"].nunique() > 1:
        return figures.grid(frame, looks, axis=axis, within=None)
    return figures.intervals(frame, looks, axis=axis, within=within, reference=reference)


def _finite(values: Any) -> Any:
    import numpy as np

    return values[np.isfinite(values)]
