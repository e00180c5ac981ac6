"""`radpo train` on what `radpo data relabel` writes, and resumed after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from factories import scored_pairs, write_model
from typer.testing import CliRunner

from radpo import api
from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError
from radpo.matrix.one_cell import one_cell
from radpo.preferences.training_pairs import are_training_pairs, load_training_pairs
from radpo.preferences.writing import write_preferences

ROWS = [(9.0, 3.0), (7.0, 6.0), (10.0, 1.0), (6.0, 5.5)]
TRAINING = {
    "batch_size": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "beta": 0.3, "precision": "float32",
    "max_length": 400,
}  # fmt: skip


def call(*words: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_model(folder / "model")
    write_preferences(scored_pairs(ROWS), folder / "pairs.jsonl")
    for kind, ending in (("ra", "jsonl"), ("plain", "parquet")):
        done = call("data", "relabel", folder / "pairs.jsonl", "--kind", kind, "--out", folder / f"{kind}.{ending}")
        assert done.exit_code == 0, done.output
    return folder


def test_relabeled_pairs_train_the_checkpoint_that_their_scored_pairs_do(place: Path, tmp_path: Path) -> None:
    from radpo.models.loading import load_model
    from radpo.preferences.goals import template_goal

    folders = [
        api.train(place / name, tmp_path / out, method="ra-dpo", model=str(place / "model"), training=TRAINING)
        for name, out in (("pairs.jsonl", "scored"), ("ra.jsonl", "relabeled"))
    ]
    one, other = (load_model(folder).state_dict() for folder in folders)
    assert all(bool((one[name] == other[name]).all()) for name in one)
    templates = [(folder / "chat_template.jinja").read_text() for folder in folders]
    assert templates[0] == templates[1]
    assert template_goal(templates[1]) == 10
    assert json.loads((tmp_path / "relabeled" / "counts.json").read_text())["pairs"] == 2 * len(ROWS)
    assert (tmp_path / "relabeled" / "report.html").is_file()


def test_the_files_of_relabel_are_told_from_scored_pairs_and_checked(place: Path, tmp_path: Path) -> None:
    from radpo.preferences.preferences import load_preferences
    from radpo.preferences.relabel import relabel

    assert [are_training_pairs(place / name) for name in ("pairs.jsonl", "ra.jsonl", "plain.parquet")] == [0, 1, 1]
    made = relabel(load_preferences(place / "pairs.jsonl").table, "ra", scale=(1.0, 10.0)).table
    assert load_training_pairs(place / "ra.jsonl").to_pylist() == made.to_pylist()
    rows = [json.loads(line) for line in (place / "ra.jsonl").read_text().splitlines()]
    for change, message in (
        ({"side": "left"}, "row 1, side: 'left' is none of plain, chosen, rejected"),
        ({"goal": float("nan")}, "row 1, goal: 'nan' is no finite number"),
        ({"prompt": []}, "row 1, prompt: must be a list of messages"),
        ({"chosen": 3}, "row 1, chosen: must be a text"),
        ({"id": rows[1]["id"]}, "an id is used twice"),
    ):
        (tmp_path / "bad.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ({**rows[0], **change}, *rows[1:])))
        with pytest.raises(DataError, match=message):
            load_training_pairs(tmp_path / "bad.jsonl")


def test_plain_training_pairs_give_a_checkpoint_without_a_goal(place: Path) -> None:
    from radpo.matrix.expand import expand

    def conditioned(name: str) -> bool:
        data = {"train": {"path": str(place / name)}}
        matrix = one_cell({}, {"method": "dpo"}, model=str(place / "model"), data=data)
        return bool(expand(matrix).cells[0].train.settings["conditioned"])  # type: ignore[union-attr]

    assert (conditioned("plain.parquet"), conditioned("ra.jsonl"), conditioned("pairs.jsonl")) == (False, True, False)
    data = {"train": {"path": str(place / "ra.jsonl")}}
    implicit = one_cell({}, {"method": "ira"}, model=str(place / "model"), data=data)
    with pytest.raises(ConfigError, match="holds training pairs, and 'ira' makes its own of scored pairs"):
        expand(implicit)


def test_a_killed_training_resumes_from_its_last_checkpoint(place: Path, tmp_path: Path) -> None:
    settings = {**TRAINING, "num_train_epochs": 8}
    words = ["train", str(place / "ra.jsonl"), "--out", str(tmp_path / "out")]
    words += ["--model", str(place / "model"), "--save-every", "2", *(f"--set={k}={v}" for k, v in settings.items())]
    command = [sys.executable, "-m", "radpo", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    partial = tmp_path / "store" / "partial"
    while process.poll() is None and not list(partial.glob("*/work/checkpoint-*/complete")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = call(*words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out" / "policy")
    stages = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"]
    assert [stage["resumed"] for stage in stages if stage["name"].startswith("train/")] == [True]


def test_training_pairs_are_not_trained_under_another_methods_name(place: Path, tmp_path: Path) -> None:
    for name, method, other in (("ra.jsonl", "dpo", "ra-dpo"), ("plain.parquet", "ra-dpo", "dpo")):
        told = rf"{name}: holds training pairs with.*called '{method}'; give --method {other}"
        with pytest.raises(ConfigError, match=told):
            api.train(place / name, tmp_path / "out", method=method, model=str(place / "model"), training=TRAINING)


def test_prompts_that_leave_no_room_are_refused_before_the_reference_pass(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radpo.matrix.expand import expand
    from radpo.preferences.relabel import relabel
    from radpo.training import reference

    monkeypatch.setattr(reference, "load_model", lambda *_: pytest.fail("no model is needed to see that"))
    made = relabel(scored_pairs(ROWS), "ra").table
    measure = {"max_length": 40, "precision": "float32"}
    told = r"8 of 8 training pairs have a prompt of max_length \(40\) tokens or more.*drop"
    with pytest.raises(DataError, match=told):
        reference.reference_log_likelihoods(place / "model", made, stop_at_overlong="training", **measure)

    def hints(**training: str) -> dict[str, Any]:
        variants = {"dpo": {"training": training}}
        document = {"train": {"path": str(place / "pairs.jsonl")}}
        found = expand(one_cell({}, {"method": "dpo", **variants["dpo"]}, model=str(place / "model"), data=document))
        return next(dict(one.hints) for one in found.stages if one.function_name == "reference")

    assert hints() == {"stop_at_overlong": "training"}
    assert hints(overlong_prompts="drop") == {}, "where any variant drops them, the pass they share is made"
