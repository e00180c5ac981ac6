"""The paper's recipes: each is planned with no Hub and no data, with the paper's settings and its published figures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.published import read_published
from radpo.matrix import machines
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.settings import Matrix
from radpo.preferences.preferences import load_preferences

FOLDER = Path(__file__).parents[1] / "benchmarks" / "paper"
MODELS = {
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
    "qwen2-7b-instruct": "Qwen/Qwen2-7B-Instruct",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2-9b-it-sppo": "UCLA-AGI/Gemma-2-9B-It-SPPO-Iter3",
}
MORE = dict.fromkeys(("ablations-qwen2-7b-instruct", "on-policy-qwen2-7b-instruct"), "Qwen/Qwen2-7B-Instruct")
# What arXiv 2410.08067 reports: base, DPO (UF), DPO (RA).
PUBLISHED = {
    "qwen2-7b-instruct": {
        "alpaca-eval": (20.93, 21.46, 31.17), "mt-bench": (7.90, 8.33, 8.47), "arena-hard": (24.3, 21.9, 30.1),
    },
    "gemma-2-9b-it": {
        "alpaca-eval": (49.20, 50.70, 59.27), "mt-bench": (8.54, 8.54, 8.59), "arena-hard": (42.8, 35.8, 43.9),
    },
    "gemma-2-9b-it-sppo": {
        "alpaca-eval": (55.60, 52.75, 60.97), "mt-bench": (8.40, 8.41, 8.73), "arena-hard": (47.6, 40.4, 49.0),
    },
}  # fmt: skip
METRICS = {"alpaca-eval": "length_controlled_winrate", "mt-bench": "score", "arena-hard": "score"}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RADPO_DATA", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setattr(
        machines, "_measure", lambda threads: machines.NOMINAL
    )  # two seconds, which tests/test_plan.py spends


def recipe(name: str) -> Matrix:
    return load_matrix(FOLDER / f"{name}.yaml", planning=True)


def test_there_is_a_recipe_for_every_model_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"common", *MODELS, *MORE}
    assert {name: recipe(name).model for name in {**MODELS, **MORE}} == {**MODELS, **MORE}


@pytest.mark.parametrize("name", [*MODELS, *MORE])
def test_a_recipe_is_planned_with_no_hub_and_no_data(name: str, tmp_path: Path) -> None:
    words = ["plan", str(FOLDER / f"{name}.yaml"), "--machine", "8xh100-sxm", "--store", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    document = json.loads(done.stdout)
    assert document["not_estimated"] == []
    assert (document["machine"]["gpus"], document["jobs"]) == (8, 8)
    assert "NVIDIA's data sheet" in document["machine"]["source"]
    assert document["to_do"]["judge_calls"] > 6000
    assert document["to_do"]["judge_dollars"] > 100
    assert 0 < document["wall_seconds"] < 3600 * document["gpu_hours"] <= 8 * document["wall_seconds"]
    assert {*MODELS.values()} & set(document["size_hints"]), "the model is not here, and the plan says so"
    assert document["too_large_for_its_gpus"] == []
    dry = CliRunner().invoke(app, ["run", str(FOLDER / f"{name}.yaml"), "--store", str(tmp_path), "--dry-run"])
    assert dry.exit_code == 0
    assert not list(tmp_path.iterdir())
    run = CliRunner().invoke(app, ["run", str(FOLDER / f"{name}.yaml"), "--store", str(tmp_path)])
    assert "does not exist" in str(run.exception), "to be run, it takes its data"


@pytest.mark.parametrize("name", [*MODELS, *MORE])
def test_settings_are_the_authors(name: str) -> None:
    """recipes/*/dpo/config_full.yaml of github.com/shenao-zhang/reward-augmented-preference."""
    matrix = recipe(name)
    smoothing = 0.3 if "qwen2" in name or name == "gemma-2-9b-it" else 0.0
    for variant in ("dpo", "ra-dpo"):
        training = matrix.training_for(variant)
        assert (training.beta, training.learning_rate, training.warmup_ratio) == (0.01, 5e-7, 0.1)
        assert (training.num_train_epochs, training.batch_size, training.max_length) == (1, 128, 1024)
        assert (training.loss, training.label_smoothing) == ("sigmoid", smoothing)
        assert training.gradient_checkpointing
        assert training.accumulation(8) >= 1, "eight processes share a batch"
    assert matrix.resources["train"].gpus == 8
    assert matrix.seeds == (42,)
    assert {"base", "dpo", "ra-dpo"} <= matrix.variants.keys()
    asked = {key for key, section in matrix.benchmarks.named().items() if section is not None}
    assert asked == {"unlearning", "alpaca-eval", "mt-bench", "arena-hard", "academic"}
    assert matrix.benchmarks.academic is not None
    assert matrix.benchmarks.academic.tasks == ("paper",)


def test_the_ablations_are_those_of_the_paper() -> None:
    matrix = recipe("ablations-qwen2-7b-instruct")
    methods = {name: settings.method or name for name, settings in matrix.variants.items()}
    assert {"half-ra", "ira", "ra-attributes", "cond-sft"} <= set(methods.values())
    losses = {(methods[name], matrix.training_for(name).loss) for name in matrix.variants if "loss=" in name}
    assert losses == {
        (method, loss) for method in ("dpo", "ra-dpo") for loss in ("hinge", "ipo", "apo_zero", "nca_pair")
    }
    mains = {one.key for one in expand(recipe("qwen2-7b-instruct"), planning=True).stages}
    more = {one.key for one in expand(matrix, planning=True).stages}
    assert mains < more, "what the main recipe did is not done again"


@pytest.mark.parametrize("name", [*MODELS, *MORE])
def test_published_figures_are_exactly_those_that_are_known(name: str) -> None:
    matrix, known = recipe(name), PUBLISHED.get(name.removeprefix("ablations-"))
    if known is None:
        assert matrix.published is None
        return
    assert matrix.published is not None
    figures = read_published(matrix.published, matrix.variants, matrix.benchmarks.named())
    found = {(one.variant, one.benchmark): one.value for one in figures}
    variants = ("base", "dpo", "ra-dpo")
    assert found == {(v, b): x for b, values in known.items() for v, x in zip(variants, values, strict=True)}
    assert {(one.benchmark, one.metric) for one in figures} == METRICS.items()
    assert {(one.subset, one.source) for one in figures} == {("all", "arXiv 2410.08067")}


def test_every_file_of_published_figures_is_some_recipes() -> None:
    named = {recipe(name).published for name in MODELS}
    assert {path.name for path in (FOLDER / "published").iterdir()} == {path.name for path in named if path}


@pytest.mark.parametrize(
    ("name", "architecture", "sizes"),
    [
        ("mistral-7b-instruct", "Mistral", (32768, 4096, 14336, 32, 32, 8)),
        ("qwen2-7b-instruct", "Qwen2", (152064, 3584, 18944, 28, 28, 4)),
        ("llama-3.1-8b-instruct", "Llama", (128256, 4096, 14336, 32, 32, 8)),
        ("gemma-2-9b-it", "Gemma2", (256000, 3584, 14336, 42, 16, 8)),
        ("gemma-2-9b-it-sppo", "Gemma2", (256000, 3584, 14336, 42, 16, 8)),
    ],
)
def test_hinted_parameters_are_those_of_the_model_that_transformers_builds(
    name: str, architecture: str, sizes: tuple[int, ...]
) -> None:
    import torch
    import transformers

    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = getattr(transformers, f"{architecture}Config")(
        **dict(zip((*keys, "num_key_value_heads"), sizes, strict=True)),
        **({"head_dim": 256} if architecture == "Gemma2" else {"tie_word_embeddings": False}),
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    if model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
        counted -= model.get_input_embeddings().weight.numel()
    hints = recipe(name).size_hints.models[MODELS[name]]
    assert hints.parameters == pytest.approx(counted, rel=1e-3)
    assert hints.layers == config.num_hidden_layers


def test_hinted_questions_are_as_many_as_were_released(real_data: Path) -> None:
    import gzip

    hints = {Path(place).name: size for place, size in recipe("qwen2-7b-instruct").size_hints.questions.items()}
    with gzip.open(real_data / "alpaca_eval2" / "instructions_and_baseline.jsonl.gz", "rt") as stream:
        assert hints["alpaca-eval.json"].rows == sum(1 for _ in stream)
    for name, file in (
        ("mt-bench.jsonl", "mt_bench/question.jsonl"),
        ("arena-hard-v0.1.jsonl", "arena_hard_v0.1/question.jsonl"),
    ):
        rows = [json.loads(line) for line in (real_data / file).read_text().splitlines()]
        assert hints[name].rows == len(rows)


def test_the_kept_plans_are_what_the_recipes_give() -> None:
    done = subprocess.run([sys.executable, FOLDER / "plans.py", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), f"run `python benchmarks/paper/plans.py`\n{done.stdout}"


def module(name: str) -> Any:
    spec = spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_pairs_are_made_as_the_authors_make_them(tmp_path: Path) -> None:
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")

    def completion(number: int, score: float) -> dict[str, Any]:
        ratings = {aspect: {"Rating": str(1 + (number + place) % 5)} for place, aspect in enumerate(aspects)}
        return {"model": f"m{number}", "response": f"answer {number}", "overall_score": score, "annotations": ratings}

    rows = [
        {"instruction": f"Question {n}?", "completions": [completion(k, 2.0 + k + n % 3) for k in range(4)]}
        for n in range(30)
    ]
    source, asked = tmp_path / "ultrafeedback.jsonl", tmp_path / "TruthfulQA.csv"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with asked.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["Question", "Category"], ["Question 4?", "a"], ["Question 7?", "a"], ["Other?", "b"]]
        )
    make_data = module("make_data")
    counts = make_data.make(str(source), tmp_path / "data", make_data.questions_of(asked), 5)
    assert (counts["rows read"], counts["left out, a prompt of TruthfulQA"]) == (30, 2)
    assert (counts["held out"], counts["to train on"]) == (5, 23)
    tables = [load_preferences(tmp_path / "data" / f"{name}.parquet").table for name in ("train", "heldout")]
    prompts = [row[0]["content"] for table in tables for row in table.column("prompt").to_pylist()]
    assert sorted(prompts) == sorted(f"Question {n}?" for n in range(30) if n not in (4, 7))
    for table in tables:
        assert set(table.column("chosen").to_pylist()) == {"answer 3"}, "the best by overall score"
        assert "answer 3" not in table.column("rejected").to_pylist()
        assert set(table.column("attributes_chosen").to_pylist()[0]) == set(aspects)
    again = make_data.make(str(source), tmp_path / "again", make_data.questions_of(asked), 5)
    assert again == counts
    assert load_preferences(tmp_path / "again" / "train.parquet").table == tables[0]
