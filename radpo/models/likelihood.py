"""Log-likelihoods of responses, log p(response | prompt), in nats.

Tokenisation is TRL's, to the letter, so that what is measured here is what training optimises; only control tokens in a
text are not, which TRL takes for turns of the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from radpo.core.progress import Progress, no_progress
from radpo.models.chat_template import render_tokens
from radpo.models.context import context_of
from radpo.models.kernels.branch_attention import reading
from radpo.models.kernels.head import check_head, target_log_probs
from radpo.models.shared_prefix import IGNORED, shared_prefix_unsupported_reason, shared_rows

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
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    chosen: str,
    rejected: str,
    *,
    name: str = "",
    **template: Any,
) -> TokenizedPair:
    """Tokenise a preference pair as TRL 1.16's `DPOTrainer` does.

    The responses start where the rendered prompt and the rendered wholes diverge, which with most templates is the
    prompt's end. Control tokens in the texts are read as text (`radpo.models.chat_template.render_tokens`).

    Args:
        name: what the pair is called, for messages.
        template: further variables of the chat template, such as `goal=None`.

    Raises:
        ModelError: the chat template refuses the conversation.
    """

    def render(messages: list[dict[str, str]], generation_prompt: bool) -> list[int]:
        return render_tokens(tokenizer, messages, generation_prompt=generation_prompt, name=name, **template)

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

    Responses to one prompt share a row in which the prompt is read once (`radpo.models.shared_prefix`), rows of like
    length share a batch, and the model's head is applied where a response's token is predicted. A model whose attention
    cannot take the mask reads every response in a row of its own, which gives the same figures. The result is in the
    order of `items`.

    Args:
        autocast: compute in bfloat16 as mixed-precision training does (log-probabilities themselves are in float32).
        batch_tokens: how many tokens, padding included, a batch may hold; memory grows with it.

    Raises:
        DataError: a prompt has no token.
        ModelError: a sequence is longer than a table of learned positions, or the model's head is of an unknown kind.
    """
    import torch

    if hasattr(model, "get_base_model"):  # adapters stand in the base model's own modules
        model = model.get_base_model()
    longest = max((len(item.prompt_ids) + len(item.response_ids) for item in items if item.response_ids), default=0)
    context_of(model).check(longest, "cut prompts and responses to it with max_length")
    shared = _shares(model)
    rows = sorted(_rows(items, batch_tokens if shared else 0), key=lambda row: -row.width)
    logps = [0.0] * len(items)
    done = sum(not item.response_ids for item in items)
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        for batch in _batches(rows, batch_tokens):
            for row, sums in zip(batch, _score(model, batch, items, shared), strict=True):
                for index, logp in zip(row.members, sums, strict=True):
                    logps[index] = logp
            done += sum(len(row.members) for row in batch)
            progress(done, len(items))
    return [LogLikelihood(logp, len(item.response_ids)) for logp, item in zip(logps, items, strict=True)]


_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _shares(model: PreTrainedModel) -> bool:
    """Whether a model can read several responses in one row; tried out once for every model, as its head is."""
    if model not in _TRIED:
        check_head(model)
        _TRIED[model] = shared_prefix_unsupported_reason(model) is None
    return _TRIED[model]


@dataclass(frozen=True)
class _Row:
    """Items, by their places, that have one prompt and are read together; `width` is in tokens."""

    members: list[int]
    width: int


def _rows(items: Sequence[TokenizedResponse], most: int) -> Iterator[_Row]:
    """Items with equal prompts, as many in a row as `most` tokens hold, but at least one."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        if not item.response_ids:  # log p of nothing is 0, and its prompt may be longer than the model can read
            continue
        by_prompt.setdefault(item.prompt_ids, []).append(index)
    for prompt, members in by_prompt.items():
        row, width = [members[0]], len(prompt) - 1 + len(items[members[0]].response_ids)
        for index in members[1:]:
            length = len(items[index].response_ids)
            if width + length > most:
                yield _Row(row, width)
                row, width = [], len(prompt) - 1
            row.append(index)
            width += length
        yield _Row(row, width)


def _score(
    model: PreTrainedModel, batch: Sequence[_Row], items: Sequence[TokenizedResponse], shared: bool
) -> list[list[float]]:
    """log p of every response of every row."""
    import torch

    rows = shared_rows(
        [items[row.members[0]].prompt_ids for row in batch],
        [[items[index].response_ids for index in row.members] for row in batch],
    ).to(model.device)
    config = model.config.get_text_config()
    plain = {"input_ids": rows.input_ids, "attention_mask": (rows.branch >= 0).long()}
    laid, inputs = reading(rows, config, model.dtype) if shared else (rows, plain)
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
    predicting = laid.labels != IGNORED
    logps = torch.zeros(rows.labels.shape, dtype=torch.float32, device=model.device)
    logps[rows.labels != IGNORED] = target_log_probs(model, hidden[predicting], laid.labels[predicting])
    return [
        [float(logp[branch == number].sum(dtype=torch.float64)) for number in range(1, len(row.members) + 1)]
        for row, logp, branch in zip(batch, logps, rows.branch, strict=True)
    ]


def _batches(rows: Sequence[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    """Neighbouring rows, as many as a batch holds when all are padded to the first one's width."""
    batch: list[_Row] = []
    for row in rows:
        if batch and batch[0].width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    shared = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        shared += 1
    return shared
