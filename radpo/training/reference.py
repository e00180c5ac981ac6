"""Reference log-likelihoods: a model and training pairs come in, log p of both responses of each pair goes out.

They depend on neither seed, beta, loss nor learning rate, so they are computed once for all runs on the same pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from radpo.data.goals import original_template
from radpo.judges.base import Progress, no_progress
from radpo.models.likelihood import TokenizedPair, log_likelihoods, responses, tokenize_pair
from radpo.models.loading import Precision, load_model, load_tokenizer, torch_dtype

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


def reference_log_likelihoods(
    model_folder: Path,
    pairs: pa.Table,
    *,
    max_length: int,
    precision: Precision,
    progress: Progress = no_progress,
) -> pa.Table:
    """log p(chosen | prompt) and log p(rejected | prompt) under the reference model, in nats.

    Args:
        pairs: a relabeled table (`radpo.data.relabel`); goals are already in its prompts.
        precision: as training's, so that policy and reference agree before the first step.

    Returns:
        A table row for row as `pairs`, with columns id; prompt_ids, chosen_ids, rejected_ids (tokens, not truncated);
        ref_chosen_logps, ref_rejected_logps, and chosen_tokens, rejected_tokens (what of the responses max_length
        leaves, which is what was scored).
    """
    import pyarrow as pa
    import torch

    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    tokenizer.chat_template = original_template(str(tokenizer.chat_template))
    tokenized = tokenize_pairs(tokenizer, pairs)
    autocast = torch_dtype(precision) is torch.bfloat16
    scored = log_likelihoods(model, list(responses(tokenized, max_length)), autocast=autocast, progress=progress)
    chosen, rejected = scored[::2], scored[1::2]
    token_ids = pa.list_(pa.int32())
    return pa.table(
        {
            "id": pairs["id"],
            "prompt_ids": pa.array([pair.prompt_ids for pair in tokenized], token_ids),
            "chosen_ids": pa.array([pair.chosen_ids for pair in tokenized], token_ids),
            "rejected_ids": pa.array([pair.rejected_ids for pair in tokenized], token_ids),
            "ref_chosen_logps": [item.logp for item in chosen],
            "ref_rejected_logps": [item.logp for item in rejected],
            "chosen_tokens": [item.tokens for item in chosen],
            "rejected_tokens": [item.tokens for item in rejected],
        }
    )


def tokenize_pairs(tokenizer: PreTrainedTokenizerBase, pairs: pa.Table) -> list[TokenizedPair]:
    """Every pair of a relabeled table in tokens."""
    return [
        tokenize_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"])
        for batch in pairs.select(["prompt", "chosen", "rejected"]).to_batches(max_chunksize=1000)
        for row in batch.to_pylist()
    ]
