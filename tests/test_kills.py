"""Two jobs killed at random, and two machines at once, on a shared store whose file system fails.

The short forms of benchmarks/faults/kills.py and benchmarks/faults/shared.py.
"""

from __future__ import annotations

import random
from pathlib import Path

from kill_rounds import kill_until, two_machines


def test_kills_change_no_end_lose_nothing_and_pay_for_nothing_twice(tmp_path: Path) -> None:
    found = kill_until(tmp_path, 3, random.Random(7), share=0.05)
    assert (found.unequal, found.done_again, found.paid_twice) == ([], [], []), found
    assert found.kills >= 3
    assert found.ends >= 2


def test_two_machines_at_once_share_the_work_although_the_service_fails(tmp_path: Path) -> None:
    assert two_machines(tmp_path, 0.1) >= 2
