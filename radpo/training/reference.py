"""Reference log-likelihoods: log p of both responses of each training pair.

They depend on neither seed, beta, loss nor learning rate, so they are computed once for all runs on the same pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError, ModelError
from radpo.core.progress import Progress, no_progress
from radpo.models.context import context_of, saved_context
from radpo.models.kept_tokens import tokenised_once
from radpo.models.likelihood import TokenizedPair, log_likelihoods, responses, tokenize_pair
from radpo.models.loading import load_model, load_tokenizer, torch_dtype
from radpo.models.precision import Precision

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


def reference_log_likelihoods(
    model_folder: Path,
    pairs: pa.Table,
    *,
    max_length: int,
    precision: Precision,
    stop_at_overlong: str | None = None,
    progress: Progress = no_progress,
) -> pa.Table:
    """log p(chosen | prompt) and log p(rejected | prompt) under the reference model, in nats.

    Args:
        pairs: id, prompt (messages, with goals if any), chosen and rejected, as in a relabeled table
            (`radpo.preferences.relabel`).
        precision: as training's, so that policy and reference agree before the first step.
        stop_at_overlong: what to call the pairs, where training stops at prompts that leave no room for a response:
            then this stops, too, before the model is loaded.

    Raises:
        DataError: there are such prompts.

    Returns:
        A table row for row as `pairs`, with columns id; prompt_ids, chosen_ids, rejected_ids (tokens, not truncated);
        ref_chosen_logps, ref_rejected_logps, and chosen_tokens, rejected_tokens (what of the responses max_length,
        or the model's context where it is shorter, leaves, which is what was scored).
    """
    import numpy as np
    import pyarrow as pa
    import torch

    tokenizer = load_tokenizer(model_folder, with_goal=False)
    tokenized = tokenize_pairs(tokenizer, pairs)  # before the model is loaded: what is refused is known at once
    if stop_at_overlong is not None:
        lengths = np.array([len(pair.prompt_ids) for pair in tokenized], dtype=np.int64)
        check_room(stop_at_overlong, lengths, saved_context(model_folder, tokenizer).limit(max_length), max_length)
    model = load_model(model_folder)
    autocast = torch_dtype(precision) is torch.bfloat16
    items = list(responses(tokenized, context_of(model, tokenizer).limit(max_length)))
    scored = log_likelihoods(model, items, autocast=autocast, progress=progress)
    chosen, rejected = scored[::2], scored[1::2]
    logps = pa.table(
        {
            "id": pairs["id"],
            "ref_chosen_logps": [item.logp for item in chosen],
            "ref_rejected_logps": [item.logp for item in rejected],
            "chosen_tokens": [item.tokens for item in chosen],
            "rejected_tokens": [item.tokens for item in rejected],
        }
    )
    return _with_token_ids(logps, tokenized)


def prompts_without_room(what: str, lengths: Any, limit: int, max_length: int) -> str:
    """What to say of pairs, shape (n,) of prompt lengths, whose prompt fills the limit of tokens."""
    length = f"{limit} tokens (the model's context)" if limit < max_length else f"max_length ({limit}) tokens"
    return (
        f"{(lengths >= limit).sum()} of {len(lengths)} {what} pairs have a prompt of {length} or more, goal included, "
        "which leaves no response to learn from"
    )


def check_room(what: str, lengths: Any, limit: int, max_length: int) -> None:
    """See that every prompt leaves room for a response.

    Raises:
        DataError: some do not.
    """
    if (lengths >= limit).any():
        instead = "" if limit < max_length else "raise max_length, or "
        raise DataError(
            f"{prompts_without_room(what, lengths, limit, max_length)}; {instead}leave them out with "
            "overlong_prompts: drop"
        )


def known_log_likelihoods(model_folder: Path, pairs: pa.Table, logps: pa.Table) -> pa.Table:
    """`reference_log_likelihoods` from log-likelihoods that were measured before.

    The tokens of like pairs are remembered: every training of a matrix is watched on the same ones.

    Args:
        logps: id, ref_chosen_logps and ref_rejected_logps, row for row as `pairs`.
    """
    tokenizer = load_tokenizer(model_folder, with_goal=False)
    rows = pairs.select(["id", "prompt", "chosen", "rejected"])
    tokenized = tokenised_once(tokenizer, rows.to_pylist(), lambda: tokenize_pairs(tokenizer, rows))
    return _with_token_ids(logps, tokenized)


def with_log_likelihoods(
    scored: pa.Table,
    policy_folder: Path,
    reference_folder: Path,
    *,
    max_length: int,
    precision: Precision,
    progress: Progress = no_progress,
) -> pa.Table:
    """Scored pairs with what implicit rewards are made of: `radpo.preferences.rows.LOG_LIKELIHOODS`, in nats.

    Args:
        scored: scored pairs (`radpo.preferences.preferences`); asked without a goal.
    """
    for number, (who, folder) in enumerate({"policy": policy_folder, "reference": reference_folder}.items()):
        found = reference_log_likelihoods(
            folder,
            scored,
            max_length=max_length,
            precision=precision,
            progress=lambda done, total, before=number: progress(before * total + done, 2 * total),  # type: ignore[misc]
        )
        for side in ("chosen", "rejected"):
            scored = scored.append_column(f"{who}_logp_{side}", found[f"ref_{side}_logps"])
    return scored


def _with_token_ids(logps: pa.Table, tokenized: list[TokenizedPair]) -> pa.Table:
    import pyarrow as pa

    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        ids = pa.array([getattr(pair, column) for pair in tokenized], pa.list_(pa.int32()))
        logps = logps.append_column(column, ids)
    return logps


def tokenize_pairs(tokenizer: PreTrainedTokenizerBase, pairs: pa.Table) -> list[TokenizedPair]:
    """Every pair of a relabeled table in tokens.

    Raises:
        ModelError: the chat template refuses some; the message names the first and says how many there are.
    """
    tokenized, refused = [], []
    for batch in pairs.select(["id", "prompt", "chosen", "rejected"]).to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            name = f"pair {row['id']!r}"
            try:
                tokenized.append(tokenize_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"], name=name))
            except ModelError as error:
                refused.append(error)
    if len(refused) > 1:
        raise ModelError(f"{refused[0]} (and so with {len(refused)} of {pairs.num_rows} pairs)") from refused[0]
    if refused:
        raise refused[0]
    return tokenized
