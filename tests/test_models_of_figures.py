"""Seeds as a random effect and slopes with clustered errors agree with statsmodels, and intervals cover."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from radpo.core.errors import DataError
from radpo.stats.mixed import linear, over_factors, over_seeds


def crossed(seeds: int, prompts: int, rng: np.random.Generator, sd=(0.8, 1.5, 1.0)) -> pd.DataFrame:
    values = (
        0.3
        + sd[0] * rng.normal(size=(seeds, 1))
        + sd[1] * rng.normal(size=(1, prompts))
        + sd[2] * rng.normal(size=(seeds, prompts))
    )
    rows = [(f"s{s}", f"p{p}", values[s, p]) for s in range(seeds) for p in range(prompts)]
    return pd.DataFrame(rows, columns=["seed", "prompt", "y"])


def test_seed_variances_are_those_of_statsmodels_mixed_model():
    frame = crossed(8, 15, np.random.default_rng(0))
    components = {"prompt": "0 + C(prompt)", "seed": "0 + C(seed)"}
    model = smf.mixedlm("y ~ 1", frame, groups=np.ones(len(frame)), vc_formula=components)
    fit = model.fit(reml=True)
    ours = over_seeds(frame.y, frame.seed, frame.prompt)
    assert ours.value == pytest.approx(frame.y.mean())
    assert (ours.sd_prompt**2, ours.sd_seed**2) == pytest.approx(tuple(fit.vcomp), rel=0.02)
    assert ours.sd_rest**2 == pytest.approx(fit.scale, rel=0.02)
    assert ours.stderr == pytest.approx(float(fit.bse_fe.iloc[0]), rel=0.02)


def test_seed_interval_covers_the_truth_and_prompts_alone_do_not():
    """93-97% of 2,000 samples; the simulation's own standard error is 0.5 points."""
    hits, naive, rounds = 0, 0, 2000
    seeds, prompts = np.repeat(np.arange(5), 30), np.tile(np.arange(30), 5)
    for number in range(rounds):
        rng = np.random.default_rng(number)
        values = 0.3 + 0.8 * rng.normal(size=(5, 1)) + 1.5 * rng.normal(size=(1, 30)) + rng.normal(size=(5, 30))
        estimate = over_seeds(values.ravel(), seeds, prompts)
        hits += estimate.low <= 0.3 <= estimate.high
        by_prompt = values.mean(axis=0)
        naive += abs(by_prompt.mean() - 0.3) <= 2.045 * by_prompt.std(ddof=1) / np.sqrt(30)
    assert 0.93 <= hits / rounds <= 0.97
    assert naive / rounds < 0.85


def test_a_missing_or_doubled_cell_is_named():
    frame = crossed(3, 4, np.random.default_rng(0))
    with pytest.raises(DataError, match="seed s0 has 0 values for prompt p0"):
        over_seeds(frame.y[1:], frame.seed[1:], frame.prompt[1:])
    twice = pd.concat([frame, frame.tail(1)])
    with pytest.raises(DataError, match="seed s2 has 2 values for prompt p3"):
        over_seeds(twice.y, twice.seed, twice.prompt)
    with pytest.raises(DataError, match="1 seeds and 4 prompts"):
        over_seeds(frame.y[:4], frame.seed[:4], frame.prompt[:4])


def test_seeds_that_agree_leave_the_prompts_uncertainty():
    frame = crossed(4, 50, np.random.default_rng(0), sd=(0.0, 2.0, 1e-9))
    ours = over_seeds(frame.y, frame.seed, frame.prompt)
    assert ours.sd_seed == pytest.approx(0.0, abs=1e-6)
    assert ours.stderr == pytest.approx(frame.groupby("prompt").y.mean().sem(), rel=1e-3)


def test_slopes_are_statsmodels_cr1_and_recover_the_truth():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 4)
    score, tokens = rng.integers(1, 11, 240).astype(float), rng.uniform(5, 200, 240)
    y = 1.0 - 0.4 * score + 0.02 * tokens + rng.normal(0, 1, 60)[clusters] + rng.normal(0, 1, 240)
    ours = linear(y, {"score": score, "tokens": tokens}, clusters=clusters)
    design = sm.add_constant(np.column_stack([score, tokens]))
    fit = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    assert [e.value for e in ours.values()] == pytest.approx(list(fit.params))
    assert [e.stderr for e in ours.values()] == pytest.approx(list(fit.bse))
    assert (ours["score"].low, ours["score"].high) == pytest.approx(tuple(fit.conf_int()[1]))
    assert ours["score"].low < -0.4 < ours["score"].high
    alone = linear(y, {"score": score})
    assert alone["score"].stderr == pytest.approx(sm.OLS(y, sm.add_constant(score)).fit(cov_type="HC1").bse[1])


def test_a_constant_covariate_is_refused():
    with pytest.raises(DataError, match="do not determine the coefficients of score"):
        linear([1.0, 2.0, 3.0, 4.0], {"score": [5.0, 5.0, 5.0, 5.0]})


def drawn(shape: tuple[int, ...], sds: dict[tuple[int, ...], float], rng: np.random.Generator) -> np.ndarray:
    """A table with normal effects of the factors and interactions that `sds` names."""
    table = np.full(shape, 0.3)
    for members, sd in sds.items():
        table = table + sd * rng.normal(size=tuple(n if at in members else 1 for at, n in enumerate(shape)))
    return table


def labelled(table: np.ndarray, names: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    places = np.indices(table.shape).reshape(table.ndim, -1)
    return table.ravel(), dict(zip(names, places, strict=True))


def test_two_factors_are_seeds_and_prompts():
    frame = crossed(6, 9, np.random.default_rng(3))
    seeds = over_seeds(frame.y, frame.seed, frame.prompt)
    ours = over_factors(frame.y, {name: frame[name] for name in ("seed", "prompt")})
    for name in ("value", "stderr", "low", "high", "degrees"):
        assert getattr(ours, name) == pytest.approx(getattr(seeds, name), rel=1e-12)
    assert ours.sd == pytest.approx({"seed": seeds.sd_seed, "prompt": seeds.sd_prompt})


def test_variances_of_three_factors_are_those_of_statsmodels_mixed_model():
    """Balanced and all positive, analysis of variance is REML, the three-way interaction being the residual."""
    sds = {(0,): 2.0, (1,): 1.5, (2,): 1.0, (0, 1): 0.8, (0, 2): 0.7, (1, 2): 0.7, (0, 1, 2): 0.5}
    values, factors = labelled(drawn((7, 6, 8), sds, np.random.default_rng(5)), "mdp")
    frame = pd.DataFrame({"y": values, **factors})
    terms = {name: "0 + " + ":".join(f"C({f})" for f in name) for name in ("m", "d", "p", "md", "mp", "dp")}
    fit = smf.mixedlm("y ~ 1", frame, groups=np.ones(len(frame)), vc_formula=terms).fit(reml=True)
    ours = over_factors(values, factors)
    theirs = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    assert {name: sd**2 for name, sd in ours.sd.items()} == pytest.approx(
        {name: theirs[name] for name in "mdp"}, rel=0.05
    )
    assert ours.stderr == pytest.approx(float(fit.bse_fe.iloc[0]), rel=0.02)


def test_the_interval_over_models_and_data_covers_and_one_over_runs_does_not():
    """4 models x 4 draws of data x 20 prompts, the order of training nested in data and model; 1,000 samples."""
    sds = {(0,): 0.8, (1,): 0.6, (2,): 1.5, (0, 1): 0.4, (0, 1, 2): 1.0}
    hits = naive = 0
    for number in range(1000):
        table = drawn((4, 4, 20), sds, np.random.default_rng(number))
        estimate = over_factors(*labelled(table, "mdp"))
        hits += estimate.low <= 0.3 <= estimate.high
        runs = table.reshape(16, 20)
        plain = over_seeds(runs.ravel(), np.repeat(np.arange(16), 20), np.tile(np.arange(20), 16))
        naive += plain.low <= 0.3 <= plain.high
    assert 0.93 <= hits / 1000 <= 0.985
    assert naive / 1000 < 0.9, "runs that share a model are not independent"


def test_combinations_that_lack_are_named():
    values, factors = labelled(np.arange(12.0).reshape(2, 2, 3), "mdp")
    with pytest.raises(DataError, match=r"m 0, d 0, p 0 has 0 values"):
        over_factors(values[1:], {name: labels[1:] for name, labels in factors.items()})
    with pytest.raises(DataError, match=r"1 of m and 2 of d and 3 of p"):
        over_factors(values[:6], {name: labels[:6] for name, labels in factors.items()})
