"""The machine's speeds are measured once and kept; doctor measures them anew and prints them, and plans go by them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.matrix.machines import find_machine
from radpo.models import speeds


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[speeds.Speeds]:
    """What measurements find, the last of them last; every one is faster than the one before."""
    found: list[speeds.Speeds] = []

    def measure() -> speeds.Speeds:
        found.append(speeds.Speeds(1e11 * (len(found) + 1), 5e10, 1e10))
        return found[-1]

    monkeypatch.setenv("RADPO_CACHE", str(tmp_path))
    monkeypatch.setenv("RADPO_PRECISION", "float32")
    monkeypatch.setattr(speeds, "_measured", measure)
    return found


def test_a_machine_is_measured_once_and_plans_go_by_it_until_doctor_measures_anew(
    measured: list[speeds.Speeds], tmp_path: Path
) -> None:
    assert speeds.speeds() == speeds.speeds()
    assert len(measured) == 1
    two = find_machine("here", 2)
    assert (two.float32, two.bfloat16, two.bandwidth, two.threads) == (2e11, 1e11, 1e10, 2)
    shown = json.loads(CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False).stdout)
    assert shown["matrix products, float32"] == "200 GFLOP/s a core"
    assert shown["matrix products, bfloat16"] == "50 GFLOP/s a core"
    assert shown["memory"] == "10.0 GB/s a core"
    assert find_machine("here", 1).float32 == 2e11
    (tmp_path / speeds.FILE).write_text('{"broken": 1}')
    assert find_machine("here", 1).float32 == 3e11
    assert len(measured) == 3


def test_a_product_is_measured_for_its_shape_and_precision() -> None:
    import torch

    assert 1e8 < speeds.product_speed(64, 128, 32, torch.float32) < 1e15


def test_the_committed_page_of_speeds_is_what_its_files_give() -> None:
    folder = Path(__file__).parents[1] / "reports" / "speed"
    found = runpy.run_path(str(folder.parents[1] / "benchmarks" / "speed" / "tables.py"))
    files = sorted(folder.glob("*.json"))
    assert {"academic", "busy", "likelihood", "train"} <= {path.stem.partition("-")[0] for path in files}
    page = found["page"]({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files})
    assert page == (folder / "README.md").read_text(encoding="utf-8")
