"""A whole matrix on small models, through the command line: run directories, the record, reruns, damage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from cheap_stages import InlinePool, stage
from factories import scored_pairs, write_model
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ServiceError
from radpo.core.run_files import whole_manifest
from radpo.engine.graph import Function, Task
from radpo.engine.schedule import StageError, run_stages
from radpo.engine.store import Store
from radpo.matrix.view import MatrixView
from radpo.preferences.writing import write_preferences

TABLES = ("results.parquet", "examples.parquet", "likelihoods.parquet", "training.parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_model(folder / "first")
    write_model(folder / "second", template="{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}")
    write_preferences(scored_pairs([(9, 3), (7, 6), (10, 1), (6, 5.5)]), folder / "pairs.jsonl")
    row = {"question_id": "q", "category": "a", "turns": ["Say five."], "constraints": [[{"kind": "lowercase"}]]}
    (folder / "questions.jsonl").write_text(json.dumps(row) + "\n")
    document = {
        "name": "small",
        "models": [str(folder / "first"), str(folder / "second")],
        "variants": {"base": None, "dpo": {"training": {"learning_rate": 1e-3}}},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl", "limit": 2}},
        "training": {"batch_size": 2, "per_device_train_batch_size": 2, "max_length": 256},
        "benchmarks": {
            "unlearning": {},
            "mt-bench": {"questions": {"path": "questions.jsonl"}, "sampling": {"max_new_tokens": 3}},
        },
    }
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document))
    return folder


def call(place: Path, *words: str) -> Any:
    words = ("run", str(place / "matrix.yaml"), "--out", str(place / "runs" / "small"), *words)
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_two_models_at_once_then_nothing_then_only_what_was_hurt(place: Path) -> None:
    first = call(place, "--jobs", "2")
    assert first.exit_code == 0, first.stderr
    reports = [Path(line) for line in first.stdout.split()]
    assert [report.name for report in reports] == ["report.html"] * 2
    assert [report.parent.name for report in reports] == ["first", "second"], "a run directory for each model"
    whole = {report: {name: pd.read_parquet(report.parent / name) for name in TABLES} for report in reports}
    for report in reports:
        manifest = json.loads((report.parent / "manifest.json").read_text())
        assert {"packages", "git_commit", "models", "data", "seeds", "platform", "stages"} <= manifest.keys()
        assert manifest["data"]["pairs.jsonl"]["sha256"].startswith("sha256:")
        assert len(manifest["models"]) == 1
        assert {"cpu", "cores", "memory_gib", "gpu"} <= manifest["platform"].keys()
        assert all(one["seconds"] >= 0 and one["peak_mib"] > 0 for one in manifest["stages"])
        assert len({one["name"] for one in manifest["stages"]}) == len(manifest["stages"]) == 14
        assert whole[report]["results.parquet"]["model"].unique().tolist() == list(manifest["models"])
    assert "nothing to do" in call(place).stderr

    store = Store(place / "runs" / "store")
    trained = [key for key in store.finished() if store.record(key)["function"] == "train"]
    assert len(trained) == 2
    weights = store.root / "stages" / trained[0] / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (reports[1].parent / "results.parquet").write_bytes(b"hurt")
    again = call(place)
    assert again.exit_code == 0, again.stderr
    assert "is damaged in the store" in again.stderr
    assert "policy/model.safetensors does not have its checksum" in again.stderr
    computed = re.findall(r"\] (\S+) [\d.]+ s$", again.stderr, flags=re.MULTILINE)
    assert len(computed) == 1
    assert computed[0].startswith("train/")
    for report in reports:
        for name in TABLES:
            pd.testing.assert_frame_equal(pd.read_parquet(report.parent / name), whole[report][name])

    # The run directory is whole or written anew: an empty report, a changed one, an edited manifest, an edited table.
    manifest = reports[1].parent / "manifest.json"
    for path in (reports[1], manifest, reports[1].parent / "comparisons.parquet", reports[1].parent / "matrix.yaml"):
        content = path.read_bytes()
        for hurt in (b"", content[:-1] + b"?", content + b" "):
            path.write_bytes(hurt)
            assert whole_manifest(reports[1].parent) is None or json.loads(hurt) == json.loads(content), path
        path.write_bytes(content)
        assert whole_manifest(reports[1].parent) is not None
    (reports[0].parent / "mine.parquet").write_bytes(b"a person's own file")
    reports[0].write_bytes(b"")
    manifest.write_text(manifest.read_text().replace('"seeds"', '"sown"'))
    again = call(place)
    assert again.exit_code == 0, again.stderr
    assert "nothing to do" not in again.stderr
    assert [report.stat().st_size > 10_000 for report in reports] == [True, True]
    assert '"sown"' not in manifest.read_text()
    assert (reports[0].parent / "mine.parquet").exists()
    assert CliRunner().invoke(app, ["report", str(reports[0].parent)], catch_exceptions=False).exit_code == 0
    assert "nothing to do" in call(place).stderr, "a report that was built anew belongs there"


def test_what_a_person_can_mend_is_told_without_a_trace_and_keeps_its_status(tmp_path: Path) -> None:
    def wrong(task: Task) -> None:
        raise ServiceError("the judge is not to be reached")

    store = Store(tmp_path)
    with pytest.raises(StageError) as failure:
        run_stages([stage("bad", "b", function=Function(wrong, 1))], store, InlinePool(store), MatrixView(1, {}))
    assert failure.value.exit_status == 3
    assert "bad failed: the judge is not to be reached" in str(failure.value)
    assert "Traceback" not in str(failure.value)


def test_without_a_terminal_the_view_is_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, base = Store(tmp_path), stage("base", "b")
    bad = stage("bad", "x", hints={"fail": True}, base=base)
    with MatrixView(2, {}) as view, pytest.raises(StageError):
        run_stages([bad], store, InlinePool(store), view)
    (store.folder(base) / "text").write_text("c")
    with MatrixView(1, {}) as view:
        run_stages([base], store, InlinePool(store), view)
        run_stages([base], store, InlinePool(store), view)
    shown = capsys.readouterr().err
    assert shown.startswith("[0/2] base …\n[1/2] base 0.0 s\n[1/2] bad …\n")
    assert "\n[1/2] bad FAILED: ValueError: no luck\n" in shown
    assert f"base is damaged in the store ({base.key}: text does not have its checksum)" in shown
    assert "base from the store" in shown
