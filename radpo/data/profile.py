"""What is in a preference set: batches of scored pairs come in once, a `Profile` of counts and distributions goes out.

Only numbers, ids and digests are kept of each pair, never its text, so memory does not grow with the texts. Nothing is
taken for granted that a lenient loader lets through: identical pairs, empty responses and swapped scores are counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from radpo.data.overlap import EXAMPLES, EvaluationPrompts, Overlap, OverlapTally, not_checked
from radpo.errors import DataError
from radpo.judges.base import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    Floats = npt.NDArray[np.float64]
    Counts = npt.NDArray[np.int64]

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Texts come in, how many tokens each has goes out."""

BY_VALUE = 40
"""Up to so many distinct values are counted one by one."""
BINS = 20
QUANTILES = (1, 5, 25, 50, 75, 95, 99)
"""The quantiles of lengths, in percent."""
LARGEST = 3
"""So many of the largest groups of equal prompts are shown by their ids."""
PIECE = 1_000
"""Pairs looked at together: their texts are in memory twice for as long."""
TEXTS = ("prompt", "chosen", "rejected")


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
        source: what the set is called; here and in the next three, what the caller knows of its loading.
        rows_read: rows of the file, usable or not.
        dropped: rows that could not be used, by reason.
        heldout_dropped: rows of the held-out file that could not be used, and so were compared with nothing.
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
    heldout_dropped: int = 0

    def left_out(self) -> list[str]:
        """What this profile does not tell, and what would make it."""
        lines = [f"rows: {count} not usable and not counted ({reason})" for reason, count in self.dropped.items()]
        if self.tokens is None:
            lines.append("tokens: not counted; name a tokenizer with --tokenizer")
        if self.leakage is None:
            lines.append("leakage: not checked; give the held-out pairs with --heldout")
        if self.heldout_dropped:
            lines.append(f"leakage: {self.heldout_dropped} held-out rows were not usable and not compared")
        missing = not_checked(overlap.name for overlap in self.overlaps)
        lines += [f"overlap with {name}: not checked; give its prompts with --against {name}=PATH" for name in missing]
        return lines

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON types, with `left_out`."""
        document: dict[str, Any] = _plain(dataclasses.asdict(self)) | {"left_out": self.left_out()}
        return document


def profile(
    batches: Iterable[pa.RecordBatch | pa.Table],
    *,
    scale: tuple[float, float] = (1.0, 10.0),
    high_score: float = 5.0,
    heldout: Iterable[pa.RecordBatch | pa.Table] | None = None,
    evaluation: EvaluationPrompts | None = None,
    count_tokens: CountTokens | None = None,
    total: int | None = None,
    progress: Progress = no_progress,
) -> Profile:
    """Describe a preference set in one pass.

    Args:
        batches: with the columns that `radpo.data.preferences` gives; how they are cut does not matter.
        scale: the lowest and the highest score there can be.
        high_score: from this score on, a response counts as high-scored.
        heldout: held-out pairs in the same form; only their prompts are read.
        evaluation: evaluation prompts to look for in the set's prompts.
        count_tokens: as `token_counter` makes it; called with at most PIECE responses at once.
        total: how many pairs will come, where that is known; progress is reported only then.

    Raises:
        DataError: there are no pairs.
    """
    heldout_prompts = {_digest(p) for piece in _pieces(heldout or ()) for p in piece.column("prompt").to_pylist()}
    gathered = _Gathered(heldout_prompts, evaluation, count_tokens)
    for piece in _pieces(batches):
        gathered.add(piece)
        if total is not None:
            progress(len(gathered.ids), total)
    pairs = len(gathered.ids)
    if not pairs:
        raise DataError("there are no pairs to describe; `radpo data validate` says why rows cannot be used")
    chosen, rejected = gathered.joined("score_chosen"), gathered.joined("score_rejected")
    # Rounded, so that 7.3 - 6.1 and 8.3 - 7.1 are the same gap; adding 0 makes a rounded -0.0 into 0.0.
    gaps = (chosen - rejected).round(9) + 0.0
    histograms = _histograms(chosen, rejected)
    best_chosen, best_rejected = int((chosen == scale[1]).sum()), int((rejected == scale[1]).sum())
    best_all = best_chosen + best_rejected
    return Profile(
        scale=scale,
        high_score=high_score,
        pairs=pairs,
        ties=int((chosen == rejected).sum()),
        identical=gathered.counts["identical"],
        empty_chosen=gathered.counts["empty chosen"],
        empty_rejected=gathered.counts["empty rejected"],
        chosen_below_rejected=int((chosen < rejected).sum()),
        chosen_scores=histograms[0],
        rejected_scores=histograms[1],
        gaps=_gaps(gaps),
        rejected_high=_share(int((rejected >= high_score).sum()), pairs),
        chosen_low=_share(int((chosen < high_score).sum()), pairs),
        best_chosen=_share(best_chosen, pairs),
        best_rejected=_share(best_rejected, pairs),
        best_all=Share(best_all, 2 * pairs, best_all / (2 * pairs), None, None),
        characters=_lengths("characters", gathered, gaps),
        tokens=_lengths("tokens", gathered, gaps) if count_tokens else None,
        turns=dict(sorted(gathered.turns.items())),
        with_system=gathered.counts["with system"],
        duplicates=_duplicates(gathered),
        leakage=None if heldout is None else gathered.leakage(),
        overlaps=gathered.tally.overlaps() if gathered.tally else (),
    )


def token_counter(tokenizer: PreTrainedTokenizerBase) -> CountTokens:
    """Counts tokens with a Hugging Face tokenizer, many texts at once, without special tokens."""

    def count(texts: Sequence[str]) -> list[int]:
        encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        return [len(ids) for ids in encoded["input_ids"]]

    return count


class _Gathered:
    """Everything the profile needs of the pairs seen so far, in arrays of a number a pair."""

    def __init__(
        self, heldout_prompts: set[bytes], evaluation: EvaluationPrompts | None, count_tokens: CountTokens | None
    ) -> None:
        self.ids: list[str] = []
        self.counts: Counter[str] = Counter()
        self.turns: Counter[int] = Counter()
        self.tally = None if evaluation is None else OverlapTally(evaluation)
        self.group_of_pair = array("q")
        """For each pair the number of its prompt, in the order in which different prompts came."""
        self._count_tokens = count_tokens
        self._heldout = heldout_prompts
        self._groups: dict[bytes, int] = {}
        self._leaked: list[str] = []
        self._pieces: dict[str, list[npt.NDArray[Any]]] = {}

    def add(self, piece: pa.RecordBatch) -> None:
        """Take in some pairs."""
        import pyarrow.compute as pc

        ids, prompts = piece.column("id").to_pylist(), piece.column("prompt").to_pylist()
        self.ids += ids
        for column in ("score_chosen", "score_rejected"):
            self._keep(column, piece.column(column).to_numpy(zero_copy_only=False))
        self.counts["identical"] += pc.sum(pc.equal(piece.column("chosen"), piece.column("rejected"))).as_py()
        for side in ("chosen", "rejected"):
            self._keep(f"{side} characters", pc.utf8_length(piece.column(side)).to_numpy())
            blank = pc.equal(pc.utf8_trim_whitespace(piece.column(side)), "")
            self.counts[f"empty {side}"] += pc.sum(blank).as_py()
            if self._count_tokens:
                self._keep(f"{side} tokens", self._count_tokens(piece.column(side).to_pylist()))
        self._keep("prompt characters", [sum(len(message["content"]) for message in prompt) for prompt in prompts])
        if self._count_tokens:
            self._keep("prompt tokens", self._prompt_tokens(prompts))
        for pair_id, prompt in zip(ids, prompts, strict=True):
            self._add_prompt(pair_id, prompt)

    def joined(self, name: str) -> npt.NDArray[Any]:
        """One of the arrays, a number a pair."""
        import numpy as np

        return np.concatenate(self._pieces[name])

    def leakage(self) -> Leakage:
        """What was found of the held-out prompts."""
        shared = len(self._heldout & self._groups.keys())
        return Leakage(len(self._heldout), shared, self.counts["leaked"], tuple(self._leaked))

    def _keep(self, name: str, numbers: Sequence[float] | npt.NDArray[Any]) -> None:
        import numpy as np

        # A copy: Arrow's own buffer would keep the texts beside the numbers in memory.
        kind = np.float64 if name.startswith("score") else np.int64
        self._pieces.setdefault(name, []).append(np.array(numbers, kind))

    def _prompt_tokens(self, prompts: Sequence[Sequence[Mapping[str, str]]]) -> list[int]:
        assert self._count_tokens is not None
        counted = iter(self._count_tokens([message["content"] for prompt in prompts for message in prompt]))
        return [sum(next(counted) for _ in prompt) for prompt in prompts]

    def _add_prompt(self, pair_id: str, prompt: Sequence[Mapping[str, str]]) -> None:
        roles = [message["role"] for message in prompt]
        self.turns[roles.count("user")] += 1
        self.counts["with system"] += "system" in roles
        digest = _digest(prompt)
        self.group_of_pair.append(self._groups.setdefault(digest, len(self._groups)))
        if digest in self._heldout:
            self.counts["leaked"] += 1
            if len(self._leaked) < EXAMPLES:
                self._leaked.append(pair_id)
        if self.tally:
            self.tally.add(pair_id, prompt)


def _pieces(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[pa.RecordBatch]:
    """The same pairs in small batches."""
    import pyarrow as pa

    for given in batches:
        for batch in given.to_batches() if isinstance(given, pa.Table) else (given,):
            for start in range(0, batch.num_rows, PIECE):
                yield batch.slice(start, PIECE)


def _digest(prompt: Iterable[Mapping[str, str]]) -> bytes:
    """16 bytes that are equal where prompts are, but for case and white space; two others share them by no chance."""
    # Normalised text holds no line end, so that none can be mistaken for the next message.
    spoken = (" ".join(message["content"].casefold().split()) for message in prompt)
    said = "\n".join(f"{message['role']}\n{text}" for message, text in zip(prompt, spoken, strict=True))
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


def _share(count: int, n: int) -> Share:
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return Share(count, n, count / n, float(interval.low), float(interval.high))


def _histograms(*samples: Floats) -> list[Histogram]:
    """A histogram of each, all with the same points: their values if there are at most BY_VALUE, else BINS bins."""
    import numpy as np

    values = np.unique(np.concatenate(samples))
    if len(values) <= BY_VALUE:
        counts = [np.bincount(np.searchsorted(values, sample), minlength=len(values)) for sample in samples]
        return [Histogram("value", tuple(values.tolist()), tuple(count.tolist())) for count in counts]
    edges = np.linspace(values[0], values[-1], BINS + 1)
    return [
        Histogram("bin", tuple(edges.tolist()), tuple(np.histogram(sample, edges)[0].tolist())) for sample in samples
    ]


def _gaps(gaps: Floats) -> Gaps:
    import numpy as np

    return Gaps(float(gaps.mean()), float(np.median(gaps)), _histograms(gaps)[0])


def _lengths(unit: Literal["characters", "tokens"], gathered: _Gathered, score_gaps: Floats) -> Lengths:
    lengths = {text: gathered.joined(f"{text} {unit}") for text in TEXTS}
    edges = _length_edges(max(int(found.max()) for found in lengths.values()))
    gaps = lengths["chosen"] - lengths["rejected"]
    return Lengths(
        unit=unit,
        edges=tuple(edges),
        **{text: _spread(found, edges) for text, found in lengths.items()},
        chosen_longer=_share(int((gaps > 0).sum()), len(gaps)),
        equally_long=int((gaps == 0).sum()),
        gap_correlation=_rank_correlation(score_gaps, gaps),
    )


def _length_edges(longest: int) -> list[int]:
    """Whole numbers from 1 to beyond the longest, each the least that is not below a sixth power of ten's root."""
    import math

    edges = [1]
    while edges[-1] <= longest:
        # Rounded before the ceiling: the sixth step must be 10 and not 11.
        edges.append(math.ceil(round(10 ** (len(edges) / 6), 6)))
    return edges if len(edges) > 1 else [1, 2]


def _spread(lengths: Counts, edges: Sequence[int]) -> Spread:
    import numpy as np

    quantiles = dict(zip(QUANTILES, np.percentile(lengths, QUANTILES).tolist(), strict=True))
    # Lengths are whole numbers, so the last bin's closed end, which the longest lies below, catches none.
    counts = np.histogram(lengths, edges)[0]
    return Spread(float(lengths.mean()), int(lengths.max()), quantiles, tuple(counts.tolist()))


def _rank_correlation(x: Floats, y: Counts) -> float | None:
    import numpy as np
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)


def _duplicates(gathered: _Gathered) -> Duplicates:
    import numpy as np

    groups = np.frombuffer(gathered.group_of_pair, np.int64)
    sizes = np.bincount(groups)
    repeated = sizes[sizes > 1]
    largest = [group for group in np.argsort(-sizes, kind="stable")[:LARGEST].tolist() if sizes[group] > 1]
    return Duplicates(
        distinct=len(sizes),
        repeated=len(repeated),
        pairs=int(repeated.sum()),
        largest=int(sizes.max()),
        examples=tuple(
            tuple(gathered.ids[place] for place in np.flatnonzero(groups == group)[:EXAMPLES].tolist())
            for group in largest
        ),
    )


def _plain(value: Any) -> Any:
    """JSON types: keys become text, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
