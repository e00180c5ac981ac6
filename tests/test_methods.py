"""Every method in a matrix on a tiny model: what is trained, what is shared, what a user's own package adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from factories import scored_pairs, write_model
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError
from radpo.engine.store import Store
from radpo.matrix.expand import Plan, expand
from radpo.matrix.loading import load_matrix
from radpo.models.heldout import asked_with_goals
from radpo.models.loading import load_tokenizer
from radpo.preferences.goals import DEFAULT_GOAL_TEXT, asked_in
from radpo.preferences.writing import write_preferences
from radpo.training.settings import TrainingSettings
from radpo.training.variants import find_variant, variant_names

SCORES = [(9.0, 3.0), (7.0, 6.0), (10.0, 1.0), (5.0, 4.0), (8.0, 2.0), (6.0, 5.0)]
TRAINING = {
    "beta": 0.3, "learning_rate": 1.0e-3, "batch_size": 4, "per_device_train_batch_size": 2, "max_length": 400,
    "precision": "float32",
}  # fmt: skip


def write_matrix(folder: Path, variants: dict[str, Any], **changes: Any) -> Path:
    """A matrix file on a tiny model, with its data beside it."""
    import pyarrow as pa

    write_model(folder / "model")
    train = scored_pairs(SCORES)
    rows = train.to_pylist()
    attributes = pa.struct([("helpfulness", pa.float64()), ("honesty", pa.float64())])
    for number, side in enumerate(("chosen", "rejected")):
        rated = [{"helpfulness": 1.0 + (n + number) % 5, "honesty": 3.0} for n in range(len(rows))]
        train = train.append_column(f"attributes_{side}", pa.array(rated, attributes))
    write_preferences(train, folder / "train.parquet")
    write_preferences(train.slice(0, 3), folder / "heldout.parquet")
    document = {
        "name": "methods", "model": str(folder / "model"), "seeds": [0], "variants": {"base": None, **variants},
        "data": {"train": {"path": "train.parquet"}, "heldout": {"path": "heldout.parquet"}}, "training": TRAINING,
        "save_every": 1, "benchmarks": {"unlearning": {}}, **changes,
    }  # fmt: skip
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "matrix.yaml"


def names(plan: Plan, function: str) -> list[str]:
    return sorted(stage.name for stage in plan.stages if stage.function_name == function)


def test_references_are_computed_once_for_all_seeds_betas_and_losses(tmp_path: Path) -> None:
    betas = {
        f"{method}-{beta}": {"method": method, "training": {"beta": beta}}
        for method in ("dpo", "ra-dpo")
        for beta in (0.1, 0.3)
    }
    betas["ra-ipo"] = {"method": "ra-dpo", "training": {"loss": "ipo", "learning_rate": 1e-4}}
    plan = expand(load_matrix(write_matrix(tmp_path, betas, seeds=[0, 1, 2])))
    assert len(names(plan, "train")) == 15
    assert names(plan, "reference") == ["reference/plain", "reference/ra"]


def test_implicit_rewards_come_from_a_dpo_policy_of_the_same_seed(tmp_path: Path) -> None:
    plan = expand(load_matrix(write_matrix(tmp_path, {"dpo": None, "ira": None}, seeds=[0, 1])))
    trained = names(plan, "train")
    # The DPO policy that gives the rewards is the variant dpo itself: one stage, whatever it is called.
    assert len(trained) == 4
    ira = next(stage for stage in plan.stages if stage.name == "train/ira/seed-1")
    dpo = next(cell.train for cell in plan.cells if cell.variant == "dpo" and cell.seed == 1)
    assert dpo is not None
    implicit = ira.inputs["pairs"].inputs["scored"]
    assert implicit.function_name == "implicit"
    assert implicit.inputs["policy"].key == dpo.key


def test_a_wording_of_the_goal_reaches_all_that_asks_for_one(tmp_path: Path) -> None:
    """Training pairs, checkpoints, held-out responses and samples must all be asked in the same words."""
    more = {"calibration": {"questions": {"path": "questions.jsonl"}, "goals": [2, 9]}, "unlearning": {}}
    question = {"question_id": 1, "category": "x", "turns": ["Why?"], "constraints": [[{"kind": "max_words", "n": 9}]]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n", encoding="utf-8")
    path = write_matrix(tmp_path, {"ra-dpo": None}, benchmarks=more, track=1)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    usual = {stage.name: stage for stage in expand(load_matrix(path)).stages}
    document["data"]["goal_text"] = "Answer in {g} of {high} words."
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    own = {stage.name: stage for stage in expand(load_matrix(path)).stages}
    asking = [s for s in own.values() if s.function_name in ("relabel", "train", "likelihood", "samples")]
    assert {stage.function_name for stage in asking} == {"relabel", "train", "likelihood", "samples"}
    for stage in asking:
        assert asked_in(stage.settings) == "Answer in {g} of 10 words."
        assert "goal_text" not in usual[stage.name].settings
        assert asked_in(usual[stage.name].settings) == DEFAULT_GOAL_TEXT
        assert usual[stage.name].key != stage.key
    tokenizer = load_tokenizer(tmp_path / "model")
    pairs = scored_pairs(SCORES[:1]).to_pylist()
    _, tokenized = asked_with_goals(pairs, tokenizer, "system", (1.0, 10.0), asked_in(asking[0].settings))
    prompts = [tokenizer.decode(pair.prompt_ids) for pair in tokenized]
    assert ["words." in prompt for prompt in prompts] == [False, True, True, True]
    assert "Answer in 10 of 10 words." in prompts[1]
    assert "Answer in 3 of 10 words." in prompts[3]

    document["data"]["goal_text"] = "Answer in few words."
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"data.goal_text: .*must hold {g} once, where the score goes; it does 0"):
        load_matrix(path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, Path]:
    """A run of every built-in method, through the command line."""
    folder = tmp_path_factory.mktemp("methods")
    methods = {name: None for name in variant_names() if name != "base"}
    lora = {"method": "dpo", "training": {"lora": {"r": 4, "alpha": 16, "targets": ["q_proj", "v_proj"]}}}
    matrix = write_matrix(folder, {**methods, "dpo-lora": lora}, track=1)
    command = ["run", str(matrix), "--out", str(folder / "run"), "--store", str(folder / "store")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr[-3000:]
    return expand(load_matrix(matrix)), Store(folder / "store"), folder / "run"


def test_every_method_trains_and_is_measured(ran: tuple[Plan, Store, Path]) -> None:
    plan, store, out = ran
    results = pd.read_parquet(out / "results.parquet")
    trained = {cell.variant for cell in plan.cells if cell.train is not None}
    assert trained == {*variant_names(), "dpo-lora"} - {"base"}
    assert set(results[results["benchmark"] == "unlearning"]["variant"]) == {*trained, "base"}
    training = pd.read_parquet(out / "training.parquet")
    assert set(training["variant"]) == trained
    for cell in plan.cells:
        if cell.train is None:
            continue
        policy = store.folder(cell.train) / "policy"
        template = (policy / "chat_template.jinja").read_text(encoding="utf-8")
        assert ("goal" in template) is find_variant("dpo" if cell.variant == "dpo-lora" else cell.variant).conditioned


def test_methods_differ_in_their_pairs_as_they_say(ran: tuple[Plan, Store, Path]) -> None:
    plan, store, _ = ran
    pairs = {
        cell.variant: pq.read_table(store.folder(cell.train.inputs["pairs"]) / "pairs.parquet").to_pylist()
        for cell in plan.cells
        if cell.train is not None
    }
    assert {name: len(rows) for name, rows in pairs.items()} == {
        "dpo": 6, "dpo-norm": 6, "dpo-lora": 6, "ra-dpo": 12, "half-ra": 6, "ira": 12, "ra-attributes": 12,
        "cond-sft": 12,
    }  # fmt: skip
    assert pairs["cond-sft"] == pairs["ra-dpo"]
    assert all("helpfulness" in row["prompt"][0]["content"].lower() for row in pairs["ra-attributes"])
    assert sorted({row["goal"] for row in pairs["ira"]})[0] == pytest.approx(1.0)
    assert sorted({row["goal"] for row in pairs["ira"]})[-1] == pytest.approx(10.0)


def test_conditional_sft_raises_what_it_learns(ran: tuple[Plan, Store, Path]) -> None:
    training = pd.read_parquet(ran[2] / "training.parquet")
    log = training[(training["variant"] == "cond-sft")].pivot(index="step", columns="metric", values="value")
    # TRL's sft loss is the mean negative log-likelihood per token of the response that fits the goal.
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert log["logps/chosen"].iloc[-1] > log["logps/chosen"].iloc[0]


def test_adapters_are_merged_into_an_ordinary_checkpoint(ran: tuple[Plan, Store, Path]) -> None:
    from peft import PeftModel

    from radpo.models.loading import load_model

    plan, store, _ = ran
    cell = next(cell for cell in plan.cells if cell.variant == "dpo-lora")
    assert cell.train is not None
    folder = store.folder(cell.train)
    merged = load_model(folder / "policy").state_dict()
    base = load_model(Path(plan.models[0].location)).state_dict()
    adapted = PeftModel.from_pretrained(load_model(Path(plan.models[0].location)), folder / "adapter")
    expected = adapted.merge_and_unload().state_dict()
    assert all(abs(merged[name] - expected[name]).max() < 1e-5 for name in merged)
    moved = {name for name in merged if abs(merged[name] - base[name]).max() > 1e-6}
    assert moved
    assert all("q_proj" in name or "v_proj" in name for name in moved)


def test_trajectories_begin_at_the_reference_and_end_at_the_policy(ran: tuple[Plan, Store, Path]) -> None:
    plan, store, out = ran
    likelihoods = pd.read_parquet(out / "likelihoods.parquet")
    for cell in plan.cells:
        if cell.train is None or cell.variant in ("dpo-lora", "ra-attributes"):
            continue
        track = pd.read_parquet(store.folder(cell.train) / "trajectory.parquet")
        assert list(track.columns) == ["step", "id", "side", "goal", "logp", "tokens"]
        steps = sorted(track["step"].unique())
        assert steps == list(range(len(steps)))
        mine = likelihoods[likelihoods["variant"] == cell.variant]
        for step, column in ((0, "logp_reference"), (steps[-1], "logp_policy")):
            merged = track[track["step"] == step].merge(
                mine, left_on=["id", "side", "goal"], right_on=["pair_id", "response", "goal"], validate="one_to_one"
            )
            assert len(merged) == 3 * 2 * 4
            assert (merged["logp"] - merged[column]).abs().max() < 1e-3


def test_a_method_that_does_not_exist_is_named_with_those_that_do() -> None:
    known = "base, cond-sft, dpo, dpo-norm, half-ra, ira, ra-attributes, ra-dpo"
    with pytest.raises(ConfigError, match=f"method 'rado': no such variant; there are {known}; did you mean"):
        find_variant("rado")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"beta": 0}, "greater than 0"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "label_smoothing is for the losses sigmoid, robust, exo_pair"),
        ({"loss": "exo_pair"}, "needs a label_smoothing above 0"),
        ({"batch_size": 5, "per_device_train_batch_size": 2}, "not a multiple"),
        ({"lora": {"rank": 4}}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingSettings.model_validate(wrong)
