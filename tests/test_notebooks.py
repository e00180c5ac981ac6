"""The notebooks under examples/ run from top to bottom, as a reader runs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import warm_commands
from factories import write_model

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


PYTHON = """#!/bin/sh
case "$1 $2" in "-m radpo") shift 2; exec RADPO "$@";; *) exec PYTHON "$@";; esac
"""


def run(name: str, *arguments: str) -> str:
    """Run a notebook in its folder, with arguments of its kernel; what its cells printed and showed, as text."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}, extra_arguments=[*arguments]
    )
    client.execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(str(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in outputs)


def test_the_notebook_that_reads_a_run_finds_its_figures() -> None:
    shown = run("read_a_run.ipynb")
    for part in ("3 variants", "difference (nats)", "ra-dpo", "baseline_output"):
        assert part in shown, part


def test_the_notebook_that_writes_a_variant_trains_and_gates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = (NOTEBOOKS.parents[1] / "benchmarks" / "data" / "train_pairs.jsonl").read_text(encoding="utf-8")
    write_model(tmp_path / "model", texts=texts.splitlines())
    monkeypatch.setenv("RADPO_NOTEBOOK_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "python").write_text(PYTHON.replace("PYTHON", sys.executable).replace("RADPO", f"{tmp_path}/radpo"))
    (tmp_path / "python").chmod(0o755)
    python = f"import sys; sys.executable = {str(tmp_path / 'python')!r}"
    with warm_commands.program(tmp_path / "radpo", "-m", "radpo"):  # the commands that it gives, and no more
        shown = run("write_a_variant.ipynb", f"--IPKernelApp.exec_lines={python}")
    assert "report.html" in shown, "the run"
    assert shown.count("my-wide-gap") > 10, "the comparison and the gate name it"
    assert "run against run: " in shown, "the gate's verdict"
    assert "Traceback" not in shown
