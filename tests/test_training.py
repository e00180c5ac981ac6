"""Training: TRL's own mathematics, exact resumption, and a checkpoint that any tool conditions rightly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from factories import TEMPLATE, scored_pairs, write_model

from radpo.core.errors import ConfigError, DataError, ModelError, RadpoError
from radpo.models.heldout import heldout_log_likelihoods, heldout_reference
from radpo.models.likelihood import log_likelihoods, responses, tokenize_pair
from radpo.models.loading import load_model, load_tokenizer
from radpo.preferences.goals import condition, goal_aware_template
from radpo.preferences.relabel import relabel, to_trl
from radpo.training.checkpoint import last_complete, mark_complete
from radpo.training.reference import known_log_likelihoods, reference_log_likelihoods
from radpo.training.run import train
from radpo.training.settings import Lora, TrainingSettings

SETTINGS = TrainingSettings(
    beta=0.3,
    learning_rate=1e-3,
    batch_size=4,
    per_device_train_batch_size=2,
    max_length=400,
    num_train_epochs=2,
    precision="float32",
)
SCORES = [(9.0, 3.0), (7.0, 6.0), (10.0, 1.0), (5.0, 4.0), (8.0, 2.0), (6.0, 5.0)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pairs() -> Any:
    return relabel(scored_pairs(SCORES), "ra").table


@pytest.fixture(scope="module")
def reference(model: Path, pairs: Any) -> Any:
    return reference_log_likelihoods(model, pairs, max_length=SETTINGS.max_length, precision="float32")


def weights(folder: Path) -> dict[str, Any]:
    return load_model(folder).state_dict()


def plain_trl(model: Path, pairs: Any, out: Path, **changes: Any) -> Any:
    """TRL's trainer as it comes, with the reference model beside the policy."""
    from trl import DPOConfig, DPOTrainer

    settings: dict[str, Any] = {
        "seed": 0,
        "data_seed": 0,
        "beta": SETTINGS.beta,
        "learning_rate": SETTINGS.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_length": SETTINGS.max_length,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        **changes,
    }
    return DPOTrainer(
        model=load_model(model),
        ref_model=load_model(model),
        args=DPOConfig(output_dir=str(out), **settings),
        train_dataset=to_trl(pairs),
        processing_class=load_tokenizer(model),
    )


def test_training_gives_the_weights_and_losses_of_plain_trl(
    model: Path, pairs: Any, reference: Any, tmp_path: Path
) -> None:
    train(model, pairs, reference, tmp_path / "ours", SETTINGS, seed=0)
    theirs = plain_trl(model, pairs, tmp_path / "theirs")
    theirs.train()
    trained = weights(tmp_path / "ours" / "policy")
    untrained = weights(model)
    apart = moved = 0.0  # squared distances; Adam's steps are all of one size, so rounding moves single weights far
    for name, tensor in theirs.model.state_dict().items():
        apart += float((trained[name] - tensor).square().sum())
        moved += float((tensor - untrained[name]).square().sum())
    assert moved > 1e-3, "the comparison means something only if training moved the weights"
    assert (apart / moved) ** 0.5 < 0.01
    log = pd.read_parquet(tmp_path / "ours" / "training.parquet")
    for metric in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "grad_norm"):
        # Until the first update, policy and reference are equal, and which reward is greater is chance.
        first = 2 if metric == "rewards/accuracies" else 0
        ours = log[log["metric"] == metric]["value"].tolist()[first:]
        expected = [entry[metric] for entry in theirs.state.log_history[:-1]][first:]
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-4), metric


def test_tokens_are_trls(model: Path, pairs: Any, tmp_path: Path) -> None:
    rows = plain_trl(model, pairs, tmp_path).train_dataset
    tokenizer = load_tokenizer(model)
    for row, pair in zip(rows, pairs.to_pylist(), strict=True):
        ours = tokenize_pair(tokenizer, pair["prompt"], pair["chosen"], pair["rejected"])
        assert list(ours.prompt_ids) == row["prompt_ids"]
        assert list(ours.chosen_ids) == row["chosen_ids"]
        assert list(ours.rejected_ids) == row["rejected_ids"]


def test_reference_log_likelihoods_are_trls(model: Path, pairs: Any, tmp_path: Path) -> None:
    short = 300  # cuts into the longest responses
    theirs = plain_trl(model, pairs, tmp_path, precompute_ref_log_probs=True, max_length=short).train_dataset
    ours = reference_log_likelihoods(model, pairs, max_length=short, precision="float32")
    assert ours["ref_chosen_logps"].to_pylist() == pytest.approx(theirs["ref_chosen_logps"], abs=1e-3)
    assert ours["ref_rejected_logps"].to_pylist() == pytest.approx(theirs["ref_rejected_logps"], abs=1e-3)


def test_log_likelihoods_are_those_of_one_sequence_at_a_time(model: Path, pairs: Any) -> None:
    import torch

    weights_, tokenizer = load_model(model), load_tokenizer(model)
    tokenized = [tokenize_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in pairs.to_pylist()]
    items = list(responses(tokenized, None))
    for item, batched in zip(items, log_likelihoods(weights_, items, batch_tokens=900), strict=True):
        ids = torch.tensor([item.prompt_ids + item.response_ids])
        logp = weights_(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[len(item.prompt_ids) - 1 :]
        assert batched.tokens == len(item.response_ids)
        assert batched.logp == pytest.approx(logp.sum().item(), abs=1e-4 * batched.tokens)


def test_held_out_figures_of_training_are_the_likelihood_scorers(
    model: Path, pairs: Any, reference: Any, tmp_path: Path
) -> None:
    held_out = scored_pairs([(9.0, 8.0), (6.0, 2.0), (10.0, 7.0), (4.0, 3.0), (7.0, 1.0)])
    before = heldout_log_likelihoods(model, held_out, scale=(1, 10), max_length=400, precision="float32")
    relabeled = relabel(held_out, "ra").table
    known = heldout_reference(before, relabeled)
    train(
        model, pairs, reference, tmp_path, SETTINGS, seed=0,
        heldout=(relabeled, known_log_likelihoods(model, relabeled, known)), 
        chat_template=goal_aware_template(TEMPLATE, 10, "system"),
    )  # fmt: skip
    found = json.loads((tmp_path / "heldout.json").read_text())
    assert found["n"] == relabeled.num_rows
    reported = found["metrics"]
    after = heldout_log_likelihoods(tmp_path / "policy", held_out, scale=(1, 10), max_length=400, precision="float32")
    frame = heldout_reference(after, relabeled).to_pandas()
    base = known.to_pandas()
    chosen = frame["ref_chosen_logps"] - base["ref_chosen_logps"]
    rejected = frame["ref_rejected_logps"] - base["ref_rejected_logps"]
    assert reported["rewards/accuracies"] == pytest.approx((chosen > rejected).mean())
    assert reported["logps/chosen"] == pytest.approx(frame["ref_chosen_logps"].mean(), abs=1e-2)
    assert reported["logps/rejected"] == pytest.approx(frame["ref_rejected_logps"].mean(), abs=1e-2)
    assert reported["rewards/margins"] == pytest.approx(SETTINGS.beta * (chosen - rejected).mean(), abs=1e-2)
    assert abs(chosen.mean()) > 0.1, "the policy moved, so that equal figures mean something"


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("killed_at", [2, 3, 5])
def test_a_resumed_run_ends_in_the_same_weights_and_log(
    model: Path, pairs: Any, reference: Any, tmp_path: Path, killed_at: int
) -> None:
    def kill(step: int, total: int) -> None:
        if step == killed_at:
            raise KilledError

    train(model, pairs, reference, tmp_path / "whole", SETTINGS, seed=3, save_every=2)
    with pytest.raises(KilledError):
        train(model, pairs, reference, tmp_path / "torn", SETTINGS, seed=3, save_every=2, progress=kill)
    steps: list[int] = []
    train(
        model, pairs, reference, tmp_path / "torn", SETTINGS, seed=3, save_every=2,
        progress=lambda step, total: steps.append(step),
    )  # fmt: skip
    assert steps[0] == (killed_at - 1) // 2 * 2 + 1, "it went on from the last checkpoint and not from the start"
    whole, torn = weights(tmp_path / "whole" / "policy"), weights(tmp_path / "torn" / "policy")
    assert all((whole[name] == torn[name]).all() for name in whole)
    logs = [pd.read_parquet(tmp_path / name / "training.parquet") for name in ("whole", "torn")]
    pd.testing.assert_frame_equal(*logs)


def test_a_torn_or_hurt_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, mark in ((5, True), (10, True), (15, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(bytes(100))
        if mark:
            mark_complete(folder)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"
    assert last_complete(tmp_path / "checkpoint-15") is None
    (tmp_path / "checkpoint-10" / "optimizer.pt").write_bytes(bytes(99) + b"\1")
    assert last_complete(tmp_path) == tmp_path / "checkpoint-5"
    (tmp_path / "checkpoint-5" / "complete").write_text("{")
    assert last_complete(tmp_path) is None


def test_the_checkpoint_is_an_ordinary_folder_that_asks_for_the_best_score(
    model: Path, pairs: Any, reference: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train(
        model, pairs, reference, tmp_path, SETTINGS, seed=0, chat_template=goal_aware_template(TEMPLATE, 10, "system")
    )
    policy = tmp_path / "policy"
    names = {path.name for path in policy.iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert {path.name for path in tmp_path.iterdir()} == {"policy", "training.parquet", "notes.json"}
    AutoModelForCausalLM.from_pretrained(policy)
    tokenizer, plain = AutoTokenizer.from_pretrained(policy), AutoTokenizer.from_pretrained(model)
    conversations = [
        [{"role": "user", "content": "Hello"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Bye"},
        ],
    ]
    for messages in conversations:
        for asked, goal in (({}, 10), ({"goal": 7}, 7), ({"goal": 7.5}, 7.5), ({"goal": None}, None)):
            wanted = plain.apply_chat_template(condition(messages, goal, "system"), tokenize=False)
            assert tokenizer.apply_chat_template(messages, tokenize=False, **asked) == wanted


def test_a_prompt_that_fills_the_length_stops_the_run_with_a_count(
    model: Path, pairs: Any, reference: Any, tmp_path: Path
) -> None:
    short = SETTINGS.model_copy(update={"max_length": 240})
    with pytest.raises(DataError, match=r"\d+ of 12 training pairs have a prompt of max_length \(240\)"):
        train(model, pairs, reference, tmp_path, short, seed=0)


def test_a_prompt_that_fills_the_length_is_dropped_and_counted_where_asked(
    model: Path, pairs: Any, reference: Any, tmp_path: Path
) -> None:
    import torch

    lengths = sorted(len(ids) for ids in reference["prompt_ids"].to_pylist())
    short = SETTINGS.model_copy(update={"max_length": lengths[8], "overlong_prompts": "drop", "num_train_epochs": 1})
    kept = [len(ids) < lengths[8] for ids in reference["prompt_ids"].to_pylist()]
    assert 4 <= sum(kept) < 12
    train(model, pairs, reference, tmp_path / "all", short, seed=0, heldout=(pairs, reference))
    train(model, pairs.filter(kept), reference.filter(kept), tmp_path / "kept", short, seed=0)
    found, expected = (weights(tmp_path / name / "policy") for name in ("all", "kept"))
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    noted = json.loads((tmp_path / "all" / "notes.json").read_text())
    assert [note.split(" have ")[0] for note in noted] == [
        f"{12 - sum(kept)} of 12 {what} pairs" for what in ("training", "held-out")
    ]
    assert json.loads((tmp_path / "all" / "heldout.json").read_text())["n"] == sum(kept)
    assert json.loads((tmp_path / "kept" / "notes.json").read_text()) == []


def test_references_of_other_pairs_are_refused(model: Path, pairs: Any, reference: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="belong to other pairs"):
        train(model, pairs, reference.slice(1), tmp_path, SETTINGS, seed=0)


def test_a_loss_that_is_no_number_stops_training_at_its_step(
    model: Path, pairs: Any, reference: Any, tmp_path: Path
) -> None:
    hot = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(
        RadpoError, match=r"training step \d+: the (loss|gradient's norm) is (nan|inf) on the pairs p\d#\w+, p\d"
    ):
        train(model, pairs, reference, tmp_path, hot, seed=0)


def test_two_processes_give_the_parameters_of_one(model: Path, tmp_path: Path) -> None:
    """Data parallel over gloo: each optimiser step's batch is shared out, not multiplied."""
    import warm_commands

    from radpo import api
    from radpo.preferences.writing import write_preferences

    write_preferences(scored_pairs(SCORES), tmp_path / "pairs.parquet")
    api.train(
        tmp_path / "pairs.parquet", tmp_path / "one", model=str(model), training=SETTINGS.model_dump(mode="json"),
        store=str(tmp_path / "store-one"),
    )  # fmt: skip
    asked = [f"--set={name}={value}" for name, value in SETTINGS.model_dump(exclude_defaults=True).items()]
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "radpo", "train"]
    place = [str(tmp_path / "pairs.parquet"), "--out", str(tmp_path / "two"), "--model", str(model)]
    place += ["--store", str(tmp_path / "store-two")]
    with warm_commands.program(tmp_path / "python"):
        environment = {**os.environ, "PYTHON_EXEC": str(tmp_path / "python")}
        done = warm_commands.run([*command, *place, *asked], env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two, base = (weights(folder) for folder in (tmp_path / "one/policy", tmp_path / "two/policy", model))
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one) ** 0.5
    moved = sum(float((one[name] - base[name]).square().sum()) for name in one) ** 0.5
    assert moved > 1e-2
    assert apart < 1e-3 * moved
    assert done.stdout.splitlines() == [str(tmp_path / "two/policy")]
    logs = [pd.read_parquet(tmp_path / name / "training.parquet") for name in ("one", "two")]
    grad_norms, others = (log[log["metric"] == "grad_norm"]["value"].tolist() for log in logs)
    assert grad_norms == pytest.approx(others, rel=1e-3)
    odd = SETTINGS.model_copy(update={"batch_size": 6, "per_device_train_batch_size": 2})
    with pytest.raises(ValueError, match="batch_size 6 is not a multiple of 4"):
        odd.accumulation(2)


def test_another_pairs_file_is_not_taken_up(model: Path, tmp_path: Path) -> None:
    from radpo import api
    from radpo.preferences.writing import write_preferences

    def run(scores: list[tuple[float, float]]) -> dict[str, Any]:
        file = tmp_path / f"{scores[0][0]}.parquet"
        write_preferences(scored_pairs(scores), file)
        training = SETTINGS.model_dump(mode="json")
        return weights(api.train(file, tmp_path / "out", method="dpo", model=str(model), training=training))

    def trained() -> list[Path]:
        return sorted((tmp_path / "store" / "stages").glob("*/training.parquet"))

    first = run([(9.0, 3.0), (7.0, 6.0)])
    (stage,) = trained()
    before = stage.stat().st_mtime_ns
    run([(9.0, 3.0), (7.0, 6.0)])  # finished: nothing is done
    assert [path.stat().st_mtime_ns for path in trained()] == [before]
    run([(8.0, 3.0), (7.0, 6.0), (9.0, 5.0)])
    assert len(trained()) == 2, "trained anew, and not from the other's checkpoints"
    again = run([(9.0, 3.0), (7.0, 6.0)])
    assert len(trained()) == 2
    assert all(bool((first[name] == again[name]).all()) for name in first)


def test_nothing_to_train_on_is_said_at_once(model: Path, reference: Any, pairs: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training pair is left"):
        train(model, pairs.slice(0, 0), reference.slice(0, 0), tmp_path, SETTINGS, seed=0)


def test_a_model_without_chat_template_is_refused(tmp_path: Path, pairs: Any) -> None:
    bare = write_model(tmp_path / "bare", template=None)
    with pytest.raises(ModelError, match="no chat template"):
        reference_log_likelihoods(bare, pairs, max_length=400, precision="float32")


def test_four_bits_without_the_package_are_refused(
    model: Path, pairs: Any, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a))
    four = SETTINGS.model_copy(update={"lora": Lora(four_bit=True)})
    with pytest.raises(ConfigError, match=r"training\.lora\.four_bit: needs the package bitsandbytes"):
        train(model, pairs, reference, tmp_path, four, seed=0)
