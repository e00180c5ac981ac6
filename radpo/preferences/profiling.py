"""Profiling a preference set in one pass over batches of scored pairs (`radpo.preferences.profile.Profile`).

Only numbers, ids and digests are kept of each pair, never its text, so memory does not grow with the texts. Nothing is
taken for granted that a lenient loader lets through: identical pairs, empty responses and swapped scores are counted.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import DataError
from radpo.core.progress import Progress, no_progress
from radpo.preferences.overlap import EXAMPLES, EvaluationPrompts, OverlapTally
from radpo.preferences.profile import QUANTILES, Duplicates, Gaps, Histogram, Leakage, Lengths, Profile, Share, Spread

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
LARGEST = 3
"""So many of the largest groups of equal prompts are shown by their ids."""
PIECE = 1_000
"""Pairs looked at together: their texts are in memory twice for as long."""
TEXTS = ("prompt", "chosen", "rejected")


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
        batches: with the columns that `radpo.preferences.preferences` gives; how they are cut does not matter.
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
    contents = (" ".join(message["content"].casefold().split()) for message in prompt)
    joined = "\n".join(f"{message['role']}\n{text}" for message, text in zip(prompt, contents, strict=True))
    return hashlib.blake2b(joined.encode(), digest_size=16).digest()


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
    # Lengths are whole numbers, so the last bin's closed end, which the longest is below, catches none.
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
