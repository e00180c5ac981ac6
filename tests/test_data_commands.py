"""The `radpo data` commands, in process: what they print, write, and say of wrong options."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from factories import evaluation_sets, scored_pairs, write_model, write_plugin
from pydantic import BaseModel
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError, ServiceError
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import Grade, GradeRequest, JudgeKind
from radpo.preferences.writing import write_preferences


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_preferences(scored_pairs([(9, 3), (7, 6), (5, 5), (10, 1)]), tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


def test_relabel_writes_counts_and_traces(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "goal.txt").write_text("Score {g} please\n")
    done = call(
        "relabel", pairs, "--out", tmp_path / "out.parquet", "--goal-text", tmp_path / "goal.txt", "--shuffle", "--json"
    )
    shown = json.loads(done.stdout)
    assert (shown["training_pairs"], shown["pairs"], shown["ties_dropped"], shown["rows_read"]) == (6, 4, 1, 4)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {row["source_id"] for row in rows} == {"p0", "p1", "p3"}
    assert {row["prompt"][0]["content"] for row in rows} >= {"Score 9 please", "Score 1 please"}
    assert "left out 1: tied scores" in call("relabel", pairs, "--out", tmp_path / "again.jsonl").stdout


def test_placement_auto_is_the_chat_templates(pairs: Path, tmp_path: Path) -> None:
    no_system = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    )
    for name, template, role in (("a", None, "system"), ("b", no_system, "user")):
        model = write_model(tmp_path / name) if template is None else write_model(tmp_path / name, template)
        call("relabel", pairs, "--out", tmp_path / f"{name}.parquet", "--placement", "auto", "--model", model)
        [first, *_] = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        assert first["prompt"][0]["role"] == role
        assert "Overall score: 9." in first["prompt"][0]["content"]
    with pytest.raises(ConfigError, match="--placement auto: give --model"):
        call("relabel", pairs, "--out", tmp_path / "c.parquet", "--placement", "auto")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kind", "best"], "--kind 'best': must be one of plain, ra, half-ra, attributes, ira"),
        (["--rescale", "log"], "--rescale 'log'"),
        (["--columns", "prompt"], "--columns prompt: write OURS=THEIRS"),
        (["--scale", "10", "1"], "--scale 10 1: the lowest score must be below the highest"),
        (["--pairing", "worst"], "--pairing 'worst'"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(pairs: Path, tmp_path: Path, words: Sequence[str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        call("relabel", pairs, "--out", tmp_path / "out.parquet", *words)
    assert told in str(error.value)


def test_a_target_that_cannot_be_written_is_refused_before_the_work(pairs: Path, tmp_path: Path) -> None:
    for out, told in (("out.txt", "unknown ending"), ("nowhere/out.parquet", "does not exist")):
        with pytest.raises(DataError, match=told):
            call("relabel", pairs, "--out", tmp_path / out)
    (tmp_path / "bad.txt").write_text("no score here")
    with pytest.raises(DataError, match=r"must hold \{g\} once, where the score goes; it does 0 times"):
        call("relabel", pairs, "--out", tmp_path / "out.parquet", "--goal-text", tmp_path / "bad.txt")


def test_the_wording_states_the_scale_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(
        "".join(
            json.dumps({"prompt": "p", "response": text, "helpfulness": score, "verbosity": 4 - score}) + "\n"
            for text, score in (("a", 4), ("b", 0))
        )
    )
    words = ["relabel", tmp_path / "h.jsonl", "--scale", "0", "4", "--attribute-scale", "0", "4", "--out"]
    call(*words, tmp_path / "ra.jsonl")
    first = json.loads((tmp_path / "ra.jsonl").read_text().splitlines()[0])
    assert first["prompt"][0]["content"].endswith(
        "(on a scale of 0-4, where 0 is lowest and 4 is highest):\nOverall score: 4."
    )
    done = call(*words, tmp_path / "attributes.jsonl", "--kind", "attributes")
    assert "wording" not in done.stderr
    first = json.loads((tmp_path / "attributes.jsonl").read_text().splitlines()[0])
    assert first["prompt"][0]["content"].endswith(
        "(on a scale of 0-4, where 0 is lowest and 4 is highest):\nHelpfulness score: 4.\nVerbosity score: 0."
    )


def test_validate_counts_and_refuses_what_has_no_pair(pairs: Path, tmp_path: Path) -> None:
    shown = json.loads(call("validate", pairs, "--json").stdout)
    assert shown == {"rows_read": 4, "usable": 4, "dropped": {}, "noted": {}}
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no usable pairs in 0 rows"):
        call("validate", tmp_path / "empty.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(DataError, match="no usable pairs in 1 rows; 1: chosen: missing"):
        call("validate", tmp_path / "bad.jsonl", "--on-error", "skip")


def test_stats_prints_counts_and_writes_a_page_that_needs_no_network(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "preferences" / "ultrafeedback_binarized_960.jsonl.gz"
    options = ["--high-score", "8", "--against", evaluation_sets(tmp_path, real_data), "--heldout", source]
    shown = json.loads(call("stats", source, *options, "--html", tmp_path / "page.html", "--json").stdout)
    assert (shown["pairs"], shown["rows_read"], shown["ties"], shown["rejected_high"]["count"]) == (960, 960, 108, 181)
    assert (shown["identical"], shown["empty_chosen"], shown["leakage"]["pairs"]) == (5, 1, 960)
    assert {overlap["name"] for overlap in shown["overlaps"]} >= {"alpaca-eval", "mt-bench", "arena-hard", "gsm8k"}
    assert any(line.startswith("overlap with gpqa: not checked") for line in shown["left_out"])
    page = (tmp_path / "page.html").read_text()
    assert "181 of 960 (18.9%, 95% 16.5% to 21.5%)" in page
    assert "overlap with gpqa: not checked" in page
    for figure in ("scores", "gaps", "lengths"):
        assert f'<section id="{figure}">' in page
    before_scripts = page.split("<script>")[0]
    assert "src=" not in before_scripts
    assert "http" not in before_scripts.replace("http-equiv", "").split("</head>")[0]
    told = call("stats", source, "--high-score", "8").stdout
    assert "rejected scored 8 or more" in told
    assert "not done: leakage" in told


def test_an_id_cannot_put_markup_on_the_page(tmp_path: Path) -> None:
    rows = scored_pairs([(9, 3), (7, 6)]).to_pylist()
    for number, row in enumerate(rows):
        row |= {"id": f"<script>alert({number})</script>", "prompt": "the same"}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call("stats", tmp_path / "p.jsonl", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(0)" in page


class LengthSettings(BaseModel):
    """What the judge may be told."""

    model: str
    api_key: str = ""


class LengthJudge:
    """Scores by length; a service that fails at its third call."""

    name = "length"
    calls = 0
    fails = True

    def __init__(self, settings: LengthSettings) -> None:
        self.model = settings.model

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        type(self).calls += 1
        if type(self).fails and type(self).calls == 3:
            raise ServiceError("the judge is away")
        progress(len(requests), len(requests))
        return [Grade(min(10.0, float(len(request.response))), f"by {self.model} \ud800") for request in requests]


KIND = JudgeKind(LengthSettings, LengthJudge, frozenset({"api_key"}))


def test_any_installed_judge_scores_and_goes_on_after_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path / "site", "length", {"radpo.judges": f"length = {__name__}:KIND"})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    asked = [{"role": "user", "content": "?"}]
    rows = [
        {"prompt_id": f"q{n // 4}", "sample": n % 4, "prompt": asked, "response": "x" * (n % 4 + 1)} for n in range(20)
    ]
    samples, out = tmp_path / "samples.jsonl", tmp_path / "scored.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", samples, "--out", out, "--judge", "length", "--judge-set", "model=tiny", "--chunk", "4"]
    with pytest.raises(ServiceError):
        call(*words, "--judge-set", "api_key=first")
    assert not out.exists()
    LengthJudge.fails = False
    assert call(*words, "--judge-set", "api_key=second").exit_code == 0
    assert LengthJudge.calls == 3 + 3, "what was scored is not scored again"
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["score"] for row in scored] == [1, 2, 3, 4] * 5
    assert {row["judge"] for row in scored} == {"length"}
    assert scored[0]["reason"].startswith("by tiny ")
    for rule, count in (("best-worst", 5), ("adjacent", 15), ("all", 30), ("best-random", 5)):
        call("pair", out, "--out", tmp_path / f"{rule}.parquet", "--rule", rule)
        made = pq.read_table(tmp_path / f"{rule}.parquet").to_pylist()
        assert len(made) == count
        assert all(row["score_chosen"] > row["score_rejected"] for row in made)
        assert call("validate", tmp_path / f"{rule}.parquet").exit_code == 0
    with pytest.raises(ConfigError, match=r"no such judge; there are openai, panel, reward-model, verifier, length"):
        call("score", samples, "--out", out, "--judge", "nobody")
    with pytest.raises(ConfigError, match=r"judge length, model: Field required"):
        call("score", samples, "--out", out, "--judge", "length")


def test_sample_takes_prompts_from_a_preference_set(tmp_path: Path) -> None:
    write_preferences(scored_pairs([(9, 3), (7, 6)]), tmp_path / "pairs.parquet")
    model = write_model(tmp_path / "model")
    out = tmp_path / "samples.jsonl"
    words = ["--model", model, "--per-prompt", "3", "--max-new-tokens", "4", "--batch-size", "2"]
    call("sample", tmp_path / "pairs.parquet", "--out", out, *words)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(f"p{n}", k) for n in range(2) for k in range(3)]
    assert rows[0]["prompt"][0]["content"] == "Say something of 0"
    call("sample", tmp_path / "pairs.parquet", "--out", tmp_path / "again.jsonl", *words)
    assert (tmp_path / "again.jsonl").read_text() == out.read_text(), "the same seed gives the same samples"


def test_sample_says_how_many_answers_the_models_context_cut(tmp_path: Path) -> None:
    write_preferences(scored_pairs([(9, 3), (7, 6)]), tmp_path / "pairs.parquet")
    model = write_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 60}))
    words = ["--model", model, "--per-prompt", "1", "--max-new-tokens", "30"]
    done = call("sample", tmp_path / "pairs.parquet", "--out", tmp_path / "samples.jsonl", *words)
    assert "2 of 2 answers had room for fewer tokens than max_new_tokens in the model's context of 60" in done.stdout


def test_score_does_not_judge_what_a_model_thought_before_it_answered(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Say it without commas."}]
    rule = {"kind": "no_commas"}
    texts = ["<think>one, two, three</think>it is so", "it is so", "it, is so"]
    rows = [
        {"prompt_id": "q", "sample": n, "prompt": asked, "response": text, "constraints": [rule]}
        for n, text in enumerate(texts)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call("score", tmp_path / "samples.jsonl", "--out", tmp_path / "scored.jsonl")
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert scored[0]["score"] == scored[1]["score"] > scored[2]["score"]
    assert scored[0]["response"] == texts[0]


def test_the_page_draws_its_figures_without_a_fault(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    write_preferences(scored_pairs([(9, 3), (7, 6), (5, 5), (10, 1)]), tmp_path / "pairs.parquet")
    call("stats", tmp_path / "pairs.parquet", "--html", tmp_path / "page.html")
    faults: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith("file:") else None)
        page.goto((tmp_path / "page.html").as_uri())
        for plot in page.locator(".plot").all():
            plot.scroll_into_view_if_needed()  # figures are drawn when they are about to be seen
            plot.locator(".main-svg").first.wait_for(state="attached")
        assert page.locator(".plot").count() == 3
        sums = "p => p.data.map(t => t.y.reduce((a, b) => a + b))"
        bars = page.evaluate(f"[...document.querySelectorAll('.plot')].map({sums})")
        browser.close()
    assert faults == []
    assert bars[:2] == [[4, 4], [4]], "every pair is in the figures of scores and gaps"


def test_killed_in_the_middle_there_is_no_result_and_an_earlier_one_stands(tmp_path: Path) -> None:
    write_preferences(scored_pairs([(9, 3)] * 60_000), tmp_path / "pairs.parquet")
    out = tmp_path / "out.parquet"
    out.write_bytes(b"an earlier result")
    command = [sys.executable, "-m", "radpo", "data", "relabel", str(tmp_path / "pairs.parquet"), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".out.parquet.*.partial")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.kill()
    assert out.read_bytes() == b"an earlier result"
    assert call("relabel", tmp_path / "pairs.parquet", "--out", out).exit_code == 0
    assert pq.read_metadata(out).num_rows == 120_000
