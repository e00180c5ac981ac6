"""Commands on one checkpoint, in process, on a tiny model: train, analyze, eval, regress, report, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories import scored_pairs, write_model
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.preferences.writing import write_preferences

FAST = [
    "--set",
    "batch_size=2",
    "--set",
    "per_device_train_batch_size=2",
    "--set",
    "learning_rate=0.001",
    "--set",
    "beta=0.3",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    write_model(folder / "model")
    write_preferences(scored_pairs([(9, 3), (7, 6), (10, 1), (6, 5.5)]), folder / "pairs.jsonl")
    return folder


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@pytest.fixture(scope="module")
def policy(place: Path) -> Path:
    words = ["train", str(place / "pairs.jsonl"), "--model", str(place / "model"), "--out", str(place / "run"), *FAST]
    done = call(*words)
    assert done.exit_code == 0
    assert done.stdout.strip() == str(place / "run" / "policy")
    again = call(*words)
    assert again.stdout == done.stdout, "a finished run is left as it is"
    assert (place / "run" / "report.html").is_file()
    assert {"matrix.yaml", "manifest.json", "training.parquet"} <= {path.name for path in (place / "run").iterdir()}
    return place / "run" / "policy"


def test_train_gives_a_checkpoint_with_its_goal(policy: Path) -> None:
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(policy).apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    assert "Overall score: 10." in text
    assert (policy.parent / "training.parquet").exists()


def test_analyze_unlearning_is_the_change_of_log_p(place: Path, policy: Path) -> None:
    from radpo.models.heldout import heldout_log_likelihoods
    from radpo.preferences.preferences import load_preferences

    pairs = place / "pairs.jsonl"
    done = call(
        "analyze", "unlearning", str(pairs), "--policy", str(policy), "--reference", str(place / "model"), "--json"
    )  # fmt: skip
    shown = json.loads(done.stdout)
    table = load_preferences(pairs).table
    before, after = (
        heldout_log_likelihoods(folder, table, scale=(1, 10), max_length=1024, precision="float32")
        for folder in (place / "model", policy)
    )
    high = (before["response"] == "rejected") & (before["goal"] == "none") & (before["score"] >= 5)
    expected = (after["logp"] - before["logp"])[high].mean()
    assert shown["none/delta_logp_rejected_high"]["n"] == high.sum() == 2
    assert shown["none/delta_logp_rejected_high"]["value"] == pytest.approx(expected, abs=1e-3)
    assert abs(expected) > 0.01


def test_eval_alpaca_eval_gives_the_published_win_rate(real_data: Path) -> None:
    import pandas as pd

    folder = real_data / "alpaca_eval2"
    done = call("eval", "alpaca-eval", "--annotations", str(folder / "annotations" / "gemma-2b-it.jsonl.gz"), "--json")
    board = pd.read_csv(folder / "leaderboard.csv", index_col=0)
    shown = json.loads(done.stdout)
    assert shown["win_rate"] == pytest.approx(board.loc["gemma-2b-it", "win_rate"], abs=1e-6)
    assert shown["length_controlled_winrate"] is None
    assert {"standard_error", "discrete_win_rate", "lc_standard_error", "n_total", "avg_length"} <= shown.keys()


def test_eval_mt_bench_gives_the_published_score(real_data: Path) -> None:
    file = real_data / "mt_bench" / "model_judgment" / "gpt-4_single.claude-3-opus-20240229.jsonl.gz"
    questions = real_data / "mt_bench" / "question.jsonl"
    done = call("eval", "mt-bench", "--judgments", str(file), "--questions", str(questions), "--json")
    shown = json.loads(done.stdout)
    assert round(shown["score"], 3) == 8.675
    assert len(shown["by_category"]) == 8


def test_doctor_says_what_is_there() -> None:
    shown = json.loads(call("doctor", "--json").stdout)
    assert {"python", "torch", "bfloat16", "gpu", "smollm2-135m-instruct"} <= shown.keys()


def test_version() -> None:
    from radpo import __version__

    assert call("--version").stdout.strip() == __version__
