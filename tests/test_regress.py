"""The regression verdict: equal runs pass, a planted drop fails, and what cannot be compared is refused."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError
from radpo.core.metrics import Metric, find_metric
from radpo.core.results import examples_frame, results_frame
from radpo.core.run import installed_metrics
from radpo.gate.baselines import find_baseline, save_baseline
from radpo.gate.compare import compare
from radpo.gate.documents import MARK, to_junit, to_markdown, to_table
from radpo.gate.margins import find_margin, parse_margins
from radpo.gate.runs import paired, read_run
from radpo.gate.verdict import Verdict

SEEDS = (0, 1)
ONE = (0,)
NO_MARGIN = {"*": 0.0}
MATRIX = {
    "data": {"scale": [1.0, 10.0]},
    "benchmarks": {
        "unlearning": {"high_score": 5.0},
        "mt-bench": {"questions": {"path": "heldout.jsonl"}, "judge": {"kind": "verifier"}},
        "alpaca-eval": {"questions": {"path": "heldout.jsonl"}, "sampling": {"temperature": 0.0, "batch_size": 8}},
    },
}

MANIFEST = {
    "name": "gate", "created": "2025-03-01T12:00:00+00:00", "radpo": "0.1.0", "git_commit": None, "platform": {},
    "packages": {}, "models": {}, "seeds": [0, 1], "baseline": "base", "variants": {}, "notes": [], "stages": [],
    "wall_seconds": 1.0,
}  # fmt: skip


def write_run(
    folder: Path,
    shift: dict[str, float] | None = None,
    *,
    n: int = 40,
    variant: str = "dpo",
    seeds: tuple[int, ...] = SEEDS,
    noise: int = 1,
    sha256: str = "aa",
    drop: tuple[str, ...] = (),
    prompt: str = "p",
    baseline_output: str = "b",
    matrix: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """A run directory with three primary metrics, each example's value moved by `shift[benchmark]`."""
    folder.mkdir()
    shift = shift or {}
    base, wobble = np.random.default_rng(0), np.random.default_rng(noise)
    results, examples = [], []
    primaries = [
        ("mt-bench", "all", "score", "score", True, 5.0),
        ("unlearning", "none", "share_lost", "share_lost", False, 0.5),
        ("alpaca-eval", "all", "win_rate", "preference", True, 1.5),
    ]
    for benchmark, subset, metric, example_metric, higher, centre in primaries:
        for seed in seeds:
            cell = {"variant": variant, "model": "m", "seed": seed, "benchmark": benchmark, "subset": subset}
            results.append(
                {**cell, "metric": metric, "value": 0.0, "n": n, "higher_is_better": higher, "primary": True}
            )
            results.append({**cell, "metric": "other", "value": 0.0, "n": n, "primary": False})
            for number in range(n):
                value = centre + base.normal(0, 0.2) + 0.02 * wobble.normal() + shift.get(benchmark, 0.0)
                if benchmark in drop:
                    continue
                examples.append(
                    {
                        **{key: cell[key] for key in ("variant", "seed", "benchmark")},
                        "subset": "category" if subset == "all" else subset,
                        "example_id": f"q{number}",
                        "prompt": prompt,
                        "baseline_output": baseline_output if benchmark == "alpaca-eval" else None,
                        "metric": example_metric,
                        "value": value,
                        "detail": "{}",
                    }
                )
    results_frame(results).to_parquet(folder / "results.parquet", index=False)
    examples_frame(examples).to_parquet(folder / "examples.parquet", index=False)
    said = {**MANIFEST, "data": {"heldout.jsonl": {"sha256": f"sha256:{sha256}"}}, **(manifest or {})}
    (folder / "manifest.json").write_text(json.dumps(said))
    (folder / "matrix.yaml").write_text(yaml.safe_dump(matrix or MATRIX))
    return folder


def outcomes(verdict) -> dict[str, str]:
    return {row.benchmark: row.outcome for row in verdict.rows}


def test_identical_runs_pass(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    assert verdict.status == "pass"
    assert {(row.outcome, row.difference, row.p_worse, row.changed) for row in verdict.rows} == {
        ("no difference", 0.0, 1.0, 0)
    }
    assert len(verdict.rows) == 3


def test_a_planted_drop_is_a_regression_of_that_metric_alone(tmp_path):
    verdict = compare(
        write_run(tmp_path / "a", seeds=ONE),
        write_run(tmp_path / "b", {"mt-bench": -0.05}, noise=2, seeds=ONE),
        margins=NO_MARGIN,
    )
    assert verdict.regressed
    assert outcomes(verdict) == {
        "mt-bench": "regression", "alpaca-eval": "no difference", "unlearning": "no difference",
    }  # fmt: skip
    row = next(row for row in verdict.rows if row.benchmark == "mt-bench")
    assert row.difference == pytest.approx(-0.05, abs=0.01)
    assert row.low < row.difference < row.high < 0
    assert (row.pairs, row.prompts, row.unpaired) == (40, 40, 0)


def test_an_improvement_passes(tmp_path):
    shift = {"mt-bench": 0.05, "unlearning": -0.05}
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", shift, noise=2), margins=NO_MARGIN)
    assert verdict.status == "pass"
    assert (outcomes(verdict)["mt-bench"], outcomes(verdict)["unlearning"]) == ("improvement", "improvement")


def test_where_lower_is_better_a_rise_is_the_regression(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", {"unlearning": 0.05}, noise=2))
    assert outcomes(verdict)["unlearning"] == "regression"


@pytest.mark.parametrize("margin", [0.0, 0.001, 0.04])
def test_swapped_runs_mirror(tmp_path, margin):
    a, b = (
        write_run(tmp_path / "a", seeds=ONE),
        write_run(tmp_path / "b", {"mt-bench": -0.05, "unlearning": -0.05}, noise=2, seeds=ONE),
    )
    mirror = {"regression": "improvement", "improvement": "regression"}
    there, back = compare(a, b, margins={"*": margin}), compare(b, a, margins={"*": margin})
    for row, swapped in zip(there.rows, back.rows, strict=True):
        assert swapped.outcome == mirror.get(row.outcome, row.outcome)
        assert (swapped.p_worse, swapped.p_better) == (row.p_better, row.p_worse)
        assert (swapped.difference, swapped.detectable) == (-row.difference, row.detectable)
        assert (swapped.low, swapped.high) == (pytest.approx(-row.high), pytest.approx(-row.low))
    assert there.status == back.status == "regression", "each run is worse in one metric"


def test_a_drop_within_the_margin_passes(tmp_path):
    a, b = write_run(tmp_path / "a", seeds=ONE), write_run(tmp_path / "b", {"mt-bench": -0.05}, noise=2, seeds=ONE)
    assert compare(a, b, margins={"score": 0.03}).regressed
    assert not compare(a, b, margins={"score": 0.2}).regressed


def test_a_sample_too_small_for_the_margin_is_refused_with_what_it_takes(tmp_path):
    a, b = write_run(tmp_path / "a", seeds=ONE), write_run(tmp_path / "b", noise=2, seeds=ONE)
    verdict = compare(a, b, margins={"score": 0.001})
    assert (verdict.status, verdict.exit_status) == ("refused", 4)
    (refusal,) = verdict.refusals
    row = next(row for row in verdict.rows if row.benchmark == "mt-bench")
    assert row.outcome == "too few examples"
    assert row.detectable > 0.001
    assert f"40 prompts could have shown a drop of {row.detectable:.4g} (power 0.8), no smaller one" in refusal
    assert f"take {row.needed} prompts or more" in refusal
    # The drop it could have seen goes with one over the root of the number of prompts.
    assert row.needed == pytest.approx(40 * (row.detectable / 0.001) ** 2, rel=0.2)
    assert compare(a, b, margins={"score": row.detectable * 1.01}).status == "pass"


def test_a_regression_counts_whatever_else_is_too_small_to_see(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", {"unlearning": 0.5}, noise=2)
    verdict = compare(a, b, margins={"score": 0.001})
    assert (verdict.status, len(verdict.refusals)) == ("regression", 1)


def test_win_rates_are_compared_in_percent(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", {"alpaca-eval": -0.1}, noise=2))
    row = next(row for row in verdict.rows if row.benchmark == "alpaca-eval")
    assert (row.metric, row.margin, row.outcome) == ("win_rate", 5.0, "regression")
    assert row.difference == pytest.approx(-10, abs=1)
    assert row.baseline == pytest.approx(50, abs=5)


def test_two_seeds_hardly_tell_and_five_do(tmp_path):
    for number, (seeds, outcome) in enumerate(
        ((ONE, "regression"), (SEEDS, "no difference"), (range(5), "regression"))
    ):
        a = write_run(tmp_path / f"a{number}", n=16, seeds=tuple(seeds))
        b = write_run(tmp_path / f"b{number}", {"mt-bench": -0.05}, n=16, seeds=tuple(seeds), noise=2)
        verdict = compare(a, b, margins=NO_MARGIN)
        assert outcomes(verdict)["mt-bench"] == outcome, seeds
    short = compare(tmp_path / "a1", tmp_path / "b1", margins={"score": 0.01})
    assert any("take more seeds, or set --margin score=X wider" in refusal for refusal in short.refusals)


def test_a_drop_of_one_seed_alone_is_that_seeds_and_not_the_methods(tmp_path):
    import pandas as pd

    a, b = write_run(tmp_path / "a", seeds=(0, 1, 2)), write_run(tmp_path / "b", seeds=(0, 1, 2), noise=2)
    frame = pd.read_parquet(b / "examples.parquet")
    fell = (frame["seed"] == 1) & (frame["benchmark"] == "mt-bench")
    frame.loc[fell, "value"] -= 1.0
    frame.to_parquet(b / "examples.parquet")
    row = next(row for row in compare(a, b, margins=NO_MARGIN).rows if row.benchmark == "mt-bench")
    assert row.difference == pytest.approx(-1 / 3, abs=0.02)
    assert (row.outcome, row.low < 0 < row.high) == ("no difference", True)


def test_seeds_of_one_prompt_are_one_cluster(tmp_path):
    # Four prompts in many seeds remain four facts: a hundred rows must not make a tiny p-value.
    a = write_run(tmp_path / "a", n=4, seeds=tuple(range(30)))
    b = write_run(tmp_path / "b", {"mt-bench": -0.05}, n=4, seeds=tuple(range(30)), noise=2)
    row = next(row for row in compare(a, b).rows if row.benchmark == "mt-bench")
    assert (row.pairs, row.prompts) == (120, 4)
    assert row.p_worse >= 1 / 2**4
    assert (row.outcome, row.detectable) == ("too few examples", None)


def changed(key: str, value: Any) -> dict[str, Any]:
    matrix = copy.deepcopy(MATRIX)
    *path, last = key.split("/")
    place: Any = matrix
    for part in path:
        place = place.setdefault(part, {})
    place[last] = value
    return matrix


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sha256": "bb"}, r"different data: heldout.jsonl \(sha256:aa against sha256:bb\)"),
        ({"manifest": {"baseline": "dpo"}}, "win rates are against variant 'base' in one and 'dpo' in the other"),
        (
            {"matrix": changed("benchmarks/mt-bench/judge", {"kind": "openai", "model": "gpt-4"})},
            r"mt-bench.judge.kind",
        ),
        (
            {"matrix": changed("benchmarks/mt-bench/sampling/temperature", 0.7)},
            r"mt-bench.sampling.temperature is .*0.7",
        ),
        (
            {"matrix": changed("benchmarks/alpaca-eval/sampling/top_p", 0)},
            r"alpaca-eval.sampling.top_p is 1.0 in one and 0 in",
        ),
        ({"matrix": changed("benchmarks/unlearning/high_score", 8.0)}, r"unlearning.high_score is 5.0 in one and 8.0"),
        ({"matrix": changed("data/scale", [1, 5])}, r"data.scale is \[1.0, 10.0\] in one and \[1, 5\] in the other"),
        ({"prompt": "another"}, r"the prompts of alpaca-eval differ \(such as example 'q0'\)"),
        (
            {"baseline_output": "c", "manifest": {"models": {"m": {"fingerprint": "other"}}}},
            r"80 of 80 of the baseline's answers to alpaca-eval differ, and so do the models",
        ),
        ({"seeds": (7,)}, r"nothing to compare.*other seeds"),
        ({"variant": "ra-dpo"}, r"nothing to compare.*run does not have it"),
    ],
)
def test_runs_that_are_not_comparable_are_refused_and_the_difference_is_named(tmp_path, options, told):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", **options))
    assert (verdict.status, verdict.exit_status, verdict.rows) == ("refused", 4, ())
    assert re.search(told, "; ".join(verdict.refusals))
    several = {"prompt": 3, "matrix": 2 if "mt-bench.judge" in told else 1}
    assert len(verdict.differences) == several.get(next(iter(options)), 1), "each difference once, and no other"


@pytest.mark.parametrize(
    "matrix",
    [
        changed("benchmarks/alpaca-eval/sampling/batch_size", 64),
        changed("benchmarks/alpaca-eval/swap_check", 0),
        changed("benchmarks/mt-bench/judge", "verifier"),  # how earlier releases wrote it
        changed("benchmarks/mt-bench/questions/limit", 40),
        changed("training/learning_rate", 1e-3),
        changed("benchmarks/academic/tasks", ["gsm8k"]),  # which neither run has figures of
    ],
)
def test_what_cannot_change_how_an_example_is_measured_may_differ(tmp_path, matrix):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", matrix=matrix))
    assert verdict.status == "pass", verdict.refusals


def test_the_same_file_under_another_name_is_the_same(tmp_path):
    matrix = changed("benchmarks/mt-bench/questions/path", "renamed.jsonl")
    data = {"data": {name: {"sha256": "sha256:aa"} for name in ("heldout.jsonl", "renamed.jsonl")}}
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", matrix=matrix, manifest=data))
    assert verdict.status == "pass", verdict.refusals


def test_what_does_not_forbid_a_verdict_is_told(tmp_path):
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", baseline_output="c", manifest={"packages": {"lm-eval": "0.4.9"}})
    (b / "matrix.yaml").unlink()
    verdict = compare(a, b)
    assert verdict.status == "pass"
    assert verdict.notes == (
        "b has no matrix.yaml: judges, prompts and sampling could not be compared.",
        "lm-eval is not set in one run and '0.4.9' in the other.",
        "80 of 80 of the baseline's answers to alpaca-eval differ.",
    )


def test_metrics_without_examples_are_listed_as_not_gated(tmp_path):
    a, b = write_run(tmp_path / "a", drop=("mt-bench",)), write_run(tmp_path / "b", drop=("mt-bench",))
    verdict = compare(a, b, margins={"unlearning": None})
    assert [(item.benchmark, item.reason) for item in verdict.not_gated] == [
        ("mt-bench", "it has no per-example rows"), ("unlearning", "it is left out by --margin"),
    ]  # fmt: skip
    assert "Not gated: dpo mt-bench all score, because it has no per-example rows" in to_markdown(verdict)


def test_examples_of_one_run_only_are_counted(tmp_path):
    verdict = compare(write_run(tmp_path / "a", n=40), write_run(tmp_path / "b", n=30))
    assert {(row.pairs, row.unpaired) for row in verdict.rows} == {(60, 20)}
    assert "60 per-example rows are in one of the runs only" in to_markdown(verdict)


def test_documents_say_the_same(tmp_path):
    shift = {"mt-bench": -2.0}
    verdict = compare(
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", shift, noise=2),
        margins={"win_rate": 0.01, "unlearning": None},
    )
    document = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert (document["status"], document["regressed"]) == ("regression", True)
    assert [row["outcome"] for row in document["rows"]] == [row.outcome for row in verdict.rows]
    assert {row.outcome for row in verdict.rows} == {"regression", "too few examples"}
    suite = ElementTree.fromstring(to_junit(verdict)).find("testsuite")
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["3", "1", "1", "1"]
    for kind, name in (("failure", "dpo mt-bench all score"), ("error", "dpo alpaca-eval all win_rate")):
        assert [case.get("name") for case in suite.iter("testcase") if case.find(kind) is not None] == [name]
    for text in (to_markdown(verdict), to_table(verdict)):
        for row in verdict.rows:
            (line,) = [line for line in text.splitlines() if line.lstrip("| ").startswith(f"{row.variant} ")
                       and row.benchmark in line]  # fmt: skip
            assert all(f"{value:.4g}" in line for value in (row.baseline, row.candidate, abs(row.difference)))
            assert f"{row.detectable:.3g}" in line
        assert "take" in text
        assert "not comparable" not in text


HOSTILE = "x|y\n<b onload=1>&\x07`\x1b[31m\u202e[a](b)*_~#@you"


def test_hostile_names_break_neither_markdown_nor_xml_nor_the_terminal(tmp_path):
    verdict = compare(write_run(tmp_path / "a", variant=HOSTILE), write_run(tmp_path / "b", variant=HOSTILE))
    rows = [line for line in to_markdown(verdict).splitlines() if "y" in line and line.startswith("| x")]
    assert len(rows) == 3
    assert all(line.replace("\\|", "").count("|") == 13 for line in rows)
    case = next(ElementTree.fromstring(to_junit(verdict)).iter("testcase"))
    assert case.get("classname").startswith("x|y")
    for text in (to_table(verdict), to_markdown(verdict)):
        assert text.replace("\n", "").isprintable(), "no control, format or direction character"


@given(st.text(max_size=60))
def test_any_name_at_all_stays_in_its_cell(name):
    import markdown_it

    verdict = Verdict("a", name, 0.05, (), (), (name,), (name,))
    ElementTree.fromstring(to_junit(verdict))
    tokens = markdown_it.MarkdownIt("commonmark").parse(to_markdown(verdict))
    inline = [child.type for token in tokens for child in token.children or ()]
    assert set(inline) <= {"text", "text_special"}
    assert [token.type for token in tokens].count("heading_open") == 1


def test_margins_are_found_by_metric_benchmark_or_pattern():
    given_ = parse_margins(["0.5", "academic=0.1", "academic/gsm8k/*=0.2", "win_rate=3", "unlearning=off"])
    assert given_ == {"*": 0.5, "academic": 0.1, "academic/gsm8k/*": 0.2, "win_rate": 3.0, "unlearning": None}
    assert margin(given_, "academic", "musr", "acc,none") == 0.1
    assert margin(given_, "academic", "gsm8k", "exact_match,strict-match") == 0.2
    assert margin(given_, "alpaca-eval", "all", "win_rate") == 3.0
    assert margin(given_, "mt-bench", "all", "score") == 0.5
    assert margin(given_, "unlearning", "own", "delta_logp_rejected_high") is None
    assert margin({}, "mt-bench", "all", "score") == 1.0, "the benchmark's own"
    assert margin({}, "mine", "all", "score") == 0.0


def margin(given: dict[str, float | None], benchmark: str, subset: str, metric: str) -> float | None:
    described: tuple[Metric, ...] = installed_metrics().get(benchmark, ())
    return find_margin(given, benchmark, subset, find_metric(described, metric))


@pytest.mark.parametrize("option", ["much", "score=-1", "score=inf", "=nan", "score="])
def test_a_margin_written_otherwise_is_refused(option):
    with pytest.raises(ConfigError, match=f"--margin {option}: must be a number"):
        parse_margins([option])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": 1.5}, "alpha 1.5"),
        ({"margins": {"*": -1.0}}, "margin -1"),
        ({"margins": {"win_rat": 1.0}}, "no primary metric of that name; there are .*did you mean 'win_rate'"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, option, message):
    run = write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=message):
        compare(run, run, **option)


def test_what_is_no_run_directory_is_refused(tmp_path):
    run = write_run(tmp_path / "a")
    with pytest.raises(DataError, match=r"manifest.json: cannot be read"):
        compare(run, tmp_path)
    (run / "examples.parquet").write_bytes(b"none")
    with pytest.raises(DataError, match=r"examples.parquet: no Parquet file"):
        compare(run, run)


def test_examples_there_twice_are_refused(tmp_path):
    import pandas as pd

    run = write_run(tmp_path / "a")
    frame = pd.read_parquet(run / "examples.parquet")
    pd.concat([frame, frame.iloc[:1]]).to_parquet(run / "examples.parquet")
    with pytest.raises(DataError, match="is there twice"):
        compare(run, run)


def test_missing_values_do_not_pair(tmp_path):
    import pandas as pd

    run, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    frame = pd.read_parquet(other / "examples.parquet")
    frame.loc[0, "value"] = math.nan
    frame.to_parquet(other / "examples.parquet")
    row = next(row for row in compare(run, other).rows if row.benchmark == "mt-bench")
    assert (row.pairs, row.unpaired) == (79, 1)


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["regress", *map(str, words)])


def test_the_command_keeps_a_baseline_and_gates_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, worse = write_run(tmp_path / "a"), write_run(tmp_path / "worse", {"mt-bench": -2.0}, noise=2)
    kept = call(a, "--save", "main")
    assert (kept.exit_code, kept.stdout.strip()) == (0, "reports/baselines/main")
    assert sorted(path.name for path in (tmp_path / "reports/baselines/main").iterdir()) == [
        "examples.parquet", "manifest.json", "matrix.yaml", "results.parquet",
    ]  # fmt: skip
    assert call("main", a).exit_code == 0

    failed = call("main", worse, "--junit", "out/junit.xml", "--markdown", "out/gate.md", "--save", "main")
    assert failed.exit_code == 1
    assert "not kept as main" in failed.stderr
    assert "worse against main: regression in 1 of 3 metrics" in failed.stdout
    assert "**regression**" in Path("out/gate.md").read_text()
    assert ElementTree.parse("out/junit.xml").find("testsuite").get("failures") == "1"

    refused = call("main", worse, "--margin", "score=off", "--margin", "win_rate=0.001", "--json")
    assert refused.exit_code == 4
    assert json.loads(refused.stdout)["status"] == "refused"
    assert refused.stderr.startswith("radpo: no verdict: dpo alpaca-eval all win_rate: 40 prompts could have shown")

    assert call("main", worse, "--margin", "5", "--save", "main").exit_code == 0
    assert find_baseline(Path("main")) == Path("reports/baselines/main")
    assert (compare(Path("reports/baselines/main"), worse).rows[1].changed, call("main", worse).exit_code) == (0, 0)
    assert [path.name for path in Path("reports/baselines").iterdir()] == ["main"], "nothing is left of the old one"


def test_a_baseline_of_no_name_and_a_name_of_no_baseline_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="neither a run directory nor a kept baseline; none is kept under"):
        find_baseline(Path("main"))
    save_baseline(run, "main")
    with pytest.raises(ConfigError, match="kept under reports/baselines are main; did you mean 'main'"):
        find_baseline(Path("mian"))
    for name in ("../main", "", ".main", "a/b"):
        with pytest.raises(ConfigError, match="--save"):
            save_baseline(run, name)
    (run / "matrix.yaml").unlink()
    with pytest.raises(DataError, match=r"lacks matrix.yaml"):
        save_baseline(run, "main")
    assert isinstance(call(run).exception, ConfigError)


def test_the_first_sentence_names_the_metric_that_shows_it_most_and_the_examples_that_lost(tmp_path):
    a = write_run(tmp_path / "a", seeds=ONE)
    b = write_run(tmp_path / "b", {"mt-bench": -2.0, "alpaca-eval": -0.4}, noise=2, seeds=ONE)
    verdict = compare(a, b)
    shown = next(row for row in verdict.rows if row.metric == "win_rate")
    assert verdict.worse[0] is shown, "40 points are eight margins, 2 grades are two"
    assert verdict.sentence.startswith("Regression: alpaca-eval win_rate of dpo fell from ")
    assert verdict.sentence.endswith(f"; margin 5); {len(verdict.worse)} of 3 metrics are worse.")
    changes = {
        row["example_id"]: row["value_candidate"] - row["value_baseline"]
        for row in paired(("dpo", "alpaca-eval", "all", "win_rate"), read_run(a), read_run(b)).to_dict("records")
    }
    assert shown.fell_most == tuple(sorted(changes, key=lambda name: changes[name])[:3])
    markdown = to_markdown(verdict).splitlines()
    assert markdown[0] == MARK
    assert markdown.index("What to do next:") < markdown.index("<details><summary>All 3 metrics, and how they were "
                                                               "tested</summary>")  # fmt: skip
    assert "alpaca-eval win\\_rate of dpo fell" in markdown[3]
    table = [line for line in to_table(verdict).splitlines() if line.startswith("dpo ")]
    assert [line.split()[1] for line in table] == ["alpaca-eval", "mt-bench", "unlearning"], "the clearest first"
    assert to_table(verdict).splitlines()[0] == verdict.sentence


def test_a_pass_and_runs_that_are_not_comparable_say_so_first_and_what_to_do(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    assert compare(a, b).sentence == "Pass: none of 3 metrics is worse."
    assert [step.text for step in compare(a, b).next_steps] == ["Nothing."]
    better = write_run(tmp_path / "better", {"mt-bench": 3.0}, seeds=ONE)
    gained = compare(write_run(tmp_path / "one", seeds=ONE), better)
    assert gained.sentence == "Pass: none of 3 metrics is worse, and 1 better."
    assert gained.next_steps[0].command == "radpo regress RUN_DIR --save NAME"
    other = compare(a, write_run(tmp_path / "c", sha256="bb"))
    assert other.sentence.startswith("No verdict: the runs are not comparable, since they were run on different data")
    assert "new baseline" in other.next_steps[0].text


def test_a_refusal_for_sample_size_says_how_many_prompts_or_seeds_and_how_many_minutes_more(tmp_path):
    stages = [
        {"name": name, "key": name, "inputs": inputs, "seconds": seconds, "from_store": False, "peak_mib": 1}
        for name, inputs, seconds in (
            ("train/dpo/seed-0", [], 5000.0),
            ("generate/dpo/seed-0/questions", ["train/dpo/seed-0"], 100.0),
            ("generate/dpo/seed-0/others", ["train/dpo/seed-0"], 7000.0),
            ("mt-bench/dpo/seed-0", ["generate/dpo/seed-0/questions"], 20.0),
        )
    ]
    told = {"manifest": {"stages": stages}}
    a, b = write_run(tmp_path / "a", seeds=ONE), write_run(tmp_path / "b", noise=2, seeds=ONE, **told)
    verdict = compare(a, b, margins={"score": 0.001})
    (row,) = (row for row in verdict.rows if row.outcome == "too few examples")
    minutes = round(120 * (row.needed / 40 - 1) / 60)
    assert minutes > 2
    assert verdict.next_steps[0].text == (
        f"Give mt-bench {row.needed} prompts where it had 40: about {minutes} minutes more."
    )
    assert verdict.sentence.endswith("in 1 metrics: dpo mt-bench all score.")
    assert verdict.next_steps[-1].command == "radpo regress BASELINE RUN_DIR --margin score=X"

    two, again = write_run(tmp_path / "two"), write_run(tmp_path / "again", noise=2, **told)
    short = compare(two, again, margins={"score": 0.012})
    (row,) = (row for row in short.rows if row.outcome == "too few examples")
    assert row.needed_seeds is not None
    assert short.next_steps[0].text.startswith(f"Run {row.needed_seeds} seeds where there were 2, for mt-bench: about ")
    assert all("minutes" not in step.text for step in compare(two, b, margins={"score": 0.012}).next_steps[1:])
    enough = tuple(range(row.needed_seeds))
    more = compare(
        write_run(tmp_path / "many", seeds=enough), write_run(tmp_path / "more", seeds=enough, noise=2),
        margins={"score": 0.012},
    )  # fmt: skip
    assert outcomes(more)["mt-bench"] == "no difference", "so many seeds as were said to be needed are enough"


def test_a_new_variant_is_compared_with_the_one_that_it_is_to_beat(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    baseline = write_run(tmp_path / "base", seeds=ONE)
    worse = write_run(tmp_path / "mine", {"mt-bench": -2.0}, noise=2, seeds=ONE, variant="mine")
    apart = compare(baseline, worse)
    assert all("the baseline run does not have it" in item.reason for item in apart.not_gated if "mine" in item.name)
    done = call("base", "mine", "--against", "mine=dpo")
    assert done.exit_code == 1
    assert "mt-bench score of mine fell" in done.stdout.splitlines()[0]
    assert "mine is compared with the baseline's dpo." in done.stdout
    with pytest.raises(ConfigError, match=r"--against: .* has no variant 'dop'; there are dpo; did you mean 'dpo'"):
        compare(baseline, worse, against={"mine": "dop"})


def test_other_training_pairs_under_another_name_are_refused_and_named(tmp_path):
    def run(name: str, sha256: str) -> Path:
        matrix = {**MATRIX, "data": {**MATRIX["data"], "train": {"path": f"{name}.jsonl"}}}
        data = {"data": {"heldout.jsonl": {"sha256": "sha256:aa"}, f"{name}.jsonl": {"sha256": f"sha256:{sha256}"}}}
        return write_run(tmp_path / name, matrix=matrix, manifest=data)

    train = run("train", "bb")
    more = compare(train, run("more", "cc"))
    assert more.differences == ("data.train is train.jsonl in one (sha256:bb) and more.jsonl in the other (sha256:cc)",)
    assert compare(train, run("renamed", "bb")).status == "pass"
