"""Reward against KL: scored samples come in, how far the policy went from the reference and what it got goes out.

Samples are drawn from the policy at temperature 1, so means over them estimate expectations under it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from radpo.analysis.statistics import Estimate, bootstrap, mean, weighted_mean
from radpo.errors import DataError
from radpo.results import Example, Result, Scores

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "reward-kl"
COLUMNS = ("prompt_id", "sample", "text", "tokens", "ended", "logp_policy", "logp_reference", "score")
BINS = (1.0, 3.0, 5.0, 7.0, 9.0, 10.0)


def summarise(samples: pd.DataFrame, *, seed: int = 0, resamples: int = 2_000) -> Scores:
    """Where the policy's mass is: how far from the reference, how spread out, and how the judge scores it.

    - `kl`: KL(policy || reference) in nats a response, the mean of log pi(y) - log pi_ref(y); `kl_per_token`: the sum of
      these over the sum of tokens.
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

    found = {
        "kl": mean(ratio, clusters=who),
        "kl_per_token": per_token(ratio),
        "entropy": mean(surprise, clusters=who),
        "entropy_per_token": per_token(surprise),
        "tokens": mean(tokens, clusters=who),
        "share_cut": mean(1.0 - samples["ended"].to_numpy(dtype=float), clusters=who),
    }
    results = [_result("all", metric, estimate) for metric, estimate in found.items()]
    scored = samples[samples["score"].notna()]
    if len(scored):
        results.append(
            _result("all", "score", mean(scored["score"].to_numpy(), clusters=scored["prompt_id"].to_numpy()))
        )
        results += list(_by_bin(scored))
    notes = []
    if found["share_cut"].value > 0:
        cut = int((~samples["ended"].astype(bool)).sum())
        notes.append(
            f"reward-kl: {cut} of {len(samples)} samples were cut before they ended; KL and entropy stop there."
        )
    if len(scored) < len(samples):
        notes.append(f"reward-kl: {len(samples) - len(scored)} of {len(samples)} samples have no score.")
    return Scores(tuple(results), tuple(_examples(samples)), tuple(notes))


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


def _by_bin(scored: pd.DataFrame) -> Iterator[Result]:
    for low, high in pairwise(BINS):
        last = high == BINS[-1]
        inside = (scored["score"] >= low) & ((scored["score"] <= high) if last else (scored["score"] < high))
        estimate = mean(inside.to_numpy(dtype=float), clusters=scored["prompt_id"].to_numpy())
        yield _result(f"score [{low:g},{high:g}{']' if last else ')'}", "share_scored", estimate)


def _examples(samples: pd.DataFrame) -> Iterator[Example]:
    import json

    for row in samples.to_dict("records"):
        detail = {
            "question_id": row["prompt_id"], "tokens": row["tokens"], "logp_policy": row["logp_policy"],
            "logp_reference": row["logp_reference"], "ended": bool(row["ended"]),
        }  # fmt: skip
        yield Example(
            benchmark=BENCHMARK,
            subset="all",
            example_id=f"{row['prompt_id']}/{row['sample']}",
            prompt=str(row.get("prompt", "")),
            output=str(row["text"]),
            baseline_output=None,
            metric="score",
            value=float(row["score"]),
            detail=json.dumps(detail),
        )


def _result(subset: str, metric: str, estimate: Estimate) -> Result:
    return Result(
        benchmark=BENCHMARK,
        subset=subset,
        metric=metric,
        value=estimate.value,
        stderr=estimate.stderr,
        n=estimate.n,
        higher_is_better=True if metric == "score" else None,
        primary=False,
    )
