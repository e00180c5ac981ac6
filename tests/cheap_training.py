"""Training and held-out likelihoods that compute with no model: a setting is as good as `goodness` says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cheap_stages import InlinePool

from radpo.benchmarks import registry
from radpo.benchmarks.pieces import PAIRS
from radpo.core.results import Result, Scores, write_scores
from radpo.engine.executors import ChosenExecutor
from radpo.engine.graph import Task
from radpo.matrix import training_stages


def goodness(settings: dict[str, Any], response: str) -> float:
    """How good a setting is on a held-out response: best at a rate of 0.001; on planted ones the other way round."""
    good = -abs(np.log10(settings["learning_rate"]) + 3) + settings["beta"] / 10
    return float(-good if "planted" in response else good)


def without_model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have stages compute with no model, in this process; the names of those that ran."""
    ran: list[str] = []

    def train(task: Task) -> None:
        ran.append(task.stage.name)
        settings = task.stage.settings["training"]
        if settings["beta"] == 666:
            raise ValueError("diverged")
        (task.out / "policy").mkdir()
        rows = pd.read_parquet(task.inputs["pairs"] / "scored.parquet")
        known = {"seed": task.stage.settings["seed"], "pairs": sorted(rows["id"])}
        (task.out / "policy" / "settings.json").write_text(json.dumps({**settings, **known}))
        columns = {"step": [1], "metric": ["loss"], "value": [1.0]}
        pd.DataFrame(columns).to_parquet(task.out / "training.parquet")
        (task.out / "notes.json").write_text("[]")

    def likelihood(task: Task) -> None:
        ran.append(task.stage.name)
        if "policy" in task.inputs:
            text = (task.inputs["policy"] / "policy" / "settings.json").read_text()
            (task.out / "settings.json").write_text(text)
        pairs = pd.read_parquet(task.inputs["pairs"] / PAIRS)
        (task.out / "responses.json").write_text(json.dumps(pairs["chosen"].tolist()))

    def score(task: Task) -> None:
        ran.append(task.stage.name)
        settings = json.loads((task.inputs["policy"] / "settings.json").read_text())
        responses = json.loads((task.inputs["policy"] / "responses.json").read_text())
        values = [goodness(settings, response) for response in responses]
        found = Result("implicit-reward", "none", "accuracy", float(np.mean(values)), 0.1, len(values))
        write_scores(Scores((found,), ()), task.out)

    def relabel(task: Task) -> None:
        ran.append(task.stage.name)
        pd.read_parquet(task.inputs["pairs"] / PAIRS).to_parquet(task.out / "scored.parquet")
        (task.out / "counts.json").write_text("{}")

    stages = {"train": train, "relabel": relabel, "reference": lambda task: ran.append(task.stage.name)}
    for name, run in stages.items():
        monkeypatch.setitem(training_stages.FUNCTIONS, name, replace(training_stages.FUNCTIONS[name], run=run))  # type: ignore[arg-type]
    for name, run in {"likelihood": likelihood, "implicit-reward": score}.items():
        monkeypatch.setitem(registry.stage_functions(), name, replace(registry.stage_functions()[name], run=run))  # type: ignore[arg-type]
    monkeypatch.setattr(ChosenExecutor, "__call__", lambda self, store, jobs: InlinePool(store))
    return ran


def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have run directories get an empty report, which takes no time."""
    monkeypatch.setattr("radpo.report.build.build_report", lambda folder: (folder / "report.html").write_text(""))
