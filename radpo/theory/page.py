"""The theory check's page: the figures of `radpo.theory.rates` with their captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from radpo.figures.styles import variant_styles
from radpo.report.page import Shown
from radpo.stats.estimates import Estimate, mean
from radpo.theory.figures import convergence, over_betas

if TYPE_CHECKING:
    import pandas as pd

AXES = {"suboptimality": "J(π*) − J(π̂)", "score_error": "|expected score − the best policy's|"}
NEAR_BEST = (
    "Change of log p, from reference to converged policy, of the response that scores 9 where another scores 10; means "
    "over bandits. Grey circles: dpo; orange diamonds: ra-dpo asked for 10; blue squares: ra-dpo asked for 9, the "
    "response's own score."
)
LABELS = {
    "bradley-terry": (
        "A near-best response that was rejected, labels drawn by Bradley-Terry",
        "The smaller beta, the further DPO pushes it down. Asked for 10 the conditioned policy does much the same, for "
        "there it is second best; asked for its own score it keeps it.",
    ),
    "scores": (
        "The same where the better score always wins",
        "A table cannot generalise from one goal to another: asked for 10, every response with another score "
        "falls alike. Asked for its own score the conditioned policy still keeps it.",
    ),
}
HEADINGS = {"suboptimality": "Suboptimality", "score_error": "Error of the expected score"}


def theory_page(
    rates: pd.DataFrame, unlearned: pd.DataFrame, exponents: Mapping[tuple[str, str], Estimate]
) -> list[Shown]:
    """Convergence of both methods beside N^-1/2, and what they did to near-best rejected responses.

    Args:
        exponents: by method and quantity, as `radpo.theory.rates.exponent` gives.
    """
    shown = []
    replicates = rates["replicate"].nunique()
    styles = variant_styles(["dpo", "ra-dpo"], "dpo")
    for quantity, axis in AXES.items():
        fitted = "; ".join(
            f"{method} {estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
            for (method, of), estimate in exponents.items()
            if of == quantity and estimate.low is not None and estimate.high is not None
        )
        caption = (
            f"Means over {replicates} random bandits, whiskers 95% t intervals. Fitted exponents of N with 95% "
            f"bootstrap intervals over bandits: {fitted}. The theorem of arXiv 2410.08067 asks for at least 0.5: "
            "curves may fall faster than the dotted line, not slower. Grey circles: dpo; orange diamonds: ra-dpo."
        )
        points = _points(rates, quantity)
        shown.append(Shown(HEADINGS[quantity], convergence(points, styles, axis), caption))
    names = {
        ("dpo", "none"): "dpo",
        ("ra-dpo", "best"): "ra-dpo, asked for 10",
        ("ra-dpo", "own"): "ra-dpo, asked for 9",
    }
    changes = unlearned.groupby(["method", "goal", "labels", "beta"], as_index=False)["delta_logp"].mean()
    changes = changes.assign(variant=[names[key] for key in zip(changes["method"], changes["goal"], strict=True)])
    changes = changes.rename(columns={"delta_logp": "value"})
    styles = variant_styles(list(names.values()), "dpo")
    shown += [
        Shown(heading, over_betas(changes[changes["labels"] == labels], styles), f"{NEAR_BEST} {caption}")
        for labels, (heading, caption) in LABELS.items()
    ]
    return shown


def _points(rates: pd.DataFrame, quantity: str) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for (method, pairs), group in rates.groupby(["method", "pairs"]):
        estimate = mean(group[quantity].to_numpy())
        # A logarithmic scale shows no end at or below 0.
        low = estimate.low if estimate.low is not None and estimate.low > 0 else estimate.value
        rows.append({"variant": method, "pairs": pairs, "value": estimate.value, "low": low, "high": estimate.high})
    return pd.DataFrame(rows)
