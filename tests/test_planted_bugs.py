"""The gate catches bugs planted in its matrix and passes what is none; benchmarks/gate/bugs.py plants all sixteen."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

import radpo
from radpo.gate.compare import compare

ROOT = Path(__file__).parents[1]
GATE = ROOT / "benchmarks" / "gate"
SMALLER: dict[str, Any] = {
    "seeds": [0],
    "exclude": [],
    "data": {"train": {"limit": 400}, "heldout": {"limit": 90}},
    "benchmarks": {"mt-bench": {"questions": {"limit": 200}}, "alpaca-eval": {"questions": {"limit": 200}}},
}


@pytest.fixture
def bugs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, whose module and packages are found while a test lasts."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(GATE)])
    import bugs

    return bugs


def test_exchanged_sides_and_exchanged_positions_fail_and_other_seeds_of_sampling_pass(
    bugs: Any, tmp_path: Path
) -> None:
    bugs.install(tmp_path / "packages")

    def run(name: str, **changes: Any) -> Path:
        matrix = bugs.matrix_of(tmp_path / f"{name}.yaml", ["base", "dpo"], bugs.joined(SMALLER, changes))
        return radpo.run(matrix, tmp_path / name, store=str(tmp_path / "store"), executor="here").run_dirs[0]

    clean = run("clean")
    margins = {"win_rate": 15.0}  # 200 questions cannot show the default margin
    exchanged = compare(clean, bugs.plant("exchanged", tmp_path, SMALLER), margins=margins)
    assert exchanged.status == "regression"
    assert exchanged.worse[0].variant == "dpo"
    assert {row.benchmark for row in exchanged.worse} >= {"alpaca-eval", "mt-bench"}
    positions = compare(clean, bugs.plant("positions", tmp_path, SMALLER), margins=margins)
    assert [row.name for row in positions.worse] == ["dpo alpaca-eval all win_rate"]
    again = {name: {"sampling": {"batch_size": 50}} for name in ("mt-bench", "alpaca-eval")}
    rerun = compare(clean, run("again", benchmarks=again), margins=margins)
    assert rerun.status == "pass", rerun.refusals
    assert sum(row.changed for row in rerun.rows) > 100, "other answers were drawn"


def test_every_bug_says_what_it_is_and_the_committed_table_is_of_these(bugs: Any) -> None:
    assert len(bugs.BUGS) == 16
    assert len(bugs.RERUNS) == 20
    with (ROOT / "reports" / "gate" / "bugs.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["bug"] for row in rows] == [bug.says for bug in bugs.BUGS.values()]
    assert sum(row["caught"] == "True" for row in rows) >= 14
    assert all(row["first"] for row in rows if row["caught"] == "True"), "what shows it is named"
    with (ROOT / "reports" / "gate" / "reruns.csv").open(encoding="utf-8") as stream:
        reruns = list(csv.DictReader(stream))
    assert [row["rerun"] for row in reruns] == [rerun.says for rerun in bugs.RERUNS]
    assert {row["verdict"] for row in reruns} == {"pass"}


@pytest.mark.exhaustive
@pytest.mark.timeout(4 * 3600)
def test_fourteen_of_sixteen_bugs_fail_and_twenty_clean_reruns_pass(bugs: Any, tmp_path: Path) -> None:
    bugs.install(tmp_path / "packages")
    (clean,) = radpo.run(bugs.MATRIX, tmp_path / "gate", store=str(tmp_path / "store"), jobs=2).run_dirs
    caught = [bugs.bug_row(name, clean, tmp_path)["caught"] for name in bugs.BUGS]
    assert sum(caught) >= 14
    assert {bugs.rerun_row(rerun, clean, tmp_path)["verdict"] for rerun in bugs.RERUNS} == {"pass"}
