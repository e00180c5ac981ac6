"""The profile of a preference set: what `radpo.preferences.profiling` finds, as counts, shares and distributions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from radpo.preferences.overlap import Overlap

QUANTILES = (1, 5, 25, 50, 75, 95, 99)
"""The quantiles of lengths, in percent."""


@dataclass(frozen=True)
class Share:
    """A share of n with its 95% Wilson score interval (Wilson 1927, JASA 22, 209-212), all from 0 to 1.

    The interval takes the n for independent; it is None where they are not.
    """

    count: int
    n: int
    share: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Histogram:
    """Counts by value (`points` are the values) or by bin (`points` are the edges, one more than counts).

    Bins hold their lower edge and not their upper one, but for the last, which holds both.
    """

    by: Literal["value", "bin"]
    points: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Gaps:
    """score_chosen - score_rejected, in the scale's points."""

    mean: float
    median: float
    histogram: Histogram


@dataclass(frozen=True)
class Spread:
    """How long the texts of one kind are.

    Args:
        quantiles: by percent (QUANTILES), interpolated linearly.
        counts: texts by the length bins that `Lengths.edges` gives; empty texts are in none.
    """

    mean: float
    max: int
    quantiles: Mapping[int, float]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Lengths:
    """Lengths of prompts (all messages' contents, without template) and responses.

    Args:
        unit: characters are Unicode code points; tokens are the tokenizer's, without special ones.
        edges: lower edges of the length bins and the last one's upper edge: whole numbers, six bins to a factor of 10.
        chosen_longer: the share of pairs whose chosen response is the longer one.
        equally_long: pairs whose responses are equally long.
        gap_correlation: Spearman's rank correlation of the score gap with the length gap, both chosen minus rejected;
            None where one of them is the same in every pair, or for fewer than three pairs.
    """

    unit: Literal["characters", "tokens"]
    edges: tuple[int, ...]
    prompt: Spread
    chosen: Spread
    rejected: Spread
    chosen_longer: Share
    equally_long: int
    gap_correlation: float | None


@dataclass(frozen=True)
class Duplicates:
    """Prompts that are equal after normalising case and white space, roles and all messages considered.

    Args:
        distinct: how many different prompts there are.
        repeated: prompts that more than one pair has.
        pairs: pairs whose prompt is one of these.
        largest: how many pairs the most frequent prompt has.
        examples: the first ids of the largest groups of pairs with one prompt.
    """

    distinct: int
    repeated: int
    pairs: int
    largest: int
    examples: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Leakage:
    """Prompts that are in the held-out set too, compared as `Duplicates` does.

    Args:
        heldout_prompts: different prompts of the held-out set.
        prompts: those of them that the profiled set has.
        pairs: the profiled set's pairs with such a prompt.
        examples: ids of the first of these pairs.
    """

    heldout_prompts: int
    prompts: int
    pairs: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """What is in a preference set.

    Args:
        scale: the lowest and the highest score there can be.
        high_score: from this score on, a response counts as high-scored.
        pairs: how many pairs there are; the n of all that follows, unless it says otherwise.
        ties: score_chosen = score_rejected.
        identical: the two responses are the same text.
        empty_chosen, empty_rejected: responses of white space alone.
        chosen_below_rejected: score_chosen < score_rejected.
        chosen_scores, rejected_scores: with the same points.
        rejected_high: rejected responses that score `high_score` or more.
        chosen_low: chosen responses that score less.
        best_chosen, best_rejected, best_all: responses with the scale's best score; `best_all` is of 2 * pairs and has
            no interval, because a pair's two scores are not independent.
        tokens: None where no tokenizer was given.
        turns: pairs by how many messages of the user their prompt has.
        with_system: pairs whose prompt has a system message.
        leakage: None where no held-out set was given.
        overlaps: one for every evaluation set that was given.
        source: what the set is called; here and in the next five, what the caller knows of its loading.
        rows_read: rows of the file, usable or not.
        dropped: rows that could not be used, by reason.
        noted: what is not wrong and still to be known (turns written into a text, false tens), how often.
        rated: whether responses have ratings by attribute, by which false tens are known.
        heldout_dropped: rows of the held-out file that could not be used, and so were compared with nothing.
        missing_sets: evaluation sets that were to be looked for, and whose files are not there.
    """

    scale: tuple[float, float]
    high_score: float
    pairs: int
    ties: int
    identical: int
    empty_chosen: int
    empty_rejected: int
    chosen_below_rejected: int
    chosen_scores: Histogram
    rejected_scores: Histogram
    gaps: Gaps
    rejected_high: Share
    chosen_low: Share
    best_chosen: Share
    best_rejected: Share
    best_all: Share
    characters: Lengths
    tokens: Lengths | None
    turns: Mapping[int, int]
    with_system: int
    duplicates: Duplicates
    leakage: Leakage | None
    overlaps: tuple[Overlap, ...]
    source: str = ""
    rows_read: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    rated: bool = True
    heldout_dropped: int = 0
    missing_sets: tuple[str, ...] = ()

    def left_out(self) -> list[str]:
        """What this profile does not tell, and what would make it."""
        lines = [f"rows: {count} not usable and not counted ({reason})" for reason, count in self.dropped.items()]
        if self.tokens is None:
            lines.append("tokens: not counted; name a tokenizer with --tokenizer")
        if self.best_all.count and self.scale == (1.0, 10.0) and not self.rated:
            lines.append("false tens: not checked; the responses have no ratings by attribute to know them by")
        if self.leakage is None:
            lines.append("leakage: not checked; give the held-out pairs with --heldout")
        if self.heldout_dropped:
            lines.append(f"leakage: {self.heldout_dropped} held-out rows were not usable and not compared")
        if not self.overlaps:
            lines.append("overlap with evaluation prompts: not checked; give them with --against NAME=PATH")
        lines += [f"overlap with {name}: not checked; its file is not there" for name in self.missing_sets]
        return lines

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON types, with `left_out`."""
        document: dict[str, Any] = _plain(dataclasses.asdict(self)) | {"left_out": self.left_out()}
        return document


def _plain(value: Any) -> Any:
    """JSON types: keys become text, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
