"""Which package may import which (`[tool.importlinter]` in pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_every_package_imports_only_from_the_floors_below_it_and_in_no_cycle() -> None:
    pytest.importorskip("importlinter")
    # In a process of its own: the command switches off every logger that there is.
    words = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    ran = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
