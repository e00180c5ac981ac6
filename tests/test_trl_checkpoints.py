"""Checkpoints that TRL alone trained, compared in one report by a matrix, and measured by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import scored_pairs, write_model
from typer.testing import CliRunner

from radpo import api
from radpo.cli.main import app
from radpo.core.errors import ConfigError
from radpo.core.run import load_run
from radpo.preferences.writing import write_preferences

SCORES = [(9.0, 7.0), (8.0, 6.0), (10.0, 1.0), (6.0, 5.0)]
LENGTH = 400


def dpo(model: Path, out: Path, train: Any, **settings: Any) -> Any:
    """TRL's own trainer on conversational pairs, as its documentation has it; nothing of radpo's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    arguments: dict[str, Any] = {
        "output_dir": str(out), "use_cpu": True, "bf16": False, "report_to": "none", "max_length": LENGTH,
        "gradient_checkpointing": False, "learning_rate": 1e-2, "num_train_epochs": 2, "save_strategy": "no",
        **settings,
    }  # fmt: skip
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model), ref_model=None, args=DPOConfig(**arguments),
        train_dataset=train, processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, held-out pairs, and two checkpoints that TRL trained with different betas."""
    from datasets import Dataset

    place = tmp_path_factory.mktemp("trl")
    write_model(place / "model")
    pairs = scored_pairs(SCORES)
    write_preferences(pairs, place / "heldout.jsonl")
    rows = [json.loads(line) for line in (place / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_list(
        [
            {
                "prompt": row["prompt"],
                "chosen": [{"role": "assistant", "content": row["chosen"]}],
                "rejected": [{"role": "assistant", "content": row["rejected"]}],
            }
            for row in rows
        ]
    )
    for name, beta in (("strict", 1.0), ("loose", 0.01)):
        trainer = dpo(place / "model", place / name, data, beta=beta)
        trainer.train()
        trainer.save_model()
    return {"place": place, "data": data}


def test_a_matrix_compares_two_checkpoints_of_trl_in_one_report(world: dict[str, Any]) -> None:
    place = world["place"]
    document = {
        "name": "elsewhere", "model": str(place / "model"), "baseline": "strict",
        "variants": {"strict": {"checkpoint": str(place / "strict"), "goal": "none"},
                     "loose": {"checkpoint": str(place / "loose"), "goal": "none"}},
        "data": {"heldout": {"path": str(place / "heldout.jsonl")}},
        "training": {"max_length": LENGTH, "precision": "float32"},
        "benchmarks": {"unlearning": {}, "displacement": {}},
    }  # fmt: skip
    (place / "m.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    finished = api.run(place / "m.yaml", place / "run", store=str(place / "store"))
    run = load_run(place / "run")
    assert run.variants == ["strict", "loose"]
    page = finished.reports[0].read_text(encoding="utf-8")
    assert "strict" in page
    assert "loose" in page

    def logps(folder: Path) -> list[float]:
        """TRL's own log p of the rejected responses."""
        trainer = dpo(folder, place / "asked", world["data"], precompute_ref_log_probs=True)
        return [float(value) for value in trainer.train_dataset["ref_rejected_logps"]]

    before, high = logps(place / "model"), [score >= 5 for _, score in SCORES]
    for variant in ("strict", "loose"):
        rows = run.figures[variant, "unlearning", "none", "delta_logp_rejected_high"]
        changes = [b - a for a, b, counts in zip(before, logps(place / variant), high, strict=True) if counts]
        assert float(rows["value"].iloc[0]) == pytest.approx(sum(changes) / len(changes), abs=1e-3)
    assert run.comparisons is not None
    assert not run.comparisons.query("variant == 'loose' and baseline == 'strict'").empty


def test_one_command_measures_several_policies_and_compares_them(world: dict[str, Any], tmp_path: Path) -> None:
    place = world["place"]
    words = ["analyze", "unlearning", str(place / "heldout.jsonl"), "--reference", str(place / "model"), "--max-length",
             str(LENGTH), "--store", str(place / "store")]  # fmt: skip
    both = ["--policy", f"first={place / 'strict'}", "--policy", str(place / "loose")]
    done = CliRunner().invoke(app, [*words, *both, "--out", str(tmp_path / "run"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found) == ["first", "loose"]
    assert json.loads((tmp_path / "run" / "scores.json").read_text(encoding="utf-8")) == found
    compared = load_run(tmp_path / "run").comparisons
    assert compared is not None
    assert not compared.query("variant == 'loose' and baseline == 'first'").empty
    alone = CliRunner().invoke(app, [*words, "--policy", str(place / "loose"), "--json"], catch_exceptions=False)
    assert json.loads(alone.stdout) == found["loose"]
    for wrong, message in {
        ("--policy", str(place / "loose"), "--policy", str(place / "loose")): "'loose' is there already; .*NAME=FOLDER",
        (*both, "--name", "x"): "--name: several policies have names of their own",
    }.items():
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, [*words, *wrong], catch_exceptions=False)
