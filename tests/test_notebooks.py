"""The notebooks under examples/ run from top to bottom, as a reader runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


def run(name: str) -> str:
    """Run a notebook in its folder; what its cells printed and showed, as text."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(str(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in outputs)


def test_the_notebook_that_reads_a_run_finds_its_figures() -> None:
    shown = run("read_a_run.ipynb")
    for part in ("3 variants", "difference (nats)", "ra-dpo", "baseline_output"):
        assert part in shown, part
