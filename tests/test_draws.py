"""Runs by several random factors: models, draws of data, order and sampling, and what the intervals make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from cheap_training import without_model, without_reports
from factories import scored_pairs, write_model

import radpo
from radpo import api
from radpo.core.errors import ConfigError, DataError
from radpo.core.run import load_runs
from radpo.matrix.expand import Plan, expand
from radpo.matrix.loading import load_matrix
from radpo.preferences.preferences import Reading
from radpo.preferences.streamed import write_checked
from radpo.preferences.writing import write_preferences
from radpo.stats.mixed import over_factors, over_seeds
from radpo.stats.paired import paired_tests
from radpo.stats.quantities import Name, measure


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("draws")
    for level in (3, 4):
        write_model(folder / f"speaker-{level}")
        (folder / f"speaker-{level}" / "note.txt").write_text(str(level))
        config = json.loads((folder / f"speaker-{level}" / "config.json").read_text())
        (folder / f"speaker-{level}" / "config.json").write_text(json.dumps({**config, "note": level}))
    return folder


def write(folder: Path, models: Path, **more: Any) -> Path:
    write_preferences(scored_pairs([(9, 3)] * 24), folder / "train.jsonl")
    write_preferences(scored_pairs([(9, 3)] * 30)[24:], folder / "heldout.jsonl")
    document = {
        "name": "drawn",
        "model": str(models / "speaker-{seed}"),
        "draws": {"model": [3, 4], "data": [0, 1, 2], "order": [5, 6]},
        "variants": {"base": None, "dpo": None},
        "data": {"train": {"path": "train.jsonl", "limit": 8}, "heldout": {"path": "heldout.jsonl"}},
        "benchmarks": {"implicit-reward": {}},
        **more,
    }
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}), encoding="utf-8")
    return path


def trained(plan: Plan) -> dict[int, Any]:
    return {cell.seed: cell.train for cell in plan.cells if cell.variant == "dpo"}


def test_a_run_has_a_level_of_every_factor_and_shares_what_has_the_same(tmp_path: Path, models: Path) -> None:
    plan = expand(load_matrix(write(tmp_path, models)))
    stages = trained(plan)
    assert sorted(stages) == list(range(12))
    assert len({stage.key for stage in stages.values()}) == 12
    references = {stage.inputs["reference"].key for stage in stages.values()}
    assert len(references) == 2 * 3, "orders share the reference's log-likelihoods"
    assert len({stage.name for stage in plan.stages}) == len(plan.stages)
    assert len({cell.model for cell in plan.cells}) == 1
    assert len({stage.settings["model"].identity for stage in stages.values()}) == 2
    assert [stages[seed].settings["seed"] for seed in range(4)] == [5, 6, 5, 6]

    asks = {"calibration": {"questions": {"path": "questions.jsonl"}, "goals": [1, 10]}}
    question = {"question_id": 1, "category": "x", "turns": ["Why?"], "constraints": [[{"kind": "max_words", "n": 9}]]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n")
    draws = {"order": [0, 1, 2], "sampling": [7, 8]}
    plan = expand(load_matrix(write(tmp_path, models, draws=draws, model=str(models / "speaker-3"), benchmarks=asks)))
    samples = [stage for stage in plan.stages if stage.function_name == "samples"]
    assert len({stage.key for stage in trained(plan).values()}) == 3
    assert {stage.settings["seed"] for stage in samples} == {7, 8}
    assert len(samples) == 3 * 2 + 2, "a sample of every checkpoint, and of the model itself, with either seed"


def test_the_matrix_as_it_was_has_the_keys_that_it_had(tmp_path: Path, models: Path) -> None:
    """One seed for everything is the levels of the diagonal: order and sampling alike."""
    one = {"model": str(models / "speaker-3"), "data": {"train": {"path": "train.jsonl"}}}
    plain = expand(load_matrix(write(tmp_path, models, draws=None, seeds=[0, 7], benchmarks={}, **one)))
    draws = {"order": [0, 7], "sampling": [0, 7], "design": "together"}
    drawn = expand(load_matrix(write(tmp_path, models, draws=draws, benchmarks={}, **one)))
    assert [stage.key for stage in plain.stages] == [stage.key for stage in drawn.stages]
    assert {cell.seed for cell in drawn.cells} == {0, 1}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"seeds": [0, 1]}, "draws: stands in place of seeds"),
        ({"draws": {"order": [1, 1]}}, "draws.order: a level is named twice"),
        ({"draws": {"model": [3, 4], "order": [0, 1, 2], "design": "together"}}, "as many levels as each other"),
        ({"draws": {"orders": [1]}}, "draws.orders: no such key; allowed: model, data, order.*did you mean 'order'"),
        ({"draws": {"order": [0, 1]}}, "draws.model: .*needs levels for {seed}"),
        ({"draws": None}, "model: .*needs levels for {seed}"),
        ({"data": {"train": {"path": "train.jsonl"}}}, "data.train.limit: missing: how many of the pairs"),
        ({"draws": {"model": [3, 4], "order": list(range(6000))}}, "more than max_cells"),
    ],
)
def test_wrong_draws_are_told_with_their_key(tmp_path: Path, models: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_matrix(write(tmp_path, models, **more))


def test_draws_of_pairs_have_no_pair_in_common(tmp_path: Path) -> None:
    write_preferences(scored_pairs([(9, 3)] * 25), tmp_path / "pairs.jsonl")
    found: list[set[str]] = []
    for draw in range(3):
        write_checked(tmp_path / "pairs.jsonl", Reading(), tmp_path / "part.parquet", 8, draw=draw)
        found.append(set(pd.read_parquet(tmp_path / "part.parquet")["id"]))
    assert [len(part) for part in found] == [8, 8, 8]
    assert len(set.union(*found)) == 24
    assert found[0] != {f"p{number}" for number in range(8)}, "a draw is no stretch of the file"
    with pytest.raises(DataError, match="there are 3 draws of 8, numbered from 0, and draw 3 is none of them"):
        write_checked(tmp_path / "pairs.jsonl", Reading(), tmp_path / "part.parquet", 8, draw=3)


def test_results_have_the_factors_and_intervals_are_over_them(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_model(monkeypatch)
    without_reports(monkeypatch)
    path = write(tmp_path, models)
    api.run(path, tmp_path / "run")
    run = radpo.load_run(tmp_path / "run")
    rows = run.results[run.results["benchmark"] == "implicit-reward"]
    assert rows[["seed_model", "seed_data", "seed_order"]].drop_duplicates().shape[0] == 12
    assert set(rows["seed_data"]) == {0, 1, 2}
    assert set(rows["seed_sampling"]) == {0}
    assert set(run.factors) == {"model", "data", "order"}, "one level is no factor"
    assert len(run.manifest["models"]) == 2
    assert "draws" in (tmp_path / "run" / "matrix.yaml").read_text()
    again = load_matrix(path)
    assert again.seeds == tuple(range(12))

    both = load_runs([tmp_path / "run", tmp_path / "run"])
    assert both.factors == run.factors, "directories whose seeds stand for the same"
    table = pd.read_parquet(tmp_path / "run" / "results.parquet")
    table.assign(seed_data="a").to_parquet(tmp_path / "run" / "results.parquet")
    with pytest.raises(DataError, match=r"results.parquet: a column is of the wrong type"):
        radpo.load_run(tmp_path / "run")

    # A model that is better by 1 than the other: with two models the mean's interval is a t interval of one degree.
    name = Name("implicit-reward", "none", "accuracy")
    run.results["value"] = run.results["value"].where(run.results["seed_model"] != 4, run.results["value"] + 1.0)
    found = measure(run, "dpo", name)
    assert found is not None
    assert found.seeds == 12
    assert found.half == pytest.approx(12.706 * 0.5, rel=1e-3)
    assert found.degrees == pytest.approx(1)


def test_runs_that_share_a_model_are_not_taken_for_independent() -> None:
    rng = np.random.default_rng(0)
    shape = (3, 4, 15)
    changes = (rng.normal(size=(3, 1, 1)) + 0.1 * rng.normal(size=(3, 4, 1)) + rng.normal(size=shape) + 0.5).ravel()
    model, data, prompt = (axis.ravel() for axis in np.indices(shape))
    seeds = model * 4 + data
    (alone,) = paired_tests(changes[:, None], prompt, seeds)
    (crossed,) = paired_tests(changes[:, None], prompt, seeds, factors={"model": model, "data": data})
    assert alone is not None
    assert crossed is not None
    assert alone.estimate.over == over_seeds(changes, seeds, prompt)
    assert crossed.estimate.over == over_factors(changes, {"model": model, "data": data, "prompt": prompt})
    assert crossed.estimate.over.stderr > alone.estimate.over.stderr
    assert crossed.p > alone.p
    together = {"model": seeds, "data": seeds}
    (independent,) = paired_tests(changes[:, None], prompt, seeds, factors=together)
    assert independent is not None
    assert independent.estimate == alone.estimate, "no two runs share a level: runs are the units"
    kept = seeds != 5
    (some,) = paired_tests(
        changes[kept][:, None], prompt[kept], seeds[kept], factors={"model": model[kept], "data": data[kept]}
    )
    assert some is not None
    assert some.estimate.over is None, "a combination lacks: these runs only"


def test_settings_are_tuned_over_draws(tmp_path: Path, models: Path) -> None:
    write_preferences(scored_pairs([(9, 3)] * 40)[30:], tmp_path / "tuning.jsonl")
    tune = {
        "training": {"beta": [0.1, 0.5]},
        "metric": "implicit-reward/none/accuracy",
        "heldout": {"path": "tuning.jsonl"},
    }
    plan = expand(load_matrix(write(tmp_path, models, tune={**tune, "seeds": [0, 11]})))
    assert plan.tuning is not None
    assert len(plan.tuning.cells) == 2 * 2
    settings = [cell.train.settings for cell in plan.tuning.cells if cell.train is not None]
    assert {one["model"].location[-1] for one in settings} == {"3", "4"}
    draws = [stage.settings["draw"] for stage in plan.tuning.stages if "draw" in stage.settings]
    assert sorted(draws) == [0, 2]
    with pytest.raises(ConfigError, match=r"tune.seeds: runs are numbered 0 to 11 by draws"):
        load_matrix(write(tmp_path, models, tune={**tune, "seeds": [12]}))
