"""Large matrices take time in proportion to their stages: nothing is asked twice, nothing is quadratic."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from cheap_stages import run_inline, stage
from factories import scored_pairs, write_model

from radpo import api
from radpo.engine import schedule
from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.models import precision
from radpo.preferences.writing import write_preferences


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Counter[Any]:
    """Counts the calls of a function, by its last positional argument."""
    calls: Counter[Any] = Counter()
    whole = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[args[-1] if args else None] += 1
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_a_schedule_looks_at_no_stage_more_often_than_it_has_inputs_and_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = stage("base", "b")
    wide = [stage(f"top {n}", str(n), base=base) for n in range(60)]
    looks = counted(monkeypatch, schedule._Schedule, "_can_begin")
    done = run_inline(Store(tmp_path), *wide)
    assert len(done.computed) == 61
    assert max(looks.values()) <= 4, "of 61 stages each is looked at a few times, not once after each of the others"


def test_a_sweep_asks_the_machine_once_what_auto_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(precision.VARIABLE, "float32")
    write_model(tmp_path / "model")
    write_preferences(scored_pairs([(9, 3), (7, 6)]), tmp_path / "pairs.jsonl")
    document = {
        "name": "sweep", "model": str(tmp_path / "model"), "seeds": [0, 1, 2],
        "variants": {"base": None, "dpo": {"training": {"beta": [0.1, 0.2, 0.3]}}},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}},
        "training": {"batch_size": 2, "per_device_train_batch_size": 2}, "benchmarks": {"unlearning": {}},
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(document))
    asked = counted(monkeypatch, precision, "arithmetic")
    assert len(expand(load_matrix(tmp_path / "sweep.yaml")).stages) > 20
    assert asked.total() == 1


def test_a_run_with_nothing_to_do_and_a_plan_verify_every_stage_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [[{"kind": "max_words", "n": 5}]]
    questions = [
        {"question_id": f"q{n}", "category": "c", "turns": ["Say five"], "constraints": short} for n in range(2)
    ]
    answers = [{"question_id": f"q{n}", "turns": ["five words are quite enough"]} for n in range(2)]
    for name, rows in (("questions", questions), ("answers", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "name": "given", "baseline": "a", "variants": {"a": {"answers": "answers.jsonl"}},
        "benchmarks": {"mt-bench": {"questions": {"path": "questions.jsonl"}, "judge": {"kind": "verifier"}}},
    }  # fmt: skip
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(document))
    matrix, out = tmp_path / "given.yaml", tmp_path / "runs" / "given"
    stages = len(expand(load_matrix(matrix)).stages)
    assert not api.run(matrix, out).unchanged
    looks = counted(monkeypatch, Store, "damage")
    assert api.run(matrix, out).unchanged
    assert sorted(looks.values()) == [1] * stages
    looks.clear()
    api.plan(matrix, out, machine="h100-sxm")
    assert sorted(looks.values()) == [1] * stages
