"""Rows that hold every prompt once with its several responses, and the mask that separates them.

A row is the prompt without its last token, then, for every response, that last token again followed by the response
without its own last token:

    token     p0 p1 | p2 a0 a1 | p2 b0        prompt p0 p1 p2, responses a0 a1 a2 and b0 b1
    position   0  1 |  2  3  4 |  2  3
    branch     0  0 |  1  1  1 |  2  2
    predicts   -  - | a0 a1 a2 | b0 b1

A position sees those before it in the row that belong to the prompt or to its own response, and its place is counted
from the prompt's end, so each response is read exactly as if it stood alone after the prompt. Every position of a
response predicts one of its tokens, and none is computed that predicts nothing needed.
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
        branch: (rows, width), 0 for the prompt, the response's number from 1, -1 for padding.
        labels: (rows, width), the token that a position predicts, `IGNORED` where none.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    branch: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> SharedRows:
        """The same rows on another device."""
        return SharedRows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


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
    import torch

    rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for prompt, answers in zip(prompts, responses, strict=True):
        if not prompt:
            raise DataError("a prompt has no token; the chat template must put something before the response")
        before = len(prompt) - 1
        tokens, places, branch, labels = list(prompt[:-1]), list(range(before)), [0] * before, [IGNORED] * before
        for number, answer in enumerate(answers, start=1):
            tokens += [prompt[-1], *answer[:-1]] if answer else []
            places += range(before, before + len(answer))
            branch += [number] * len(answer)
            labels += answer
        rows.append((tokens, places, branch, labels))
    width = max(len(tokens) for tokens, *_ in rows)
    fills = (pad_token_id, 0, -1, IGNORED)
    return SharedRows(
        *(
            torch.tensor([row[part] + [fill] * (width - len(row[part])) for row in rows])
            for part, fill in enumerate(fills)
        )
    )


def attention_mask(rows: SharedRows, config: Any, dtype: torch.dtype) -> Any:
    """The mask for a model's attention: (rows, 1, width, width), or one for each kind of layer by its name.

    Args:
        config: the model's (text) configuration, which names its attention's implementation and sliding windows.
        dtype: of the model's activations; eager attention adds its mask to the scores.

    Raises:
        NotImplementedError: the attention takes no such mask.
    """
    visible = _visible(rows.branch)
    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise NotImplementedError(f"layers of the kinds {', '.join(sorted(kinds))}")
    if not kinds:
        return _as_taken(visible if window is None else visible & _within(rows.position_ids, window), config, dtype)
    masks = {"full_attention": _as_taken(visible, config, dtype)}
    if "sliding_attention" in kinds:
        masks["sliding_attention"] = _as_taken(visible & _within(rows.position_ids, window), config, dtype)
    return masks


def _visible(branch: torch.Tensor) -> torch.Tensor:
    """Where a query (last dimension but one) may see a key (last dimension)."""
    import torch

    width = branch.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=branch.device).tril()
    query, key = branch[:, None, :, None], branch[:, None, None, :]
    # Padding sees the prompt and itself, so that no row of the softmax is empty; nothing but padding sees padding.
    return causal & ((key == 0) | (key == query))


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
