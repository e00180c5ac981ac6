"""No dropout of any kind in preference training: the policy begins as its own reference, so the first loss is ln 2."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from factories import scored_pairs, write_model

from radpo.core.errors import ModelError
from radpo.models.dropout import check_deterministic, disable_dropout
from radpo.preferences.relabel import relabel
from radpo.training.reference import reference_log_likelihoods
from radpo.training.run import train
from radpo.training.settings import Lora, TrainingSettings

SIZE = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
GROUPED = {**SIZE, "num_key_value_heads": 2}
ATTENTION = {"attention_dropout": 0.3}
ARCHITECTURES: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**GROUPED, **ATTENTION),
    "qwen2": transformers.Qwen2Config(**GROUPED, **ATTENTION),
    "qwen3": transformers.Qwen3Config(**GROUPED, **ATTENTION, head_dim=8),
    "gemma2": transformers.Gemma2Config(**GROUPED, **ATTENTION, head_dim=8, sliding_window=64),
    "gemma3": transformers.Gemma3TextConfig(**GROUPED, **ATTENTION, head_dim=8, sliding_window=64),
    "mistral": transformers.MistralConfig(**GROUPED, **ATTENTION),
    "mixtral": transformers.MixtralConfig(
        **GROUPED, **ATTENTION, num_local_experts=2, num_experts_per_tok=1, router_jitter_noise=0.4,
        router_aux_loss_coef=0.0,  # else TRL adds a loss for balance among experts
    ),
    "phi3": transformers.Phi3Config(**GROUPED, **ATTENTION, resid_pdrop=0.2, embd_pdrop=0.2),
    "granite": transformers.GraniteConfig(**GROUPED, **ATTENTION, logits_scaling=8.0),
    "starcoder2": transformers.Starcoder2Config(**GROUPED, **ATTENTION, residual_dropout=0.2, embedding_dropout=0.2),
    "smollm3": transformers.SmolLM3Config(**GROUPED, **ATTENTION),
    "gpt2": transformers.GPT2Config(
        vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3, bos_token_id=0,
        eos_token_id=0, pad_token_id=1, attn_pdrop=0.3, resid_pdrop=0.2, embd_pdrop=0.2,
    ),
    "opt": transformers.OPTConfig(
        vocab_size=258, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=256, dropout=0.2, attention_dropout=0.3, layerdrop=0.4, bos_token_id=0, eos_token_id=0,
        pad_token_id=1,
    ),
    "bloom": transformers.BloomConfig(
        vocab_size=258, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, hidden_dropout=0.2,
        attention_dropout=0.3, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    ),
}  # fmt: skip
PAIRS = relabel(scored_pairs([(9, 3), (7, 6)]), "plain").table


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformers.AutoTokenizer.from_pretrained(write_model(tmp_path_factory.mktemp("tokens")))


def write(name: str, folder: Path, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[name]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def first_loss(folder: Path, out: Path, **changes: Any) -> float:
    settings = TrainingSettings(
        beta=0.3, learning_rate=1e-4, batch_size=2, per_device_train_batch_size=2, max_length=200, **changes
    )
    reference = reference_log_likelihoods(folder, PAIRS, max_length=200, precision=settings.precision)
    train(folder, PAIRS, reference, out, settings, seed=0)
    log = pd.read_parquet(out / "training.parquet")
    return float(log[(log.metric == "loss") & (log.step == 1)].value.item())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_loss_is_ln_2_for_every_architecture(name: str, tmp_path: Path, tokenizer: Any) -> None:
    folder = write(name, tmp_path / "model", tokenizer)
    assert first_loss(folder, tmp_path / "all", precision="float32") == pytest.approx(math.log(2), abs=1e-4)
    adapters = Lora(
        r=2,
        dropout=0.0 if name == "mixtral" else 0.5,  # peft has none for experts
        targets=("c_attn", "c_proj", "c_fc") if name == "gpt2" else "all-linear",
    )
    lora = first_loss(folder, tmp_path / "lora", precision="float32", lora=adapters)
    assert lora == pytest.approx(math.log(2), abs=1e-4)
    # In bfloat16 a pair's rows are of another shape than the reference's, and log p of 60 tokens differs by hundredths.
    assert first_loss(folder, tmp_path / "bf16", precision="bfloat16") == pytest.approx(math.log(2), abs=2e-2)


@pytest.mark.parametrize("name", ["granite", "gpt2", "mixtral"])
def test_a_checkpoint_has_the_configuration_of_its_base(name: str, tmp_path: Path, tokenizer: Any) -> None:
    folder = write(name, tmp_path / "model", tokenizer)
    first_loss(folder, tmp_path / "out", precision="float32")
    base, policy = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out" / "policy"))
    rates = {key: value for key, value in base.items() if "drop" in key or "jitter" in key}
    assert any(rates.values())
    assert {key: policy[key] for key in rates} == rates


def test_the_dropout_of_adapters_is_the_settings(tmp_path: Path, tokenizer: Any) -> None:
    """It has no effect on the first step, whose adapters are 0, and one on what comes after."""
    folder = write("llama", tmp_path / "model", tokenizer)
    losses = []
    for dropout in (0.0, 0.5):
        out = tmp_path / str(dropout)
        adapters = Lora(r=2, dropout=dropout)
        first_loss(folder, out, precision="float32", lora=adapters, num_train_epochs=3)
        log = pd.read_parquet(out / "training.parquet")
        losses.append(log[log.metric == "logps/chosen"].value.tolist())
    assert losses[0][0] == losses[1][0]
    assert losses[0][2] != losses[1][2]


def test_a_model_that_stays_random_in_training_is_refused(tokenizer: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES["llama"])
    with pytest.raises(ModelError, match="computes something else in training than in evaluation"):
        check_deterministic(model)
    disable_dropout(model)
    check_deterministic(model)
    model.model.norm.forward = lambda hidden: hidden + 0.1 * torch.rand_like(hidden)
    with pytest.raises(ModelError, match="computes something else"):
        check_deterministic(model)
