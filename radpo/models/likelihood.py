"""Log-likelihoods of responses, log p(response | prompt), in nats.

Tokenisation is TRL's, to the letter, so that what is measured here is what training optimises; only control tokens in a
text are not, which TRL takes for turns of the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from radpo.core.allocator import keeping_freed_memory
from radpo.core.progress import Progress, no_progress
from radpo.models.chat_template import render_tokens
from radpo.models.context import context_of
from radpo.models.kernels.branch_attention import reading
from radpo.models.kernels.head import check_head, target_log_probs
from radpo.models.loading import without_adapters
from radpo.models.shared_prefix import IGNORED, grouped_rows, shared_prefix_unsupported_reason

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
    """`logp`: log p(response | prompt) in nats, summed over the response's `tokens`.

    `greedy`: whether each of these is the likeliest after those before it, so that greedy decoding begins with them.
    """

    logp: float
    tokens: int
    greedy: bool


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

    The result is in the order of `items`; `scored` says how they are read.

    Args:
        autocast: compute in bfloat16 as mixed-precision training does (log-probabilities themselves are in float32).
        batch_tokens: how many tokens, padding included, a batch may hold; memory grows with it.

    Raises:
        DataError: a prompt has no token.
        ModelError: a sequence is longer than a table of learned positions, or the model's head is of an unknown kind.
    """
    found: dict[int, LogLikelihood] = {}
    for batch in scored(model, items, autocast=autocast, batch_tokens=batch_tokens):
        found |= batch
        progress(len(found), len(items))
    return [found[index] for index in range(len(items))]


def scored(
    model: PreTrainedModel, items: Sequence[TokenizedResponse], *, autocast: bool = False, batch_tokens: int = 2048
) -> Iterator[dict[int, LogLikelihood]]:
    """What `log_likelihoods` finds, batch by batch, by the items' places.

    Responses to one prompt share a row in which the prompt is read once, and so do prompts that begin alike, such as
    questions after the same examples (`radpo.models.shared_prefix`). Rows of like length share a batch, equal items are
    read once, and the model's head is applied where a response's token is predicted. A model whose attention cannot
    take the mask reads every response in a row of its own, which gives the same figures.
    """
    import torch

    model = without_adapters(model)
    # the last token is predicted and not read
    longest = max((len(item.prompt_ids) + len(item.response_ids) - 1 for item in items if item.response_ids), default=0)
    context_of(model).check(longest, "cut prompts and responses to it with max_length")
    places: dict[TokenizedResponse, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item, []).append(place)
    # log p of nothing is 0, and its prompt may be longer than the model can read
    yield {place: LogLikelihood(0.0, 0, True) for item, at in places.items() if not item.response_ids for place in at}
    shared = reads_several_in_a_row(model)
    rows = _rows([item for item in places if item.response_ids], batch_tokens if shared else 0)
    with keeping_freed_memory():
        for batch in _batches(sorted(rows, key=lambda row: -row.width), batch_tokens):
            with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
                found = _score(model, batch, shared)
            yield {place: logp for item, logp in found for place in places[item]}


_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def reads_several_in_a_row(model: PreTrainedModel) -> bool:
    """Whether a model can read several responses in one row; tried out once for every model, as its head is.

    Raises:
        ModelError: the model's head is of an unknown kind.
    """
    if model not in _TRIED:
        check_head(model)
        _TRIED[model] = shared_prefix_unsupported_reason(model) is None
    return _TRIED[model]


@dataclass(frozen=True)
class _Row:
    """Prompts whose first `in_common` tokens are the same, with their responses; `width` is in tokens."""

    group: tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], ...]
    in_common: int
    width: int


def _rows(items: Iterable[TokenizedResponse], most: int) -> Iterator[_Row]:
    """Items in rows of at most `most` tokens, where that is possible."""
    row: _Row | None = None
    for alone in sorted(_by_prompt(items, most), key=lambda one: one.group[0][0]):
        joined = None if row is None else _joined(row, alone)
        if row is not None and (joined is None or joined.width > most):
            yield row
            joined = None
        row = joined or alone
    if row is not None:
        yield row


def _by_prompt(items: Iterable[TokenizedResponse], most: int) -> Iterator[_Row]:
    """A prompt and as many of the responses to it in a row as `most` tokens hold, but at least one."""
    by_prompt: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for item in items:
        by_prompt.setdefault(item.prompt_ids, []).append(item.response_ids)
    for prompt, responses in by_prompt.items():
        members: list[tuple[int, ...]] = []
        width = before = len(prompt) - 1
        for response in responses:
            if members and width + len(response) > most:
                yield _Row(((prompt, tuple(members)),), before, width)
                members, width = [], before
            members.append(response)
            width += len(response)
        yield _Row(((prompt, tuple(members)),), before, width)


def _joined(row: _Row, alone: _Row) -> _Row | None:
    """The row with one more prompt, in which what all have in common is read once; None where that saves little.

    With n prompts in the row, `c` tokens in common before and `c'` then, it saves c' - (n - 1)(c - c') tokens.
    """
    prompt = alone.group[0][0]
    in_common = min(_common_prefix(row.group[-1][0], prompt), row.in_common, len(prompt) - 1)
    saved = in_common - (len(row.group) - 1) * (row.in_common - in_common)
    if saved * 4 < alone.width:
        return None
    return _Row((*row.group, *alone.group), in_common, row.width + alone.width - saved)


def _score(
    model: PreTrainedModel, batch: Sequence[_Row], shared: bool
) -> list[tuple[TokenizedResponse, LogLikelihood]]:
    """What is found for every response of every row."""
    import torch

    rows = grouped_rows([row.group for row in batch], [row.in_common for row in batch]).to(model.device)
    config = model.config.get_text_config()
    plain = {"input_ids": rows.input_ids, "attention_mask": (rows.branch >= 0).long()}
    laid, inputs = reading(rows, config, model.dtype) if shared else (rows, plain)
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
    predicting = laid.labels != IGNORED
    logps, likeliest = target_log_probs(model, hidden[predicting], laid.labels[predicting])
    lengths = [len(response) for row in batch for _, responses in row.group for response in responses]
    parts = zip(logps.cpu().split(lengths), likeliest.cpu().split(lengths), strict=True)
    return [
        (
            TokenizedResponse(prompt, response),
            LogLikelihood(float(logp.sum(dtype=torch.float64)), len(response), bool(greedy.all())),
        )
        for row in batch
        for prompt, responses in row.group
        for response, (logp, greedy) in zip(responses, parts, strict=False)
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
