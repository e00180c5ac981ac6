"""The example packages, installed as a user installs them, each doing its part in a matrix."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import warm_commands
import yaml
from factories import scored_pairs, write_model, write_plugin
from fault_server import FaultServer

from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.preferences.writing import write_preferences

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PACKAGES = ("variant", "baselines", "judge", "executor", "benchmark")
SSH = """#!/bin/sh
echo "$1" >> "$RADPO_SSH_CALLS"; shift
exec sh -c "$(echo "$*" | sed 's#PYTHON#FORKED#')"
"""
"""A network of this machine alone, where commands begin with libraries loaded."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example packages in a folder of installed packages."""
    target, sources = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("sources")
    # Copies: setuptools leaves what it builds beside the source.
    copies = [str(shutil.copytree(EXAMPLES / name, sources / name)) for name in PACKAGES]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(target), *copies], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def write_matrix(folder: Path, variants: dict[str, Any], **changes: Any) -> Path:
    """A matrix file on a tiny model, with its data beside it."""
    write_model(folder / "model")
    pairs = scored_pairs([(9.0, 3.0), (7.0, 6.0), (10.0, 1.0), (5.0, 4.0), (8.0, 2.0), (6.0, 5.0)])
    write_preferences(pairs, folder / "pairs.parquet")
    (folder / "questions.jsonl").write_text('{"question_id": "a", "category": "c", "turns": ["Say five."]}\n')
    outputs = {"instruction": "Say five.", "output": "A long answer", "generator": "long"}
    (folder / "outputs.jsonl").write_text(json.dumps(outputs) + "\n")
    (folder / "jargon.txt").write_text("leverage\nsynergy\n")
    document = {
        "name": "examples", "model": str(folder / "model"), "variants": {"base": None, **variants},
        "data": {"train": {"path": "pairs.parquet"}, "heldout": {"path": "pairs.parquet", "limit": 3}},
        "training": {"learning_rate": 1e-3, "batch_size": 4, "per_device_train_batch_size": 2, "max_length": 400},
        "benchmarks": {"unlearning": {}}, **changes,
    }  # fmt: skip
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "matrix.yaml"


def run(matrix: Path, *words: str, packages: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`radpo run` where these packages are installed."""
    paths = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    folder = matrix.parent
    command = ["-m", "radpo", "run", str(matrix), "--out", str(folder / "run"), "--store", str(folder / "store")]
    return warm_commands.run([*command, *words], env={**os.environ, "PYTHONPATH": paths, **environment})


def test_a_users_variants_appear_in_a_matrix_and_a_broken_package_beside_them_hurts_nothing(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    groups = ("variants", "benchmarks", "judges", "executors")
    write_plugin(site, "sick-package", {f"radpo.{group}": "sick = sick:THING" for group in groups}, sick="1 / 0")
    matrix = write_matrix(tmp_path, {"wide-gap": None, "cautious": None})
    done = run(matrix, packages=site)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line for line in done.stderr.splitlines() if "sick-package" in line]
    assert len(told) == 1, "once, by name"
    assert told[0].startswith(
        "radpo: warning: radpo.benchmarks 'sick' of sick-package 1.0 (sick:THING) cannot be loaded"
    )
    results = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert {"wide-gap", "cautious"} <= set(results["variant"])
    counts = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["pairs"]
    assert counts["relabel/train/wide-gap"]["pairs"] == 3, "the pairs whose scores are two apart"
    # Without the benchmarks, which a process looks for once: other tests are not to see them.
    plain = shutil.copytree(installed, tmp_path / "plain", ignore=shutil.ignore_patterns("radpo_concise*"))
    monkeypatch.syspath_prepend(str(plain))
    baselines = ("dpo-weighted", "dpo-offset", "dpo-sft", "dpo-positive", "dpo-filtered", "best-of-n-sft")
    (tmp_path / "baselines").mkdir()
    compared = expand(load_matrix(write_matrix(tmp_path / "baselines", dict.fromkeys(baselines))))
    assert {cell.variant for cell in compared.cells if cell.train} == set(baselines)
    before = expand(load_matrix(matrix))
    (plain / "radpo_variant.py").write_text(
        (plain / "radpo_variant.py").read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8"
    )
    after = expand(load_matrix(matrix))
    assert {c.train.key for c in before.cells if c.train}.isdisjoint({c.train.key for c in after.cells if c.train})


def test_a_broken_package_is_warned_about_once_where_all_packages_are_asked(installed: Path, tmp_path: Path) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    write_plugin(site, "sick-package", {"radpo.executors": "sick = sick:THING"}, sick="1 / 0")
    done = warm_commands.run(["-m", "radpo", "schema"], env={**os.environ, "PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    choices = json.loads(done.stdout)["$defs"]["ExecutorChoice"]["anyOf"]
    assert choices[0]["enum"] == ["local", "ray", "slurm", "ssh"]
    assert done.stderr.count("sick-package 1.0 (sick:THING) cannot be loaded: ZeroDivisionError") == 1


def test_a_users_judge_grades_in_a_matrix(installed: Path, tmp_path: Path) -> None:
    judge = {"kind": "plain-words", "words": "jargon.txt", "strictness": 2.0}
    section = {"questions": {"path": "questions.jsonl"}, "judge": judge, "sampling": {"max_new_tokens": 3}}
    done = run(write_matrix(tmp_path, {}, benchmarks={"mt-bench": section}), packages=installed)
    assert done.returncode == 0, done.stderr[-3000:]
    examples = pd.read_parquet(tmp_path / "run" / "examples.parquet")
    assert examples["value"].between(1, 10).all()
    assert "jargon in 0 of" in examples["detail"].iloc[0]


def test_the_judge_counts_sentences_with_jargon(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radpo.core.plugins import plugin_code, plugin_entries
    from radpo.judges.base import GradeRequest
    from radpo.judges.lookup import check_settings, find_judge, split_settings

    monkeypatch.syspath_prepend(str(installed))
    (tmp_path / "jargon.txt").write_text("leverage\nsynergy\n")
    judge = find_judge("plain-words", {"words": tmp_path / "jargon.txt"})
    asked = [{"role": "user", "content": "?"}]
    texts = ["We leverage Synergy. It is new.", "Plain. Words.", " "]
    assert [grade.score for grade in judge.grade([GradeRequest(asked, text) for text in texts])] == [5.5, 10.0, 1.0]
    parts = split_settings("plain-words", check_settings("plain-words", {"words": tmp_path / "jargon.txt"}))
    assert (dict(parts.files), dict(parts.hints)) == ({"words": tmp_path / "jargon.txt"}, {"shown": 5})
    assert plugin_code(plugin_entries("radpo.judges")["plain-words"]) is not None


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine with ssh, as far as the example asks for it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(SSH.replace("PYTHON", sys.executable).replace("FORKED", str(folder / "forked")))
    (folder / "ssh").chmod(0o755)
    with warm_commands.program(folder / "forked"):
        yield {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "RADPO_SSH_CALLS": str(tmp_path / "calls")}


def test_a_users_executor_computes_a_matrix(installed: Path, tmp_path: Path, ssh: dict[str, str]) -> None:
    matrix = write_matrix(tmp_path, {}, executor={"kind": "ssh", "hosts": ["first", "second"]})
    done = run(matrix, "--executor-set", "threads=1", packages=installed, **ssh)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(pd.read_parquet(tmp_path / "run" / "results.parquet"))
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) >= 2, "one for every stage"
    assert set(calls) <= {"first", "second"}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert {stage["machine"]["threads"] for stage in manifest["stages"]} == {1}


def test_a_host_that_leaves_no_result_fails_its_stage(installed: Path, tmp_path: Path, ssh: dict[str, str]) -> None:
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\nexit 255\n")
    matrix = write_matrix(tmp_path, {}, executor={"kind": "ssh", "hosts": ["gone"]})
    done = run(matrix, packages=installed, **ssh)
    assert done.returncode == 3
    assert "gone: ssh ended with 255; see " in done.stderr


def concise(server: FaultServer) -> dict[str, Any]:
    judge = {"kind": "openai", "model": "judge", "base_url": server.url}
    return {"questions": {"path": "questions.jsonl"}, "judge": judge, "sampling": {"max_new_tokens": 3}}


def verdict(body: Any) -> str:
    """Prefers the shorter answer."""
    a, b = re.findall(r"Assistant [AB]'s answer\]\n(.*?)(?:\n\[|$)", body["messages"][0]["content"], flags=re.DOTALL)
    return "[[C]]" if len(a) == len(b) else "So: [[A]]" if len(a) < len(b) else "So: [[B]]"


def test_a_users_benchmark_is_in_schema_plan_run_report_and_gate(installed: Path, tmp_path: Path) -> None:
    paths = {**os.environ, "PYTHONPATH": str(installed), "RADPO_CACHE": str(tmp_path / "cache")}

    def radpo(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return warm_commands.run(["-m", "radpo", *map(str, words)], env=paths)

    with FaultServer(verdict) as server:
        section = {**concise(server), "baseline_outputs": "outputs.jsonl"}
        matrix = write_matrix(tmp_path, {"dpo": None}, benchmarks={"concise": section})
        planned = json.loads(radpo("plan", matrix, "--json").stdout)
        done = run(matrix, packages=installed, RADPO_CACHE=str(tmp_path / "cache"))
    assert [stage["judge_calls"] for stage in planned["stages"] if stage["name"] == "concise/dpo/seed-0"] == [2]
    assert done.returncode == 0, done.stderr[-3000:]
    assert len({body["messages"][0]["content"].index("A long answer") for body in server.asked}) >= 2, "both orders"
    results = pd.read_parquet(tmp_path / "run" / "results.parquet")
    results = results[results["benchmark"] == "concise"]
    columns = ["variant", "benchmark", "metric", "primary"]
    assert results[columns].to_numpy().tolist() == [[name, "concise", "win_rate", True] for name in ("base", "dpo")]
    assert results["value"].tolist() == [100, 100], "the other answer is longer"
    report = (tmp_path / "run" / "report.html").read_text()
    assert "concise win rate" in report
    assert "How often an answer tells more in fewer words. n = 1 questions" in report, "its own section"
    assert "concise" in json.loads(radpo("schema").stdout)["$defs"]["Benchmarks"]["properties"]
    gated = json.loads(radpo("regress", tmp_path / "run", tmp_path / "run", "--json").stdout)
    assert {(row["benchmark"], row["margin"]) for row in gated["rows"]} == {("concise", 5.0)}
    del paths["PYTHONPATH"]
    assert radpo("report", tmp_path / "run").returncode == 0, "a run stays readable without the package"
    assert "concise win rate" in (tmp_path / "run" / "report.html").read_text()


def test_a_users_benchmark_has_a_command_that_teaches_and_runs(installed: Path, tmp_path: Path) -> None:
    paths = {**os.environ, "PYTHONPATH": str(installed), "RADPO_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}

    def radpo(*words: str) -> subprocess.CompletedProcess[str]:
        return warm_commands.run(["-m", "radpo", *words], env=paths)

    assert "concise" in radpo("eval", "--help").stdout
    taught = radpo("eval", "concise", "--help").stdout
    assert {"--questions", "--baseline-outputs", "--judge", "--endpoint", "--max-new-tokens"} <= set(taught.split())
    assert "Sampling temperature" in taught
    write_matrix(tmp_path, {})
    answers = {"instruction": "Say five.", "output": "5", "generator": "short"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(answers) + "\n")
    words = ["eval", "concise", "--questions", str(tmp_path / "questions.jsonl"), "--out", str(tmp_path / "alone")]
    words += ["--answers", str(tmp_path / "mine.jsonl"), "--judge-set", "model=judge", "--json"]
    lacking = radpo(*words, "--judge-set", "base_url=http://127.0.0.1:9/v1")
    assert lacking.returncode == 2
    assert "give baseline_outputs" in lacking.stderr
    words += ["--baseline-outputs", str(tmp_path / "outputs.jsonl")]
    with FaultServer(verdict) as server:
        done = radpo(*words, "--judge-set", f"base_url={server.url}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["all/win_rate"]["value"] == 100.0
    assert (tmp_path / "alone" / "report.html").is_file()
    wrong = radpo(*words, "--temperature", "-1")
    assert wrong.stderr.startswith("radpo: --temperature: -1.0: Input should be greater"), wrong.stderr


def test_without_the_package_its_benchmark_is_one_clear_message(tmp_path: Path) -> None:
    with FaultServer(verdict) as server:
        matrix = write_matrix(tmp_path, {"dpo": None}, benchmarks={"unlearning": {}, "concise": concise(server)})
    done = run(matrix, packages=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert re.match(r"radpo: \S+matrix.yaml:\d+: benchmarks.concise: no such ", line), line


def test_the_benchmarks_own_check_of_its_section_has_file_and_line(installed: Path, tmp_path: Path) -> None:
    section = {"questions": {"path": "questions.jsonl"}, "judge": "verifier"}
    done = run(write_matrix(tmp_path, {"dpo": None}, benchmarks={"concise": section}), packages=installed)
    assert done.returncode == 2
    assert re.search(r"matrix.yaml:2: benchmarks.concise: judge: must be of kind", done.stderr), done.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_an_example_is_small_and_needs_no_more_than_radpo(name: str) -> None:
    modules = list((EXAMPLES / name).glob("*.py"))
    lines = [len(module.read_text().splitlines()) for module in modules]
    assert sum(lines) < 120 or (name == "baselines" and max(lines) < 40), "six baselines, each in a file of its own"
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())["project"]
    assert "dependencies" not in project
    assert len(project["entry-points"]) == 1


def test_the_code_in_the_docs_is_the_examples_own() -> None:
    pages = sorted((ROOT / "docs").glob("extending*.md"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"<!-- (examples/\S+) -->\n```\w+\n(.*?)```", text, flags=re.DOTALL)
    assert {place.split("/")[1] for place, _ in blocks} == set(PACKAGES)
    for place, block in blocks:
        assert block in (ROOT / place).read_text(encoding="utf-8"), f"{place} has no such lines:\n{block}"
    assert text.count("```python") == sum(place.endswith(".py") for place, _ in blocks), "all Python is an example's"
