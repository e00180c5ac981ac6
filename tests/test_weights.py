"""Weight files that are pointers, missing, torn, or there twice: one message with place and fix, and right counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from factories import write_model

from radpo.benchmarks import sizes
from radpo.core.errors import ModelError
from radpo.models import loading
from radpo.models.loading import load_model, load_tokenizer, model_fingerprint, resolve_model
from radpo.models.weights import check_weights, parameter_count, weight_files

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14483464192\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def shard(folder: Path) -> list[Path]:
    """The model's weights in shards with their index."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_consolidated_weights_beside_shards_are_counted_and_hashed_once(folder: Path) -> None:
    once = parameter_count(folder)
    before = model_fingerprint(str(folder))
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert parameter_count(folder) == once == sum(p.numel() for p in load_model(folder).parameters())
    assert model_fingerprint(str(folder)) == before
    shards = shard(folder)
    assert len(shards) > 1
    assert weight_files(folder) == shards
    assert parameter_count(folder) == once
    assert sizes._read(str(folder)).parameters == once - 258 * 32, "an embedding of its own does not compute"


def test_consolidated_weights_are_not_downloaded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked = {}

    def download(repository: str, **options: object) -> str:
        asked.update(options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert loading._hub_folder("mistralai/Mistral-7B-Instruct-v0.3") == folder
    assert "consolidated*.safetensors" in asked["ignore_patterns"]  # type: ignore[operator]


def test_a_pytorch_file_is_counted_too(folder: Path) -> None:
    import torch

    once, state = parameter_count(folder), load_model(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert parameter_count(folder) == once
    torn = (folder / "pytorch_model.bin").read_bytes()[:-100]
    (folder / "pytorch_model.bin").write_bytes(torn)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: is cut off"):
        check_weights(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_named_with_its_fix(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name}: is a Git LFS pointer.*run `git lfs pull`"):
        resolve_model(str(folder))
    with pytest.raises(ModelError, match="Git LFS pointer"):
        sizes._read(str(folder))


def test_a_pointer_that_nothing_reads_does_no_harm(folder: Path) -> None:
    (folder / "consolidated.safetensors").write_text(POINTER)
    assert resolve_model(str(folder)) == folder
    check_weights(folder)


@pytest.mark.parametrize("cut", [3, 100, -1000])
def test_a_torn_file_is_named_before_it_is_loaded(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    for call in (lambda: check_weights(folder), lambda: model_fingerprint(str(folder)), lambda: load_model(folder)):
        with pytest.raises(ModelError, match=r"model\.safetensors: .*download it again"):
            call()


def test_a_damaged_header_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="its header is damaged"):
        check_weights(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    shards = shard(folder)
    shards[0].unlink()
    told = f"1 of {len(shards)} weight files that its index names are missing ({shards[0].name})"
    with pytest.raises(ModelError) as error:
        load_model(folder)
    assert told in str(error.value)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load_model(folder)


def test_weights_that_no_file_has_are_refused_and_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 of its weights are in none of its files .*layers\.1\.mlp\.up_proj"):
        load_model(folder)


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {')
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_tokenizer(folder)
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        sizes._read(str(folder))


def test_an_unknown_architecture_is_one_message(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "of-tomorrow"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)


def test_a_damaged_gguf_file_or_a_pointer_to_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match=r"torn\.gguf: cannot be read as a GGUF model .*download it again"):
        resolve_model(str(tmp_path / "torn.gguf"))
    assert not list((tmp_path / "cache" / "models").glob("torn-*[!k]")), "nothing half made is taken for the model"
    (tmp_path / "pointer.gguf").write_text(POINTER)
    with pytest.raises(ModelError, match=r"pointer\.gguf: is a Git LFS pointer"):
        resolve_model(str(tmp_path / "pointer.gguf"))
