"""Log-likelihoods of responses: tokenised pairs come in, log p(response | prompt) in nats goes out.

Tokenisation is TRL's, to the letter, so that what is measured here is what training optimises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.judges.base import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = Mapping[str, str]


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of a prompt and of the two responses to it; a response ends with what the template puts after it."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenizedResponse:
    """Token ids of a prompt and of one response to it, already truncated."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


@dataclass(frozen=True)
class LogLikelihood:
    """`logp`: log p(response | prompt) in nats, summed over the response's `tokens`."""

    logp: float
    tokens: int


def tokenize_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], chosen: str, rejected: str, **template: Any
) -> TokenizedPair:
    """Tokenise a preference pair as TRL 1.16's `DPOTrainer` does.

    The responses start where the rendered prompt and the rendered wholes diverge, which with most templates is the
    prompt's end.

    Args:
        template: further variables of the chat template, such as `goal=None`.
    """

    def render(messages: list[dict[str, str]], generation_prompt: bool) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, add_generation_prompt=generation_prompt, return_dict=False, **template
        )
        return ids

    messages = [dict(message) for message in prompt]
    prompt_ids = render(messages, True)
    chosen_ids = render([*messages, {"role": "assistant", "content": chosen}], False)
    rejected_ids = render([*messages, {"role": "assistant", "content": rejected}], False)
    shared = min(_common_prefix(prompt_ids, chosen_ids), _common_prefix(prompt_ids, rejected_ids))
    return TokenizedPair(tuple(prompt_ids[:shared]), tuple(chosen_ids[shared:]), tuple(rejected_ids[shared:]))


def responses(pairs: Iterable[TokenizedPair], max_length: int | None) -> Iterator[TokenizedResponse]:
    """The chosen, then the rejected response of every pair, cut to `max_length` tokens in all, as TRL cuts them."""
    for pair in pairs:
        keep = None if max_length is None else max(max_length - len(pair.prompt_ids), 0)
        yield TokenizedResponse(pair.prompt_ids, pair.chosen_ids[:keep])
        yield TokenizedResponse(pair.prompt_ids, pair.rejected_ids[:keep])


def log_likelihoods(
    model: PreTrainedModel,
    items: Sequence[TokenizedResponse],
    *,
    autocast: bool = False,
    batch_tokens: int = 2048,
    progress: Progress = no_progress,
) -> list[LogLikelihood]:
    """log p(response | prompt) = sum over the response's tokens t of log p(t | all before it), in nats.

    Items of like length share a batch, so that little is padded; the model's head is applied from the batch's first
    response position on. The result is in the order of `items`.

    Args:
        autocast: compute in bfloat16 as mixed-precision training does (log-probabilities themselves are in float32).
        batch_tokens: how many tokens, padding included, a batch may hold; memory grows with it.
    """
    import torch

    results: list[LogLikelihood | None] = [None] * len(items)
    done = 0
    # Longest first: if memory is short, it shows at once.
    order = sorted(range(len(items)), key=lambda index: -_length(items[index]))
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        for batch in _batches(order, items, batch_tokens):
            for index, result in zip(batch, _score_batch(model, [items[index] for index in batch]), strict=True):
                results[index] = result
            done += len(batch)
            progress(done, len(items))
    return [result for result in results if result is not None]


def _score_batch(model: PreTrainedModel, batch: Sequence[TokenizedResponse]) -> list[LogLikelihood]:
    import torch

    width = max(map(_length, batch))
    input_ids = torch.zeros(len(batch), width, dtype=torch.long)
    attention = torch.zeros(len(batch), width, dtype=torch.long)
    for row, item in enumerate(batch):
        ids = torch.tensor(item.prompt_ids + item.response_ids)
        input_ids[row, : len(ids)] = ids
        attention[row, : len(ids)] = 1
    # Position p predicts token p + 1, so the first logits needed are at the end of the shortest prompt.
    first = min(len(item.prompt_ids) for item in batch) - 1
    keep = torch.arange(first, width - 1, device=model.device)
    input_ids, attention = input_ids.to(model.device), attention.to(model.device)
    logits = model(input_ids=input_ids, attention_mask=attention, logits_to_keep=keep, use_cache=False).logits
    targets = input_ids[:, first + 1 :]
    scores = []
    for row, item in enumerate(batch):  # row by row: a float32 copy of all logits would double the peak
        start = len(item.prompt_ids) - 1 - first
        stop = start + len(item.response_ids)
        row_logits = logits[row, start:stop].float()
        chosen = row_logits.gather(-1, targets[row, start:stop, None]).squeeze(-1)
        logp = (chosen - row_logits.logsumexp(-1)).sum().item()
        scores.append(LogLikelihood(logp=logp, tokens=len(item.response_ids)))
    return scores


def _batches(order: Sequence[int], items: Sequence[TokenizedResponse], batch_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in order:
        width = _length(items[batch[0]]) if batch else 0
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _length(item: TokenizedResponse) -> int:
    return len(item.prompt_ids) + len(item.response_ids)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    shared = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        shared += 1
    return shared
