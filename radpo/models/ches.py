"""CHES scores: how alike the hidden states of a pair's responses are in the model that training starts from.

Razin et al. 2024 (arXiv 2410.08847, Definition 2): with h_k the last hidden state, after the final norm, from which the
response's k-th token is predicted,

    CHES(x, y+, y-) = < sum_k h_k(y+), sum_k h_k(y-) > - || sum_k h_k(y+) ||^2,

and with means for sums the length-normalised score. The larger, the more is training on the pair predicted to lower the
chosen response itself: likelihood displacement.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.progress import Progress, no_progress
from radpo.models.context import context_of
from radpo.models.heldout import in_chunks, prompt_id
from radpo.models.kernels.chunked import write_chunks
from radpo.models.likelihood import TokenizedResponse, responses, tokenize_pair
from radpo.models.loading import load_model, load_tokenizer

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel


def write_ches(
    model_folder: Path,
    pairs: Iterable[pa.RecordBatch],
    out: Path,
    *,
    total: int,
    max_length: int,
    key: str = "",
    progress: Progress = no_progress,
) -> Path:
    """CHES scores of scored pairs, asked without a goal, to a Parquet file: pair_id, prompt_id, ches, ches_normalised.

    Interrupted, the same call resumes where it stopped.

    Args:
        pairs: scored preferences as a stream of batches; `total` of them.
        max_length: tokens of prompt and response; what is longer, or beyond the model's context, is cut.
        key: the stage's, which names model, pairs and settings; chunks of another are not taken up.
    """
    import pyarrow as pa

    loaded: list[Any] = []

    def rows(number: int, chunk: tuple[list[dict[str, Any]], int]) -> list[dict[str, Any]]:
        if not loaded:
            tokenizer = load_tokenizer(model_folder, with_goal=False)
            model = load_model(model_folder)
            loaded.extend((model, tokenizer, context_of(model, tokenizer).limit(max_length)))
        model, tokenizer, limit = loaded
        found = []
        for pair in chunk[0]:
            tokenized = tokenize_pair(
                tokenizer, pair["prompt"], pair["chosen"], pair["rejected"], name=f"pair {pair['id']!r}"
            )
            sums = [hidden_sum(model, item) for item in responses([tokenized], limit)]
            lengths = [len(item.response_ids) for item in responses([tokenized], limit)]
            found.append(
                {
                    "pair_id": pair["id"], "prompt_id": prompt_id(pair["prompt"]), "ches": ches(*sums),
                    "ches_normalised": ches(*(s / max(n, 1) for s, n in zip(sums, lengths, strict=True))),
                }
            )  # fmt: skip
        return found

    schema = pa.schema(
        [
            ("pair_id", pa.string()),
            ("prompt_id", pa.string()),
            ("ches", pa.float64()),
            ("ches_normalised", pa.float64()),
        ]
    )
    if write_chunks(out, schema, key, in_chunks(pairs), rows, lambda chunk: progress(chunk[1], total)) == 0:
        raise DataError("there are no held-out pairs to measure")
    return out


def ches(chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """<chosen, rejected> - ||chosen||^2 of summed (or mean) hidden states, shape (hidden,) each."""
    return float(chosen @ rejected - chosen @ chosen)


def hidden_sum(model: PreTrainedModel, item: TokenizedResponse) -> torch.Tensor:
    """The sum of the hidden states that predict the response's tokens, shape (hidden,), in float64."""
    import torch

    if not item.response_ids:
        return torch.zeros(model.config.get_text_config().hidden_size, dtype=torch.float64)
    ids = torch.tensor([[*item.prompt_ids, *item.response_ids]], device=model.device)
    with torch.inference_mode():
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    first = len(item.prompt_ids) - 1
    return states[first : first + len(item.response_ids)].double().sum(dim=0).cpu()
