"""The regression verdict: equal runs pass, a planted drop fails, and what cannot be compared is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from radpo.errors import ConfigError, DataError
from radpo.regress import compare
from radpo.results import examples_frame, results_frame

SEEDS = (0, 1)


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
) -> Path:
    """A run directory with three primary metrics, each example's value moved by `shift[benchmark]`."""
    folder.mkdir()
    shift = shift or {}
    base, wobble = np.random.default_rng(0), np.random.default_rng(noise)
    results, examples = [], []
    primaries = [
        ("mt-bench", "all", "score", "score", True, 5.0),
        ("unlearning", "none", "share_high_rejected_lost_1nat", "share_high_rejected_lost_1nat", False, 0.5),
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
                        "prompt": "p",
                        "metric": example_metric,
                        "value": value,
                        "detail": "{}",
                    }
                )
    results_frame(results).to_parquet(folder / "results.parquet", index=False)
    examples_frame(examples).to_parquet(folder / "examples.parquet", index=False)
    manifest = {"baseline": "base", "data": {"heldout.jsonl": {"sha256": f"sha256:{sha256}"}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def outcomes(verdict) -> dict[str, str]:
    return {row.benchmark: row.outcome for row in verdict.rows}


def test_identical_runs_pass(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    assert not verdict.regressed
    assert {(row.outcome, row.difference, row.p_worse) for row in verdict.rows} == {("no difference", 0.0, 1.0)}
    assert len(verdict.rows) == 3


def test_noise_alone_is_rarely_called_a_regression(tmp_path):
    baseline = write_run(tmp_path / "a", n=20)
    alarms = sum(compare(baseline, write_run(tmp_path / f"{k}", n=20, noise=k)).regressed for k in range(2, 42))
    assert alarms <= 6  # binomial(40, 0.05): 2 expected, 6 has a tail of 2 in a hundred


def test_a_planted_drop_is_a_regression_of_that_metric_alone(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", {"mt-bench": -0.05}, noise=2))
    assert verdict.regressed
    assert outcomes(verdict) == {
        "mt-bench": "regression", "alpaca-eval": "no difference", "unlearning": "no difference",
    }  # fmt: skip
    row = next(row for row in verdict.rows if row.benchmark == "mt-bench")
    assert row.difference == pytest.approx(-0.05, abs=0.01)
    assert row.low < row.difference < row.high < 0
    assert (row.pairs, row.prompts, row.unpaired) == (80, 40, 0)


def test_an_improvement_passes(tmp_path):
    shift = {"mt-bench": 0.05, "unlearning": -0.05}
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", shift, noise=2))
    assert not verdict.regressed
    assert (outcomes(verdict)["mt-bench"], outcomes(verdict)["unlearning"]) == ("improvement", "improvement")


def test_where_lower_is_better_a_rise_is_the_regression(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", {"unlearning": 0.05}, noise=2))
    assert outcomes(verdict)["unlearning"] == "regression"


def test_swapped_runs_mirror(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", {"mt-bench": -0.05, "unlearning": -0.05}, noise=2)
    mirror = {"regression": "improvement", "improvement": "regression", "no difference": "no difference"}
    for row, swapped in zip(compare(a, b).rows, compare(b, a).rows, strict=True):
        assert swapped.outcome == mirror[row.outcome]
        assert (swapped.p_worse, swapped.p_better) == (row.p_better, row.p_worse)
        assert swapped.difference == -row.difference
        assert (swapped.low, swapped.high) == (pytest.approx(-row.high), pytest.approx(-row.low))


def test_a_drop_within_the_margin_passes(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", {"mt-bench": -0.05}, noise=2)
    assert compare(a, b, margin=0.03).regressed
    assert not compare(a, b, margin=0.2).regressed


def test_win_rates_are_compared_in_percent(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", {"alpaca-eval": -0.1}, noise=2))
    row = next(row for row in verdict.rows if row.benchmark == "alpaca-eval")
    assert row.metric == "win_rate"
    assert row.difference == pytest.approx(-10, abs=1)
    assert row.baseline == pytest.approx(50, abs=5)


def test_seeds_of_one_prompt_are_one_cluster(tmp_path):
    # Twelve prompts in many seeds remain twelve facts: eight hundred rows must not make a tiny p-value.
    a = write_run(tmp_path / "a", n=4, seeds=tuple(range(30)))
    b = write_run(tmp_path / "b", {"mt-bench": -0.05}, n=4, seeds=tuple(range(30)), noise=2)
    row = next(row for row in compare(a, b).rows if row.benchmark == "mt-bench")
    assert (row.pairs, row.prompts) == (120, 4)
    assert row.p_worse >= 1 / 2**4


def test_other_data_are_refused_and_named(tmp_path):
    with pytest.raises(ConfigError, match=r"different data: heldout.jsonl \(sha256:aa against sha256:bb\)"):
        compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", sha256="bb"))


def test_runs_in_which_nothing_pairs_are_refused(tmp_path):
    a = write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"nothing to compare.*other seeds") as refused:
        compare(a, write_run(tmp_path / "b", seeds=(7,)))
    assert refused.value.exit_status == 2
    with pytest.raises(ConfigError, match=r"nothing to compare.*run does not have it"):
        compare(a, write_run(tmp_path / "c", variant="ra-dpo"))


def test_metrics_without_examples_are_listed_as_not_gated(tmp_path):
    a, b = write_run(tmp_path / "a", drop=("mt-bench",)), write_run(tmp_path / "b", drop=("mt-bench",))
    verdict = compare(a, b)
    assert [(item.benchmark, item.reason) for item in verdict.not_gated] == [("mt-bench", "it has no per-example rows")]
    assert "Not gated: dpo mt-bench all score" in verdict.to_markdown()


def test_examples_of_one_run_only_are_counted(tmp_path):
    verdict = compare(write_run(tmp_path / "a", n=40), write_run(tmp_path / "b", n=30))
    assert {(row.pairs, row.unpaired) for row in verdict.rows} == {(60, 20)}
    assert "60 per-example rows are in one of the runs only" in verdict.to_markdown()


def test_documents_say_the_same(tmp_path):
    verdict = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", {"mt-bench": -0.05}, noise=2))
    document = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert document["regressed"] is True
    assert [row["outcome"] for row in document["rows"]] == [row.outcome for row in verdict.rows]
    suite = ElementTree.fromstring(verdict.to_junit()).find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "0")
    (failed,) = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == "dpo mt-bench all score"
    assert verdict.to_markdown().count("**regression**") == 1


def test_hostile_names_break_neither_markdown_nor_xml(tmp_path):
    name = "x|y\n<b>&\x07`"
    verdict = compare(write_run(tmp_path / "a", variant=name), write_run(tmp_path / "b", variant=name))
    rows = [line for line in verdict.to_markdown().splitlines() if "y" in line and line.startswith("| x")]
    assert len(rows) == 3
    assert all(line.replace("\\|", "").count("|") == 11 for line in rows)
    case = next(ElementTree.fromstring(verdict.to_junit()).iter("testcase"))
    assert case.get("classname").startswith("x|y")


@pytest.mark.parametrize(("option", "message"), [({"alpha": 1.5}, "alpha 1.5"), ({"margin": -1.0}, "margin -1")])
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
