"""Finished results of other tools become variants of a run, every figure the file's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radpo.benchmarks import alpaca_eval, arena_hard, mt_bench
from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError
from radpo.core.run import load_run


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["import", *map(str, words)], catch_exceptions=False)


def figure(run_dir: Path, variant: str, benchmark: str, subset: str, metric: str) -> tuple[float, float]:
    rows = load_run(run_dir).figures[variant, benchmark, subset, metric]
    return float(rows["value"].iloc[0]), float(rows["stderr"].iloc[0])


def lm_eval_files(folder: Path, values: list[float]) -> Path:
    """What lm-eval's own tracker writes of a task of so many documents."""
    from lm_eval.loggers import EvaluationTracker

    acc, n = sum(values) / len(values), len(values)
    samples = [
        {
            "doc_id": place, "doc": {"q": f"q{place}"}, "target": "a",
            "arguments": [(f"q{place}", " a"), (f"q{place}", " b")],
            "resps": [[(-1.0, False)], [(-2.0, False)]], "filtered_resps": [(-1.0, False), (-2.0, False)],
            "filter": "none", "metrics": ["acc"], "acc": value, "doc_hash": "h", "prompt_hash": "h", "target_hash": "h",
        }
        for place, value in enumerate(values)
    ]  # fmt: skip
    document = {
        "results": {"facts": {"alias": "facts", "acc,none": acc, "acc_stderr,none": 0.125}},
        "configs": {"facts": {"task": "facts", "metric_list": [{"metric": "acc"}]}},
        "versions": {"facts": 1}, "n-shot": {"facts": 0}, "higher_is_better": {"facts": {"acc": True}},
        "n-samples": {"facts": {"original": n, "effective": n}}, "config": {"model": "hf"},
    }  # fmt: skip
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = "m"
    tracker.save_results_aggregated(results=document, samples={"facts": samples})
    tracker.save_results_samples(task_name="facts", samples=samples)
    (found,) = folder.rglob("results_*.json")
    return found


def annotations(path: Path, preferences: list[float], model: str) -> Path:
    rows = [
        {"instruction": f"q{place}", "output_1": "base", "output_2": "mine" * (1 + place), "generator_1": "b",
         "generator_2": model, "annotator": "j", "preference": preference}
        for place, preference in enumerate(preferences)
    ]  # fmt: skip
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_results_of_lm_eval_and_alpaca_eval_are_variants_of_one_run_with_their_own_figures(tmp_path: Path) -> None:
    ours, theirs = (
        lm_eval_files(tmp_path / "a", [1.0, 0.0, 1.0, 1.0]),
        lm_eval_files(tmp_path / "b", [0.0, 0.0, 1.0, 0.0]),
    )
    wins = annotations(tmp_path / "wins.json", [2, 2, 1, 1.5], "mine")
    losses = annotations(tmp_path / "losses.json", [1, 1, 2, 1], "other")
    out = tmp_path / "run"
    done = call(out, f"mine={ours}", f"mine={wins}", f"other={theirs}", f"other={losses}", "--baseline", "other")
    assert done.stdout.strip() == str(out / "report.html")
    assert figure(out, "mine", "academic", "facts", "acc") == (0.75, 0.125)
    assert figure(out, "other", "academic", "facts", "acc") == (0.25, 0.125)
    for variant, file in (("mine", wins), ("other", losses)):
        own = alpaca_eval.win_rate(alpaca_eval.load_annotations(file))
        assert figure(out, variant, "alpaca-eval", "all", "win_rate") == (own.win_rate, own.standard_error)
    run = load_run(out)
    facts = run.examples[(run.examples["benchmark"] == "academic") & (run.examples["variant"] == "mine")]
    assert facts["value"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert set(facts["prompt"]) == {"q0", "q1", "q2", "q3"}
    assert run.comparisons is not None
    (row,) = run.comparisons.query("benchmark == 'academic' and baseline == 'other' and metric == 'acc'").to_dict(
        "records"
    )
    assert (row["value"], row["pairs"] if "pairs" in row else row["n"]) == (0.5, 4), "paired by document"
    assert "wins.json" in (out / "matrix.yaml").read_text(encoding="utf-8")
    assert call(out, f"mine={wins}").exit_code == 0, "an imported run may be imported anew"


def test_fastchats_and_arena_hards_judgments_have_the_files_own_figures(real_data: Path, tmp_path: Path) -> None:
    single = tmp_path / "single.jsonl"
    rows = [
        {"question_id": question, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "",
         "judgment": f"[[{s}]]",
         "score": s, "turn": turn, "tstamp": 1.0}
        for question, turn, s in ((81, 1, 8), (81, 2, 6), (82, 1, 9), (82, 2, -1))
    ]  # fmt: skip
    single.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arena = sorted((real_data / "arena_hard_v0.1" / "model_judgment_partial").glob("*.jsonl.gz"))[0]
    assert call(tmp_path / "run", f"m={single}", f"m={arena}").exit_code == 0
    assert (
        figure(tmp_path / "run", "m", "mt-bench", "all", "score")[0]
        == mt_bench.score(mt_bench.load_judgments(single)).score
    )
    (own,) = arena_hard.score(arena_hard.load_judgments([arena])).values()
    assert figure(tmp_path / "run", "m", "arena-hard", "all", "score")[0] == own.score


def test_what_cannot_be_imported_is_said(tmp_path: Path) -> None:
    wins = annotations(tmp_path / "wins.json", [2, 1], "mine")
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps([{"instruction": "q", "output": "a", "generator": "m"}]), encoding="utf-8")
    (tmp_path / "bad.json").write_text('{"results": {"facts": 3}}', encoding="utf-8")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    for words, message, kind in (
        (
            (tmp_path / "run", f"m={answers}"),
            r"answers.json: no results .*variants: \{NAME: \{answers: FILE",
            ConfigError,
        ),
        ((tmp_path / "run", "m"), "write VARIANT=FILE", ConfigError),
        ((tmp_path / "run", f"m={wins}", "--baseline", "x"), "--baseline 'x': must be one of m", ConfigError),
        ((tmp_path / "taken", f"m={wins}"), "did not write; give another folder", ConfigError),
        ((tmp_path / "run", f"m={wins}", f"m={wins}"), "win_rate of m is in .*wins.json, too", DataError),
        ((tmp_path / "run", f"m={tmp_path / 'bad.json'}"), "no results of lm-eval as it writes them", DataError),
        ((tmp_path / "run", f"m={tmp_path / 'none.json'}"), "none.json: no such file", DataError),
    ):
        with pytest.raises(kind, match=message):
            call(*words)
    assert not (tmp_path / "run").exists()
