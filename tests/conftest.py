"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real evaluation data, where this machine has it."""
    folder = Path(os.environ.get("RADPO_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here: set RADPO_REAL_DATA to the folder that holds preferences/, mt_bench/, ...")
    return folder
