"""Differences-in-differences are what statsmodels, scipy and pandas make of the same pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.multitest import multipletests

from radpo.benchmarks.trajectory import read_trajectory, trajectory
from radpo.core.errors import DataError
from radpo.core.results import examples_frame, results_frame
from radpo.core.run import Run, Source
from radpo.stats.comparison import against
from radpo.stats.contrasts import CONTRAST
from radpo.stats.mixed import over_seeds

GOALS = ("none", "best", "chosen", "rejected")


def run(variants: dict[str, float], pairs: int = 40, seeds=(0,), noise: float = 1.0) -> pd.DataFrame:
    """Changes of log p: a shift common to all variants, the variant's own for high-scored rejected, and noise."""
    rng = np.random.default_rng(0)
    rows = []
    scores = {(f"p{k}", r): float(rng.integers(1, 11)) for k in range(pairs) for r in ("chosen", "rejected")}
    shared = {key: rng.normal(-2, 3) for key in scores}
    for variant, shift in variants.items():
        for seed in seeds:
            for (pair, response), score in scores.items():
                for goal in GOALS:
                    change = shared[pair, response] + (shift if response == "rejected" and score >= 5 else 0.0)
                    change += rng.normal(0, noise)
                    rows.append((variant, seed, pair, response, goal, score, 8, -20.0 + change, -20.0))
    columns = ["variant", "seed", "pair_id", "response", "goal", "score", "tokens", "logp_policy", "logp_reference"]
    return pd.DataFrame(rows, columns=columns)


def differences(likelihoods: pd.DataFrame, baseline: str, **options) -> pd.DataFrame:
    """What a run with these likelihoods, and nothing else, has of differences from a baseline."""
    variants = list(dict.fromkeys(likelihoods.variant))
    manifest = {"baseline": variants[0], "data": {}}
    source = Source("run", manifest, None, {name: name for name in variants}, Path("run"))
    held_out = Run((source,), results_frame([]), examples_frame([]), likelihoods, None, None, None)
    return against(held_out, baseline, **options)


def row(frame: pd.DataFrame, **wanted) -> pd.Series:
    for column, what in wanted.items():
        frame = frame[frame[column] == what]
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.fixture(scope="module")
def likelihoods() -> pd.DataFrame:
    return run({"base": 0.0, "dpo": -3.0, "ra-dpo": 0.2})


@pytest.fixture(scope="module")
def found(likelihoods) -> pd.DataFrame:
    return differences(likelihoods, "base")


def paired(likelihoods: pd.DataFrame, variant: str) -> pd.DataFrame:
    frame = likelihoods.assign(change=likelihoods.logp_policy - likelihoods.logp_reference)
    frame = frame[frame.goal == "none"]
    wide = frame.pivot(index=["pair_id", "response", "score"], columns="variant", values="change").reset_index()
    return wide.assign(second=wide[variant] - wide["base"])


def test_what_training_did_alike_cancels_and_the_variants_own_is_left(found):
    dpo = row(found, variant="dpo", subset="none", metric="delta_logp_rejected_high")
    assert dpo.low < -3.0 < dpo.high
    assert dpo.high < -2.0
    assert dpo.p_holm < 0.05
    assert dpo.detectable == pytest.approx(2.8016 * dpo.stderr, rel=1e-3)
    low = row(found, variant="dpo", subset="none", metric="delta_logp_rejected_low")
    assert low.low < 0 < low.high


def test_the_figures_are_scipys(likelihoods, found):
    wide = paired(likelihoods, "ra-dpo")
    values = wide[(wide.response == "rejected") & (wide.score >= 5)].second.to_numpy()
    ours = row(found, variant="ra-dpo", subset="none", metric="delta_logp_rejected_high")
    assert ours.value == pytest.approx(values.mean())
    assert ours.n == len(values)
    boot = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1))
    grown = np.sqrt(len(values) / (len(values) - 1))
    assert ours.stderr == pytest.approx(boot.standard_error * grown, rel=0.05)
    test = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
    assert ours.p == pytest.approx(test.pvalue, abs=0.03)
    per_token = row(found, variant="ra-dpo", subset="none", metric="delta_logp_per_token_rejected_high")
    assert per_token.value == pytest.approx(values.mean() / 8)


def test_high_minus_low_is_the_interaction_of_a_regression(likelihoods, found):
    wide = paired(likelihoods, "dpo")
    rejected = wide[wide.response == "rejected"].assign(high=lambda f: (f.score >= 5).astype(float))
    long = rejected.melt(id_vars=["pair_id", "high"], value_vars=["dpo", "base"], value_name="change")
    long = long.assign(treated=(long.variant == "dpo").astype(float))
    fit = smf.ols("change ~ treated * high", long).fit()
    ours = row(found, variant="dpo", subset="none", metric=f"delta_logp_{CONTRAST}")
    assert ours.value == pytest.approx(fit.params["treated:high"])
    robust = smf.ols("second ~ high", rejected).fit(cov_type="HC1")
    assert ours.stderr == pytest.approx(robust.bse["high"], rel=0.07)
    assert np.isnan(ours.p)


def test_holm_is_over_all_tests_against_one_baseline(found):
    own = found[found.p.notna()]
    assert set(own.variant) == {"dpo", "ra-dpo"}
    assert own.p_holm.to_numpy() == pytest.approx(multipletests(own.p, method="holm")[1])


def test_own_asks_each_response_for_its_own_score(likelihoods):
    moved = likelihoods.copy()
    mask = (moved.variant == "dpo") & (moved.response == "rejected") & (moved.goal == "rejected")
    moved.loc[mask, "logp_policy"] += 100.0
    found = differences(moved, "base")
    assert row(found, variant="dpo", subset="own", metric="delta_logp_rejected_low").value > 90
    assert row(found, variant="dpo", subset="best", metric="delta_logp_rejected_low").value < 10


def test_seeds_have_an_interval_for_the_method():
    likelihoods = run({"base": 0.0, "dpo": -1.0}, pairs=12, seeds=(0, 1, 2))
    found = differences(likelihoods, "base")
    ours = row(found, variant="dpo", subset="best", metric="delta_logp_chosen_high")
    frame = likelihoods.assign(change=likelihoods.logp_policy - likelihoods.logp_reference)
    frame = frame[(frame.goal == "best") & (frame.response == "chosen") & (frame.score >= 5)]
    wide = frame.pivot(index=["seed", "pair_id"], columns="variant", values="change").reset_index()
    expected = over_seeds(wide.dpo - wide.base, wide.seed, wide.pair_id)
    assert (ours.low, ours.high, ours.seeds) == pytest.approx((expected.low, expected.high, 3))


def test_pairs_of_one_prompt_are_drawn_together(likelihoods):
    doubled = pd.concat([likelihoods, likelihoods.assign(pair_id=likelihoods.pair_id + "b")])
    doubled = doubled.assign(prompt_id=doubled.pair_id.str.removesuffix("b"))
    ours = row(differences(doubled, "base"), variant="dpo", subset="none", metric="delta_logp_rejected_low")
    alone = row(differences(likelihoods, "base"), variant="dpo", subset="none", metric="delta_logp_rejected_low")
    assert (ours.prompts, ours.n) == (alone.prompts, 2 * alone.n)
    assert ours.stderr == pytest.approx(alone.stderr, rel=0.05)


def test_a_variant_that_is_not_there_is_named(likelihoods):
    with pytest.raises(DataError, match="no variant 'kto' to compare with; there are base, dpo, ra-dpo"):
        differences(likelihoods, "kto")
    with pytest.raises(DataError, match="only variant"):
        differences(likelihoods[likelihoods.variant == "base"], "base")


def tracked() -> pd.DataFrame:
    rows = [
        (step, pair, side, "none", -10.0 - fall * step, 4)
        for step in (0, 5, 10)
        for pair, side, fall in (("a", "chosen", 0.1), ("a", "rejected", 0.3), ("b", "rejected", 0.5))
    ]
    return pd.DataFrame(rows, columns=["step", "id", "side", "goal", "logp", "tokens"])


SCORES = pd.DataFrame({"id": ["a", "b"], "score_chosen": [9.0, 8.0], "score_rejected": [7.0, 2.0]})


def test_trajectories_begin_at_nothing_and_keep_the_groups_apart(tmp_path):
    tracked().to_parquet(tmp_path / "trajectory.parquet")
    found = trajectory(read_trajectory(tmp_path), SCORES)
    assert (found[found.step == 0].value == 0).all()
    last = found[found.step == 10].set_index("group")
    assert last.value.to_dict() == pytest.approx({"chosen_high": -1.0, "rejected_high": -3.0, "rejected_low": -5.0})
    assert last.per_token["rejected_low"] == pytest.approx(-1.25)


def test_own_of_a_trajectory_asks_each_response_for_its_own_score():
    # Asked for the chosen's score, the chosen falls by a nat a step and the rejected by two; asked for the rejected's,
    # by three and four.
    falls = {("chosen", "chosen"): 1, ("chosen", "rejected"): 2, ("rejected", "chosen"): 3, ("rejected", "rejected"): 4}
    rows = [(step, "a", side, goal, -10.0 - fall * step, 4) for step in (0, 1) for (goal, side), fall in falls.items()]
    frame = pd.DataFrame(rows, columns=["step", "id", "side", "goal", "logp", "tokens"])
    found = trajectory(frame, SCORES).query("step == 1").set_index(["goal", "group"]).value
    assert found.to_dict() == {("own", "chosen_high"): -1.0, ("own", "rejected_high"): -4.0}


def test_what_a_trajectory_lacks_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_trajectory(tmp_path)
    with pytest.raises(DataError, match="scores of pair 'b' are not known"):
        trajectory(tracked(), SCORES[:1])
    with pytest.raises(DataError, match="same pairs"):
        trajectory(tracked()[:-1], SCORES)
