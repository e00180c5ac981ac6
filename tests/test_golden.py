"""Small matrices come to the committed figures: every method, benchmark, judge and executor, end to end."""

from __future__ import annotations

import copy
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import warm_commands
import yaml
from golden_runs import GOLDEN, RUNS, differences, pinned, read_document, run_all
from typer.testing import CliRunner

from radpo.cli.main import app

NAMES = [run.name for run in RUNS]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_comes_to_what_is_committed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(folder: Path, *words: str) -> str:
        done = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.stderr[-5000:]
        return str(done.stdout)

    def forked(folder: Path, *words: str) -> str:
        done = warm_commands.run(["-m", "radpo", *words], cwd=folder)
        assert done.returncode == 0, done.stderr[-5000:]
        return done.stdout

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    (run,) = (run for run in RUNS if run.name == name)
    # A cluster would outlast its run in this process.
    found = run_all(tmp_path, [run], forked if "ray" in run.words else here)[name]
    told = differences(pinned(found), read_document(GOLDEN / f"{name}.json"))
    assert not told, (
        f"{len(told)} differences; if they are meant, `python tests/golden_runs.py --write {name}`:\n"
        + "\n".join(told[:40])
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_change_of_any_kind_is_found(name: str) -> None:
    wanted = read_document(GOLDEN / f"{name}.json")
    assert differences(wanted, copy.deepcopy(wanted)) == []
    results = wanted["results"]["columns"]
    for column, change in (
        ("value", lambda value: value * 1.01 + 0.01), ("n", lambda n: n + 1), ("metric", lambda name: f"{name}_x"),
        ("primary", lambda primary: not primary),
    ):  # fmt: skip
        changed = copy.deepcopy(wanted)
        row = next(row for row in changed["results"]["rows"] if row[results.index(column)] is not None)
        row[results.index(column)] = change(row[results.index(column)])
        assert differences(changed, wanted), column
    for document in wanted:
        changed = copy.deepcopy(wanted)
        changed[document]["rows"].pop()
        assert differences(changed, wanted), document
    changed = copy.deepcopy(wanted)
    examples = changed["examples"]
    examples["rows"][0][examples["columns"].index("prompt")] = "another"
    assert differences(changed, wanted) != []


def test_the_matrices_reach_every_method_benchmark_judge_and_executor() -> None:
    documents = [yaml.safe_load((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")) for name in NAMES]
    variants = [(name, how or {}) for document in documents for name, how in document["variants"].items()]
    assert {how.get("method", name) for name, how in variants} == own("variants")
    assert {name for document in documents for name in document["benchmarks"]} == own("benchmarks")
    judges = {
        section.get("judge", {"kind": "verifier"})["kind"]
        for document in documents
        for section in document["benchmarks"].values()
    }
    assert judges == own("judges")
    executors = {run.words[run.words.index("--executor") + 1] if "--executor" in run.words else "local" for run in RUNS}
    # A Slurm job begins with a new process; what a run of such jobs comes to is held in test_slurm.py.
    assert executors == own("executors") - {"slurm"}


def own(group: str) -> set[str]:
    """What radpo itself registers in an entry point group."""
    return {entry.name for entry in entry_points(group=f"radpo.{group}") if entry.dist and entry.dist.name == "radpo"}


def test_the_committed_figures_are_those_of_the_matrices_and_no_others() -> None:
    assert sorted(path.name for path in Path(GOLDEN).iterdir()) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("json", "yaml")
    )
