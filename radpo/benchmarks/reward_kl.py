"""Reward against KL: how far the policy went from the reference, and what score it got for that.

Samples are drawn from the policy at temperature 1, so means over them estimate expectations under it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from radpo.benchmarks import pieces
from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context
from radpo.core.errors import DataError
from radpo.core.metrics import Metric
from radpo.core.results import Example, Scores
from radpo.core.run import Run
from radpo.engine.graph import Function, Stage, Task
from radpo.figures.sections import ReportSection, panel, shown_in, sizes, table_rows
from radpo.figures.sections import points as figures_of
from radpo.figures.styles import DOTTED, Styles, hover_name, styled
from radpo.judges.quality import JUDGE_METRICS
from radpo.judges.samples import samples_notes
from radpo.stats.estimates import Estimate, bootstrap, mean, weighted_mean
from radpo.stats.quantities import Name
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME = "reward-kl"
METRICS = (
    Metric("score", "score"),
    Metric("kl*", "KL from the reference", higher_is_better=None, examples=None),
    Metric("entropy*", "entropy", higher_is_better=None, examples=None),
    Metric("share_*", "", "share", higher_is_better=None, examples=None),
    Metric("tokens", "mean length (tokens)", higher_is_better=None, examples=None),
    *JUDGE_METRICS,
)


class Settings(pieces.SampledSettings):
    """Samples at temperature 1: how far the policy is from the reference, and what the judge says of it."""


COLUMNS = ("prompt_id", "sample", "text", "tokens", "ended", "logp_policy", "logp_reference", "score")
BINS = (1.0, 3.0, 5.0, 7.0, 9.0, 10.0)


def summarise(samples: pd.DataFrame, *, seed: int = 0, resamples: int = 2_000) -> Scores:
    """Where the policy's mass is: how far from the reference, how spread out, and how the judge scores it.

    - `kl`: KL(policy || reference) in nats a response, the mean of log pi(y) - log pi_ref(y); `kl_per_token`: the sum
      of these over the sum of tokens.
    - `entropy`, `entropy_per_token`: of the policy's responses in nats, the mean of -log pi(y).
    - `score`: the judge's mean; `share_scored` in the subsets `score [LO,HI)`: where the mass went.
    - `tokens`, `share_cut`: mean length, and the share of samples that had not ended at the greatest length; the KL and
      the entropy are then of the first tokens only, and lower bounds.

    Args:
        samples: one checkpoint, one goal: `COLUMNS`; score is the judge's (1-10), NaN where it gave none.
        seed: of the bootstrap.

    Returns:
        Results, standard errors clustered by prompt; a row a sample.

    Raises:
        DataError: a column is missing, or there are no samples.
    """
    import numpy as np

    lacking = [name for name in COLUMNS if name not in samples.columns]
    if lacking or samples.empty:
        raise DataError(f"the samples lack {', '.join(lacking) or 'rows'}: draw and score them first")
    who, tokens = samples["prompt_id"].to_numpy(), samples["tokens"].to_numpy(dtype=float)
    ratio = (samples["logp_policy"] - samples["logp_reference"]).to_numpy(dtype=float)
    surprise = -samples["logp_policy"].to_numpy(dtype=float)

    def per_token(values: np.ndarray) -> Estimate:
        return bootstrap(
            lambda weights: weighted_mean(weights, values) / weighted_mean(weights, tokens),
            len(values), clusters=who, resamples=resamples, rng=np.random.default_rng(seed),
        )  # fmt: skip

    found: dict[tuple[str, str], Estimate] = {
        ("all", "kl"): mean(ratio, clusters=who),
        ("all", "kl_per_token"): per_token(ratio),
        ("all", "entropy"): mean(surprise, clusters=who),
        ("all", "entropy_per_token"): per_token(surprise),
        ("all", "tokens"): mean(tokens, clusters=who),
        ("all", "share_cut"): mean(1.0 - samples["ended"].to_numpy(dtype=float), clusters=who),
    }
    scored = samples[samples["score"].notna()]
    if len(scored):
        found["all", "score"] = mean(scored["score"].to_numpy(), clusters=scored["prompt_id"].to_numpy())
        found.update(_by_bin(scored))
    notes = []
    cut = int((~samples["ended"].astype(bool)).sum())
    if cut:
        notes.append(f"reward-kl: {cut} of {len(samples)} samples were cut before they ended; so are KL and entropy.")
    notes += samples_notes(samples, NAME)
    return Scores(results_of(NAME, METRICS, found), tuple(_examples(samples)), tuple(notes))


def points(results: pd.DataFrame, betas: Mapping[str, float]) -> pd.DataFrame:
    """A point on the reward-KL plane for every variant and seed of `results.parquet`.

    Args:
        betas: what each variant was trained with; NaN where a variant is not named.

    Returns:
        variant, seed, beta, kl (nats a response), kl_stderr, score (1-10), score_stderr.

    Raises:
        DataError: the run has no such figures.
    """
    rows = results[(results["benchmark"] == NAME) & (results["subset"] == "all")]
    both = rows[rows["metric"] == "kl"].merge(
        rows[rows["metric"] == "score"], on=["variant", "seed"], suffixes=("_kl", "_score")
    )
    if both.empty:
        raise DataError("the run has no scored samples: name the benchmark reward-kl in its matrix")
    named = {"value_kl": "kl", "stderr_kl": "kl_stderr", "value_score": "score", "stderr_score": "score_stderr"}
    both = both.rename(columns=named).assign(beta=both["variant"].map(dict(betas)).astype("float64"))
    return both[["variant", "seed", "beta", *named.values()]]


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Which points no other beats at once in score and in nearness to the reference (Gao et al. 2023, fig. 1).

    Args:
        points: kl and score, and whatever names them (variant, beta).

    Returns:
        The same rows by rising kl, with `on_frontier`.
    """
    ordered = points.sort_values(["kl", "score"], ascending=[True, False], kind="stable", ignore_index=True)
    best = ordered["score"].cummax().shift(fill_value=float("-inf"))
    return ordered.assign(on_frontier=ordered["score"] > best)


def _by_bin(scored: pd.DataFrame) -> Iterator[tuple[tuple[str, str], Estimate]]:
    for low, high in pairwise(BINS):
        last = high == BINS[-1]
        inside = (scored["score"] >= low) & ((scored["score"] <= high) if last else (scored["score"] < high))
        share = mean(inside.to_numpy(dtype=float), clusters=scored["prompt_id"].to_numpy())
        yield (f"score [{low:g},{high:g}{']' if last else ')'}", "share_scored"), share


def _examples(samples: pd.DataFrame) -> Iterator[Example]:
    import json

    for row in samples.to_dict("records"):
        detail = {
            "question_id": row["prompt_id"], "tokens": row["tokens"], "logp_policy": row["logp_policy"],
            "logp_reference": row["logp_reference"], "ended": bool(row["ended"]),
        }  # fmt: skip
        yield Example(
            benchmark=NAME,
            subset="all",
            example_id=f"{row['prompt_id']}/{row['sample']}",
            prompt=str(row.get("prompt", "")),
            output=str(row["text"]),
            baseline_output=None,
            metric="score",
            value=float(row["score"]),
            detail=json.dumps(detail),
        )


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage:
    """Samples read by policy and reference, then the judge's scores."""
    drawn = pieces.samples(context, settings, checkpoint, NAME, ["default"], reference=True)
    judge, hints = pieces.judge_settings(context, settings.judge)
    asked = {**context.questions(settings.questions), **judge}
    return context.stage(NAME, checkpoint.label, asked, {"samples": drawn}, hints)


def _score(task: Task) -> None:
    """Samples -> results about KL, entropy and score, and the scored samples as examples."""
    samples, judge = pieces.read_scored_samples(task)
    pieces.write_judged(task, summarise(samples), judge)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """The variants on the plane of KL and score, and the frontier."""
    title = "Reward against KL"
    kl, score = (figures_of(run, [Name(NAME, "all", metric)]) for metric in ("kl", "score"))
    if score.empty or kl.empty:
        return [ReportSection(NAME, title)]
    placed = frontier(points(run.results, {}))
    placed = placed.assign(kl_half=1.96 * placed["kl_stderr"], score_half=1.96 * placed["score_stderr"])
    caption = (
        "Mean score of sampled answers against the policy's distance from the reference; the dotted line joins the "
        f"variants that none beats in both. n = {sizes(kl)} answers; whiskers: 1.96 standard errors."
    )
    method = "Answers are drawn at temperature 1. Standard errors are clustered by prompt."
    numbers = [
        row
        for words, frame in (("KL (nats a response)", kl), ("score", score))
        for row in table_rows(words, frame.assign(group="all"))
    ]
    panels = [panel("Variants", _plane(placed, styles), 2)]
    return [ReportSection(NAME, title, caption, panels, 2, shown_in(styles, placed), numbers, method)]


def _plane(placed: pd.DataFrame, styles: Styles) -> Figure:
    """The judge's mean score against KL from the reference, a point a variant and seed, frontier points joined.

    Args:
        placed: variant, seed, kl (nats), score (1-10), kl_half, score_half (half 95% intervals), on_frontier.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    best = placed[placed["on_frontier"]].sort_values("kl")
    figure.add_scatter(x=best["kl"].tolist(), y=best["score"].tolist(), mode="lines", hoverinfo="skip", line=DOTTED)
    for name, rows in placed.groupby("variant", sort=False):
        variant = str(name)
        half = [{"type": "data", "array": rows[f"{axis}_half"].fillna(0).tolist(), "thickness": 1.3, "width": 4}
                for axis in ("kl", "score")]  # fmt: skip
        figure.add_scatter(
            x=rows["kl"].tolist(), y=rows["score"].tolist(), error_x=half[0], error_y=half[1], mode="markers",
            marker={"color": styles[variant].colour, "symbol": styles[variant].symbol, "size": 9},
            hovertemplate="KL %{x:.3g} nats, score %{y:.2f}" + hover_name(variant), meta=variant,
        )  # fmt: skip
    figure.update_xaxes(title={"text": "KL from the reference (nats a response)"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "score (1–10)"})
    return styled(figure, height=340)


BENCHMARK = Benchmark(
    name=NAME,
    title="Reward against KL",
    summary="Samples at temperature 1: how far the policy is from the reference, and what a judge says of them.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=3, packages=("scipy",))},
    cost={NAME: pieces.scored_samples_cost},
    sections=sections,
    answers=False,
    place=70,
    command="analyze",
    files={"samples.parquet": "samples/samples.parquet"},
)
