"""The command line from the outside: a reduced quickstart on the real bundled model, killed and run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import warm_commands
import yaml
from typer.testing import CliRunner

from radpo.cli.guard import main
from radpo.cli.main import app
from radpo.core.files import checksums
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix

QUICKSTART = Path(__file__).parents[1] / "benchmarks" / "quickstart.yaml"
HEAVY = ("torch", "transformers", "pandas", "pyarrow", "datasets", "lm_eval", "ray", "fsspec")
LOADING = f"""
import sys
from radpo.cli.guard import main
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules])
"""
"""A command that ends with which heavy packages it has loaded."""


def reduced(folder: Path) -> Path:
    """The quickstart with a handful of everything; it ends in a minute or two and goes through every room."""
    matrix = yaml.safe_load(QUICKSTART.read_text())
    for split, limit in (("train", 3), ("heldout", 2)):
        matrix["data"][split] = {"path": str(QUICKSTART.parent / matrix["data"][split]["path"]), "limit": limit}
    matrix["training"].update({"batch_size": 2, "per_device_train_batch_size": 2, "max_length": 160})
    # One step for ra-dpo; the two of dpo are there to be torn apart. A checkpoint of each step is gigabytes to write.
    matrix["variants"]["ra-dpo"] = {"training": {"batch_size": 6}}
    matrix["save_every"] = 1
    for name in ("alpaca-eval", "mt-bench"):
        section = matrix["benchmarks"][name]
        section["questions"] = {"path": str(QUICKSTART.parent / section["questions"]["path"]), "limit": 2}
        section["sampling"]["max_new_tokens"] = 4
    academic = matrix["benchmarks"]["academic"]
    academic.update({"include": str(QUICKSTART.parent / academic["include"]), "limit": 1})
    path = folder / "reduced.yaml"
    path.write_text(yaml.safe_dump(matrix))
    return path


@pytest.mark.slow
def test_the_quickstart_reduced_ends_in_a_report_and_survives_a_kill(tmp_path: Path, bundled_model: str) -> None:
    matrix = reduced(tmp_path)
    torn = tmp_path / "torn" / "run"
    command = [sys.executable, "-m", "radpo", "run", str(matrix), "--out", str(torn)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    # Killed once dpo's first whole checkpoint is there, that is, in the middle of its training.
    (key,) = (stage.key for stage in expand(load_matrix(matrix)).stages if stage.name == "train/dpo/seed-0")
    while not list((torn.parent / "store" / "partial" / key).glob("work/checkpoint-*/complete")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (torn / "results.parquet").exists()

    again = warm_commands.run(["-m", "radpo", "run", str(matrix), "--out", str(torn)])
    assert again.returncode == 0, again.stderr[-3000:]
    report = torn / "report.html"
    assert again.stdout.strip().splitlines()[-1] == str(report)
    assert {path.name for path in torn.iterdir()} == {
        "report.html", "manifest.json", "matrix.yaml", "results.parquet", "examples.parquet", "likelihoods.parquet",
        "training.parquet", "comparisons.parquet", "checkpoints.json",
    }  # fmt: skip

    # The torn training alone is done again, in one go: all the rest is in the store, by the same keys.
    whole = tmp_path / "whole" / "run"
    stages = {one["name"]: one for one in json.loads((torn / "manifest.json").read_text())["stages"]}
    trained = stages.pop("train/dpo/seed-0")
    assert trained["resumed"]
    assert trained["key"] == key
    for one in stages.values():  # hard links: a store takes no symbolic ones for its own
        source, copy = (run.parent / "store" / "stages" / one["key"] for run in (torn, whole))
        shutil.copytree(source, copy, copy_function=os.link)
    fewer_saves = tmp_path / "fewer-saves.yaml"
    fewer_saves.write_text(matrix.read_text().replace("save_every: 1\n", "save_every: 50\n"))
    uninterrupted = CliRunner().invoke(app, ["run", str(fewer_saves), "--out", str(whole)], catch_exceptions=False)
    assert uninterrupted.exit_code == 0, uninterrupted.stderr
    anew = [one for one in json.loads((whole / "manifest.json").read_text())["stages"] if not one["from_store"]]
    assert [(one["key"], one["resumed"]) for one in anew] == [(key, False)]
    one, other = (checksums(run.parent / "store" / "stages" / key / "policy") for run in (torn, whole))
    assert one == other, "every file of the checkpoint, so that whatever is made of it is equal, too"
    for table in ("results.parquet", "examples.parquet", "likelihoods.parquet", "training.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(torn / table), pd.read_parquet(whole / table))

    results = pd.read_parquet(torn / "results.parquet")
    assert set(results["benchmark"]) == {"unlearning", "alpaca-eval", "mt-bench", "academic", "training"}
    assert set(results["variant"]) == {"base", "dpo", "ra-dpo"}
    assert results[results["benchmark"] == "academic"]["subset"].nunique() == 3

    command = [sys.executable, "-c", LOADING, "run", str(matrix), "--out", str(torn)]
    nothing = subprocess.run(command, capture_output=True, text=True)
    assert "nothing to do" in nothing.stderr
    assert nothing.stdout.splitlines() == [str(report), "[]"], "a no-op run computes nothing and loads no model"

    changed = yaml.safe_load(matrix.read_text())
    changed["variants"]["ra-dpo"]["training"]["beta"] = 0.2
    matrix.write_text(yaml.safe_dump(changed))
    plan = json.loads(CliRunner().invoke(app, ["plan", str(matrix), "--out", str(torn), "--json"]).stdout)
    to_do = {stage["name"] for stage in plan["stages"] if not stage["in_store"]}
    assert to_do
    assert all("/ra-dpo/" in name for name in to_do), "one variant's setting redoes that variant alone"


def test_help_answers_without_loading_what_is_heavy() -> None:
    commands = ((), ("data",), ("eval",), ("run",), ("plan",), ("schema",), ("store",), ("train",), ("regress",))
    code = f"""
import sys
from typer.testing import CliRunner
from radpo.cli.main import app
for words in {commands}:
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0 and "Usage" in shown.stdout, words
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


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
def test_wrong_input_is_one_message_and_exit_status_2(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["radpo", *words])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_data_validate_and_relabel_on_the_bundled_pairs(tmp_path: Path) -> None:
    pairs = str(QUICKSTART.parent / "data" / "heldout_pairs.jsonl")
    counted = json.loads(CliRunner().invoke(app, ["data", "validate", pairs, "--json"]).stdout)
    assert counted["usable"] == counted["rows_read"]
    out = tmp_path / "ra.parquet"
    assert CliRunner().invoke(app, ["data", "relabel", pairs, "--out", str(out)]).exit_code == 0
    assert len(pd.read_parquet(out)) == 2 * counted["usable"]
