"""Rows that hold what several sequences begin with once, and the mask that separates them.

A row is the prompt without its last token, then, for every response, that last token again followed by the response
without its own last token:

    token     p0 p1 | p2 a0 a1 | p2 b0        prompt p0 p1 p2, responses a0 a1 a2 and b0 b1
    position   0  1 |  2  3  4 |  2  3
    branch     0  0 |  1  1  1 |  2  2
    until      6  6 |  4  4  4 |  6  6
    predicts   -  - | a0 a1 a2 | b0 b1

A position sees those before it in the row that belong to the prompt or to its own response, and its place is counted
from the prompt's end, so each response is read exactly as if it stood alone after the prompt. Every position of a
response predicts one of its tokens, and none is computed that predicts nothing needed.

Several prompts that begin alike, such as questions after the same examples, share a row in the same way: what they
have in common, then for every prompt the rest of it and its responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label of positions that predict nothing, as everywhere in torch."""


@dataclass(frozen=True)
class SharedRows:
    """Rows of prompts and their responses, padded on the right to one width.

    Args:
        input_ids: (rows, width), tokens.
        position_ids: (rows, width), each token's place in its own sequence.
        branch: (rows, width), 0 for what is prompt, the response's number in the row from 1, -1 for padding.
        until: (rows, width), the last place in the row of what continues a token, which alone sees it.
        labels: (rows, width), the token that a position predicts, `IGNORED` where none.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    branch: torch.Tensor
    until: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> SharedRows:
        """The same rows on another device."""
        return SharedRows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


Answered = tuple[Sequence[int], Sequence[Sequence[int]]]
"""A prompt and the responses to it, as token ids."""


def shared_rows(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], pad_token_id: int = 0
) -> SharedRows:
    """Lay out every prompt with its responses.

    Args:
        prompts: token ids of each row's prompt.
        responses: each row's responses, as token ids, already truncated.

    Raises:
        DataError: a prompt has no token, so that nothing predicts a response's first.
    """
    groups = [[(prompt, answers)] for prompt, answers in zip(prompts, responses, strict=True)]
    return grouped_rows(groups, [len(prompt) - 1 for prompt in prompts], pad_token_id)


def grouped_rows(groups: Sequence[Sequence[Answered]], in_common: Sequence[int], pad_token_id: int = 0) -> SharedRows:
    """Lay out every group of prompts that begin alike, with the responses to each.

    Args:
        groups: each row's prompts and their responses, already truncated.
        in_common: how many tokens each row's prompts have in common, which are fewer than any of them has.

    Raises:
        DataError: a prompt has no token, so that nothing predicts a response's first.
    """
    import torch

    rows = [_laid_out(group, common) for group, common in zip(groups, in_common, strict=True)]
    width = max(len(row) for row in rows)
    for row in rows:
        row += [(pad_token_id, 0, -1, place, IGNORED) for place in range(len(row), width)]
    return SharedRows(*torch.tensor(rows).permute(2, 0, 1))


def _laid_out(group: Sequence[Answered], common: int) -> list[tuple[int, int, int, int, int]]:
    """One row's positions: token, place, branch, end and label of each."""
    if not all(prompt for prompt, _ in group):
        raise DataError("a prompt has no token; the chat template must put something before the response")
    width = common + sum(len(prompt) - 1 - common + sum(map(len, answers)) for prompt, answers in group)
    row = [(token, place, 0, width - 1, IGNORED) for place, token in enumerate(group[0][0][:common])]
    number = 0
    for prompt, answers in group:
        before = len(prompt) - 1
        end = len(row) + before - common + sum(map(len, answers)) - 1
        row += [(prompt[place], place, 0, end, IGNORED) for place in range(common, before)]
        for answer in answers:
            number, end = number + 1, len(row) + len(answer) - 1
            tokens = zip([prompt[-1], *answer[:-1]], answer, strict=True) if answer else ()
            row += [(token, before + step, number, end, label) for step, (token, label) in enumerate(tokens)]
    return row


def attention_mask(rows: SharedRows, config: Any, dtype: torch.dtype) -> Any:
    """The mask for a model's attention: (rows, 1, width, width), or one for each kind of layer by its name.

    Args:
        config: the model's (text) configuration, which names its attention's implementation and sliding windows.
        dtype: of the model's activations; eager attention adds its mask to the scores.

    Raises:
        NotImplementedError: the attention takes no such mask.
    """
    visible = _visible(rows.until)
    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise NotImplementedError(f"layers of the kinds {', '.join(sorted(kinds))}")
    if not kinds:
        return _as_taken(visible if window is None else visible & _within(rows.position_ids, window), config, dtype)
    masks = {"full_attention": _as_taken(visible, config, dtype)}
    if "sliding_attention" in kinds:
        masks["sliding_attention"] = _as_taken(visible & _within(rows.position_ids, window), config, dtype)
    return masks


def _visible(until: torch.Tensor) -> torch.Tensor:
    """Where a query (last dimension but one) may see a key (last dimension); padding sees itself alone."""
    import torch

    place = torch.arange(until.shape[1], device=until.device)
    causal = place[:, None] >= place[None, :]
    return (causal & (place[:, None] <= until[:, None, :]))[:, None]


def _within(position_ids: torch.Tensor, window: Any) -> torch.Tensor:
    """Where a key is less than a window's length before a query, counted in each response's own sequence."""
    return position_ids[:, None, None, :] > position_ids[:, None, :, None] - window


def _as_taken(visible: torch.Tensor, config: Any, dtype: torch.dtype) -> torch.Tensor:
    import torch

    if config._attn_implementation == "sdpa":
        return visible
    if config._attn_implementation == "eager":
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
            ~visible, torch.finfo(dtype).min
        )
    if config._attn_implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def seen(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return visible[row, 0, query, key]

        rows, _, width, _ = visible.shape
        return create_block_mask(seen, rows, None, width, width, device=visible.device)
    raise NotImplementedError(f"{config._attn_implementation} attention")


def shared_prefix_unsupported_reason(model: Any) -> str | None:
    """Why a model cannot read several responses in one row; None where it can, which is tried out.

    A prompt with two responses is scored twice, as one row and as two sequences, and the two must agree where a row
    without the mask would not.

    Args:
        model: a causal language model, as it is or wrapped for distributed training.
    """
    import torch

    bare = getattr(model, "module", model)
    config, device = bare.config.get_text_config(), next(bare.parameters()).device
    ids = torch.arange(12) % min(config.vocab_size, 97)
    prompt, chosen, rejected = ids[:6].tolist(), ids[5:10].tolist(), ids[2:6].tolist()
    rows = shared_rows([prompt], [[chosen, rejected]]).to(device)
    single = [torch.tensor([prompt + answer], device=device) for answer in (chosen, rejected)]
    training = bare.training
    bare.eval()
    try:
        with torch.no_grad():
            separate = [_log_probs(model(input_ids=row, use_cache=False).logits)[:, 5:-1] for row in single]
            together, leaking = (
                _log_probs(model(**inputs, use_cache=False).logits)[:, 5:]
                for inputs in (model_inputs(rows, config, bare.dtype), {"input_ids": rows.input_ids})
            )
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises on a mask that it does not know
        return f"its attention does not take the mask ({(str(error).splitlines() or [type(error).__name__])[0][:200]})"
    finally:
        bare.train(training)
    truth = torch.cat(separate, dim=1)
    wrong, apart_at_all = (together - truth).abs().mean(), (leaking - truth).abs().mean()
    # In float32 the first is 1e-6 of the second, in bfloat16 some hundredths; a mask left unheeded makes them equal.
    return None if wrong <= 0.1 * apart_at_all else "its attention does not heed the mask"


def model_inputs(rows: SharedRows, config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What a model's forward is given to read rows."""
    return {
        "input_ids": rows.input_ids,
        "position_ids": rows.position_ids,
        "attention_mask": attention_mask(rows, config, dtype),
    }


def _log_probs(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1)
