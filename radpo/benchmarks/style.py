"""Length and style of answers: a variant's and the baseline's answers come in, how they are written goes out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.results import Scores
from radpo.stats.estimates import Estimate, mean, paired_bootstrap
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "style"
LENGTH_BINS = (0.0, 0.5, 0.8, 1.25, 2.0, float("inf"))
"""Edges of the bins of answer length over the baseline's: much shorter, to much longer."""

# How refusals begin, after the prefixes of Zou et al. 2023 (arXiv 2307.15043); looked for in the first 100 characters.
REFUSALS = (
    "i'm sorry", "i am sorry", "i apologize", "i cannot", "i can't", "as an ai", "as a language model",
    "i'm just an ai", "i'm not able to", "i am not able to", "i'm unable to", "i am unable to", "it is not appropriate",
    "i do not feel comfortable",
)  # fmt: skip
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def summarise(answers: pd.DataFrame, *, seed: int = 0, resamples: int = 2_000) -> Scores:
    """Length, variety, repetition and refusals, and the difference from the baseline's answers to the same prompts.

    - `words`: mean length; quantiles in the subsets `quantile Q`.
    - `distinct_1`, `distinct_2`, `distinct_3`: different n-grams over all n-grams of all answers together (Li et al.
      2016); it falls with the amount of text, so compare like with like.
    - `repetition_4`: the mean over answers of the share of 4-grams that came before in the same answer (seq-rep-4,
      Welleck et al. 2020); answers of fewer than 4 words are left out.
    - `refusal_rate`: the share of answers that begin as refusals do; `empty_rate`: that have no word.
    - `words_difference`, `refusal_rate_difference`: from the baseline, over the same prompts.
    - `win_rate` in the subsets `length [LO,HI)`: by the answer's length over the baseline's, in percent, where wins
      are known.

    Args:
        answers: prompt_id, output; baseline_output where there is a baseline; win (1, 0.5 or 0) where it was judged.
        seed: of the bootstrap.

    Raises:
        DataError: there are no answers.
    """
    import numpy as np

    if answers.empty:
        raise DataError("there are no answers to look at")
    rows = measures(answers["output"].tolist())
    who = answers["prompt_id"].to_numpy()
    found: dict[tuple[str, str], Estimate] = {}
    for metric in ("words", "refusal_rate", "empty_rate"):
        found["all", metric] = mean(rows[metric], clusters=who)
    counted = np.isfinite(rows["repetition_4"])
    if counted.any():
        found["all", "repetition_4"] = mean(rows["repetition_4"][counted], clusters=who[counted])
    for share in (0.1, 0.5, 0.9):
        words = rows["words"]
        found[f"quantile {share:g}", "words"] = Estimate(
            float(np.quantile(words, share)), None, None, None, len(words), len(words)
        )
    for n in (1, 2, 3):
        if (value := distinct(answers["output"].tolist(), n)) is not None:
            found["all", f"distinct_{n}"] = Estimate(value, None, None, None, len(answers), len(answers))
    if "baseline_output" in answers.columns and answers["baseline_output"].notna().all():
        base = measures(answers["baseline_output"].tolist())
        for metric in ("words", "refusal_rate"):
            rng = np.random.default_rng(seed)
            difference = rows[metric] - base[metric]
            found["all", f"{metric}_difference"] = paired_bootstrap(
                difference, clusters=who, resamples=resamples, rng=rng
            )
        if "win" in answers.columns:
            wins = answers["win"].to_numpy(dtype=float)
            found.update(_wins(wins, rows["words"] / np.maximum(base["words"], 1), who))
    left_out = int((~counted).sum())
    note = f"style: repetition_4 leaves out {left_out} of {len(answers)} answers, which have fewer than four words."
    return Scores(results_of(BENCHMARK, found, {"win_rate": True}), (), (note,) if left_out else ())


def from_examples(examples: pd.DataFrame) -> pd.DataFrame:
    """AlpacaEval's rows of `examples.parquet` as `summarise` takes them: a preference of 2 is a win, of 1 a loss."""
    rows = examples[(examples["benchmark"] == "alpaca-eval") & (examples["metric"] == "preference")]
    return rows.rename(columns={"example_id": "prompt_id"})[["prompt_id", "output", "baseline_output"]].assign(
        win=rows["value"].to_numpy(dtype=float) - 1
    )


def measures(texts: Sequence[str]) -> dict[str, Any]:
    """words, refusal_rate, empty_rate and repetition_4 of every text, shape (n,) each; NaN where undefined."""
    import numpy as np

    words = [_words(text) for text in texts]
    return {
        "words": np.array([len(found) for found in words], dtype=float),
        "refusal_rate": np.array([float(refuses(text)) for text in texts]),
        "empty_rate": np.array([float(not found) for found in words]),
        "repetition_4": np.array([repetition(found, 4) for found in words]),
    }


def refuses(text: str) -> bool:
    """Whether an answer begins as refusals do."""
    start = text.strip()[:100].lower().replace("’", "'")
    return any(phrase in start for phrase in REFUSALS)


def repetition(words: Sequence[str], n: int) -> float:
    """The share of n-grams that came before in the same text; NaN where there is none."""
    total = len(words) - n + 1
    return 1 - len(set(_ngrams(words, n))) / total if total > 0 else float("nan")


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams over all n-grams of all texts; n-grams do not reach from one text into the next."""
    found = [gram for text in texts for gram in _ngrams(_words(text), n)]
    return len(set(found)) / len(found) if found else None


def _wins(wins: Any, ratio: Any, who: Any) -> Iterator[tuple[tuple[str, str], Estimate]]:
    for low, high in pairwise(LENGTH_BINS):
        inside = (ratio >= low) & (ratio < high)
        if inside.any():
            yield (f"length [{low:g},{high:g})", "win_rate"), mean(100 * wins[inside], clusters=who[inside])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[place : place + n]) for place in range(len(words) - n + 1))
