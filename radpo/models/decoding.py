"""How the next token is chosen: the one place where a generation config is built, from the sampling settings alone.

transformers fills whatever a call leaves open from the model's own generation_config.json (repetition_penalty,
no_repeat_ngram_size, min_length, suppress_tokens, ...), so that greedy answers are not the likeliest tokens and samples
at temperature 1 are not the policy's. Here only the token ids are the model's, unless its own settings are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ConfigError
from radpo.models.chat_template import TurnEnd, turn_end

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

MODEL_SETTINGS = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "repetition_penalty", "no_repeat_ngram_size", "min_length", "min_new_tokens", "bad_words_ids", "sequence_bias",
    "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "exponential_decay_length_penalty", "guidance_scale", "renormalize_logits", "num_beams", "length_penalty",
    "early_stopping",
)  # fmt: skip
"""What of a generation config changes which tokens are chosen; the rest are ids, lengths and technicalities."""

_VLLM = ("repetition_penalty", "min_p", "top_k", "top_p", "temperature")
"""The model's settings that vLLM has under the same name and with the same meaning."""
_FOR_SAMPLING = frozenset(
    {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
)
"""Settings that count only where answers are sampled."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: greedily at temperature 0, else from the nucleus of probability `top_p`.

    Args:
        stop: texts at which an answer ends, not part of it; the checkpoint's own end tokens end it in any case.
        use_model_config: tokens are chosen as the checkpoint's own generation config says (repetition_penalty, top_k,
            its temperature, ...), and `temperature` and `top_p` here do not count.
    """

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    use_model_config: bool = False


def end_tokens(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: the model's own (the tokenizer's where it names none), and the template's.

    A model whose template ends a turn with a token that is not among its own would run on into the user's next turn.
    """
    added = _missing_end(own, tokenizer)
    return (*_own_ends(own, tokenizer), *([added.token] if added is not None and added.token is not None else []))


def end_texts(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The text that ends an answer, where the template ends a turn with no token."""
    added = _missing_end(own, tokenizer)
    return (added.text,) if added is not None and added.token is None else ()


def turn_end_notes(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A sentence, where the template's turn ends answers that the model's own end tokens would have let run on."""
    added = _missing_end(own, tokenizer)
    if added is None:
        return []
    return [
        f"The chat template ends a turn with {added.text!r}, which is not among the model's end tokens: answers were "
        "ended there, too."
    ]


def _own_ends(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    if ends is None:
        return ()
    return (ends,) if isinstance(ends, int) else tuple(ends)


def _missing_end(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> TurnEnd | None:
    end = turn_end(tokenizer)
    return None if end is None or end.token in _own_ends(own, tokenizer) else end


def token_ids_only(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """A generation config that has the model's begin, end and padding tokens, and nothing else of its own."""
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=list(end_tokens(own, tokenizer)) or None,
        pad_token_id=tokenizer.pad_token_id,
    )


def model_settings(own: GenerationConfig) -> dict[str, Any]:
    """What the model's own generation config says on how tokens are chosen (of `MODEL_SETTINGS`).

    Settings for sampling are left out where it does not ask for sampling, as transformers leaves them out.
    """
    stated = own.to_dict()
    found = {name: stated[name] for name in MODEL_SETTINGS if stated.get(name) is not None}
    if not found.get("do_sample"):
        found = {name: value for name, value in found.items() if name not in _FOR_SAMPLING}
    return found


def generation_config(
    own: GenerationConfig, tokenizer: PreTrainedTokenizerBase, sampling: Sampling, max_new_tokens: int
) -> GenerationConfig:
    """The generation config of a call.

    Args:
        own: the model's.
        max_new_tokens: what the sampling allows, or less where the context has less room.
    """
    config = token_ids_only(own, tokenizer)
    if sampling.use_model_config:
        chosen = {"top_k": 0, **model_settings(own)}
    elif sampling.temperature > 0:
        # top_k: transformers would otherwise cut to its own default of 50, which nobody asked for.
        chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    else:
        chosen = {"do_sample": False}
    if not chosen.get("do_sample"):
        chosen.pop("top_k", None)
    config.update(**chosen, max_new_tokens=max_new_tokens)
    if stop := (*sampling.stop, *end_texts(own, tokenizer)):
        config.stop_strings = list(stop)
    return config


@contextmanager
def own_settings_aside(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[GenerationConfig]:
    """The model's own generation config; while it lasts, transformers finds only token ids there to fill gaps with."""
    own = model.generation_config
    model.generation_config = token_ids_only(own, tokenizer)
    try:
        yield own
    finally:
        model.generation_config = own


def saved_generation_config(folder: Path) -> GenerationConfig:
    """The generation config of a Hugging Face folder; older ones have it in config.json."""
    from transformers import AutoConfig, GenerationConfig

    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))


def vllm_parameters(
    own: GenerationConfig, tokenizer: PreTrainedTokenizerBase, sampling: Sampling, max_new_tokens: int
) -> dict[str, Any]:
    """The same choice of tokens as `generation_config`, as vLLM's `SamplingParams` have it.

    Raises:
        ConfigError: the model's own settings are asked for, and one of them is unknown to vLLM.
    """
    parameters: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.use_model_config:
        parameters = _as_vllm_has_it(model_settings(own))
    return parameters | {
        "max_tokens": max_new_tokens,
        "seed": sampling.seed,
        "stop": [*sampling.stop, *end_texts(own, tokenizer)],
        "stop_token_ids": list(end_tokens(own, tokenizer)),
    }


def _as_vllm_has_it(settings: Mapping[str, Any]) -> dict[str, Any]:
    sampled = bool(settings.get("do_sample"))
    left = {name: value for name, value in settings.items() if name != "do_sample" and value != _NEUTRAL.get(name)}
    parameters = {name: left.pop(name) for name in _VLLM if name in left}
    parameters["temperature"] = parameters.get("temperature", 1.0) if sampled else 0.0
    if "min_new_tokens" in left:
        parameters["min_tokens"] = left.pop("min_new_tokens")
    if left:
        raise ConfigError(
            f"use_model_config: vLLM has nothing for {', '.join(sorted(left))} of the model's generation config; "
            "use the backend transformers, or leave use_model_config out"
        )
    return parameters


_NEUTRAL: Mapping[str, Any] = {
    "num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "no_repeat_ngram_size": 0, "min_length": 0,
    "min_new_tokens": 0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "renormalize_logits": False,
}  # fmt: skip
"""Values that change nothing."""


def model_settings_note(own: GenerationConfig) -> str:
    """What a record says of answers that were drawn with the model's own settings."""
    listed = ", ".join(f"{name} {value}" for name, value in sorted(model_settings(own).items()))
    return f"Answers were drawn as the model's own generation config says: {listed or 'it says nothing, so greedily'}."
