"""Whole runs, from questions to a score, alone and in a matrix, with a scripted endpoint that often fails."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from factories import scored_pairs, write_model
from fault_server import FaultServer
from typer.testing import CliRunner

from radpo.api import evaluate
from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError, RadpoError, ServiceError
from radpo.judges.agreement import load_verdicts, measure
from radpo.judges.lookup import find_judge
from radpo.matrix.loading import load_matrix

ARENA_CONFIG = """
judge_model: any
temperature: 0
max_tokens: 4096
regex_pattern: \\[\\[([AB<>=]+)\\]\\]
number_of_judgment_attempts: 2
system_prompt: "Judge."
prompt_template: ["<|User Prompt|>\\n{question_1}\\n\\n<|A|>\\n{answer_1}\\n<|B|>\\n{answer_2}\\n<|End|>"]
"""


def judge_or_answer(body) -> str | dict:
    """Answers questions at the length of their text, and judges longer answers better; some verdicts need asking on."""
    text = body["messages"][-1]["content"]
    if body["messages"][0]["content"] == "Judge.":
        first = body["messages"][1]["content"]
        a, b = re.search(r"<\|A\|>\n(.*)\n<\|B\|>\n(.*)\n<\|End\|>", first, re.DOTALL).groups()
        if len(body["messages"]) == 2 and len(a) % 2:
            return "Let me think."
        return "So: " + ("[[A>>B]]" if len(a) > 2 * len(b) else "[[A>B]]" if len(a) > len(b) else "[[B>A]]")
    if "Model Outputs" in text:
        first, second = re.findall(r'"output": """(.*?)"""', text, re.DOTALL)
        longer = "m" if len(first) > len(second) else "M"
        top = [{"token": longer, "logprob": -0.01}, {"token": "Mm".replace(longer, ""), "logprob": -4.6}]
        choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": longer}}
        return {**choice, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
    if "[[A]]" in body["messages"][0]["content"]:
        found = re.search(
            r"Assistant A's Answer\]\n(.*)\n\[The End of Assistant A.*B's Answer\]\n(.*)\n\[", text, re.DOTALL
        )
        if found is None:
            return "[[C]]"
        return "[[A]]" if len(found[1]) > len(found[2]) else "[[B]]"
    if "[[rating]]" in text or "[[rating]]" in body["messages"][0]["content"]:
        return f"Rating: [[{1 + len(text) % 10}]]"
    return "word " * (len(text) % 7 + 1)


@pytest.fixture
def server():
    with FaultServer(judge_or_answer, faults=0.2, kinds=("429", "500", "cut", "broken", "empty")) as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))


def lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt") as stream:
        return [json.loads(line) for line in stream]


def judge(server, **settings):
    return {"kind": "openai", "model": "judge", "base_url": server.url, **settings}


def opened(server):
    return find_judge("openai", {"model": "judge", "base_url": server.url})


def student(server, **more):
    return {"endpoint": {"model": "student", "base_url": server.url, **more}}


def test_alpaca_eval_from_question_to_score_and_again_for_nothing(real_data, tmp_path, server):
    baseline = real_data / "alpaca_eval2" / "instructions_and_baseline.jsonl.gz"
    settings = {"baseline_outputs": baseline, "questions": {"limit": 25}, "swap_check": 5, "judge": judge(server)}
    asked = {"variant": student(server), "out": tmp_path / "out"}
    found = evaluate("alpaca-eval", settings, **asked)
    annotations = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert {row["generator_1"] for row in annotations} == {"gpt4_1106_preview"}
    assert {row["generator_2"] for row in annotations} == {"student"}
    # The baseline's answers are all longer, and this judge likes length: exp(-4.6) is what it leaves the shorter.
    assert found["n_total"] == 25
    assert found["win_rate"] == pytest.approx(1.0, abs=0.1)
    assert (found["judge"]["swap_agreement"], found["judge"]["n_missing"]) == (1.0, 0)
    assert found["length_controlled_winrate"] is None
    assert any("here are 25" in note for note in found["notes"])
    results = pd.read_parquet(tmp_path / "out" / "results.parquet").set_index("metric")
    assert results.loc["judge_swap_agreement", "n"] == 5
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found
    assert set(server.delivered.values()) == {1}
    before = len(server.asked)
    again = evaluate("alpaca-eval", settings, **asked)
    assert len(server.asked) == before
    assert again["win_rate"] == found["win_rate"]
    # With other settings the run directory shows other answers, and never these.
    longer = {**settings, "sampling": {"max_new_tokens": 7}}
    evaluate("alpaca-eval", longer, **asked)
    assert [body["max_tokens"] for body in server.asked[before:] if body["model"] == "student"].count(7) >= 25
    assert (tmp_path / "out" / "report.html").is_file()


def test_mt_bench_from_question_to_score_with_fastchats_prompts_and_temperatures(real_data, tmp_path, server):
    folder = real_data / "mt_bench"
    settings = {
        "questions": {"path": folder / "question.jsonl", "limit": 45}, "references": folder / "reference_answer",
        "judge": judge(server, prompts=str(folder)),
    }  # fmt: skip
    found = evaluate("mt-bench", settings, variant=student(server), out=tmp_path / "out")
    assert found["n_unparsed"] == 0
    assert 1 <= found["score"] <= 10
    assert {"first_turn", "second_turn", "by_category"} <= found.keys()
    assert found["judge"]["n"] == 90
    assert -1 <= found["judge"]["length_correlation"] <= 1
    asked = [body for body in server.asked if body["model"] == "student"]
    assert {body["temperature"] for body in asked} == {0.7, 0.0}, "FastChat's, by category"
    judged = [body["messages"][1]["content"] for body in server.asked if body["model"] == "judge"]
    assert any("[The Start of Reference Answer]" in text for text in judged)
    from radpo.benchmarks.mt_bench import load_judgments, score

    written = load_judgments(tmp_path / "out" / "judgments.jsonl", folder / "question.jsonl")
    assert all("[[" in judgment.reason for judgment in written)
    assert score(written).score == pytest.approx(found["score"])
    assert score(written).by_category == pytest.approx(found["by_category"])


def test_mt_bench_pairwise_judges_both_orders(real_data, tmp_path, server):
    folder = real_data / "mt_bench"
    settings = {
        "questions": {"path": folder / "question.jsonl", "limit": 12}, "judge": judge(server, prompts=str(folder)),
        "baseline_outputs": folder / "model_answer" / "llama-13b.jsonl.gz",
    }  # fmt: skip
    claude = {"answers": folder / "model_answer" / "claude-3-opus-20240229.jsonl.gz"}
    found = evaluate("mt-bench-pairwise", settings, variant=claude, out=tmp_path / "out")
    (name,) = found["models"]
    of = found["models"][name]
    assert name == "claude-3-opus-20240229"
    assert (of["win"] + of["loss"] + of["tie"], found["n"]) == (24, 24)
    assert of["tie"] >= 12  # second turns, which this judge calls even
    assert found["judge"]["swap_agreement"] == 1.0
    from radpo.benchmarks.mt_bench_pairs import load_pair_judgments, score_pairs

    written = load_pair_judgments(tmp_path / "out" / "judgments.jsonl")
    assert score_pairs(written, "llama-13b").models[name].win == of["win"]
    with pytest.raises(RadpoError, match="use --name"):
        evaluate("mt-bench-pairwise", settings, variant={"answers": settings["baseline_outputs"]}, out=tmp_path / "two")


def test_arena_hard_from_question_to_score_asks_on_where_no_label_came(real_data, tmp_path, server):
    folder = real_data / "arena_hard_v0.1"
    config = tmp_path / "judge_config.yaml"
    config.write_text(ARENA_CONFIG)
    settings = {
        "questions": {"path": folder / "question.jsonl", "limit": 30}, "resamples": 50,
        "judge": judge(server, arena_config=str(config)),
        "baseline_outputs": folder / "model_answer" / "gpt-4-0314.jsonl.gz",
    }  # fmt: skip
    answers = {"answers": folder / "model_answer" / "gpt-4-0613.jsonl.gz"}
    found = evaluate("arena-hard", settings, variant=answers, out=tmp_path / "out")
    assert (found["model"], found["baseline"], found["n_unparsed"]) == ("gpt-4-0613", "gpt-4-0314", 0)
    assert found["ci_low"] <= found["score"] <= found["ci_high"]
    assert found["judge"]["swap_agreement"] > 0.9  # ties in length apart, this judge sees no order
    assert found["judge"]["longer_rate"] == 1.0
    asked_on = [body for body in server.asked if len(body["messages"]) == 4]
    assert asked_on
    assert all("finish by outputting a final verdict label" in body["messages"][3]["content"] for body in asked_on)
    rows = [json.loads(line) for line in (tmp_path / "out" / "judgments.jsonl").read_text().splitlines()]
    answers = {
        name: {
            row["uid"]: row["messages"][-1]["content"]["answer"]
            for row in lines(folder / "model_answer" / f"{name}.jsonl.gz")
        }
        for name in ("gpt-4-0613", "gpt-4-0314")
    }
    for row in rows:  # in game 1 the baseline is A, in game 2 the model
        ours, theirs = (len(answers[name][row["question_id"]]) for name in ("gpt-4-0613", "gpt-4-0314"))
        first, second = (game["score"] for game in row["games"])
        assert first.startswith("A") is (theirs > ours)
        assert second.startswith("A") is (ours > theirs)
        assert (first == "A>>B") is (theirs > 2 * ours)


def test_a_label_is_read_as_each_release_reads_it(tmp_path, real_data):
    from radpo.judges.arena import label, load_arena_config

    config = tmp_path / "judge_config.yaml"
    config.write_text(ARENA_CONFIG)
    v01 = load_arena_config(config)
    for path in sorted((real_data / "arena_hard_v0.1" / "model_judgment_partial").glob("*.gz")):
        for row in lines(path):
            for game in row["games"]:
                expected = None if game["score"] in (None, "None") else game["score"]
                assert label(game["judgment"], v01)[0] == expected
    config.write_text(
        ARENA_CONFIG.replace("regex_pattern: \\[\\[([AB<>=]+)\\]\\]", "regex_patterns: ['\\[\\[([AB<>=]+)\\]\\]']")
    )
    v2 = load_arena_config(config)
    assert label("[[A>B]] no, [[b>a]]", v2) == ("B>A", False)
    assert label("[[A>B]] no, [[B>A]]", v01) == (None, False)
    assert label("nothing", v01) == (None, True)
    config.write_text("prompt_template: x\nregex_pattern: y\n")
    with pytest.raises(ConfigError, match="system_prompt: missing"):
        load_arena_config(config)


def test_judge_quality_from_alpaca_eval_and_reward_bench_files(tmp_path, server):
    pairs = tmp_path / "pairs.json"
    texts = [("a" * n, "b" * (12 - n)) for n in range(1, 12) if n != 6]
    rows = [
        {"instruction": f"Q{n}", "output_1": one, "output_2": two, "preference": 1 if len(one) > len(two) else 2}
        for n, (one, two) in enumerate(texts)
    ]
    pairs.write_text(json.dumps([*rows, *rows[:3], {**rows[0], "preference": 1}]))  # the majority of rows[0] stays 2
    loaded = load_verdicts(pairs)
    assert len(loaded) == 10
    found = measure(loaded, opened(server))
    assert (found["agreement"], found["kappa"], found["swap_agreement"], found["n"]) == (1.0, 1.0, 1.0, 10)
    assert found["first_shown_rate"] == 0.5
    assert found["reference_length_correlation"] > 0.8
    bench = tmp_path / "bench.jsonl"
    bench.write_text(
        "".join(
            json.dumps({"prompt": f"Q{n}", "chosen": "x" * (9 - n), "rejected": "yyyyy", "subset": "chat"}) + "\n"
            for n in range(8)
            if n != 4
        )
    )
    measured = measure(load_verdicts(bench), opened(server))
    assert measured["agreement"] == pytest.approx(4 / 7)
    assert measured["by_subset"]["chat"]["n"] == 7
    bench.write_text('{"prompt": "Q", "chosen": "x"}\n')
    with pytest.raises(DataError, match="line 1: a judged pair needs"):
        load_verdicts(bench)


@pytest.mark.parametrize("words", [[], ["--model", "m", "--answers", "a.jsonl"]])
def test_exactly_one_source_of_answers_is_taken(tmp_path, words):
    asked = ["eval", "arena-hard", "--out", str(tmp_path / "o"), "--questions", str(_questions(tmp_path)), *words]
    with pytest.raises(ConfigError, match="one of --model, --endpoint, --answers"):
        app(asked, standalone_mode=False)


def _questions(folder: Path) -> Path:
    path = folder / "questions.jsonl"
    rows = [{"question_id": f"q{n}", "category": "c", "turns": [f"Say {n}", "Again"][: 1 + n % 2]} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _matrix(folder: Path, server: FaultServer) -> Path:
    import pyarrow.parquet as pq

    write_model(folder / "model")
    pairs = folder / "pairs.parquet"
    pq.write_table(scored_pairs([(8, 3), (9, 4), (7, 2), (8, 8)]), pairs)
    one_turn = folder / "one.jsonl"
    one_turn.write_text("".join(json.dumps({"question_id": f"q{n}", "turns": [f"Say {n}"]}) + "\n" for n in range(3)))
    (folder / "judge_config.yaml").write_text(ARENA_CONFIG)
    baseline = folder / "fixed.jsonl"
    baseline.write_text("".join(json.dumps({"question_id": f"q{n}", "turns": ["short"]}) + "\n" for n in range(3)))
    asked = {"kind": "openai", "model": "judge", "base_url": server.url, "max_requests": 500}
    one = {"questions": {"path": "one.jsonl"}, "baseline_outputs": "fixed.jsonl", "sampling": {"max_new_tokens": 4}}
    document = {
        "name": "api", "model": str(folder / "model"), "variants": {"base": None},
        "data": {"train": {"path": "pairs.parquet"}, "heldout": {"path": "pairs.parquet"}},
        "benchmarks": {
            "alpaca-eval": {**one, "judge": asked, "swap_check": 3},
            "mt-bench": {
                "questions": {"path": str(_questions(folder))}, "judge": asked, "sampling": {"max_new_tokens": 4},
            },
            "arena-hard": {**one, "judge": {**asked, "arena_config": "judge_config.yaml"}, "resamples": 20},
        },
    }  # fmt: skip
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_matrix_runs_all_three_benchmarks_with_a_judge_behind_an_endpoint(tmp_path, server):
    from radpo.engine.store import Store
    from radpo.matrix.expand import expand

    matrix = _matrix(tmp_path, server)
    plan = expand(load_matrix(matrix))
    done = CliRunner().invoke(app, ["run", str(matrix), "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    store = Store(tmp_path / "store")
    results = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert set(results[results["primary"]]["benchmark"]) == {"alpaca-eval", "mt-bench", "arena-hard"}
    of_judge = results[results["metric"].str.startswith("judge_")].groupby("benchmark")["metric"].agg(list).to_dict()
    assert "judge_swap_agreement" in of_judge["alpaca-eval"]
    assert "judge_swap_agreement" in of_judge["arena-hard"]
    usages = list((tmp_path / "store").glob("stages/*/judge_usage.json"))
    assert usages
    assert all(json.loads(path.read_text())["sent"] > 0 for path in usages)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    paid = {stage["name"]: stage["judge"] for stage in manifest["stages"] if "judge" in stage}
    assert {name.partition("/")[0] for name in paid} == {"alpaca-eval", "mt-bench", "arena-hard"}
    examples = pd.read_parquet(tmp_path / "run" / "examples.parquet")
    assert set(examples["benchmark"]) == {"alpaca-eval", "mt-bench", "arena-hard"}
    assert (examples[examples["benchmark"] == "arena-hard"]["baseline_output"] == "short").all()
    # What cannot change a verdict changes no key; what can, does.
    document = yaml.safe_load(matrix.read_text())
    document["benchmarks"]["mt-bench"]["judge"] |= {"concurrency": 2, "max_requests": 9}
    matrix.write_text(yaml.safe_dump(document))
    assert [s.key for s in expand(load_matrix(matrix)).stages] == [s.key for s in plan.stages]
    (tmp_path / "judge_config.yaml").write_text(ARENA_CONFIG.replace("Judge.", "Judge well."))
    changed = {s.name for s in expand(load_matrix(matrix)).stages if not store.has(s)}
    assert changed == {"arena-hard/base/seed-0"}


def test_alpaca_eval_without_questions_is_the_hubs_own(real_data, tmp_path, server, monkeypatch):
    from radpo.benchmarks import alpaca_eval as benchmark
    from radpo.matrix.expand import expand

    monkeypatch.setenv("RADPO_DATA", str(tmp_path / "data"))
    matrix = _matrix(tmp_path, server)
    document = yaml.safe_load(matrix.read_text())
    document["benchmarks"] = {"alpaca-eval": {"judge": document["benchmarks"]["alpaca-eval"]["judge"]}}
    matrix.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ServiceError, match=r"alpaca-eval: cannot be fetched .*gpt4_1106_preview/model_outputs\.json"):
        expand(load_matrix(matrix))
    found = real_data / "alpaca_eval2" / "instructions_and_baseline.jsonl.gz"
    monkeypatch.setattr(benchmark, "find_named", lambda name, *, absent_ok: found)
    (stage,) = expand(load_matrix(matrix)).cells[0].wanted
    assert stage.settings["questions"].location == stage.settings["baseline_outputs"].location == str(found)


@pytest.mark.parametrize(
    ("judge_section", "message"),
    [
        ("oracle", r"benchmarks\.mt-bench\.judge.*no such judge; there are openai, panel, reward-model, verifier"),
        ({"kind": "openai"}, "judge openai, model: Field required"),
        ({"kind": "openai", "model": "m", "modl": 1}, "no setting 'modl'; allowed: model"),
        ({"kind": "openai", "model": "m", "prompts": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_a_wrong_judge_in_a_matrix_file_is_named(tmp_path, judge_section, message):
    with FaultServer(judge_or_answer) as server:
        matrix = _matrix(tmp_path, server)
    document = yaml.safe_load(matrix.read_text())
    document["benchmarks"]["mt-bench"]["judge"] = judge_section
    matrix.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=message):
        load_matrix(matrix)


def test_the_commands_run_a_whole_benchmark_and_say_what_is_wrong(real_data, tmp_path, server, capsys):
    folder = real_data / "alpaca_eval2"
    endpoint = ["--endpoint", "model=student", "--endpoint", f"base_url={server.url}"]
    words = ["eval", "alpaca-eval", "--out", str(tmp_path / "out"), "--limit", "3", *endpoint, "--swap-check", "0"]
    words += ["--baseline-outputs", str(folder / "instructions_and_baseline.jsonl.gz"), "--json"]
    judging = ["--judge-set", "model=judge", "--judge-set", f"base_url={server.url}"]
    with pytest.raises(SystemExit) as ended:
        app([*words, *judging])
    assert ended.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert {
        "win_rate", "standard_error", "discrete_win_rate", "length_controlled_winrate", "lc_standard_error", "n_total",
        "avg_length",
    } <= shown.keys()  # fmt: skip
    assert shown["n_total"] == 3
    assert shown["goal"] == "default"
    assert shown["judge"]["usage"]["answered"] == 3
    for wrong, message in (
        (["--judge-set", "model"], "--judge-set 'model': must be KEY=VALUE"),
        (["--judge", "verifier"], "no constraints to check"),
        (["--judge", "oracle"], "no such judge"),
        ([*judging, "--goal", "high"], "--goal 'high': must be a number"),
        ([*judging, "--endpoint", "modle=x"], "--endpoint modle"),
        ([*judging, "--backend", "magic"], "--backend 'magic'"),
        ([*judging, "--annotations", "x.json"], "--annotations and --out together"),
    ):
        with pytest.raises(RadpoError, match=message):
            app([*words, *wrong], standalone_mode=False)


def test_judged_pairs_may_have_lists_of_messages_as_prompts(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"prompt": prompt, "chosen": "x", "rejected": "y"} for prompt in ("plain", turns)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, several = load_verdicts(tmp_path / "pairs.jsonl")
    assert plain.request.prompt == [{"role": "user", "content": "plain"}]
    assert several.request.prompt == turns
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**rows[0], "prompt": [{"role": "user"}]}))
    with pytest.raises(DataError, match=r"line 1: a judged pair needs .*a prompt may be a list of messages"):
        load_verdicts(tmp_path / "pairs.jsonl")
