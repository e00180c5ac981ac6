"""What the gate says: rows of tested metrics, what was not tested and why, and the verdict that follows from them.

And what is to be done about it: `Verdict.sentence` and `Verdict.next_steps`, which every document begins with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["regression", "improvement", "no difference", "too few examples"]
Status = Literal["pass", "regression", "refused"]

EXIT_STATUS: dict[Status, int] = {"pass": 0, "regression": 1, "refused": 4}


@dataclass(frozen=True)
class Row:
    """The verdict on one primary metric, in its own unit. Differences are candidate minus baseline.

    Args:
        outcome: see `radpo.gate.gate.decide`.
        margin: the drop that is to be found; 0 where none is stated.
        baseline, candidate: the means over the paired examples.
        low, high: the ends of the difference's 95% interval, None where prompts are too few or all changed alike.
        p: how rare so large a difference would be if there were none (two-sided, of this metric alone): the p-value
            that report and `radpo analyze compare` give; None where one prompt is all.
        p_worse: how rare so bad a difference would be if the candidate were no worse (the same test, one-sided),
            Holm-adjusted over all rows; `p_better` the same for an improvement.
        detectable: the true drop that the gate would fail with probability 0.8, None where it cannot be computed: no
            example differs, or there are too few prompts for any drop.
        needed: how many prompts would make `detectable` the margin, where there are too few; None where it takes more
            seeds, which `needed_seeds` then says, unless it would take more than a hundred.
        pairs: how many examples were paired, on how many prompts; `changed` of them have another value; `unpaired` are
            in one of the runs only.
        seeds: how many training seeds the examples are of.
        fell_most: ids of the examples that lost most, the worst first.
    """

    variant: str
    benchmark: str
    subset: str
    metric: str
    outcome: Outcome
    margin: float
    baseline: float
    candidate: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_worse: float
    p_better: float
    detectable: float | None
    needed: int | None
    pairs: int
    prompts: int
    unpaired: int
    changed: int
    needed_seeds: int | None = None
    seeds: int = 1
    fell_most: tuple[str, ...] = ()

    @property
    def losses(self) -> float:
        """How many of its margins, or where none is stated of its standard errors, the metric is worse by."""
        unit = self.margin or (0.0 if self.low is None or self.high is None else (self.high - self.low) / 4)
        return abs(self.difference) / unit if unit else 0.0

    @property
    def change(self) -> str:
        """What became of the metric, in words: `mt-bench score of dpo fell from 7.1 to 5.2 (...)`."""
        part = "" if self.subset == "all" else f" ({self.subset})"
        went = "fell" if self.difference < 0 else "rose"
        ends = "" if self.low is None or self.high is None else f", 95% interval {self.low:+.3g} to {self.high:+.3g}"
        margin = f"; margin {self.margin:g}" if self.margin else ""
        return (
            f"{self.benchmark} {self.metric}{part} of {self.variant} {went} from {self.baseline:.4g} to "
            f"{self.candidate:.4g} ({self.difference:+.3g}{ends}{margin})"
        )

    @property
    def name(self) -> str:
        """Variant, benchmark, subset and metric in one line."""
        return f"{self.variant} {self.benchmark} {self.subset} {self.metric}"


@dataclass(frozen=True)
class NotGated:
    """A primary metric that no test was made of, and why."""

    variant: str
    benchmark: str
    subset: str
    metric: str
    reason: str

    @property
    def name(self) -> str:
        """Variant, benchmark, subset and metric in one line."""
        return f"{self.variant} {self.benchmark} {self.subset} {self.metric}"


@dataclass(frozen=True)
class Step:
    """One thing to do next: what, and the command that does it, if one does."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate run is worse than the baseline run, and on which metrics.

    Args:
        seconds: by benchmark, what the candidate's answers, log-likelihoods and judgments took, training apart; under
            the empty name, what one training seed took with all that belongs to it. Empty where its manifest does not
            say.
        differences: what makes the runs not comparable, a sentence each; no metric is tested then.
        notes: what a reader should know besides.
    """

    baseline: str
    candidate: str
    alpha: float
    rows: tuple[Row, ...]
    not_gated: tuple[NotGated, ...] = ()
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """A regression that was found counts, whatever other metrics could not show."""
        if any(row.outcome == "regression" for row in self.rows):
            return "regression"
        return "refused" if self.refusals else "pass"

    @property
    def regressed(self) -> bool:
        """Whether any metric regressed."""
        return self.status == "regression"

    @property
    def exit_status(self) -> int:
        """0 pass, 1 regression, 4 no verdict."""
        return EXIT_STATUS[self.status]

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why there can be no pass: what differs between the runs, what too few examples cannot show."""
        return (*self.differences, *(_too_few(row) for row in self.rows if row.outcome == "too few examples"))

    @property
    def worse(self) -> tuple[Row, ...]:
        """The metrics that regressed, the one that shows it most first."""
        return tuple(sorted((row for row in self.rows if row.outcome == "regression"), key=lambda row: -row.losses))

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if first := next(iter(self.worse), None):
            others = f"; {len(self.worse)} of {len(self.rows)} metrics are worse" if len(self.worse) > 1 else ""
            return f"Regression: {first.change}{others}."
        if self.differences:
            more = f" (and {len(self.differences) - 1} more)" if len(self.differences) > 1 else ""
            return f"No verdict: the runs are not comparable, since {self.differences[0]}{more}."
        if short := self._short:
            which = f"{short[0].name}" + (f" and {len(short) - 1} more" if len(short) > 1 else "")
            return f"No verdict: too few examples to show a drop of the margin in {len(short)} metrics: {which}."
        better = sum(row.outcome == "improvement" for row in self.rows)
        gained = f", and {better} better" if better else ""
        return f"Pass: none of {len(self.rows)} metrics is worse{gained}."

    @property
    def next_steps(self) -> tuple[Step, ...]:
        """What to do about it."""
        return tuple(self._next_steps())

    def _next_steps(self) -> Iterator[Step]:
        keep = "radpo regress RUN_DIR --save NAME"
        for row in self.worse[:1]:
            if row.fell_most:
                yield Step(
                    f"Read the examples that lost most: {', '.join(row.fell_most)}. The report has them.",
                    "radpo report RUN_DIR",
                )
        if self.worse:
            yield Step("If the change is meant, keep this run as the new baseline, and say why beside it.", keep)
        elif self.differences:
            yield Step(
                "Run the candidate with what the baseline was run with, or keep a new baseline that is run as the "
                "candidate was.", keep,
            )  # fmt: skip
        elif self._short:
            yield from self._more_examples()
        elif any(row.outcome == "improvement" for row in self.rows):
            yield Step("Keep this run as the new baseline, so that the gain is not lost unnoticed.", keep)
        else:
            yield Step("Nothing.")

    @property
    def _short(self) -> list[Row]:
        return [row for row in self.rows if row.outcome == "too few examples"]

    def _more_examples(self) -> Iterator[Step]:
        """How many prompts, or seeds, a benchmark lacks, and the time that they take."""
        for benchmark in dict.fromkeys(row.benchmark for row in self._short):
            rows = [row for row in self._short if row.benchmark == benchmark]
            prompts = [row for row in rows if row.needed is not None]
            if prompts:
                row = max(prompts, key=lambda row: (row.needed or 0) / row.prompts)
                assert row.needed is not None
                time = _minutes(self.seconds.get(benchmark), row.needed / row.prompts - 1)
                yield Step(f"Give {benchmark} {row.needed} prompts where it had {row.prompts}{time}.")
            if len(prompts) < len(rows):
                of = [row for row in rows if row.needed is None]
                seeds = [row.needed_seeds for row in of if row.needed_seeds is not None]
                if len(seeds) == len(of):
                    time = _minutes(self.seconds.get(""), max(seeds) - of[0].seeds)
                    yield Step(f"Run {max(seeds)} seeds where there were {of[0].seeds}, for {benchmark}{time}.")
                else:
                    yield Step(f"More seeds hardly help {benchmark}: its seeds differ by more than the margin.")
        metric = self._short[0].metric
        yield Step(
            "Or say that a larger drop matters, or leave a metric out.",
            f"radpo regress BASELINE RUN_DIR --margin {metric}=X" if metric.isidentifier() else "",
        )

    def to_json(self) -> dict[str, Any]:
        """The verdict as one JSON-serialisable document."""
        told = {
            "status": self.status, "regressed": self.regressed, "sentence": self.sentence,
            "next_steps": [asdict(step) for step in self.next_steps], "refusals": list(self.refusals),
        }  # fmt: skip
        return {**told, **asdict(self)}


def _minutes(seconds: float | None, times: float) -> str:
    """How long the rest takes, where it is known what the examples at hand took."""
    if seconds is None:
        return ""
    minutes = seconds * times / 60
    return f": about {minutes:.0f} minutes more" if minutes >= 1.5 else ": about a minute more"


def _too_few(row: Row) -> str:
    if row.detectable is None:
        able = "are too few for any drop to be significant"
    else:
        able = f"could have shown a drop of {row.detectable:.4g} (power 0.8), no smaller one"
    more = "more seeds" if row.needed is None else f"{row.needed} prompts or more"
    return (
        f"{row.name}: {row.prompts} prompts {able}, and the margin is {row.margin:g}; take {more}, "
        f"or set --margin {row.metric}=X wider, or =off"
    )
