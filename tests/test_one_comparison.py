"""One question has one p-value: report, `radpo analyze compare` and gate tell the same of the same two variants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_factory import write_run
from report_page import Page
from scipy import stats
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.results import COMPARISON_DTYPES
from radpo.core.run import Run, load_run
from radpo.report.build import build_report
from radpo.stats.comparison import against, compare_all, compared, comparisons
from radpo.stats.paired import paired_tests
from radpo.stats.quantities import Name, primary_names

FIGURES = {
    "mt-bench": ("all", "score"),
    "academic": ("radpo_arithmetic", "acc"),
    "alpaca-eval": ("all", "win_rate"),
    "unlearning": ("best", "delta_logp_rejected_high"),
}


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words), "--json"])


def alone(run_dir: Path, folder: Path, variant: str) -> Path:
    """A run directory with one variant of another, under the name that all share."""
    folder.mkdir()
    for name in ("results.parquet", "examples.parquet"):
        frame = pd.read_parquet(run_dir / name)
        frame[frame["variant"] == variant].assign(variant="mine").to_parquet(folder / name, index=False)
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "variants": {"mine": {}}}), encoding="utf-8")
    (folder / "matrix.yaml").write_text((run_dir / "matrix.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def with_pairs(folder: Path) -> Path:
    """The likelihoods' rejected responses among the examples, as the unlearning benchmark writes them."""
    frame = pd.read_parquet(folder / "likelihoods.parquet")
    rejected = frame[frame["response"] == "rejected"]
    rejected = rejected[rejected["goal"].isin(["none", "best", "rejected"])]
    rows = pd.DataFrame(
        {
            "variant": rejected["variant"], "seed": rejected["seed"], "benchmark": "unlearning",
            "subset": rejected["goal"].replace("rejected", "own"), "example_id": rejected["pair_id"], "prompt": "",
            "metric": "delta_logp_rejected_" + rejected["score"].ge(5).map({True: "high", False: "low"}),
            "value": rejected["logp_policy"] - rejected["logp_reference"], "detail": "{}",
        }
    )  # fmt: skip
    examples = pd.read_parquet(folder / "examples.parquet")
    pd.concat([examples, rows], ignore_index=True).to_parquet(folder / "examples.parquet", index=False)
    return folder


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("kept", [True, False])
def test_report_compare_and_gate_print_the_same_p_value(tmp_path: Path, seeds: Sequence[int], kept: bool) -> None:
    folder = with_pairs(write_run(tmp_path / "run", only=tuple(FIGURES), seeds=seeds, prompts=24, pairs=30))
    if kept:  # as `radpo run` does; older runs have none
        comparisons(load_run(folder)).to_parquet(folder / "comparisons.parquet", index=False)
    table = pd.DataFrame(json.loads(call("analyze", "compare", folder, "--against", "dpo").stdout))
    view = Page(build_report(folder).read_text(encoding="utf-8")).packed("views")["dpo"]
    run = load_run(folder)
    names = primary_names(run)
    reported = dict(zip(names, view["changes"][run.variants.index("ra-dpo")], strict=True))
    pair = [alone(folder, tmp_path / variant, variant) for variant in ("dpo", "ra-dpo")]
    gated = call("regress", *pair, "--margin", "0")
    rows = {(row["benchmark"], row["subset"], row["metric"]): row for row in json.loads(gated.stdout)["rows"]}
    printed = CliRunner().invoke(app, ["regress", *map(str, pair), "--margin", "0"]).stdout
    theirs = table[table["variant"] == "ra-dpo"].set_index(list(Name._fields))
    for benchmark, (subset, metric) in FIGURES.items():
        name = Name(benchmark, subset, metric)
        told, row, change = theirs.loc[tuple(name)], rows[name], reported[name]
        assert 0 < change["p"] <= 1
        assert change["p"] == row["p"] == pytest.approx(told["p"], abs=1e-9), benchmark  # --json prints ten digits
        assert (change["value"], change["low"]) == pytest.approx((row["difference"], row["low"]))
        assert f"p {row['p']:.3g})" in printed
        assert change["p_holm"] == pytest.approx(told["p_holm"], abs=1e-9)


def test_a_run_keeps_what_is_compared_and_readers_read_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path, prompts=24, pairs=30)
    frame = comparisons(load_run(folder))
    assert dict(frame.dtypes.astype(str)) == COMPARISON_DTYPES
    assert not frame.duplicated(["variant", "baseline", "benchmark", "subset", "metric"]).any()
    fresh = compared(load_run(folder))
    frame.to_parquet(tmp_path / "comparisons.parquet", index=False)
    run = load_run(folder)
    assert compared(run) == fresh == compare_all(run, primary_names(run))
    marked = frame.assign(p=0.123456)
    marked.to_parquet(tmp_path / "comparisons.parquet", index=False)
    run = load_run(folder)
    assert {change.p for change in compared(run)["dpo"].values()} == {0.123456}
    assert set(against(run, "base")["p"]) == {0.123456}


def test_secondary_figures_are_a_family_of_their_own(tmp_path: Path) -> None:
    frame = against(load_run(write_run(tmp_path, prompts=24, pairs=30)), "base")
    primary, rest = (frame[frame["family"] == family] for family in ("primary", "secondary"))
    assert set(primary["metric"]) >= {"win_rate", "score", "acc"}
    assert {"delta_logp_rejected_low", "delta_logp_per_token_chosen_high"} <= set(rest["metric"])
    assert "writing" in set(rest["subset"]), "parts of a benchmark, too"
    for family in (primary, rest):
        tested = family[family["p"].notna() & (family["kind"] != "identical")]
        smallest = tested.loc[tested["p"].idxmin()]
        assert smallest["p_holm"] == pytest.approx(min(1, smallest["p"] * len(tested)))


def test_another_threshold_sorts_the_responses_anew(tmp_path: Path) -> None:
    run = load_run(with_pairs(write_run(tmp_path, prompts=24, pairs=60)))
    likelihoods = run.likelihoods
    assert likelihoods is not None
    found = against(run, "base", high_score=7.0)
    row = found[
        (found["metric"] == "delta_logp_rejected_high") & (found["subset"] == "none") & (found["variant"] == "dpo")
    ]
    chosen = likelihoods[(likelihoods["response"] == "rejected") & (likelihoods["goal"] == "none")]
    chosen = chosen[(chosen["score"] >= 7) & (chosen["variant"] == "dpo")]
    assert row["n"].tolist() == [len(chosen)]
    assert row["value"].tolist() == pytest.approx([(chosen["logp_policy"] - chosen["logp_reference"]).mean()])


# ---- the test itself ----


def of(changes: np.ndarray, prompts: Any = None, seeds: Any = None, **options: Any) -> Any:
    n = len(changes)
    prompts = np.arange(n) if prompts is None else prompts
    (found,) = paired_tests(changes[:, None], prompts, np.zeros(n) if seeds is None else seeds, **options)
    return found


CHANGES = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 0.3]), min_size=6, max_size=40)


@given(CHANGES, st.floats(-1.2, 1.2))
@settings(max_examples=100, deadline=None)
def test_the_interval_holds_what_the_test_does_not_reject(changes: list[float], at: float) -> None:
    found = of(np.array(changes), resamples=2_000)
    if found.low is None:
        return
    rejected = 2 * min(found.less(at), found.greater(at)) <= 0.05
    if min(abs(at - found.low), abs(at - found.high)) > 1e-6:
        assert (found.low < at < found.high) == (not rejected)


@given(CHANGES)
@settings(max_examples=60, deadline=None)
def test_the_other_way_round_is_the_mirror(changes: list[float]) -> None:
    there, back = of(np.array(changes), resamples=2_000), of(-np.array(changes), resamples=2_000)
    assert (there.p, there.less(), there.greater()) == (back.p, back.greater(), back.less())
    assert (there.low is None and back.low is None) or (there.low, there.high) == (-back.high, -back.low)


def test_few_changes_are_tested_exactly_where_the_t_test_is_too_sure() -> None:
    """Three verdicts of 200 changed for the worse: chance does that one time in eight."""
    changes = np.zeros(200)
    changes[:3] = -1.0
    assert of(changes).less() == 1 / 8
    assert stats.ttest_1samp(changes, 0, alternative="less").pvalue < 0.05


def test_intervals_hold_the_truth_in_95_of_100_samples() -> None:
    rng, rounds = np.random.default_rng(0), 1_500
    for draw in (
        lambda: rng.normal(0.3, 1, 25),
        lambda: rng.choice([-1.0, 0.0, 1.0], 60, p=[0.2, 0.3, 0.5]),
        lambda: rng.standard_t(3, 40) + 0.3,
    ):
        intervals = [of(draw(), resamples=999) for _ in range(rounds)]
        covered = np.mean([one.low <= 0.3 <= one.high for one in intervals])
        assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("sd", [0.0, 0.5])
def test_seeds_that_differ_raise_no_more_false_alarms(sd: float) -> None:
    """Of 1,000 methods that do nothing, at most 1 in 20 is told from nothing, whatever seeds do by chance."""
    rng, rejected = np.random.default_rng(1), 0
    prompts, seeds = np.tile(np.arange(20), 3), np.repeat(np.arange(3), 20)
    for _ in range(1_000):
        changes = rng.normal(0, sd, 3)[seeds] + rng.normal(0, 0.5, 20)[prompts] + rng.normal(0, 1, 60)
        rejected += of(changes, prompts, seeds, resamples=499).p <= 0.05
    assert rejected <= stats.binom.ppf(0.99, 1_000, 0.05)


def test_an_effect_that_all_seeds_share_is_found() -> None:
    rng = np.random.default_rng(2)
    prompts, seeds = np.tile(np.arange(40), 5), np.repeat(np.arange(5), 40)
    found = [
        of(0.5 + rng.normal(0, 0.1, 5)[seeds] + rng.normal(0, 1, 200), prompts, seeds, resamples=999).p <= 0.05
        for _ in range(200)
    ]
    assert np.mean(found) > 0.95


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, only=("mt-bench", "alpaca-eval")))
    shuffled = run.examples.sample(frac=1, random_state=3)
    name = Name("mt-bench", "all", "score")
    again = Run(run.sources, run.results, shuffled, None, None, None, None)
    assert compare_all(again, [name]) == compare_all(run, [name])


def test_a_figure_that_is_no_mean_of_its_examples_is_compared_by_its_own_value(tmp_path: Path) -> None:
    """As Arena-Hard's, in which a strong verdict counts for three games."""
    folder = write_run(tmp_path, prompts=24)
    table = pd.read_parquet(folder / "results.parquet")
    chosen = (table["benchmark"] == "alpaca-eval") & (table["metric"] == "win_rate") & (table["subset"] == "all")
    table.loc[chosen & (table["variant"] == "dpo"), "value"] += 10.0
    table.to_parquet(folder / "results.parquet", index=False)
    found = compared(load_run(folder))["base"]
    value = table.loc[chosen & (table["variant"] == "dpo"), "value"].item()
    moved, as_it_was = (found[name, Name("alpaca-eval", "all", "win_rate")] for name in ("dpo", "ra-dpo"))
    assert moved.value == pytest.approx(value - 50)
    assert moved.low is not None
    assert as_it_was.kind == moved.kind == "against 50%"
    assert as_it_was.value == pytest.approx(table.loc[chosen & (table["variant"] == "ra-dpo"), "value"].item() - 50)


def test_where_examples_weigh_differently_report_and_gate_compare_the_same_weighted_mean(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", only=("arena-hard",), prompts=60)
    examples = pd.read_parquet(folder / "examples.parquet")
    rng = np.random.default_rng(3)
    weights = rng.choice([1, 2, 4, 6], len(examples))
    examples["detail"] = [
        json.dumps({"games": [{"game": 1, "score": 1, "weight": int(weight)}, {"game": 2, "score": 0, "weight": 1}]})
        for weight in weights
    ]
    examples.to_parquet(folder / "examples.parquet", index=False)
    results = pd.read_parquet(folder / "results.parquet")
    scores = {
        str(variant): np.average(part["value"], weights=1 + weights[part.index])
        for variant, part in examples.groupby("variant")
    }
    results["value"] = results["variant"].map(scores)
    results.to_parquet(folder / "results.parquet", index=False)
    name = Name("arena-hard", "all", "score")
    run = load_run(folder)
    change = compared(run)["dpo"]["ra-dpo", name]
    assert change.kind == "paired", "and not worked out from two standard errors"
    assert change.value == pytest.approx(scores["ra-dpo"] - scores["dpo"], abs=1e-9)
    (told,) = (row for row in against(run, "dpo").to_dict("records") if row["variant"] == "ra-dpo")
    pair = [alone(folder, tmp_path / variant, variant) for variant in ("dpo", "ra-dpo")]
    (row,) = json.loads(call("regress", *pair, "--margin", "0").stdout)["rows"]
    assert (row["baseline"], row["candidate"]) == (pytest.approx(scores["dpo"]), pytest.approx(scores["ra-dpo"]))
    assert change.p == row["p"] == pytest.approx(told["p"], abs=1e-9)
    assert (change.value, change.low, change.high) == pytest.approx((row["difference"], row["low"], row["high"]))
    # The linearised values' errors are those of the weighted means, found here by drawing the questions again.
    values = {name: part.reset_index() for name, part in examples.assign(w=1 + weights).groupby("variant")}

    def mean(who: str, take: Any) -> float:
        return float(np.average(values[who]["value"][take], weights=values[who]["w"][take]))

    drawn = [mean("ra-dpo", take) - mean("dpo", take) for take in (rng.integers(0, 60, 60) for _ in range(400))]
    assert (change.high - change.low) / 2 / 1.96 == pytest.approx(np.std(drawn), rel=0.2)
