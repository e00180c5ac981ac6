"""The pytest plugin, in a pytest of its own: a cell is run and gated, a failure is readable, pytest starts light."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import yaml
from factories import scored_pairs, write_model
from typer.main import get_command

import radpo
from radpo.cli.main import app
from radpo.core.errors import ConfigError
from radpo.gate.baselines import save_baseline
from radpo.matrix.loading import load_matrix
from radpo.matrix.one_cell import narrowed
from radpo.preferences.writing import write_preferences

pytest_plugins = ["pytester"]
PLUGIN = ("-p", "no:radpo", "-p", "radpo.gate.pytest_plugin")
"""Where radpo is installed its entry point brings the plugin; here it comes by name, installed or not."""


FIGURES = "variant,benchmark,subset,metric,value,source\nother,mt-bench,all,score,8.5,a paper\n"


def write_matrix(folder: Path) -> Path:
    write_model(folder / "model")
    write_preferences(scored_pairs([(9, 7), (8, 6), (10, 5), (6, 5.5)]), folder / "pairs.jsonl")
    document = {
        "name": "small",
        "model": str(folder / "model"),
        "seeds": [0, 1],
        "variants": {"base": None, "other": {"method": "base"}},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}},
        "benchmarks": {"unlearning": {}},
        "published": "figures.csv",
    }
    (folder / "figures.csv").write_text(FIGURES)
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document))
    return folder / "matrix.yaml"


TESTS = """
import pytest

@pytest.mark.radpo_baseline("main")
def test_same(radpo_gate):
    assert radpo_gate("matrix.yaml", variant="base", seed=1).status == "pass"

@pytest.mark.radpo_baseline("better", alpha=0.4, margins={"unlearning": 0})
def test_worse(radpo_gate):
    radpo_gate("matrix.yaml", variant="base", seed=1)

@pytest.mark.radpo_baseline("better", margins={"unlearning": 0.001})
def test_too_few(radpo_gate):
    radpo_gate("matrix.yaml", variant="base", seed=1)

@pytest.mark.radpo_baseline("none")
def test_no_baseline(radpo_gate):
    radpo_gate("matrix.yaml", variant="base")

def test_unmarked(radpo_gate):
    pass

def test_without_it():
    pass
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix file, a store, and two baselines: a run of one cell, and one whose examples are all better.

    Made before `pytester` begins, which afterwards forgets every module that was first imported while it lasted.
    """
    root = tmp_path_factory.mktemp("project")
    (run,) = radpo.run(write_matrix(root), root / "runs" / "gate" / "first", variant="base", seed=1).run_dirs
    results = pd.read_parquet(run / "results.parquet")
    assert (results["variant"].unique().tolist(), results["seed"].unique().tolist()) == (["base"], [1])
    assert (run / "published.csv").read_text() == FIGURES
    assert "published.csv" in json.loads((run / "manifest.json").read_text())["files"]
    save_baseline(run, "main", root / "reports" / "baselines")
    examples = pd.read_parquet(run / "examples.parquet")
    examples["value"] += 1.0 + examples.index * 0.01
    examples.to_parquet(run / "examples.parquet", index=False)
    save_baseline(run, "better", root / "reports" / "baselines")
    return root


def test_a_cell_is_run_and_gated_and_what_fails_says_why(
    project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADPO_STORE", str(project / "runs" / "gate" / "store"))
    shutil.copytree(project / "reports", pytester.path / "reports")
    for file in ("matrix.yaml", "pairs.jsonl", "figures.csv"):
        shutil.copy(project / file, pytester.path / file)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess(*PLUGIN, "--strict-markers")
    result.assert_outcomes(passed=2, failed=3, errors=1)
    told = result.stdout.str()
    assert "matrix-base-1 against better: regression in 3 of 3 metrics" in told
    assert "matrix-base-1 against better: no verdict, too few examples" in told
    assert "prompts are too few for any drop to be significant, and the margin is 0.001" in told
    assert "none: neither a run directory nor a kept baseline; kept under" in told
    assert 'mark the test with @pytest.mark.radpo_baseline("NAME")' in told
    assert "pytest_plugin.py:" not in told, "what failed is the gate, not its code"
    assert "During handling" not in told


def test_a_cell_is_one_variant_and_one_seed_and_a_slip_of_the_pen_is_told(tmp_path: Path) -> None:
    matrix = load_matrix(write_matrix(tmp_path))
    for seed, left in ((None, {("base", 0), ("base", 1)}), (1, {("base", 1)})):
        left_over = narrowed(matrix, "base", seed)
        cells = {
            (variant, each)
            for variant in matrix.variants
            for each in matrix.seeds
            if left_over.has_cell(model=matrix.all_models[0], variant=variant, seed=each)
        }
        assert cells == left
    with pytest.raises(ConfigError, match="variant 'bas': there are base, other; did you mean 'base'"):
        narrowed(matrix, "bas", None)
    with pytest.raises(ConfigError, match="seed 7: there are 0, 1"):
        narrowed(matrix, "base", 7)


def test_the_workflows_call_commands_that_there_are_and_the_pages_python_compiles() -> None:
    root = Path(__file__).parents[1]
    github = yaml.safe_load((root / "examples" / "ci" / "github.yml").read_text(encoding="utf-8"))
    (gitlab,) = yaml.safe_load((root / "examples" / "ci" / "gitlab.yml").read_text(encoding="utf-8")).values()
    steps = github["jobs"]["gate"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for lines in ([line for step in steps for line in step.get("run", "").splitlines()], gitlab["script"]):
        called = [shlex.split(line) for line in lines if line.startswith("radpo ")]
        assert [words[1] for words in called] == ["run", "regress"]
        for _, name, *words in called:
            commands[name].make_context(name, list(words))  # fails for an option or argument that there is not
    text = (root / "reports" / "baselines" / "README.md").read_text(encoding="utf-8")
    (python,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    compile(python, "README.md", "exec")


def test_the_entry_point_is_declared_and_loads_nothing_heavy() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module = project["entry-points"]["pytest11"]["radpo"]
    assert import_module(module).radpo_gate is not None
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "pandas", "numpy", "pydantic", "typer", "yaml", "radpo.gate.compare"} & set(json.loads(loaded))
