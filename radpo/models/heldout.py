"""Log p of both responses of held-out pairs under a checkpoint, asked with each goal.

Every checkpoint is asked in the same words: the goal is put into the messages and the template's own goal is left out,
so that plain and conditioned checkpoints are measured on equal prompts. Pairs are taken a chunk at a time, so memory
does not grow with their number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.progress import Progress, no_progress
from radpo.models.chat_template import placement_of
from radpo.models.context import context_of
from radpo.models.kept_tokens import tokenised_once
from radpo.models.kernels.chunked import write_chunks
from radpo.models.likelihood import TokenizedPair, log_likelihoods, responses, tokenize_pair
from radpo.models.loading import load_model, load_tokenizer, torch_dtype
from radpo.models.precision import Precision
from radpo.preferences.goals import Placement, Scale, condition, goal_wording

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

GOALS = ("none", "best", "chosen", "rejected")
"""Asked for no goal, for the best score, for the chosen response's score, for the rejected response's score."""
KEY = ("pair_id", "prompt_id", "response", "goal", "score", "tokens", "cut")
_READ = ("id", "prompt", "chosen", "rejected", "score_chosen", "score_rejected")
_Chunk = tuple[list[dict[str, Any]], int]
CHUNK = 64
"""Pairs that are tokenised, scored and written at once: 512 sequences and more, of which like lengths share a batch."""


def heldout_log_likelihoods(
    model_folder: Path,
    pairs: pa.Table,
    *,
    scale: Scale,
    wording: str | None = None,
    max_length: int,
    precision: Precision,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """log p(response | prompt, goal) for both responses of every pair and every goal of `GOALS`, in memory.

    Args:
        pairs: scored preferences (`radpo.preferences.preferences`).
        scale: the lowest and the highest score, which goals state; the highest is the best to ask for.
        wording: how a goal is asked for, `{g}` standing for the score; the paper's sentence unless given.

    Returns:
        A tidy frame: pair_id, prompt_id (equal where prompts are), response (chosen or rejected), goal (of `GOALS`),
        score (the response's), tokens (how many were scored), cut (how many more there were beyond `max_length`, or
        beyond the model's context where that is shorter),
        logp (nats, summed over the scored tokens).
    """
    import pandas as pd

    scorer = _Scorer(model_folder, scale, wording, max_length, precision, None)
    frames, each = [], 2 * len(GOALS)
    for rows, done in in_chunks(pairs.to_batches()):
        told = _within(progress, done - len(rows), pairs.num_rows, each)
        frames.append(pd.DataFrame(scorer.score(rows, told)))
    if not frames:
        raise DataError("there are no held-out pairs to measure")
    return pd.concat(frames, ignore_index=True)


def write_heldout(
    model_folder: Path,
    pairs: Iterable[pa.RecordBatch],
    out: Path,
    *,
    total: int,
    scale: Scale,
    wording: str | None = None,
    max_length: int,
    precision: Precision,
    goals: Sequence[float] | None = None,
    key: str = "",
    progress: Progress = no_progress,
) -> Path:
    """`heldout_log_likelihoods` to a Parquet file, chunk by chunk. Interrupted, the same call resumes where it stopped.

    A file that the same call made is left as it is.

    Args:
        pairs: scored preferences as a stream of batches; `total` of them.
        out: the file; until it is whole, finished chunks are kept in a folder beside it.
        goals: the scores to ask for, named by their numbers, in place of `GOALS`.
        key: the stage's, which names model, pairs and settings; chunks of another are not taken up.
        progress: called with the number of responses, both of every pair with every goal.
    """
    each = 2 * len(GOALS if goals is None else goals)
    scorer: list[_Scorer] = []  # loaded when the first chunk needs it

    def rows(number: int, chunk: _Chunk) -> list[dict[str, Any]]:
        if not scorer:
            scorer.append(_Scorer(model_folder, scale, wording, max_length, precision, goals))
        return scorer[0].score(chunk[0], _within(progress, chunk[1] - len(chunk[0]), total, each))

    def finished(chunk: _Chunk) -> None:
        progress(chunk[1] * each, total * each)

    if write_chunks(out, _schema(), key, in_chunks(pairs), rows, finished) == 0:
        raise DataError("there are no held-out pairs to measure")
    return out


def asked_with_goals(
    pairs: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    placement: Placement,
    scale: Scale,
    wording: str | None = None,
    goals: Sequence[float] | None = None,
) -> tuple[list[dict[str, Any]], list[TokenizedPair]]:
    """Every scored pair asked with every goal: who each response is, and the pairs in tokens.

    Asked again of a like tokenizer, this process remembers (`radpo.models.kept_tokens`).

    Args:
        goals: scores, named by their numbers; unless given, those that `GOALS` names.

    Returns:
        A row a response (pair_id, prompt_id, response, goal, score), two for each of the tokenised pairs.
    """
    wording = wording or goal_wording(scale)
    read = [{name: pair[name] for name in _READ} for pair in pairs]
    asked = [(pair, goal, score) for pair in read for goal, score in _named_goals(pair, scale, goals)]
    rows = [
        {
            "pair_id": pair["id"], "prompt_id": prompt_id(pair["prompt"]), "response": response,
            "goal": goal, "score": pair[f"score_{response}"],
        }
        for pair, goal, _ in asked
        for response in ("chosen", "rejected")
    ]  # fmt: skip

    def tokenise() -> list[TokenizedPair]:
        found = []
        for pair, _, score in asked:
            prompt = condition(pair["prompt"], score, placement, wording)
            found.append(
                tokenize_pair(tokenizer, prompt, pair["chosen"], pair["rejected"], name=f"pair {pair['id']!r}")
            )
        return found

    return rows, tokenised_once(tokenizer, [read, placement, scale, wording, goals], tokenise)


def _named_goals(
    pair: Mapping[str, Any], scale: Scale, goals: Sequence[float] | None
) -> Iterable[tuple[str, float | None]]:
    if goals is not None:
        return ((f"{goal:g}", goal) for goal in goals)
    return zip(GOALS, (None, scale[1], pair["score_chosen"], pair["score_rejected"]), strict=True)


class _Scorer:
    """A loaded checkpoint that scores chunks of pairs."""

    def __init__(
        self,
        folder: Path,
        scale: Scale,
        wording: str | None,
        max_length: int,
        precision: Precision,
        goals: Sequence[float] | None,
    ) -> None:
        import torch

        self._model, self._tokenizer = load_model(folder), load_tokenizer(folder, with_goal=False)
        self._placement = placement_of(self._tokenizer)
        self._scale, self._wording, self._goals = scale, wording, goals
        self._max_length = context_of(self._model, self._tokenizer).limit(max_length)
        self._autocast = torch_dtype(precision) is torch.bfloat16

    def score(self, pairs: list[dict[str, Any]], progress: Progress) -> list[dict[str, Any]]:
        """Rows as `heldout_log_likelihoods` describes."""
        rows, tokenized = asked_with_goals(
            pairs, self._tokenizer, self._placement, self._scale, self._wording, self._goals
        )
        lengths = [len(ids) for pair in tokenized for ids in (pair.chosen_ids, pair.rejected_ids)]
        items = list(responses(tokenized, self._max_length))
        scored = log_likelihoods(self._model, items, autocast=self._autocast, progress=progress)
        return [
            {**row, "tokens": item.tokens, "cut": length - item.tokens, "logp": item.logp}
            for row, item, length in zip(rows, scored, lengths, strict=True)
        ]


def side_by_side(*, policy: Path, reference: Path) -> pd.DataFrame:
    """Two files of `write_heldout` on the same pairs as one frame, with logp_policy and logp_reference.

    Raises:
        DataError: the models were not measured on the same pairs, or their tokenizers differ.
    """
    import pyarrow.parquet as pq

    ours, theirs = pq.read_table(policy), pq.read_table(reference)
    if not ours.select(KEY).equals(theirs.select(KEY)):
        raise DataError(
            f"{policy} and {reference} are of different responses ({ours.num_rows} and {theirs.num_rows}): measure "
            "both models on the same pairs, with the same tokenizer and chat template"
        )
    names = [*KEY, "logp_policy"]
    joined = ours.select([*KEY, "logp"]).rename_columns(names).append_column("logp_reference", theirs["logp"])
    frame: pd.DataFrame = joined.to_pandas()
    return frame


def heldout_reference(frame: pd.DataFrame, relabeled: pa.Table) -> pa.Table:
    """The reference log-likelihoods of relabeled held-out pairs, looked up in what was measured of the reference model.

    Returns:
        As `radpo.training.reference.reference_log_likelihoods`, without the token counts.
    """
    import pyarrow as pa

    logps = frame.set_index(["pair_id", "goal", "response"])["logp"].to_dict()
    chosen, rejected = [], []
    for row in relabeled.select(["source_id", "side"]).to_pylist():
        # Asked for the rejected's score, the responses have changed places.
        better, worse = ("rejected", "chosen") if row["side"] == "rejected" else ("chosen", "rejected")
        goal = "none" if row["side"] == "plain" else row["side"]
        chosen.append(logps[row["source_id"], goal, better])
        rejected.append(logps[row["source_id"], goal, worse])
    return pa.table({"id": relabeled["id"], "ref_chosen_logps": chosen, "ref_rejected_logps": rejected})


def in_chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[_Chunk]:
    """Chunks of `CHUNK` pairs, each with how many pairs there are up to its end."""
    done = 0
    held: list[dict[str, Any]] = []
    for batch in batches:
        for start in range(0, batch.num_rows, CHUNK):
            held += batch.slice(start, CHUNK).to_pylist()
            while len(held) >= CHUNK:
                chunk, held = held[:CHUNK], held[CHUNK:]
                done += CHUNK
                yield chunk, done
    if held:
        yield held, done + len(held)


def _within(progress: Progress, before: int, total: int, each: int) -> Progress:
    """Tells of the responses of some pairs, `each` of a pair, as part of those of all, `before` of which are done."""
    return lambda done, _: progress(before * each + done, total * each)


def prompt_id(prompt: list[dict[str, str]]) -> str:
    """A short name for a prompt, equal where the messages are."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:16]


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int64()
    kinds = [text, text, text, text, number, count, count, number]
    return pa.schema(list(zip((*KEY, "logp"), kinds, strict=True)))
