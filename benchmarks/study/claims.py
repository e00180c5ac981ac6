"""What the testbed asks of the paper's claims, written down before its numbers; `verdicts` has the rule.

A variant is asked as it is used: one that takes goals for 10, another for none. Scores are exact, on 1-10.
"""

from __future__ import annotations

from verdicts import Experiment, Figure

CONDITIONED = frozenset({"ra-dpo", "half-ra", "ira", "cond-sft"})
SCORE, NATS, CORRELATION, SHARE = 0.25, 0.5, 0.3, 0.05
"""The smallest effects that matter: points of the mean score, nats, a rank correlation, a share."""

BETTER = "Reward-augmented DPO is better than DPO"
UNLEARNS_LESS = "It unlearns less of high-scored rejected responses"
NOT_ONLY_DATA = "The gain is not only twice the data"
EXTRAPOLATES = "It extrapolates to the best score"
IMPLICIT = "Implicit rewards help where there are no scores"
NOISE = "It works with noisy scores"
CONTROL = "The goal controls the score"
NEAR_EQUAL = "Nearly equal pairs keep small margins"


def asked(variant: str, run: str = "main", goal: float | None = None) -> Figure:
    """The mean score of answers: asked for a goal, or else as the variant is used."""
    subset = f"goal {goal:g}" if goal is not None else "goal 10" if variant in CONDITIONED else "goal none"
    return Figure(run, variant, "calibration", subset, "score")


def lost(variant: str, goal: str, run: str = "main") -> Figure:
    """The change of log p of high-scored rejected responses, asked for no goal, for 10 or for their own score."""
    return Figure(run, variant, "unlearning", goal, "delta_logp_rejected_high")


def near(variant: str, run: str = "main") -> Figure:
    """How large the margins of nearly equal pairs are beside those of pairs far apart."""
    return Figure(run, variant, "margins", "best" if variant in CONDITIONED else "none", "near_equal_share")


def correlation(variant: str, run: str = "main") -> Figure:
    """Spearman's rank correlation of the score asked for and the score had."""
    return Figure(run, variant, "calibration", "all", "rank_correlation")


EXPERIMENTS = (
    Experiment(BETTER, "mean score: ra-dpo asked for 10, against dpo", asked("ra-dpo"), asked("dpo"), SCORE, "points",
               decides=True),
    Experiment(BETTER, "win rate of ra-dpo over dpo by exact score, above 50%",
               Figure("main", "ra-dpo", "alpaca-eval", "all", "win_rate"), 50.0, 2.5, "percent"),
    Experiment(BETTER, "mean score: ra-dpo asked for 10, against dpo trained more gently", asked("ra-dpo"),
               asked("dpo-gentle"), SCORE, "points"),
    Experiment(BETTER, "mean score: ra-dpo asked for 10, against the model it started from", asked("ra-dpo"),
               asked("base"), SCORE, "points"),
    Experiment(UNLEARNS_LESS, "change of log p: ra-dpo asked for 10, against dpo asked for nothing, as both are used",
               lost("ra-dpo", "best"), lost("dpo", "none"), NATS, "nats", decides=True),
    Experiment(UNLEARNS_LESS, "change of log p: ra-dpo asked for the response's own score, against dpo",
               lost("ra-dpo", "own"), lost("dpo", "none"), NATS, "nats"),
    Experiment(UNLEARNS_LESS, "change of log p: both asked for nothing", lost("ra-dpo", "none"), lost("dpo", "none"),
               NATS, "nats"),
    Experiment(UNLEARNS_LESS, "as both are used, against dpo trained more gently (a fifth of the learning rate)",
               lost("ra-dpo", "best"), lost("dpo-gentle", "none"), NATS, "nats"),
    Experiment(NOT_ONLY_DATA, "mean score: half-ra, with as many training pairs as dpo, against dpo", asked("half-ra"),
               asked("dpo"), SCORE, "points", decides=True),
    Experiment(NOT_ONLY_DATA, "mean score: ra-dpo against dpo trained for as many steps", asked("ra-dpo"),
               asked("dpo-2-epochs"), SCORE, "points"),
    Experiment(NOT_ONLY_DATA, "unlearning as used: half-ra against dpo", lost("half-ra", "best"), lost("dpo", "none"),
               NATS, "nats"),
    Experiment(EXTRAPOLATES, "no response above 8 in training: mean score asked for 10 above asked for 8",
               asked("ra-dpo", "capped"), asked("ra-dpo", "capped", 8), SCORE, "points", decides=True),
    Experiment(EXTRAPOLATES, "no response above 8 in training: mean score asked for 10 above the best score seen, 8",
               asked("ra-dpo", "capped"), 8.0, SCORE, "points"),
    Experiment(EXTRAPOLATES, "no response above 8 in training: mean score asked for 10 against dpo",
               asked("ra-dpo", "capped"), asked("dpo", "capped"), SCORE, "points"),
    Experiment(IMPLICIT, "mean score: ira, which sees no scores, against dpo", asked("ira"), asked("dpo"), SCORE,
               "points", decides=True),
    Experiment(IMPLICIT, "unlearning as used: ira against dpo", lost("ira", "best"), lost("dpo", "none"), NATS, "nats"),
    Experiment(NOISE, "scores with noise of sd 2: mean score of ra-dpo against dpo", asked("ra-dpo", "noise-2"),
               asked("dpo", "noise-2"), SCORE, "points", decides=True),
    *(
        Experiment(NOISE, f"scores with noise of sd {sd}: mean score of ra-dpo against dpo",
                   asked("ra-dpo", f"noise-{sd}"), asked("dpo", f"noise-{sd}"), SCORE, "points")
        for sd in (1, 4)
    ),
    *(
        Experiment(NOISE, f"scores with noise of sd {sd}: rank correlation of goal and score",
                   correlation("ra-dpo", f"noise-{sd}"), 0.0, CORRELATION, "correlation")
        for sd in (1, 2, 4)
    ),
    Experiment(CONTROL, "rank correlation of goal and score, ra-dpo", correlation("ra-dpo"), 0.0, CORRELATION,
               "correlation", decides=True),
    Experiment(CONTROL, "points gained per point asked for (slope), ra-dpo",
               Figure("main", "ra-dpo", "calibration", "all", "slope"), 0.0, CORRELATION, "points a point"),
    Experiment(NEAR_EQUAL, "margins of nearly equal beside far apart pairs: dpo's share minus ra-dpo's", near("dpo"),
               near("ra-dpo"), SHARE, "share", decides=True),
    Experiment(NEAR_EQUAL, "margin that the regression on the gap in score gives equal scores: dpo's minus ra-dpo's",
               Figure("main", "dpo", "unlearning", "none", "margin_at_equal_scores"),
               Figure("main", "ra-dpo", "unlearning", "best", "margin_at_equal_scores"), NATS, "nats"),
)  # fmt: skip
