"""Finished results of other tools become variants of a run, every figure the file's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
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


def test_imported_figures_are_the_published_ones(real_data: Path, tmp_path: Path) -> None:
    """AlpacaEval's leaderboard, MT-Bench's published scores, Arena-Hard's leaderboard of 2024-07-31."""
    board = pd.read_csv(real_data / "alpaca_eval2" / "leaderboard.csv", index_col=0)
    files = {
        path.name.removesuffix(".jsonl.gz"): path for path in (real_data / "alpaca_eval2" / "annotations").iterdir()
    }
    published = {"gemma-2b-it", "claude-2.1", "alpaca-7b", "NullModel"}
    assert call(tmp_path / "alpaca", *(f"{name}={files[name]}" for name in sorted(published))).exit_code == 0
    for name in published:
        value, error = figure(tmp_path / "alpaca", name, "alpaca-eval", "all", "win_rate")
        assert (value, error) == pytest.approx((board["win_rate"][name], board["standard_error"][name]), abs=1e-9)
    scores = {"claude-3-opus-20240229": 8.675, "claude-3-5-sonnet-20240620": 9.206, "llama2_chat_7b": 6.191}
    judged = real_data / "mt_bench" / "model_judgment"
    words = [f"{name}={judged / f'gpt-4_single.{name}.jsonl.gz'}" for name in scores]
    assert call(tmp_path / "mt", *words).exit_code == 0
    for name, score in scores.items():
        assert figure(tmp_path / "mt", name, "mt-bench", "all", "score")[0] == pytest.approx(score, abs=5e-4)
    battles = real_data / "arena_hard_v0.1" / "battles.jsonl.gz"
    leaders = pd.read_csv(real_data / "arena_hard_v0.1" / "arena_hard_leaderboard_20240731.csv", index_col="model")
    names = ("gpt-4-0613", "gpt-3.5-turbo-0125")  # one file has both: each variant is the model of its name
    assert call(tmp_path / "arena", *(f"{name}={battles}" for name in names)).exit_code == 0
    for name in names:
        score = figure(tmp_path / "arena", name, "arena-hard", "all", "score")[0]
        assert score == pytest.approx(leaders["score"][name], abs=0.05)


def test_pairwise_judgments_have_fastchats_figures_of_each_model(tmp_path: Path) -> None:
    """What FastChat's show_result.py --mode pairwise-all counts of every model over all pairs."""
    games = [
        (81, 1, "a", "b", "model_1", "model_1"), (81, 2, "a", "b", "model_1", "model_2"),
        (82, 1, "b", "c", "tie", "tie"), (82, 2, "c", "a", "model_2", "model_2"), (83, 1, "c", "b", "error", "model_1"),
        (83, 2, "b", "a", "model_1", "model_1"),
    ]  # fmt: skip
    file = tmp_path / "gpt-4_pair.jsonl"
    rows = [
        {"question_id": question, "model_1": one, "model_2": other, "g1_winner": first, "g2_winner": second,
         "judge": ["gpt-4", "pair-v2"], "g1_judgment": "", "g2_judgment": "", "turn": turn, "tstamp": 1.0}
        for question, turn, one, other, first, second in games
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert call(tmp_path / "run", *(f"{name}={file}" for name in "abc")).exit_code == 0
    expected = {"a": (2, 1, 1), "b": (1, 1, 2), "c": (0, 1, 1)}  # wins, losses, ties, the unparsed one left out
    for name, (win, loss, tie) in expected.items():
        rate = 100 * (win + tie / 2) / (win + loss + tie)
        value, _ = figure(tmp_path / "run", name, "mt-bench-pairwise", "all", "win_rate_adjusted")
        assert value == pytest.approx(rate)
    examples = load_run(tmp_path / "run").examples
    assert set(examples[examples["variant"] == "a"]["opponent"]) == {"b", "c"}
    with pytest.raises(DataError, match=r"judgments of 3 models \(a, b, c\): call the variant as one of them"):
        call(tmp_path / "other", f"mine={file}")
    assert call(tmp_path / "other", f"mine={file}", "--only", "c").exit_code == 0


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
