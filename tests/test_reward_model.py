"""Rewards are read at the last real token: those of one unpadded conversation, for any batch size and padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TEMPLATE, write_model
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from radpo.judges.base import CompareRequest, GradeRequest
from radpo.judges.reward_model import RewardModelJudge, RewardModelSettings
from radpo.models.classifier import last_token_values

COMMON = {"vocab_size": 258, "num_labels": 1, "initializer_range": 0.4, "eos_token_id": 0, "bos_token_id": 0}
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
ARCHITECTURES: dict[str, Any] = {
    "llama": lambda pad: LlamaForSequenceClassification(LlamaConfig(**COMMON, **SMALL, pad_token_id=pad)),
    "qwen2": lambda pad: Qwen2ForSequenceClassification(Qwen2Config(**COMMON, **SMALL, pad_token_id=pad)),
    "gpt2": lambda pad: GPT2ForSequenceClassification(
        GPT2Config(**COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=512, pad_token_id=pad)
    ),
}
PADDING = {  # the config's padding token, the tokenizer's: 0 ends every conversation, 1 is <pad>, 40 a letter of texts
    "none": (None, None),
    "as published": (1, "<pad>"),
    "in the config alone": (1, None),
    "in the tokenizer alone": (None, "<pad>"),
    "the end token": (0, "</s>"),
    "a letter of the text": (40, None),
}
TEXTS = ["because", "no", "a much longer answer, that goes on and on", "x" * 7, "", "</s>", "hm" * 20]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def write(folder: Path, architecture: str, padding: str, side: str = "right") -> Path:
    in_config, in_tokenizer = PADDING[padding]
    write_model(folder, TEMPLATE)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(1)
    ARCHITECTURES[architecture](in_config).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"pad_token": in_tokenizer, "padding_side": side}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    return folder


def alone(folder: Path, text: str) -> float:
    """The head's value at the last token of one unpadded conversation, in which text stays text."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [*user("Why?"), {"role": "assistant", "content": text}],
        return_tensors="pt",
        return_dict=False,
        sanitize_control_tokens=True,
    )
    with torch.no_grad():
        return float(model.score(model.base_model(ids).last_hidden_state[0, -1]))


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rewards_are_those_of_one_unpadded_conversation_for_any_batch_size(tmp_path, architecture, padding):
    for side in ("left", "right"):
        folder = write(tmp_path / side, architecture, padding, side)
        expected = [alone(folder, text) for text in TEXTS]
        assert max(expected) - min(expected) > 0.05
        for batch_size in (1, 2, 3, len(TEXTS)):
            judge = RewardModelJudge(RewardModelSettings(model=str(folder), precision="float32", batch_size=batch_size))
            asked = [[*user("Why?"), {"role": "assistant", "content": text}] for text in TEXTS]
            found = judge._rewards(asked, lambda *_: None)
            assert found == pytest.approx(expected, abs=1e-4)


def test_the_winner_is_the_models_own_where_the_template_ends_in_the_padding_token(tmp_path):
    folder = write(tmp_path / "m", "llama", "none")
    found = RewardModelJudge(RewardModelSettings(model=str(folder), precision="float32")).compare(
        [CompareRequest(user("Why?"), first, second) for first in TEXTS for second in TEXTS if first != second]
    )
    wins = [alone(folder, a) < alone(folder, b) for a in TEXTS for b in TEXTS if a != b]
    assert [comparison.preference > 1.5 for comparison in found] == wins


def test_the_models_own_padding_token_is_left_as_it_was(tmp_path):
    judge = RewardModelJudge(
        RewardModelSettings(model=str(write(tmp_path / "m", "llama", "none")), precision="float32")
    )
    judge.compare([CompareRequest(user("Why?"), "a", "bbb")])
    assert judge._loaded[0].config.pad_token_id is None


def test_a_model_that_does_not_heed_the_mask_reads_every_conversation_alone(tmp_path):
    folder = write(tmp_path / "m", "llama", "as published")
    judge = RewardModelJudge(RewardModelSettings(model=str(folder), precision="float32"))
    model, tokenizer = judge._loaded
    widths: list[tuple[int, ...]] = []
    original = type(model).forward

    def reads_the_rows_end(input_ids, attention_mask):
        widths.append(tuple(input_ids.shape))
        hidden = model.model(input_ids).last_hidden_state[:, -1]
        return type("Output", (), {"logits": model.score(hidden)})()

    model.forward = reads_the_rows_end
    sequences = [tokenizer(text)["input_ids"] for text in ("ab", "abcdefgh", "abcd")]
    found = last_token_values(model, sequences, judge._read, batch_size=3)
    assert sorted(widths[2:]) == [(1, len(ids)) for ids in sorted(sequences, key=len)]
    model.forward = original.__get__(model)
    assert found == pytest.approx([last_token_values(model, [ids], judge._read, batch_size=1)[0] for ids in sequences])


def test_conversations_beyond_the_models_context_are_not_judged(tmp_path):
    folder = write(tmp_path / "m", "gpt2", "as published")
    judge = RewardModelJudge(RewardModelSettings(model=str(folder), precision="float32", raw_range=(-9, 9)))
    fits, long = judge.grade([GradeRequest(user("Why?"), "a"), GradeRequest(user("Why?"), "a" * 600)])
    assert fits.score is not None
    assert (long.score, long.reason) == (None, "longer than 512 tokens")
