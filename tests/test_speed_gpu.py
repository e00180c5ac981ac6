"""The script for GPUs works on a CPU with a tiny model, and none of its parts keeps the others from their work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed"


def test_a_part_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    command = ["bash", str(SPEED / "gpu.sh"), "--size", "tiny", "--seconds", "120", "--parts", "qlora", "machine"]
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    document = json.loads((tmp_path / "gpu.json").read_text())
    failed, machine = document["rows"]
    assert document["complete"]
    assert "bitsandbytes" in failed.get("error", failed)
    assert machine["packages"]["torch"]
    assert machine["cores"] >= 1


def test_its_parts_measure_ours_and_the_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEED))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import gpu
    import train

    monkeypatch.setattr(train, "UF", tmp_path / "none")
    model = gpu.write_model(tmp_path / "model", "tiny")
    assert set(gpu.PARTS) == {*gpu.ARMS, *gpu.DOING}
    for arm in ("trl-precomputed", "radpo-sdpa"):
        found = train.measure(arm, str(model), 4)
        assert found["train"] > 0
        assert found["peak_gib"] > 0
    answers = gpu.likelihood(model, 2)
    assert answers["ratio"] > 0
    assert answers["apart"] < 1e-5
    tasks = gpu.lm_eval_class(model, 2)
    assert tasks["equal"]
    assert tasks["ratio"] > 0
