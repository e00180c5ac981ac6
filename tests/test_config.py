"""The matrix file: what is accepted, and what a person is told of what is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from radpo.core import warn
from radpo.core.errors import ConfigError
from radpo.matrix.loading import load_matrix
from radpo.matrix.schema import matrix_schema
from radpo.matrix.settings import Matrix


def document(folder: Path) -> dict[str, object]:
    for name in ("train.jsonl", "heldout.jsonl", "questions.jsonl"):
        (folder / name).write_text("{}\n")
    return {
        "name": "small",
        "model": "smollm2-135m-instruct",
        "variants": {"base": None, "dpo": {"training": {"beta": 0.5}}},
        "data": {"train": {"path": "train.jsonl"}, "heldout": {"path": "heldout.jsonl"}},
        "training": {"beta": 0.1, "batch_size": 4, "per_device_train_batch_size": 2},
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
    training = matrix.training_for("dpo")
    assert (training.beta, training.batch_size) == (0.5, 4)


def test_a_benchmark_that_is_only_named_has_the_defaults_and_says_what_it_needs(tmp_path: Path) -> None:
    content = document(tmp_path)
    content["benchmarks"] = {"unlearning": None, "displacement": None}
    sections = load_matrix(write(tmp_path, content)).benchmarks.named()
    content["benchmarks"] = {"unlearning": {}, "displacement": {}}
    assert sections == load_matrix(write(tmp_path, content)).benchmarks.named()
    assert len(sections) == 2
    content["benchmarks"] = {"mt-bench": None}
    with pytest.raises(ConfigError, match=r"benchmarks\.mt-bench\.questions: missing"):
        load_matrix(write(tmp_path, content))


def test_the_papers_settings_are_the_defaults(tmp_path: Path) -> None:
    content = document(tmp_path)
    del content["training"]
    training = load_matrix(write(tmp_path, content)).training
    assert (training.beta, training.learning_rate, training.batch_size) == (0.01, 5e-7, 128)
    assert (training.warmup_ratio, training.num_train_epochs, training.max_length) == (0.1, 1.0, 1024)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trainin": {}}, "trainin: no such key; allowed: .*did you mean 'training'"),
        ({"model": None}, "model: .*string"),
        ({"baseline": "sft"}, "baseline 'sft' is none of the variants: base, dpo"),
        ({"training": {"beta": 0}}, "training.beta: 0: .*greater than 0"),
        ({"training": {"bta": 1}}, "training.bta: no such key; allowed: beta, .*did you mean 'beta'"),
        (
            {"training": {"batch_size": 5, "per_device_train_batch_size": 2}},
            "batch_size 5 is not a multiple of per_device_train_batch_size 2",
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
        ({"benchmarks": {"alpaca_evil": {}}}, "benchmarks.alpaca_evil: no such key; allowed: alpaca-eval, arena-hard"),
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


WRITTEN = """\
name: small
model: smollm2-135m-instruct
seeds: [0, 1]
variants:
  base:
  dpo:
  ra-dpo:
    training:
      beta: [0.01, 0.1]
  ra-hot:
    extends: ra-dpo
    training: {learning_rate: 1.0e-4}
data:
  train: {path: train.jsonl}
  heldout: {path: heldout.jsonl}
training: {batch_size: 4, per_device_train_batch_size: 2}
benchmarks:
  unlearning: {}
  alpaca-eval: {questions: {path: questions.jsonl}}
"""


def load(folder: Path, old: str = "", new: str = "") -> Matrix:
    document(folder)  # for the files that it names
    assert old in WRITTEN
    path = folder / "matrix.yaml"
    path.write_text(WRITTEN.replace(old, new, 1))
    return load_matrix(path)


def test_a_list_of_values_makes_a_variant_of_each_and_is_inherited(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    assert list(matrix.variants) == [
        "base", "dpo", "ra-dpo-beta=0.01", "ra-dpo-beta=0.1", "ra-hot-beta=0.01", "ra-hot-beta=0.1",
    ]  # fmt: skip
    hot = matrix.variants["ra-hot-beta=0.1"]
    assert hot.method == "ra-dpo", "the method of the variant it extends"
    training = matrix.training_for("ra-hot-beta=0.1")
    assert (training.beta, training.learning_rate, training.batch_size) == (0.1, 1e-4, 4)


def test_a_sweep_of_the_matrix_goes_for_every_variant_that_trains(tmp_path: Path) -> None:
    matrix = load(tmp_path, "batch_size: 4,", "batch_size: 4, learning_rate: [1.0e-6, 5.0e-7], loss: [ipo, hinge],")
    assert [name for name in matrix.variants if not name.startswith("ra")] == [
        "base",
        *(f"dpo-learning_rate={rate}-loss={loss}" for rate in ("1e-06", "5e-07") for loss in ("ipo", "hinge")),
    ]
    assert len([name for name in matrix.variants if name.startswith("ra-dpo")]) == 8
    assert len([name for name in matrix.variants if name.startswith("ra-hot")]) == 4, "its own learning rate stays"


def test_cells_are_included_and_left_out(tmp_path: Path) -> None:
    rules = "exclude:\n  - {variant: 'ra-*', seed: 1}\n  - {variant: dpo, benchmark: alpaca-eval}\nbenchmarks:"
    matrix = load(tmp_path, "benchmarks:", rules)
    place = {"model": "smollm2-135m-instruct"}
    assert not matrix.has_cell(**place, variant="ra-dpo-beta=0.1", seed=1)
    assert matrix.has_cell(**place, variant="ra-dpo-beta=0.1", seed=0)
    assert matrix.has_cell(**place, variant="dpo", seed=1)
    assert not matrix.has_cell(**place, variant="dpo", seed=1, benchmark="alpaca-eval")
    assert matrix.has_cell(**place, variant="dpo", seed=1, benchmark="unlearning")
    only = load(tmp_path, "benchmarks:", "include: [{variant: [base, dpo]}]\nbenchmarks:")
    assert not only.has_cell(**place, variant="ra-dpo-beta=0.1", seed=0)
    assert only.has_cell(**place, variant="base", seed=0)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("beta: [0.01", "bata: [0.01", "9: variants.ra-dpo.training.bata: no such key; .*did you mean 'beta'"),
        ("[0.01, 0.1]", "[0.01, -0.1]", "9: variants.ra-dpo.training.beta: -0.1: .*greater than 0"),
        ("extends: ra-dpo", "extends: ra-dop", "11: variants.ra-hot.extends: 'ra-dop': no such variant; .*'ra-dpo'"),
        ("extends: ra-dpo", "extends: ra-hot", "11: variants.ra-hot.extends: .*cannot extend itself"),
        ("extends: ra-dpo", "method: ra-dop", "11: variants.ra-hot.method: 'ra-dop': .*did you mean 'ra-dpo'"),
        ("  dpo:\n", "  dpo: 3\n", "6: variants.dpo.training: 3: .*dict"),
        ("  dpo:\n", "  dpo: {trainin: {}}\n", "6: variants.dpo.trainin: no such key; .*did you mean 'training'"),
        ("seeds: [0, 1]", "seeds: [0, x]", "3: seeds.1: 'x': .*integer"),
        ("unlearning:", "unlerning:", "18: benchmarks.unlerning: no such key; allowed: .*did you mean 'unlearning'"),
        ("batch_size: 4,", "batch_size: 4, loss: sigmoit,", "16: training.loss: 'sigmoit': .*did you mean 'sigmoid'"),
        ("questions.jsonl", "question.jsonl", "19: benchmarks.alpaca-eval.questions.path: .*question.jsonl does not"),
        ("seeds: [0, 1]", "seeds: [0]\nseeds: [1]", "4: seeds: the key is given twice"),
        ("name: small", "name: [small", "2: cannot be read as YAML"),
        ("benchmarks:", "exclude: [{variant: ra-dop}]\nbenchmarks:", "17: exclude.0.variant: 'ra-dop' fits none of"),
        ("benchmarks:", "exclude: [{seed: 7}]\nbenchmarks:", "17: exclude.0.seed: 7 is none of the seeds 0, 1"),
        ("benchmarks:", "baseline: bse\nbenchmarks:", "17: baseline 'bse' is none of .*did you mean 'base'"),
        ("model: smollm2-135m-instruct", "models: [a, a]", "2: models: a model is named twice"),
        ("name: small", "name: small\nmodels: [a]", "2: models: give either model or models"),
        ("model: smollm2-135m-instruct\n", "", "model: missing"),
    ],
)
def test_an_error_names_the_line_and_the_nearest_word(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, old, new)
    assert re.search(rf"matrix\.yaml:{told}", str(error.value)) or told == "model: missing", error.value
    assert re.search(told.split(": ", 1)[1], str(error.value))


def test_everything_that_is_wrong_is_told_at_once_and_each_thing_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "beta: [0.01, 0.1]", "{bata: 1, num_train_epochs: -1}")
    lines = sorted(str(error.value).splitlines())
    assert len(lines) == 2, "a variant that inherits them is not told of again"
    assert ":9: variants.ra-dpo.training.bata" in lines[0]
    assert ":9: variants.ra-dpo.training.num_train_epochs: -1" in lines[1]


def test_a_secret_in_a_file_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "name: small", "name: small\napi_key: sk-something")
    assert "api_key: no such key" in str(error.value)
    assert "sk-something" not in str(error.value)


def test_the_schema_takes_what_load_matrix_takes(tmp_path: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(matrix_schema())
    validator.check_schema(matrix_schema())
    examples = [yaml.safe_load(WRITTEN), document(tmp_path)]
    examples += [yaml.safe_load(path.read_text()) for path in (Path(__file__).parents[1] / "benchmarks").glob("*.yaml")]
    for example in examples:
        assert list(validator.iter_errors(example)) == []
    for wrong in (
        {"seeds": []}, {"trainin": {}}, {"training": {"bta": 1}}, {"variants": {"dpo": {"training": {"bta": 1}}}},
        {"benchmarks": {"alpaca_evil": {}}}, {"models": ["a"]}, {"training": {"loss": "sigmoidal"}},
        {"training": {"beta": [0.1, "x"]}},
    ):  # fmt: skip
        assert list(validator.iter_errors({**examples[1], **wrong})), wrong


def test_old_names_of_training_settings_are_read_with_a_warning_and_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warn, "_WARNED", set())
    content = document(tmp_path)
    content["training"] = {"batch_size": 4, "micro_batch_size": 2, "warmup_share": 0.2}
    content["variants"] = {"base": None, "dpo": {"training": {"epochs": [1, 2]}}}
    with pytest.warns(warn.RadpoWarning) as told:
        old = load_matrix(write(tmp_path, content))
    assert sorted(str(one.message).split(",")[0] for one in told) == [
        "the training setting epochs is called num_train_epochs now",
        "the training setting micro_batch_size is called per_device_train_batch_size now",
        "the training setting warmup_share is called warmup_ratio now",
    ]
    content["training"] = {"batch_size": 4, "per_device_train_batch_size": 2, "warmup_ratio": 0.2}
    content["variants"] = {"base": None, "dpo": {"training": {"num_train_epochs": [1, 2]}}}
    assert load_matrix(write(tmp_path, content)) == old
    assert old.training_for("dpo-num_train_epochs=2").num_train_epochs == 2
    content["training"] = {"warmup_share": 0.2, "warmup_ratio": 0.1}
    with pytest.raises(ConfigError, match=r"matrix.yaml:\d+: training: warmup_share is the old name of warmup_ratio"):
        load_matrix(write(tmp_path, content))
