"""Runs and trainings in experiment trackers: the libraries themselves, offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import scored_pairs, write_model
from report_factory import write_run
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError, ServiceError
from radpo.core.run import Run, load_run
from radpo.export.trackers import TRACKERS, export_to
from radpo.preferences.relabel import relabel
from radpo.stats.quantities import Name, measure
from radpo.training.reference import reference_log_likelihoods
from radpo.training.reporting import Reporting, check_trackers
from radpo.training.run import train
from radpo.training.settings import TrainingSettings

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked") / "run"
    parts = ("alpaca-eval", "mt-bench", "training")
    write_run(folder, variants=("base", "dpo"), prompts=8, questions=4, steps=5, only=parts)
    (folder / "report.html").write_text("<p>A report.</p>", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tracker writes below a folder of the test's own, and has a key that it could leak."""
    import mlflow
    import wandb

    for name, value in {
        "WANDB_MODE": "offline", "WANDB_DIR": tmp_path, "WANDB_API_KEY": KEY, "TRACKIO_DIR": tmp_path / "trackio",
        "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    wandb.teardown()  # it reads the environment once
    yield
    wandb.teardown()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def figures(found: Run, variant: str) -> dict[str, float]:
    """What a tracker should have of a variant."""
    expected = {}
    for row in found.results[found.results["variant"] == variant].to_dict("records"):
        quantity = measure(found, variant, Name(row["benchmark"], row["subset"], row["metric"]))
        assert quantity is not None
        expected["/".join(part for part in (row["benchmark"], row["subset"], row["metric"]) if part != "all")] = (
            quantity.value
        )
    return expected


def losses(found: Run, variant: str) -> dict[int, float]:
    rows = found.training
    assert rows is not None
    rows = rows[(rows["variant"] == variant) & (rows["metric"] == "loss")]
    return dict(zip(rows["step"].tolist(), rows["value"].tolist(), strict=True))


def test_tensorboard_reads_the_runs_curves_and_figures(run: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "tb"), "--to", "tensorboard"])
    assert done.output == f"{tmp_path / 'tb'}\n"
    export_to(run, "tensorboard", out=tmp_path / "tb")  # a second time puts nothing beside the first
    found = load_run(run)
    assert sorted(path.parent.name for path in (tmp_path / "tb").glob("*/seed-0")) == ["base", "dpo"]
    events = EventAccumulator(str(tmp_path / "tb" / "dpo" / "seed-0"))
    events.Reload()
    read = {event.step: event.value for event in events.Scalars("train/loss")}
    assert read == pytest.approx(losses(found, "dpo"))
    for name, value in figures(found, "dpo").items():
        (event,) = events.Scalars(f"results/{name}")
        assert event.value == pytest.approx(value)
    (text,) = events.Tensors("results/text_summary")
    assert b"| alpaca-eval | all |" in text.tensor_proto.string_val[0]


def test_mlflow_has_a_run_for_each_cell_and_the_report_and_no_run_twice(run: Path) -> None:
    import mlflow

    for _ in range(2):
        assert "mlflow experiment mine at file:" in export_to(run, "mlflow", project="mine")
    client, found = mlflow.MlflowClient(), load_run(run)
    experiment = client.get_experiment_by_name("mine")
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["base/seed-0", "dpo/seed-0", "report"]
    one = runs["dpo/seed-0"]
    expected = figures(found, "dpo")
    assert {name: one.data.metrics[name] for name in expected} == pytest.approx(expected)
    history = client.get_metric_history(one.info.run_id, "train/loss")
    assert {point.step: point.value for point in history} == pytest.approx(losses(found, "dpo"))
    assert len(history) == len(losses(found, "dpo"))
    assert one.data.params["training.learning_rate"] == "5e-07"
    assert "report.html" in {file.path for file in client.list_artifacts(runs["report"].info.run_id)}


def test_trackio_has_a_run_for_each_cell_and_touches_nobody_elses(run: Path, tmp_path: Path) -> None:
    import trackio

    for _ in range(2):
        export_to(run, "trackio", project="mine")
    found = load_run(run)
    assert sorted(one.name for one in trackio.Api().runs("mine")) == ["base/seed-0", "dpo/seed-0"]
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs("mine", "dpo/seed-0")
    assert {log["step"]: log["train/loss"] for log in logs if "train/loss" in log} == pytest.approx(
        losses(found, "dpo")
    )
    expected = figures(found, "dpo")
    assert {name: logs[-1][name] for name in expected} == pytest.approx(expected)
    trackio.init(project="theirs", name="base/seed-0", embed=False)
    trackio.log({"x": 1})
    trackio.finish()
    with pytest.raises(ConfigError, match=r"project theirs has a run base/seed-0 of something else; give --project"):
        export_to(run, "trackio", project="theirs")
    assert [one.name for one in trackio.Api().runs("theirs")] == ["base/seed-0"]


def test_wandb_offline_has_the_names_the_figures_and_the_report(run: Path, tmp_path: Path) -> None:
    import wandb

    assert export_to(run, "wandb", project="mine").startswith("wandb project mine, offline")
    wandb.teardown()  # whose process writes to the end
    written = [path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    assert len(written) == 3
    (one,) = [content for content in written if b"dpo/seed-0" in content]
    for name, value in figures(load_run(run), "dpo").items():
        assert name.encode() in one
        assert f"{value:.6g}"[:6].encode() in one
    assert b"train/loss" in one
    assert any(b"report.html" in content for content in written)


def test_what_a_tracker_lacks_is_one_message(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb.teardown()
    for words, message in {
        ("--to", "mlfow"): "must be one of wandb, mlflow, trackio, tensorboard; did you mean 'mlflow'",
        ("--to", "wandb"): r"--to wandb: No API key configured.*WANDB_MODE=offline",
        ("--to", "wandb", "--format", "csv"): "give one of --format",
        ("--to", "tensorboard", "--project", "p"): "TensorBoard has none",
        ("--project", "p"): "--to names",
        (str(tmp_path / "x"), "--to", "wandb"): "give --project",
        ("/proc/no", "--to", "tensorboard"): "/proc/no: cannot be written",
    }.items():
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, ["export", str(run), *words], catch_exceptions=False)
    with pytest.raises(ConfigError, match="report_to: wandb needs a key"):
        check_trackers(("wandb",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:of-mine@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1") as told:
        export_to(run, "mlflow")
    assert "of-mine" not in str(told.value)
    monkeypatch.setattr("radpo.core.optional.is_installed", lambda package: False)
    for tracker in TRACKERS:
        with pytest.raises(ConfigError, match=rf"--to {tracker}: needs the package .*radpo\[trackers\]"):
            export_to(run, tracker)


def test_each_training_is_a_run_of_its_own_in_the_matrixs_project(tmp_path: Path) -> None:
    import mlflow
    import trackio
    import wandb

    model = write_model(tmp_path / "model")
    pairs = relabel(scored_pairs([(9.0, 3.0), (7.0, 6.0)]), "plain").table
    reference = reference_log_likelihoods(model, pairs, max_length=400, precision="float32")
    settings = TrainingSettings(batch_size=2, per_device_train_batch_size=2, max_length=400, precision="float32")
    for name in ("dpo/seed-0", "dpo/seed-1"):
        reporting: Any = Reporting(("wandb", "mlflow", "trackio", "tensorboard"), "mine", name)
        train(model, pairs, reference, tmp_path / name, settings, seed=0, report_to=reporting)
    wandb.teardown()
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert sorted(one.info.run_name for one in runs) == ["dpo/seed-0", "dpo/seed-1"]
    assert {one.info.status for one in runs} == {"FINISHED"}
    assert sorted(one.name for one in trackio.Api().runs("mine")) == ["dpo/seed-0", "dpo/seed-1"]
    written = [path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    named = [[name for name in ("dpo/seed-0", "dpo/seed-1") if name.encode() in content] for content in written]
    assert sorted(named) == [["dpo/seed-0"], ["dpo/seed-1"]]
    assert all(b"mine" in content for content in written)
