"""A matrix with every analysis on a tiny model: from training to results, report, and commands on its run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from factories import scored_pairs, write_model
from scipy import stats
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError
from radpo.preferences.preferences import load_preferences
from radpo.preferences.writing import write_preferences

ROWS = [(9, 3), (7, 6), (10, 1), (6, 5.5), (8, 2), (9, 8), (5, 4), (10, 9)]
QUESTION = {"category": "a", "constraints": [[{"kind": "min_words", "n": 1}, {"kind": "number"}]]}


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def table(*words: str) -> pd.DataFrame:
    return pd.DataFrame(json.loads(call(*words, "--json").stdout))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyses")
    write_model(folder / "model")
    write_preferences(scored_pairs(ROWS), folder / "pairs.jsonl")
    rows = [{"question_id": f"q{n}", "turns": [f"Say {n}."], **QUESTION} for n in range(6)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run_dir(place: Path) -> Path:
    questions = {"questions": {"path": "questions.jsonl"}}
    document = {
        "name": "analyses",
        "model": str(place / "model"),
        "variants": {"base": None, "ra-dpo": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}},
        "training": {
            "batch_size": 4,
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "beta": 0.2,
        },
        "track": 2,
        "benchmarks": {
            "unlearning": {},
            "alpaca-eval": {**questions, "sampling": {"max_new_tokens": 8}},
            "implicit-reward": {},
            "displacement": {},
            "reward-kl": {**questions, "max_new_tokens": 6},
            "calibration": {**questions, "max_new_tokens": 6, "goals": [1, 10]},
            "goal-inference": {"goals": [1, 5, 10], "limit": 6},
            "style": {},
        },
    }
    (place / "matrix.yaml").write_text(yaml.safe_dump(document))
    done = call("run", str(place / "matrix.yaml"), "--out", str(place / "run"), "--jobs", "1")
    assert done.exit_code == 0, done.output
    return place / "run"


def test_every_analysis_has_results_and_its_section(run_dir: Path) -> None:
    results = pd.read_parquet(run_dir / "results.parquet")
    measured = results.groupby("benchmark")["variant"].unique().map(set).to_dict()
    for benchmark in ("implicit-reward", "displacement", "style"):
        assert measured[benchmark] == {"ra-dpo"}, benchmark
    for benchmark in ("reward-kl", "calibration", "goal-inference", "unlearning"):
        assert measured[benchmark] == {"base", "ra-dpo"}, benchmark
    report = (run_dir / "report.html").read_text()
    for anchor in ("contrasts", "trajectory", "implicit-reward", "reward-kl", "calibration", "goal-inference", "style"):
        assert f'<section id="{anchor}"' in report, anchor
    kl = results[(results.benchmark == "reward-kl") & (results.metric == "kl")].set_index("variant").value
    assert kl["base"] == 0.0
    moved = results[(results.metric == "delta_logp_chosen") & (results.subset == "none")].set_index("variant").value
    assert moved["base"] == 0.0
    assert moved["ra-dpo"] != 0.0


def test_the_parts_agree_with_each_other(run_dir: Path) -> None:
    """The same pairs give the same figures wherever they are looked at."""
    results = pd.read_parquet(run_dir / "results.parquet").set_index(["benchmark", "variant", "subset", "metric"]).value
    unlearned = results["unlearning", "ra-dpo", "none", "delta_logp_chosen"]
    assert results["displacement", "ra-dpo", "all", "delta_logp_chosen"] == pytest.approx(unlearned)
    accuracy = results["unlearning", "ra-dpo", "none", "preference_accuracy"]
    assert results["implicit-reward", "ra-dpo", "none", "accuracy"] == pytest.approx(accuracy)
    compared = table("analyze", "compare", str(run_dir))
    row = compared[(compared.variant == "ra-dpo") & (compared.benchmark == "unlearning") & (compared.subset == "none")]
    high = results["unlearning", "ra-dpo", "none", "delta_logp_rejected_high"]  # base is its own reference
    assert row[row.metric == "delta_logp_rejected_high"].value.item() == pytest.approx(high)


def test_trajectories_end_where_the_checkpoint_is(run_dir: Path, place: Path) -> None:
    tracked, final = (pd.read_parquet(run_dir / f"{name}.parquet") for name in ("trajectory", "likelihoods"))
    last = tracked[tracked.step == tracked.step.max()].rename(columns={"id": "pair_id", "side": "response"})
    both = last.merge(final[final.variant == "ra-dpo"], on=["pair_id", "response", "goal"])
    assert len(both) == len(ROWS) * 8
    assert (both.logp - both.logp_policy).abs().max() < 1e-3
    first = tracked[tracked.step == 0].rename(columns={"id": "pair_id", "side": "response"})
    both = first.merge(final[final.variant == "base"], on=["pair_id", "response", "goal"])
    assert (both.logp - both.logp_reference).abs().max() < 1e-3
    training = next(path.parent for path in (place / "store" / "stages").glob("*/trajectory.parquet"))
    curve = table("analyze", "trajectory", str(training), str(place / "pairs.jsonl"))
    end = curve[(curve.step == curve.step.max()) & (curve.goal == "none") & (curve.group == "rejected_high")]
    results = pd.read_parquet(run_dir / "results.parquet")
    results = results[(results.variant == "ra-dpo") & (results.subset == "none")].set_index("metric").value
    assert end.value.item() == pytest.approx(results["delta_logp_rejected_high"], abs=1e-3)


def test_commands_on_a_run_directory(run_dir: Path, tmp_path: Path) -> None:
    rewards = table("analyze", "implicit-reward", str(run_dir), "--against", "base")
    assert {"accuracy", "ece", "same_preference"} <= set(rewards.metric)
    plane = table("analyze", "frontier", str(run_dir)).set_index("variant")
    assert plane.beta["ra-dpo"] == 0.2
    assert pd.isna(plane.beta["base"])
    assert plane.on_frontier.any()
    call("analyze", "style", str(run_dir), "--out", str(tmp_path / "style.csv"))
    assert set(pd.read_csv(tmp_path / "style.csv").variant) == {"ra-dpo"}
    with pytest.raises(ConfigError, match=r"must end in \.parquet"):
        call("analyze", "style", str(run_dir), "--out", str(tmp_path / "style.txt"))
    with pytest.raises(DataError, match="no variant 'kto'"):
        call("analyze", "compare", str(run_dir), "--against", "kto")


def test_commands_on_a_checkpoint(run_dir: Path, place: Path, tmp_path: Path) -> None:
    policy = next((place / "store" / "stages").glob("*/policy"))
    models = ["--policy", str(policy), "--reference", str(place / "model")]
    words = ["analyze", "displacement", str(place / "pairs.jsonl"), *models, "--out", str(tmp_path), "--json"]
    found = json.loads(call(*words).stdout)
    kept = pd.read_parquet(tmp_path / "likelihoods.parquet")
    ches = pd.read_parquet(tmp_path / "ches.parquet").set_index("pair_id").ches
    chosen = kept[(kept.goal == "none") & (kept.response == "chosen")].set_index("pair_id")
    expected = stats.spearmanr(ches[chosen.index], chosen.logp_policy - chosen.logp_reference).statistic
    assert found["all/ches_correlation"]["value"] == pytest.approx(expected)
    questions = [str(place / "questions.jsonl"), "--max-new-tokens", "4", "--json"]
    plane = json.loads(call("analyze", "reward-kl", *questions, *models, "--goal", "10").stdout)
    assert plane["all/kl"]["n"] == 6
    curve = json.loads(call("analyze", "calibration", *questions, *models[:2], "--goal", "1", "--goal", "10").stdout)
    assert curve["goal 10/score"]["n"] == 6


def test_power_of_a_sample(tmp_path: Path) -> None:
    assert json.loads(call("analyze", "power", "--sd", "1", "--effect", "0.2", "--json").stdout) == {"pairs": 197}
    found = json.loads(call("analyze", "power", "--sd", "1", "--pairs", "197", "--json").stdout)["effect"]
    assert found == pytest.approx(0.1996, abs=1e-4)
    with pytest.raises(ConfigError, match="one of --effect"):
        call("analyze", "power", "--sd", "1")


def test_trajectory_and_controllability_read_tables(tmp_path: Path, place: Path) -> None:
    pairs = load_preferences(place / "pairs.jsonl").table
    rows = [
        (step, pair, side, "none", -5.0 - step, 3)
        for step in (0, 4)
        for pair in pairs["id"].to_pylist()
        for side in ("chosen", "rejected")
    ]
    columns = ["step", "id", "side", "goal", "logp", "tokens"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "trajectory.parquet")
    found = table("analyze", "trajectory", str(tmp_path), str(place / "pairs.jsonl"))
    assert found[found.step == 4].value.tolist() == [-4.0] * found[found.step == 4].shape[0]
    bad = tmp_path / "bad.jsonl"
    bad.write_text((place / "pairs.jsonl").read_text() + '{"prompt": 3}\n')
    assert table("analyze", "trajectory", str(tmp_path), str(bad), "--on-error", "skip").equals(found)
    scored = pd.DataFrame({"prompt_id": list("aabbcc"), "goal_x": [1, 5, 1, 5, 2, 4], "score_x": [1, 5, 2, 5, 2, 4.0]})
    scored.to_csv(tmp_path / "scored.csv", index=False)
    slopes = table("analyze", "controllability", str(tmp_path / "scored.csv"))
    assert slopes.slope.item() == pytest.approx(stats.linregress(scored.goal_x, scored.score_x).slope)
    with pytest.raises(DataError, match="a table is"):
        call("analyze", "controllability", str(tmp_path / "scored.txt"))


def test_style_without_answers_is_refused(place: Path) -> None:
    from radpo.matrix.loading import load_matrix

    document = {
        "name": "bad", "model": str(place / "model"), "variants": {"base": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}}, "benchmarks": {"style": {}},
    }  # fmt: skip
    path = place / "bad.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(
        ConfigError, match=r"style looks at answers that are compared.*allowed: alpaca-eval, arena-hard"
    ):
        load_matrix(path)
