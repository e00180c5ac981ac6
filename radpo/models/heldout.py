"""Held-out pairs and a checkpoint come in; log p of both responses, asked with each goal, goes out.

Every checkpoint is asked in the same words: the goal is put into the messages and the template's own goal is left out,
so that plain and conditioned checkpoints are measured on equal prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from radpo.data.goals import condition, detect_placement, original_template
from radpo.judges.base import Progress, no_progress
from radpo.models.likelihood import log_likelihoods, responses, tokenize_pair
from radpo.models.loading import Precision, load_model, load_tokenizer, torch_dtype

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

GOALS = ("none", "best", "chosen", "rejected")
"""Asked for no goal, for the best score, for the chosen response's score, for the rejected response's score."""


def heldout_log_likelihoods(
    model_folder: Path,
    pairs: pa.Table,
    *,
    best: float,
    max_length: int,
    precision: Precision,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """log p(response | prompt, goal) for both responses of every pair and every goal of `GOALS`.

    Args:
        pairs: scored preferences (`radpo.data.preferences`).
        best: the highest score of the scale.

    Returns:
        A tidy frame: pair_id, response (chosen or rejected), goal (of `GOALS`), score (the response's), tokens,
        logp (nats, summed over the response's tokens).
    """
    import pandas as pd
    import torch

    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    tokenizer.chat_template = original_template(str(tokenizer.chat_template))
    placement = detect_placement(tokenizer.chat_template)
    rows, tokenized = [], []
    for pair in pairs.to_pylist():
        scores = {"none": None, "best": best, "chosen": pair["score_chosen"], "rejected": pair["score_rejected"]}
        for goal in GOALS:
            prompt = condition(pair["prompt"], scores[goal], placement)
            tokenized.append(tokenize_pair(tokenizer, prompt, pair["chosen"], pair["rejected"]))
            rows += [
                {"pair_id": pair["id"], "response": response, "goal": goal, "score": pair[f"score_{response}"]}
                for response in ("chosen", "rejected")
            ]
    autocast = torch_dtype(precision) is torch.bfloat16
    scored = log_likelihoods(model, list(responses(tokenized, max_length)), autocast=autocast, progress=progress)
    return pd.DataFrame(rows).assign(tokens=[item.tokens for item in scored], logp=[item.logp for item in scored])


def heldout_change(
    policy_folder: Path,
    reference_folder: Path,
    pairs: pa.Table,
    *,
    best: float,
    max_length: int,
    precision: Precision = "float32",
    progress: tuple[Progress, Progress] = (no_progress, no_progress),
) -> pd.DataFrame:
    """Both models' log-likelihoods side by side: `heldout_log_likelihoods` with logp_policy and logp_reference.

    Args:
        progress: told of the reference's work, and of the policy's.
    """
    frames = [
        heldout_log_likelihoods(folder, pairs, best=best, max_length=max_length, precision=precision, progress=told)
        for folder, told in zip((reference_folder, policy_folder), progress, strict=True)
    ]
    return side_by_side(policy=frames[1], reference=frames[0])


def side_by_side(*, policy: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Two frames of `heldout_log_likelihoods` on the same pairs as one, with logp_policy and logp_reference."""
    key = ["pair_id", "response", "goal", "score", "tokens"]
    named = policy.rename(columns={"logp": "logp_policy"})
    return named.merge(reference.rename(columns={"logp": "logp_reference"}), on=key, validate="one_to_one")


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
