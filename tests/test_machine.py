"""What the machine gives a process."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from radpo.core import machine
from radpo.engine.execute import THREAD_VARIABLES, WAITING, divide_threads

QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {}, math.inf),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2),
        ("12:cpu,cpuacct:/a\n3:memory:/b\n0::/", {f"cpu/a/{QUOTA}": "50000", f"cpu/a/{PERIOD}": "100000"}, 0.5),
        ("4:cpu:/a", {f"cpu/a/{QUOTA}": "-1", f"cpu/a/{PERIOD}": "100000"}, math.inf),
        ("0::/../elsewhere", {"cpu.max": "300000 100000"}, 3),
    ],
)  # fmt: skip
def test_a_containers_share_of_the_cores_is_known(
    lines: str, files: dict[str, str], quota: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text(lines + "\n")
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content + "\n")
    found = machine.cpu_quota(tmp_path / "groups", tmp_path / "mine")
    assert found == quota
    monkeypatch.setattr(machine, "cpu_quota", lambda: found)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert machine.cores() == (8 if quota == math.inf else max(1, math.ceil(quota)))


def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*THREAD_VARIABLES, *WAITING):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    divide_threads(1)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert (os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"]) == ("10000", "200")
