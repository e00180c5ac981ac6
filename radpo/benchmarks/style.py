"""Length and style of answers beside the baseline's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from radpo.benchmarks.protocol import Benchmark, Checkpoint, Context
from radpo.benchmarks.settings import ExistingModel, Section
from radpo.benchmarks.work import figures_only
from radpo.core.errors import DataError
from radpo.core.metrics import Metric
from radpo.core.results import Scores, write_scores
from radpo.core.run import Run, load_run
from radpo.engine.graph import Function, Stage, Task
from radpo.figures.charts import by_group
from radpo.figures.sections import ReportSection, panel, points, shown_in, span_of, table_rows
from radpo.figures.styles import Styles
from radpo.stats.estimates import Estimate, mean, paired_bootstrap
from radpo.stats.quantities import Name, subsets
from radpo.stats.rows import results_of

if TYPE_CHECKING:
    import pandas as pd

NAME = "style"
METRICS = (
    Metric("win_rate", "win rate", "%", even=50.0, examples=None),
    Metric("*", "", higher_is_better=None, examples=None),
)


class Settings(Section):
    """Length, variety, repetition and refusals of the answers that another benchmark compares with a baseline's."""

    of: str | None = Field(
        None,
        description="The benchmark whose answers to measure. Default: the first of the matrix that compares answers.",
    )


class Existing(ExistingModel):
    """Of a run directory: the answers that its first benchmark compared, and win rate by length."""

    run_dir: Path


def score_existing(existing: Existing) -> pd.DataFrame:
    """The style of a run's answers by variant and seed, as a tidy frame.

    Raises:
        DataError: no benchmark of the run compares answers.
    """
    import pandas as pd

    from radpo.benchmarks.registry import benchmarks

    run = load_run(existing.run_dir)
    there = set(run.examples["benchmark"])
    comparing = {name: _compared(one.metrics) for name, one in benchmarks().items() if name in there}
    source, compared = next(((name, one) for name, one in comparing.items() if one is not None), ("", None))
    rows = []
    for (variant, number), part in run.examples.groupby(["variant", "seed"], sort=False):
        if compared is None:
            break
        own = part[(part["benchmark"] == source) & (part["metric"] == compared.example_metric)]
        answers = from_examples(own, compared.example_scale)
        if len(answers):
            rows += [
                {"variant": variant, "seed": number, "subset": r.subset, "metric": r.metric, "value": r.value,
                 "stderr": r.stderr, "n": r.n}
                for r in summarise(answers).results
            ]  # fmt: skip
    if not rows:
        raise DataError(f"{existing.run_dir} has no answers to look at: no benchmark of its matrix compares answers")
    return pd.DataFrame(rows)


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
    return Scores(results_of(NAME, METRICS, found), (), (note,) if left_out else ())


def from_examples(examples: pd.DataFrame, scale: tuple[float, float] = (100.0, -100.0)) -> pd.DataFrame:
    """Rows of `examples.parquet` of a benchmark that compares answers, as `summarise` takes them.

    Args:
        scale: win rate in percent = scale * value + offset; as given, a preference from 1 (lost) to 2 (won).
    """
    rows = examples[examples["baseline_output"].notna()]
    wins = (scale[0] * rows["value"].to_numpy(dtype=float) + scale[1]) / 100
    asked = rows["example_id"] if "prompt_id" not in rows.columns else rows["prompt_id"].fillna(rows["example_id"])
    return rows[["output", "baseline_output"]].assign(prompt_id=asked, win=wins)


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


def _compared(metrics: Sequence[Metric]) -> Metric | None:
    """The figure that says how answers compare with a baseline's."""
    return next((m for m in metrics if m.even is not None and m.primary is not None and m.example_metric), None)


def _source(settings: Settings, sections: Mapping[str, Section]) -> str | None:
    """The benchmark whose answers are looked at; None where the matrix has none that compares answers."""
    from radpo.benchmarks.registry import benchmarks

    comparing = [name for name in sections if _compared(benchmarks()[name].metrics)]
    if settings.of is not None:
        return settings.of if settings.of in comparing else None
    return comparing[0] if comparing else None


def check(settings: Settings, sections: Mapping[str, Section]) -> str | None:
    """What is wrong: no benchmark of the matrix compares answers."""
    if _source(settings, sections) is not None:
        return None
    from radpo.benchmarks.registry import benchmarks

    allowed = ", ".join(name for name, one in benchmarks().items() if _compared(one.metrics))
    named = "no benchmark of the matrix does" if settings.of is None else f"{settings.of!r} of this matrix does not"
    return f"style looks at answers that are compared with a baseline's, and {named}; allowed: {allowed}"


def stages(context: Context, settings: Settings, checkpoint: Checkpoint) -> Stage | None:
    """The other benchmark's stage, whose examples hold the answers."""
    source = _source(settings, context.sections)
    judged = None if source is None else context.scored(source, checkpoint)
    if source is None or judged is None:
        return None
    compared = _compared(context.benchmarks[source].metrics)
    assert compared is not None
    own = {"metric": compared.example_metric, "scale": list(compared.example_scale)}
    return context.stage(NAME, checkpoint.label, own, {"judged": judged})


def _score(task: Task) -> None:
    """Compared answers -> results about their length and style."""
    import pandas as pd

    examples = pd.read_parquet(task.inputs["judged"] / "examples.parquet")
    examples = examples[examples["metric"] == task.stage.settings["metric"]]
    write_scores(summarise(from_examples(examples, tuple(task.stage.settings["scale"]))), task.out)


def sections(run: Run, styles: Styles) -> list[ReportSection]:
    """How much longer answers are than the baseline's, and the win rate by that."""
    longer = points(run, [Name(NAME, "all", "words_difference")]).assign(group="longer by")
    wins = points(run, [name for name in subsets(run, NAME, "win_rate") if name.subset.startswith("length ")])
    panels = []
    if len(longer):
        panels.append(panel("Length", by_group(longer, styles, axis="words", reference=0)))
    if len(wins):
        figure = by_group(wins, styles, axis="win rate (%)", within=(0, 100), reference=50)
        panels.append(panel("Win rate by length over the baseline’s", figure))
    caption = (
        "Where the win rate rises with length alone, the gain may be style. "
        f"n = {span_of([*longer['n'], *wins['n']])} answers; whiskers: 95% intervals."
    )
    method = (
        "Judges favour long answers. Bins are of an answer's words over those of the baseline's answer to the same "
        "prompt. Intervals of lengths are from a bootstrap over prompts. Refusals, repetition and variety are in the "
        "table of all figures."
    )
    numbers = table_rows("words", longer) + table_rows("win rate by length", wins)
    return [
        ReportSection(NAME, "Length and style", caption, panels, 2, shown_in(styles, longer, wins), numbers, method)
    ]


BENCHMARK = Benchmark(
    name=NAME,
    title="Style",
    summary="Length, variety, repetition and refusals of answers that another benchmark compares.",
    Settings=Settings,
    metrics=METRICS,
    stages=stages,
    functions={NAME: Function(_score, version=2, packages=("scipy",))},
    cost={NAME: figures_only},
    sections=sections,
    check=check,
    place=90,
    command="analyze",
    Existing=Existing,
    score_existing=score_existing,
)
