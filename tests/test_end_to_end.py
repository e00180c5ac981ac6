"""The command line from the outside: a reduced quickstart on the real bundled model, killed and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

QUICKSTART = Path(__file__).parents[1] / "benchmarks" / "quickstart.yaml"


def radpo(*words: str, timeout: float = 800) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "radpo", *words], capture_output=True, text=True, timeout=timeout)


def reduced(folder: Path) -> Path:
    """The quickstart with a handful of everything; it ends in minutes and goes through every room."""
    matrix = yaml.safe_load(QUICKSTART.read_text())
    for split in ("train", "heldout"):
        matrix["data"][split] = {"path": str(QUICKSTART.parent / matrix["data"][split]["path"]), "limit": 4}
    matrix["training"].update({"batch_size": 2, "per_device_train_batch_size": 2, "max_length": 160})
    matrix["save_every"] = 1
    for name in ("alpaca-eval", "mt-bench"):
        section = matrix["benchmarks"][name]
        section["questions"] = {"path": str(QUICKSTART.parent / section["questions"]["path"]), "limit": 3}
        section["sampling"]["max_new_tokens"] = 8
    academic = matrix["benchmarks"]["academic"]
    academic.update({"include": str(QUICKSTART.parent / academic["include"]), "limit": 2})
    path = folder / "reduced.yaml"
    path.write_text(yaml.safe_dump(matrix))
    return path


@pytest.mark.slow
def test_the_quickstart_reduced_ends_in_a_report_and_survives_a_kill(tmp_path: Path, bundled_model: str) -> None:
    matrix = reduced(tmp_path)
    torn = tmp_path / "torn" / "run"
    command = [sys.executable, "-m", "radpo", "run", str(matrix), "--out", str(torn)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    # Killed once the first policy's first whole checkpoint is there, that is, in the middle of training.
    deadline = time.monotonic() + 600
    while not list((torn.parent / "store" / "partial").glob("*/work/checkpoint-*/complete")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (torn / "results.parquet").exists()

    again = radpo("run", str(matrix), "--out", str(torn))
    assert again.returncode == 0, again.stderr[-3000:]
    report = torn / "report.html"
    assert again.stdout.strip().splitlines()[-1] == str(report)
    assert {path.name for path in torn.iterdir()} == {
        "report.html", "manifest.json", "matrix.yaml", "results.parquet", "examples.parquet", "likelihoods.parquet",
        "training.parquet", "comparisons.parquet", "checkpoints.json",
    }  # fmt: skip

    # Only what training gives is computed a second time: the rest of the store holds no trace of the kill.
    whole = tmp_path / "whole" / "run"
    (whole.parent / "store").mkdir(parents=True)
    (whole.parent / "store" / "stages").mkdir()
    manifest = json.loads((torn / "manifest.json").read_text())
    after_training = (
        "train/dpo",
        "likelihood/dpo",
        "generate/dpo",
        "academic/dpo",
        "unlearning/dpo",
        "alpaca-eval/dpo",
        "mt-bench/dpo",
    )
    for stage in manifest["stages"]:
        if not stage["name"].startswith(after_training):
            source = torn.parent / "store" / "stages" / stage["key"]
            (whole.parent / "store" / "stages" / stage["key"]).symlink_to(source)
    uninterrupted = radpo("run", str(matrix), "--out", str(whole))
    assert uninterrupted.returncode == 0, uninterrupted.stderr[-3000:]
    for table in ("results.parquet", "examples.parquet", "likelihoods.parquet", "training.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(torn / table), pd.read_parquet(whole / table))

    results = pd.read_parquet(torn / "results.parquet")
    assert set(results["benchmark"]) == {"unlearning", "alpaca-eval", "mt-bench", "academic", "training"}
    assert set(results["variant"]) == {"base", "dpo", "ra-dpo"}
    assert results[results["benchmark"] == "academic"]["subset"].nunique() == 3

    start = time.monotonic()
    nothing = radpo("run", str(matrix), "--out", str(torn))
    assert "nothing to do" in nothing.stderr
    assert time.monotonic() - start < 10, "a no-op run computes nothing and loads no model"

    changed = yaml.safe_load(matrix.read_text())
    changed["variants"]["ra-dpo"] = {"training": {"beta": 0.2}}
    matrix.write_text(yaml.safe_dump(changed))
    plan = json.loads(radpo("plan", str(matrix), "--out", str(torn), "--json").stdout)
    to_do = {stage["name"] for stage in plan["stages"] if not stage["in_store"]}
    assert to_do
    assert all("/ra-dpo/" in name for name in to_do), "one variant's setting redoes that variant alone"


def test_help_answers_without_loading_what_is_heavy() -> None:
    heavy = ("torch", "transformers", "pandas", "pyarrow", "datasets", "lm_eval", "ray", "fsspec")
    code = f"import sys, radpo.cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    for words in ((), ("data",), ("eval",), ("run",), ("plan",), ("schema",), ("store",), ("train",), ("regress",)):
        shown = radpo(*words, "--help")
        assert shown.returncode == 0
        assert "Usage" in shown.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "none.yaml"), "none.yaml: no such file"),
        (("store", "list", "--store", "none"), "--store none: no such folder"),
        (("data", "validate", "none.jsonl"), "none.jsonl: no such file"),
        (("train", "none.jsonl", "--out", "x", "--set", "bta=1"), "settings are beta"),
        (
            ("train", "none.jsonl", "--out", "x", "--method", "ppo"),
            "no such variant; there are base, cond-sft, dpo, dpo-norm, half-ra",
        ),
        (("report", "."), "no finished run"),
        (("data", "pair", "x.jsonl", "--out", "y.jsonl", "--rule", "any"), "--rule 'any': must be one of"),
    ],
)
def test_wrong_input_is_one_message_and_exit_status_2(words: tuple[str, ...], told: str) -> None:
    done = radpo(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_data_validate_and_relabel_on_the_bundled_pairs(tmp_path: Path) -> None:
    pairs = str(QUICKSTART.parent / "data" / "heldout_pairs.jsonl")
    counted = json.loads(radpo("data", "validate", pairs, "--json").stdout)
    assert counted["usable"] == counted["rows_read"]
    out = tmp_path / "ra.parquet"
    assert radpo("data", "relabel", pairs, "--out", str(out)).returncode == 0
    assert len(pd.read_parquet(out)) == 2 * counted["usable"]
