"""The one reader of run directories: tidy frames with documented columns, and what old runs lack made up for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from report_factory import write_run
from typer.testing import CliRunner

import radpo
from radpo.cli.main import app
from radpo.core.errors import DataError, RadpoError
from radpo.core.metrics import Metric, metrics_to_json
from radpo.core.results import EXAMPLE_DTYPES, RESULT_DTYPES


def test_the_public_reader_is_imported_only_when_it_is_asked_for() -> None:
    code = (
        "import sys, radpo; loaded = {'torch', 'pandas', 'numpy'} & set(sys.modules); radpo.load_run; "
        "sys.exit(len(loaded))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="load_ran"):
        radpo.load_ran  # noqa: B018


def test_the_frames_have_the_documented_columns_and_types(tmp_path: Path) -> None:
    run = radpo.load_run(str(write_run(tmp_path)))
    assert [str(run.results[name].dtype) for name in RESULT_DTYPES] == list(RESULT_DTYPES.values())
    assert dict(run.examples.dtypes.astype(str)) == EXAMPLE_DTYPES
    documented = type(run).__doc__ or ""
    for name in (*RESULT_DTYPES, *EXAMPLE_DTYPES):
        assert name in documented, name


def test_a_run_shows_as_one_line_and_a_table_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    assert "\n" not in repr(radpo.load_run(folder))
    assert len(repr(radpo.load_run(folder))) < 120
    (folder / "examples.parquet").unlink()
    with pytest.raises(DataError, match=r"examples\.parquet: cannot be read \(no such file\)"):
        radpo.load_run(folder)
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read \(no such file\)"):
        radpo.load_run(tmp_path / "none")


def test_a_report_or_table_that_cannot_be_written_is_one_message_and_no_unexpected_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", only=("mt-bench",))
    for words, file in (
        (("report",), "page.html"),
        (("analyze", "compare"), "table.csv"),
        (("analyze", "compare"), "table.parquet"),
    ):
        out = tmp_path / "none" / file
        with pytest.raises(RadpoError, match=f"{out}: cannot be written"):
            CliRunner().invoke(app, [*words, str(folder), "--out", str(out)], catch_exceptions=False)


def test_an_old_runs_examples_get_their_questions_and_opponents_from_the_detail(tmp_path: Path) -> None:
    frame = pd.read_parquet(write_run(tmp_path, only=("alpaca-eval", "mt-bench", "unlearning")) / "examples.parquet")
    turns = frame["benchmark"] == "mt-bench"
    frame.loc[turns, "detail"] = [json.dumps({"question_id": f"q{n // 2}"}) for n in range(turns.sum())]
    pairs = (
        frame[turns]
        .head(2)
        .assign(benchmark="unlearning", example_id=["pair-000", "pair-001"], output=None, detail="{}")
    )
    frame = pd.concat([frame, pairs], ignore_index=True).drop(columns=["prompt_id", "opponent"])
    frame.to_parquet(tmp_path / "examples.parquet")
    likelihoods = pd.read_parquet(tmp_path / "likelihoods.parquet")
    likelihoods.assign(prompt_id="shared").to_parquet(tmp_path / "likelihoods.parquet")
    run = radpo.load_run(tmp_path)
    found = run.examples
    assert found.loc[found["benchmark"] == "mt-bench", "prompt_id"].tolist() == [
        f"q{n // 2}" for n in range(turns.sum())
    ]
    assert set(found.loc[found["benchmark"] == "unlearning", "prompt_id"]) == {"shared"}
    judged = found[found["benchmark"] == "alpaca-eval"]
    assert set(judged["opponent"]) == {"base"} == {run.opponent("dpo", "alpaca-eval")}
    assert (judged["prompt_id"] == judged["example_id"]).all()


def test_what_a_benchmark_wrote_goes_before_the_detail(tmp_path: Path) -> None:
    frame = pd.read_parquet(write_run(tmp_path, only=("alpaca-eval",)) / "examples.parquet")
    frame.assign(opponent="gpt-4", prompt_id="q").to_parquet(tmp_path / "examples.parquet")
    run = radpo.load_run(tmp_path)
    assert (run.opponent("dpo", "alpaca-eval"), set(run.examples["prompt_id"])) == ("gpt-4", {"q"})


@pytest.mark.parametrize("detail", ["no JSON", "[1]", "null", '{"question_id": [], "generator_1": {}}', "[" * 100_000])
def test_a_detail_of_any_kind_tells_nothing_rather_than_fail(tmp_path: Path, detail: str) -> None:
    frame = pd.read_parquet(write_run(tmp_path, only=("alpaca-eval",)) / "examples.parquet")
    frame.drop(columns=["prompt_id", "opponent"]).assign(detail=detail).to_parquet(tmp_path / "examples.parquet")
    found = radpo.load_run(tmp_path).examples
    assert (found["prompt_id"] == found["example_id"]).all()
    assert found["opponent"].isna().all()


def test_metrics_are_what_the_manifest_says_else_what_the_installed_benchmark_does(tmp_path: Path) -> None:
    mine = {"metrics": metrics_to_json({"mt-bench": (Metric("score", "grade", bounds=(0.0, 7.0)),)})}
    run = radpo.load_run(write_run(tmp_path, manifest=mine))
    assert (run.metric("mt-bench", "score").label, run.metric("mt-bench", "score").limits) == ("grade", (0.0, 7.0))
    assert run.metric("alpaca-eval", "win_rate").even == 50.0
    unknown = run.metric("nobody's", "figure")
    assert (unknown.name, unknown.label, unknown.unit, unknown.higher_is_better) == ("figure", "figure", "", None)


@pytest.mark.parametrize("metrics", [[], {"mt-bench": [{"name": "score"}]}, {"mt-bench": 3}, "x"])
def test_malformed_metrics_of_a_manifest_are_named(tmp_path: Path, metrics: object) -> None:
    run = radpo.load_run(write_run(tmp_path, only=("mt-bench",), manifest={"metrics": metrics}))
    if not metrics:
        assert run.metric("mt-bench", "score").limits == (1.0, 10.0)
        return
    with pytest.raises(DataError, match=r"manifest\.json: metrics is malformed"):
        run.metric("mt-bench", "score")
