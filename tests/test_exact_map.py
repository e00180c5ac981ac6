"""The exact map: both methods' solutions and closed forms are right, and predictions are decided by their rules."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.optimize import brentq

from radpo.core.errors import ConfigError
from radpo.theory.bandit import log_softmax
from radpo.theory.outcomes import Prompts, change_of_rejected, change_of_rejected_own
from radpo.theory.raters import (
    GOALS,
    RANGES,
    World,
    best_attributes,
    draw_attributes,
    features,
    goal_basis,
    population,
    rate,
    rated_attributes,
    rated_places,
    rating_chances,
    true_score,
)
from radpo.theory.solving import loglinear, tables

STUDY = Path(__file__).parents[1] / "benchmarks" / "study"
sys.path.insert(0, str(STUDY))

import exact_map  # noqa: E402
from map_page import write_map_page  # noqa: E402
from predictions import Prediction, decide, read_predictions  # noqa: E402

WORLDS = [World(shape, "spread", "uniform", 1.0) for shape in exact_map.SHAPES]


def test_log_linear_solutions_are_statsmodels_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    world = World("trade-off", "spread", "uniform", 4.0)
    rated = rated_attributes(world, 400, rng)
    x = features(rated.chosen) - features(rated.rejected)
    goals = rng.integers(0, 10, 400)
    # A pair and its mirror image are one observation; statsmodels needs both outcomes to be there.
    swap = np.where(rng.random(400) < 0.5, -1.0, 1.0)
    plain = loglinear(x, np.zeros(400, dtype=int), np.ones((1, 1)), [1e-9])[0][:, 0]
    fit = sm.Logit((swap > 0).astype(float), x * swap[:, None]).fit(disp=False, tol=1e-12)
    assert plain == pytest.approx(fit.params, abs=1e-5)
    design = (x[:, :, None] * goal_basis()[goals][:, None, :]).reshape(400, -1)
    fit = sm.Logit((swap > 0).astype(float), design * swap[:, None]).fit(disp=False, tol=1e-12)
    assert loglinear(x, goals, goal_basis(), [1e-9])[0].ravel() == pytest.approx(fit.params, abs=1e-4)


def test_penalised_solutions_have_no_gradient_left_and_shrink_with_the_penalty() -> None:
    rng = np.random.default_rng(1)
    wins = rng.integers(0, 20, (5, 4, 4)).astype(float) * (1 - np.eye(4))
    wins[0], wins[1] = 0, np.triu(np.ones((4, 4)), 1)  # never compared; always won by the first, which has no optimum
    for penalty, h in zip((10.0, 0.01), tables(wins, (10.0, 0.01)), strict=True):
        lost = wins / (1 + np.exp(h[:, :, None] - h[:, None, :]))
        assert np.abs(lost.sum(axis=1) - lost.sum(axis=2) + penalty * h).max() < 1e-6
        assert (h[0] == 0).all()
    strong, weak = tables(wins, (10.0, 0.01))
    assert (np.ptp(weak[1:], axis=1) > np.ptp(strong[1:], axis=1)).all()


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.shape)
def test_scores_lie_where_the_world_says_and_a_log_linear_reward_can_be_them(world: World) -> None:
    drawn = draw_attributes(world, (4000,), np.random.default_rng(0))
    score = true_score(world, drawn)
    low, high = RANGES[world.location]
    assert low <= score.min() < low + 1
    assert high - 1 < score.max() <= true_score(world, best_attributes(world)) + 1e-9 == pytest.approx(high)
    design = np.column_stack([np.ones(len(score)), features(drawn)])
    assert design @ np.linalg.lstsq(design, score, rcond=None)[0] == pytest.approx(score)


def test_gaps_and_ratings_are_as_the_world_says() -> None:
    gaps = {}
    for kind in exact_map.GAPS:
        world = World("more is better", "spread", kind, 1.0)
        rated = rated_attributes(world, 2000, np.random.default_rng(0))
        assert (rated.rating_chosen > rated.rating_rejected).all()
        gaps[kind] = np.abs(true_score(world, rated.chosen) - true_score(world, rated.rejected)).mean()
    assert gaps["near ties"] < gaps["uniform"] / 1.5 < gaps["wide"] / 2
    exact = World("more is better", "all low", "uniform", 0.0)
    rated = rated_attributes(exact, 500, np.random.default_rng(0))
    assert (rated.rating_chosen == np.rint(true_score(exact, rated.chosen))).all()
    scores = np.repeat([1.0, 6.4, 9.9], 20_000)
    counted = rate(scores, 2.0, np.random.default_rng(0)).reshape(3, -1)
    share = [[(row == goal).mean() for goal in GOALS] for row in counted]
    chances = rating_chances(scores[::20_000], 2.0)
    assert share == pytest.approx(chances, abs=0.012)
    assert rating_chances(np.array([1.0]), 0.1).sum() == pytest.approx(1)


def test_with_unlimited_pairs_reward_augmented_dpo_finds_the_logit_of_the_goal() -> None:
    world = World("more is better", "spread", "uniform", 2.0)
    scores = np.array([[4.0, 5.5, 7.0, 8.5]])
    reference = log_softmax(np.array([[0.2, -0.3, 0.1, 0.0]]))
    rated = rated_places(world, scores, reference, 100_000, np.random.default_rng(0))
    wins = np.zeros((10, 4, 4))
    np.add.at(wins, (rated.rating_chosen - 1, rated.chosen, rated.rejected), 1)
    np.add.at(wins, (rated.rating_rejected - 1, rated.rejected, rated.chosen), 1)
    h = tables(wins, [1e-3])[0]
    _, conditioned = population(world, scores)
    expected = conditioned[:, 0] - conditioned[:, 0].mean(axis=1, keepdims=True)
    assert h[2:] - h[2:].mean(axis=1, keepdims=True) == pytest.approx(expected[2:], abs=0.25)
    # and so, at beta 1, odds rather than the chances that conditional SFT has
    chances = rating_chances(scores, 2.0)[0]
    assert conditioned[:, 0] == pytest.approx(np.log(chances / (1 - chances)).T)
    plain = np.zeros((1, 4, 4))
    np.add.at(plain, (0, rated.chosen, rated.rejected), 1)
    found, (dpo, _) = tables(plain, [1e-3])[0][0], population(world, scores)
    assert found - found.mean() == pytest.approx(dpo[0] - dpo[0].mean(), abs=0.05)


def test_policies_stand_at_the_kl_that_is_asked_for() -> None:
    rng = np.random.default_rng(3)
    prompts = Prompts(rng.uniform(1, 10, (5, 8)), log_softmax(rng.normal(size=(5, 8))))
    h = rng.normal(size=(5, 8)) * 3
    found = prompts.tilts_at(h, [0.25, 1.0, 50.0])

    def off(tilt: float) -> float:
        logp = prompts.policy(h, np.array([tilt]))[0]
        return float((np.exp(logp) * (logp - prompts.reference)).sum(axis=1).mean()) - 1.0

    assert found[1] == pytest.approx(brentq(off, 1e-6, 1e3), rel=1e-4)
    assert prompts.frontier(h, found[:2])[0] == pytest.approx([0.25, 1.0], abs=1e-4)
    greedy = prompts.frontier(h, found[2:])[1][0]
    assert greedy == pytest.approx(prompts.score[np.arange(5), h.argmax(axis=1)].mean(), abs=1e-3)
    assert prompts.tilts_at(np.zeros((5, 8)), [1.0]) > 0, "what cannot move is taken as far as it goes"


def test_rejected_responses_are_weighed_as_often_as_they_are_drawn() -> None:
    score, chance = np.array([[9.0, 7.0, 2.0]]), np.array([[0.2, 0.3, 0.5]])
    prompts = Prompts(score, np.log(chance))
    # The average is 4.9: only 7 is better and can be rejected, by 9.
    assert prompts.rejected.tolist() == [[0.0, 1.0, 0.0]]
    h = np.array([[1.0, 0.0, 0.0]])
    expected = -np.log(0.2 * np.e + 0.8)
    assert change_of_rejected(prompts, h, 1.0) == pytest.approx(expected)
    by_goal = -((np.array(GOALS)[:, None, None] - score) ** 2)
    total = (chance * np.exp(by_goal[6])).sum()
    assert change_of_rejected_own(prompts, by_goal, GOALS, 1.0) == pytest.approx(-np.log(total))


# --- the map's own


def made_up(gain: float, noise: float = 0.2, draws: int = 12) -> pd.DataFrame:
    """Values of two numbers of pairs and the closed form, RA-DPO ahead by `gain` with the fewer and 2 * gain."""
    rng = np.random.default_rng(0)
    rows = []
    for pairs, ahead in ((300, gain), (3000, 2 * gain), (exact_map.UNLIMITED, 1.0)):
        for draw in range(draws):
            cell = ("log-linear", "more is better", "spread", "uniform", 1.0, pairs, 10)
            for method, extra in (("dpo", 0.0), ("ra-dpo", ahead)):
                row = dict(zip(exact_map.CELL, cell, strict=True)) | {"method": method, "draw": draw}
                rows.append(row | dict.fromkeys(exact_map.OUTCOMES, 5 + extra + noise * rng.normal()))
    return pd.DataFrame(rows)


def prediction(**rule: object) -> Prediction:
    return Prediction("n", "w", "r", "x", {"outcome": "score", "where": {"pairs": "most"}, **rule})


@pytest.mark.parametrize(
    ("rule", "gain", "came"),
    [
        ({"verdicts": ["ahead"], "at_least": 0.5}, 1.0, "held"),
        ({"verdicts": ["ahead"], "at_least": 0.5}, -1.0, "refuted"),
        ({"verdicts": ["ahead"], "at_least": 0.5}, 0.05, "undecided"),
        ({"agrees": True, "at_least": 0.8}, 1.0, "held"),
        ({"agrees": True, "at_least": 0.8}, -1.0, "refuted"),
        ({"larger": True, "than": {"pairs": "fewest"}}, 1.0, "held"),
        ({"larger": True, "than": {"pairs": "fewest"}}, -1.0, "refuted"),
        ({"larger": True, "than": {"pairs": "fewest"}}, 0.0, "undecided"),
    ],
)
def test_a_prediction_is_decided_by_its_rule(rule: dict[str, object], gain: float, came: str) -> None:
    (row,) = decide([prediction(**rule)], made_up(gain)).to_dict("records")
    assert row["decision"] == came
    assert row["low"] <= row["share"] <= row["high"]


def test_where_the_closed_form_sees_no_difference_its_sign_decides_nothing() -> None:
    values = made_up(1.0)
    values.loc[values["pairs"] == exact_map.UNLIMITED, "score"] = 5.0
    (row,) = decide([prediction(agrees=True, at_least=0.8)], values).to_dict("records")
    assert (row["cells"], row["decision"]) == (0, "no cell to decide it by")


def test_a_draw_that_is_done_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def one(work: tuple[World, tuple[int, ...], int, int]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        made.append(work)
        return [{"noise": work[0].noise}], [{"kl": 1.0}]

    monkeypatch.setattr(exact_map, "_one", one)
    for draw in (0, 0, 1):
        values, curves = exact_map._draw((exact_map.COARSE, 5, draw, tmp_path))
    assert len(made) == 2 * len(pd.read_parquet(values)) == 2 * len(pd.read_parquet(curves)) == 2 * 108


def test_a_prediction_about_no_cell_stops_the_map() -> None:
    for where in ({"shape": "round"}, {"colour": "red"}):
        with pytest.raises(ConfigError, match=r"predictions\.yaml: n: (no cell has|there is no axis colour)"):
            decide([prediction(verdicts=["ahead"], at_least=0.5, where=where)], made_up(1.0))


def test_cells_are_compared_draw_by_draw_with_students_interval() -> None:
    from scipy import stats

    values = made_up(1.0)
    cells = exact_map.compare(values).set_index(["outcome", "pairs"]).sort_index()
    part = values[values["pairs"] == 300].pivot(index="draw", columns="method", values="score")
    theirs = stats.ttest_rel(part["ra-dpo"], part["dpo"]).confidence_interval()
    row = cells.loc[("score", 300)]
    assert (row["low"], row["high"]) == pytest.approx((theirs.low, theirs.high))
    assert row["verdict"] == "ahead"
    told = exact_map.verdicts(
        np.array([0.5, -0.5, 0.0, 0.05, 0.5]), np.array([0.2, -0.8, -0.05, 0.01, -0.1]),
        np.array([0.8, -0.2, 0.05, 0.2, 1.1]), 0.1,
    )  # fmt: skip
    assert told.tolist() == ["ahead", "behind", "alike", "unclear", "unclear"]


def test_a_small_map_is_the_same_twice_and_has_a_page(tmp_path: Path) -> None:
    worlds = [World("more is better", "all low", "uniform", noise) for noise in (0.0, 1.0)]
    work = [(world, (60, 120), 5, draw) for world in worlds for draw in (0, 1)]
    frames = []
    for _ in range(2):
        parts = zip(*(exact_map._one(one) for one in work), strict=True)
        frames.append([pd.DataFrame(list(itertools.chain.from_iterable(part))) for part in parts])
    pd.testing.assert_frame_equal(*(values.drop(columns="cpu_seconds") for values, _ in frames))
    values, curves = frames[0]
    assert len(values) == 2 * 2 * 2 * 2 * 3 * 2  # noises, draws, policies, goals asked for, numbers of pairs, methods
    assert values["score"].between(1, 4).all()
    dpo = values[values["method"] == "dpo"].groupby(["draw", "noise", "policy", "pairs"])["score"]
    assert dpo.nunique().eq(1).all(), "without a goal it is the same whatever is asked for"
    # Asked for a score that no table has seen, a table stays where it is.
    unseen = values.query("policy == 'table' and asked == 10 and noise == 0 and method == 'ra-dpo' and pairs < 1000")
    assert unseen["unlearning"].to_numpy() == pytest.approx(0, abs=1e-12)
    cells = exact_map.compare(values)
    decided = decide([prediction(verdicts=["ahead"], at_least=0.5, where={"noise": 1})], values)
    page = write_map_page(
        tmp_path / "map.html",
        cells,
        exact_map.over_draws(curves.assign(location="spread", noise=curves["noise"] * 4)),
        decided,
    ).read_text()
    assert page.count("<h2>") == 1 + 12 + 2
    assert "refuted if" in page


def test_every_prediction_of_the_file_says_what_would_refute_it() -> None:
    predictions = read_predictions()
    assert len({one.name for one in predictions}) == len(predictions) > 10
    for one in predictions:
        assert one.refuted
        assert one.who in ("paper", "closed form", "tiny model")
        assert one.rule["outcome"] in exact_map.OUTCOMES
        assert ("larger" in one.rule) == ("than" in one.rule) != ("at_least" in one.rule)


def test_points_of_the_language_model_stand_beside_exact_ones() -> None:
    import points

    rows = [
        {"run": run, "variant": method, "benchmark": place[0], "subset": place[1], "metric": place[2], "seed": seed,
         "value": float(seed) + (2.0 if method == "ra-dpo" else 0.0)}
        for run in points.RUNS for places in points.MEASURES.values() for method, place in places.items()
        for seed in (0, 1)
    ]  # fmt: skip
    table = points.compare(pd.concat([pd.DataFrame(rows).drop_duplicates(), points.solve(draws=2)]))
    assert len(table) == 4 * 3 * (1 + 2 * 2)
    ours = table[table["policy"] == "language model"]
    assert (ours["difference"] == 2.0).all()
    assert ours["kl_dpo"].isna().all()
    assert table.query("penalty == 100")["kl_dpo"].max() < table.query("penalty == 1")["kl_dpo"].max()
    exact = table[table["penalty"] == 1].set_index(["policy", "measure", "noise"]).sort_index()
    assert (exact["kl_dpo"] > 0).all()
    for policy in ("log-linear", "table"):
        scores = exact.loc[(policy, "score"), "dpo"]
        assert scores.between(5.5, 10).all()
        assert scores.is_monotonic_decreasing, "the noisier, the less is learned"
        assert (exact.loc[(policy, "unlearning_own"), "difference"] > 0).all()
