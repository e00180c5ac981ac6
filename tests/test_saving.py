"""What saving a policy needs is checked before the first step; published models of all kinds can be saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from factories import scored_pairs, write_model

from radpo.core.errors import ModelError
from radpo.models.loading import load_model, load_tokenizer
from radpo.preferences.relabel import relabel
from radpo.training.reference import reference_log_likelihoods
from radpo.training.run import train
from radpo.training.settings import Lora, TrainingSettings

PAIRS = relabel(scored_pairs([(9, 3), (7, 6)]), "plain").table
LLAMA_2 = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [0, 5], "bos_token_id": 7}
"""As Llama-2-chat and Vicuna have it: sampling settings, and no do_sample."""


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def run(model: Path, out: Path, steps: list[int] | None = None, **changes: Any) -> Path:
    settings = TrainingSettings(
        batch_size=2, per_device_train_batch_size=2, max_length=400, precision="float32", **changes
    )
    reference = reference_log_likelihoods(model, PAIRS, max_length=400, precision="float32")
    told = [] if steps is None else steps
    train(model, PAIRS, reference, out, settings, seed=0, save_every=1, progress=lambda step, _: told.append(step))
    return out / "policy"


@pytest.mark.parametrize("lora", [None, Lora(r=2)])
def test_sampling_settings_without_do_sample_and_no_padding_token_are_saved_as_they_were(model, tmp_path, lora):
    (model / "generation_config.json").write_text(json.dumps(LLAMA_2))
    edit(model / "tokenizer_config.json", pad_token=None)
    edit(model / "config.json", pad_token_id=None)
    policy = run(model, tmp_path / "out", lora=lora)
    assert json.loads((policy / "generation_config.json").read_text()) == LLAMA_2
    assert load_model(policy).generation_config.eos_token_id == [0, 5]
    assert load_tokenizer(policy).pad_token_id == 0


def test_sampling_settings_in_config_json_are_kept(model, tmp_path):
    (model / "generation_config.json").unlink()
    edit(model / "config.json", repetition_penalty=1.3, temperature=0.3)
    policy = run(model, tmp_path / "out")
    kept = load_model(policy).generation_config
    assert (kept.repetition_penalty, kept.temperature, kept.eos_token_id) == (1.3, 0.3, 0)


def test_a_tokenizer_with_neither_padding_nor_end_token_is_refused_at_once(model, tmp_path):
    edit(model / "tokenizer_config.json", pad_token=None, eos_token=None)
    with pytest.raises(ModelError, match="neither a padding nor an end token; name one as pad_token"):
        run(model, tmp_path / "out")


def test_what_cannot_be_saved_is_known_before_the_first_step(model, tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    def refuse(self, folder, **settings):
        raise ValueError("no such template\nanywhere")

    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", refuse)
        with pytest.raises(ModelError, match="could not be saved \\(ValueError: no such template anywhere\\)"):
            run(model, tmp_path / "out", steps)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 10))
        with pytest.raises(ModelError, match=r"the policy's weights take .* GB, and 0\.0 GB are free"):
            run(model, tmp_path / "out", steps)
    assert steps == []
    assert not list((tmp_path / "out").glob(".saving-*"))
    assert run(model, tmp_path / "out", steps).is_dir()
    assert steps == [1]
