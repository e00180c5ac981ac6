"""A checkpoint trained with adapters computes what the adapters on their base compute, whatever they are put on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from factories import scored_pairs, write_model

from radpo.core.errors import ConfigError
from radpo.models.loading import load_model
from radpo.preferences.relabel import relabel
from radpo.training.reference import reference_log_likelihoods
from radpo.training.run import train
from radpo.training.settings import Lora, TrainingSettings

SIZE = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": 0,
    "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SIZE),
    "llama, tied": transformers.LlamaConfig(**SIZE, tie_word_embeddings=True),
    "gemma3, tied": transformers.Gemma3TextConfig(**SIZE, head_dim=8, sliding_window=64),
    "gpt2, tied": transformers.GPT2Config(
        vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3, bos_token_id=0,
        eos_token_id=0, pad_token_id=1,
    ),
}  # fmt: skip
TARGETS: dict[str, Any] = {
    "all-linear": "all-linear",
    "attention": ("q_proj", "v_proj"),
    "mlp": ("up_proj", "down_proj"),
    "embeddings": ("embed_tokens",),
    "embeddings and layers": ("embed_tokens", "q_proj", "down_proj"),
    "a pattern": r".*layers\.1\..*_proj|.*embed_tokens",
}
GPT2 = {
    "all-linear": "all-linear", "attention": ("c_attn",), "mlp": ("c_fc",), "embeddings": ("wte",),
    "embeddings and layers": ("wte", "c_attn"), "a pattern": r".*h\.1\..*c_fc|.*wte",
}  # fmt: skip
PAIRS = relabel(scored_pairs([(9, 3), (7, 6), (8, 2), (5, 1)]), "plain").table


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformers.AutoTokenizer.from_pretrained(write_model(tmp_path_factory.mktemp("tokens")))


@pytest.fixture(scope="module", params=MODELS)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(MODELS[request.param]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(model: Path, out: Path, targets: Any) -> None:
    settings = TrainingSettings(
        beta=0.3, learning_rate=0.05, batch_size=2, per_device_train_batch_size=2, max_length=200, precision="float32",
        num_train_epochs=2,
        lora=Lora(r=4, targets=targets),
    )  # fmt: skip
    reference = reference_log_likelihoods(model, PAIRS, max_length=200, precision="float32")
    train(model, PAIRS, reference, out, settings, seed=0)


@pytest.mark.parametrize("targets", TARGETS)
def test_merged_is_unmerged_for_every_target(model: Path, targets: str, tmp_path: Path) -> None:
    from peft import PeftModel

    named = GPT2 if load_model(model).config.model_type == "gpt2" else TARGETS
    run(model, tmp_path, named[targets])
    ids = torch.arange(2, 60)[None]
    base, adapted = load_model(model), load_model(model)
    unmerged = PeftModel.from_pretrained(adapted, tmp_path / "adapter").eval()
    with torch.no_grad():
        before, expected, found = (m(ids).logits for m in (base, unmerged, load_model(tmp_path / "policy")))
    assert float((expected - before).abs().max()) > 0.05, "equality means something only if training moved the model"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    tied = [
        json.loads((f / "config.json").read_text()).get("tie_word_embeddings") for f in (model, tmp_path / "policy")
    ]
    assert "embed" in targets or "pattern" in targets or tied[0] == tied[1]


@pytest.mark.parametrize("targets", [("lm_head",), r"lm_head|.*down_proj|.*c_fc"])
def test_an_adapter_on_the_head_is_refused_since_it_would_not_be_trained(
    model: Path, tmp_path: Path, targets: Any
) -> None:
    with pytest.raises(ConfigError, match=r"training: .*lm_head.* would never be trained"):
        run(model, tmp_path, targets)
    assert not (tmp_path / "policy").exists()


def test_targets_that_the_model_does_not_have_are_refused_in_one_message(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training: .*no_such_module"):
        run(model, tmp_path, ("no_such_module",))
