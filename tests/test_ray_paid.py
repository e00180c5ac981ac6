"""A run on Ray that is interrupted keeps what it paid for, as one on this machine's own workers does."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest
import yaml
from fault_server import FaultServer

from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix


def judged_matrix(folder: Path, url: str) -> Path:
    rows = [{"question_id": f"q{n}", "turns": [f"Say {n}."]} for n in range(40)]
    for name in ("questions", "answers"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = {"kind": "openai", "model": "j", "base_url": url, "concurrency": 4}
    section = {"questions": {"path": "questions.jsonl"}, "judge": judge}
    document = {
        "name": "m", "variants": {"v": {"answers": "answers.jsonl"}}, "baseline": "v",
        "benchmarks": {"mt-bench": section},
    }  # fmt: skip
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document))
    return folder / "matrix.yaml"


def test_what_a_stage_on_ray_has_on_its_way_is_waited_for_and_kept(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from radpo.engine.ray_pool import RayPool

    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))
    with FaultServer(lambda body: "[[5]]", delay=7.0) as server:  # longer than an unpaid stage is waited for
        stages = expand(load_matrix(judged_matrix(tmp_path, server.url))).stages
        pool = RayPool(Store(tmp_path / "store"), 2, None)
        try:
            for stage in stages:
                pool.start(stage, {})
                deadline = time.monotonic() + 120
                while stage is not stages[-1] and not any(event.outcome for event in pool.events(0.2)):
                    assert time.monotonic() < deadline
            while not server.asked:
                pool.events(0.2)
                assert time.monotonic() < deadline + 60
        finally:
            pool.close()
        sent = len(server.asked)
        with sqlite3.connect(tmp_path / "cache" / "chat.sqlite") as connection:
            assert connection.execute("SELECT count(*) FROM replies").fetchone() == (sent,)
    assert 4 <= sent < 40
