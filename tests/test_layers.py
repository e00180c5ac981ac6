"""Which package may import which (`[tool.importlinter]` in pyproject.toml)."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_every_package_imports_only_from_the_floors_below_it_and_in_no_cycle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(Path(__file__).parents[1])
    assert cli.lint_imports(no_cache=True) == 0, capsys.readouterr().out
