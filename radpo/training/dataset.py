"""The trainer's data set, from training pairs and their log-likelihoods under the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo.core.errors import DataError
from radpo.models.chat_template import held_control_tokens

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")


def training_dataset(pairs: pa.Table, reference: pa.Table) -> Dataset:
    """id, token ids and reference log-likelihoods of every pair, as TRL's `DPOTrainer` names them, and gap in score.

    Args:
        pairs: a relabeled table (`radpo.preferences.relabel`).
        reference: `radpo.training.reference.reference_log_likelihoods` of the same pairs, row for row.

    Raises:
        DataError: the two are not of the same pairs.
    """
    import pyarrow.compute as pc
    from datasets import Dataset

    if not pairs["id"].combine_chunks().equals(reference["id"].combine_chunks()):
        raise DataError(
            "the reference log-likelihoods belong to other pairs: their ids differ from the training pairs'"
        )
    gap = pc.subtract(pairs["score_chosen"], pairs["score_rejected"])
    return Dataset(reference.select(["id", *COLUMNS]).append_column("gap", gap))


def pair_notes(what: str, pairs: pa.Table, data: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
    """Sentences on pairs that teach nothing, or hold what could be taken for the conversation's structure.

    Args:
        what: what the pairs are called.
        pairs: the training pairs as text.
        data: those of them that are trained on, in tokens.
        limit: tokens of prompt and response together; the rest is cut.
    """
    notes = []
    if alike := _alike_when_cut(data, limit):
        notes.append(
            f"{alike} of {len(data)} {what} pairs have responses that are equal up to where they are cut "
            f"({limit} tokens with the prompt), and teach nothing."
        )
    holding, held = _holding_control_tokens(pairs, tokenizer)
    if holding:
        shown = ", ".join(sorted(held)[:5]) + (", ..." if len(held) > 5 else "")
        notes.append(
            f"{holding} of {pairs.num_rows} {what} pairs hold the tokenizer's own control tokens in their texts "
            f"({shown}); there, they were read as text."
        )
    return notes


def _alike_when_cut(data: Dataset, limit: int) -> int:
    """How many pairs' responses are equal in the tokens that are trained on."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = data.with_format("arrow")[:]
    prompt, chosen, rejected = (
        pc.list_value_length(columns[name]).to_numpy() for name in ("prompt_ids", "chosen_ids", "rejected_ids")
    )
    keep = np.maximum(limit - prompt, 0)
    places = np.flatnonzero(np.minimum(chosen, keep) == np.minimum(rejected, keep))
    rows = columns.take(pa.array(places)).select(["chosen_ids", "rejected_ids"]).to_pylist()
    return sum(
        row["chosen_ids"][:length] == row["rejected_ids"][:length]
        for row, length in zip(rows, keep[places], strict=True)
    )


def _holding_control_tokens(pairs: pa.Table, tokenizer: PreTrainedTokenizerBase) -> tuple[int, set[str]]:
    """How many pairs hold control tokens in their texts, and which."""
    count, held = 0, set[str]()
    for batch in pairs.select(["prompt", "chosen", "rejected"]).to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            texts = [*(message["content"] for message in row["prompt"]), row["chosen"], row["rejected"]]
            found = held_control_tokens(tokenizer, texts)
            count += bool(found)
            held |= found
    return count, held
