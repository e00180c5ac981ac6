"""The matrix file: what is accepted, and what a person is told of what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from radpo.config import load_matrix
from radpo.errors import ConfigError


def document(folder: Path) -> dict[str, object]:
    for name in ("train.jsonl", "heldout.jsonl", "questions.jsonl"):
        (folder / name).write_text("{}\n")
    return {
        "name": "small",
        "model": "smollm2-135m-instruct",
        "variants": {"base": None, "dpo": {"training": {"beta": 0.5}}},
        "data": {"train": {"path": "train.jsonl"}, "heldout": {"path": "heldout.jsonl"}},
        "training": {"beta": 0.1, "batch_size": 4, "micro_batch_size": 2},
        "benchmarks": {"unlearning": {}, "alpaca-eval": {"questions": {"path": "questions.jsonl"}}},
    }


def write(folder: Path, content: dict[str, object]) -> Path:
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_paths_are_beside_the_matrix_file(tmp_path: Path) -> None:
    matrix = load_matrix(write(tmp_path, document(tmp_path)))
    assert matrix.data.train.path == tmp_path / "train.jsonl"


def test_a_variant_states_only_its_difference(tmp_path: Path) -> None:
    matrix = load_matrix(write(tmp_path, document(tmp_path)))
    training = matrix.training_for(matrix.variants["dpo"])
    assert (training.beta, training.batch_size) == (0.5, 4)


def test_the_papers_settings_are_the_defaults(tmp_path: Path) -> None:
    content = document(tmp_path)
    del content["training"]
    training = load_matrix(write(tmp_path, content)).training
    assert (training.beta, training.learning_rate, training.batch_size) == (0.01, 5e-7, 128)
    assert (training.warmup_share, training.epochs, training.max_length) == (0.1, 1.0, 1024)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trainin": {}}, "trainin: no such key; allowed: .*did you mean 'training'"),
        ({"model": None}, "model: .*string"),
        ({"baseline": "sft"}, "baseline 'sft' is none of the variants: base, dpo"),
        ({"training": {"beta": 0}}, "training.beta: 0: .*greater than 0"),
        ({"training": {"bta": 1}}, "training.bta: no such key; allowed: beta, .*did you mean 'beta'"),
        (
            {"training": {"batch_size": 5, "micro_batch_size": 2}},
            "batch_size 5 is not a multiple of micro_batch_size 2",
        ),
        ({"training": {"loss": "sigmoidal"}}, "training.loss: 'sigmoidal': .*'sigmoid'"),
        (
            {"variants": {"base": None, "dpo": {"training": {"beta": -1}}}},
            "variants.dpo.training.beta: .*greater than 0",
        ),
        (
            {"data": {"train": {"path": "no.jsonl"}, "heldout": {"path": "heldout.jsonl"}}},
            "data.train.path: .*no.jsonl does not",
        ),
        ({"seeds": [1, 1]}, "seeds: .*twice"),
        ({"benchmarks": {"alpaca_evil": {}}}, "benchmarks.alpaca_evil: no such key; allowed: unlearning, alpaca-eval"),
        ({"name": "../up"}, "name: '../up'"),
    ],
)
def test_an_error_names_the_file_the_key_and_the_mend(tmp_path: Path, change: dict[str, object], told: str) -> None:
    path = write(tmp_path, {**document(tmp_path), **change})
    with pytest.raises(ConfigError, match=told) as error:
        load_matrix(path)
    assert str(path) in str(error.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    content = document(tmp_path)
    del content["model"]
    with pytest.raises(ConfigError, match="model: missing"):
        load_matrix(write(tmp_path, content))


@pytest.mark.parametrize("text", ["[1, 2]", "name: [", "", "a: !!python/object/apply:os.system ['true']"])
def test_what_is_no_matrix_is_refused_and_never_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"matrix\.yaml"):
        load_matrix(path)
