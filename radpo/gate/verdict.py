"""What the gate says: rows of tested metrics, what was not tested and why, and the verdict that follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
            seeds.
        pairs: how many examples were paired, on how many prompts; `changed` of them have another value; `unpaired` are
            in one of the runs only.
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
class Verdict:
    """Whether the candidate run is worse than the baseline run, and on which metrics.

    Args:
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

    def to_json(self) -> dict[str, Any]:
        """The verdict as one JSON-serialisable document."""
        told = {"status": self.status, "regressed": self.regressed, "refusals": list(self.refusals)}
        return {**told, **asdict(self)}


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
