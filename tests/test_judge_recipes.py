"""Recipes with judges that can be asked: each is planned with no network, and none names a judge that was shut down."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radpo.benchmarks.work import judges_of
from radpo.cli.main import app
from radpo.matrix.expand import expand
from radpo.matrix.layers import _joined
from radpo.matrix.loading import load_matrix

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RETIRED = {"gpt-4-1106-preview", "gpt-4", "gpt-4-0613"}
"""Shut down on 23 October 2026, by OpenAI's page of deprecations."""
NAMES = sorted(path.stem for path in (BENCHMARKS / "judges").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RADPO_DATA", str(tmp_path / "data"))


def judges(name: str) -> dict[str, list[dict[str, Any]]]:
    plan = expand(load_matrix(BENCHMARKS / "judges" / f"{name}.yaml", planning=True), planning=True)
    found = {
        stage.function_name: [said for _, said in judges_of(stage)]
        for stage in plan.stages
        if "judge" in stage.settings
    }
    assert set(found) == {"alpaca-eval", "mt-bench", "arena-hard"}
    return found


def test_no_recipe_of_judges_names_one_that_was_shut_down() -> None:
    assert NAMES == ["api", "open-weight", "panel"]
    for name in NAMES:
        for benchmark, asked in judges(name).items():
            assert len(asked) == (3 if name == "panel" else 1)
            for said in asked:
                assert said["model"] not in RETIRED
                assert (said["price_in"], said["price_out"]) == ((1, 5) if name == "api" else (0, 0))
                assert said.get("batch", False) == (name == "api")
                if benchmark == "mt-bench":
                    assert Path(said["prompts"]).name == "mt-bench-prompts.jsonl", "as published"
                if benchmark == "arena-hard":
                    assert Path(said["arena_config"]).name == "arena-hard-v0.1-judge.yaml"


def test_files_that_name_a_judge_that_was_shut_down_say_so() -> None:
    named = [
        path
        for path in (*BENCHMARKS.glob("*/*.yaml"), *BENCHMARKS.glob("*.yaml"), *BENCHMARKS.glob("*/README.md"))
        if re.search(r"model: gpt-4[,\s}]|gpt-4-1106-preview", path.read_text(encoding="utf-8"))
    ]
    assert BENCHMARKS / "paper" / "common.yaml" in named
    for path in named:
        assert re.search(r"shut(\s+them)?\s+down.*\s+(#\s+)?23\s+October\s+2026", path.read_text("utf-8"), re.DOTALL), (
            path
        )


def test_a_recipe_comes_with_what_it_extends(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", "judges/api", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    load_matrix(tmp_path / "judges" / "api.yaml", planning=True)
    assert (tmp_path / "judges" / "README.md").is_file()


def test_a_judge_of_another_kind_replaces_the_one_of_the_file_below() -> None:
    below = {"judge": {"kind": "openai", "model": "a", "price_in": 1}}
    assert _joined(below, {"judge": {"model": "b"}}) == {"judge": {"kind": "openai", "model": "b", "price_in": 1}}
    assert _joined(below, {"judge": {"kind": "openai", "model": "b"}})["judge"]["price_in"] == 1
    panel = {"judge": {"kind": "panel", "judges": ["verifier", "verifier"]}}
    assert _joined(below, panel) == panel
