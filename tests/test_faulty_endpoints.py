"""Judged runs against a server that misbehaves: each ends, counts right and pays once (benchmarks/faults/judged.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults" / "judged.py"
IN_THE_TESTS = (
    "refuses one question (400)",
    "cuts off and breaks a third of its answers",
    "counts no tokens",
    "answers 100 times longer than asked for",
)
"""The others take the same ways through the client, and are in the script alone."""


@pytest.fixture(scope="module")
def judged():
    spec = importlib.util.spec_from_file_location("faults_judged", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("way", IN_THE_TESTS)
def test_a_judged_run_against_a_server_that_misbehaves_ends_counts_right_and_pays_once(
    judged, tmp_path, monkeypatch, way
):
    monkeypatch.setenv("FAULTS_KEY", "")
    monkeypatch.setenv("RADPO_CACHE", "")
    found = judged.meet(judged.WAYS[way], tmp_path)
    assert found["wrong"] == []
    assert found["requests"] >= 20


def test_the_script_has_twelve_ways_and_finds_what_is_wrong(judged, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTS_KEY", "")
    monkeypatch.setenv("RADPO_CACHE", "")
    assert len(judged.WAYS) >= 12
    miscounted = judged.Way(unanswered=2)
    assert judged.meet(miscounted, tmp_path)["wrong"] == ["20 of 20 count, and 2 have no answer"] * 2
