"""lm-eval's own vLLM model, with the checkpoint's template as it is asked, and a note of what is cut off prompts.

Imports vLLM: import it where a model is about to be run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.models.vllm_causallms import VLLM

from radpo.models.lm_eval import Noting
from radpo.models.precision import Settled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NotingVLLM(Noting, VLLM):  # type: ignore[misc]
    """lm-eval's `vllm`; vLLM reads what prompts have in common once by itself (its prefix cache)."""

    beyond_context = -1  # vLLM always generates one token

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """As lm-eval's, which sorts prompts by length and cuts what leaves no room for the answer."""
        texts = [request.args[0] for request in requests]
        for request, tokens in zip(requests, self.tok_encode(texts) if texts else [], strict=True):
            most = normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            if (over := len(tokens) + int(most) - self.max_length) > 0:
                self.note_cut((request.args[0], None), tokens, over)
        answers: list[str] = super().generate_until(requests, disable_tqdm)
        return answers


def vllm_model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, precision: Settled, context: int | None
) -> NotingVLLM:
    """A checkpoint in vLLM, as lm-eval asks it.

    Args:
        folder: a Hugging Face folder.
        tokenizer: has the chat template that is to be used.
        context: tokens, None if unknown.
    """
    model = NotingVLLM(
        pretrained=str(folder), dtype=precision, max_length=context, batch_size="auto", trust_remote_code=False
    )
    model.tokenizer.chat_template = model.hf_chat_template = tokenizer.chat_template
    return model
