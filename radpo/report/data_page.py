"""The page about a preference set, one self-contained HTML file that needs no network.

The ids that a data set gives its pairs are escaped by the template; the page's own scripts are allowed by their hashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import DataError
from radpo.core.files import replace_file
from radpo.figures.sections import script_json
from radpo.figures.styles import FONT, PALETTE
from radpo.preferences.profile import Histogram, Lengths, Profile, Share
from radpo.report.embed import page_template, plotly, policy, script, source_hash, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CHOSEN, REJECTED, NEUTRAL = PALETTE[1], PALETTE[0], "#8b939c"


def write_data_page(profile: Profile, out: Path) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    page = render(profile)
    try:
        replace_file(out, lambda partial: partial.write_text(page, encoding="utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error


def render(profile: Profile) -> str:
    """The page's HTML."""
    from markupsafe import Markup

    code, sheet = script("page.js"), style()
    packed_plotly, plotly_hash, plotly_style = plotly()
    html: str = page_template("data.html.j2").render(
        profile=profile,
        facts=facts(profile),
        left_out=profile.left_out(),
        figures={name: Markup(script_json(figure.to_plotly_json())) for name, figure in figures(profile).items()},
        lengths=[lengths for lengths in (profile.tokens, profile.characters) if lengths],
        style=Markup(sheet),
        plotly=packed_plotly,
        plotly_style=plotly_style,
        script=Markup(code),
        document=json.dumps(profile.to_json(), indent=1, ensure_ascii=False),
        policy=policy(plotly_hash, source_hash(code), styles=(source_hash(sheet),)),
    )
    return html


def facts(profile: Profile) -> list[tuple[str, str]]:
    """What a preference set's numbers say, a name and a value each; the command line prints the same."""
    low, high, best = profile.scale[0], profile.high_score, profile.scale[1]
    duplicates = profile.duplicates
    lines = [
        ("pairs", f"{profile.pairs:,}"),
        ("ties (equal scores)", shown(profile.ties, profile.pairs)),
        ("identical responses", shown(profile.identical, profile.pairs)),
        ("empty responses", f"{profile.empty_chosen:,} chosen, {profile.empty_rejected:,} rejected"),
        ("chosen scored below rejected", shown(profile.chosen_below_rejected, profile.pairs)),
        (f"rejected scored {high:g} or more", share_text(profile.rejected_high)),
        (f"chosen scored below {high:g}", share_text(profile.chosen_low)),
        (f"chosen with the best score, {best:g}", share_text(profile.best_chosen)),
        (f"rejected with the best score, {best:g}", share_text(profile.best_rejected)),
        (f"score gap (scale {low:g}-{best:g})", f"mean {profile.gaps.mean:.2f}, median {profile.gaps.median:.2f}"),
    ]
    for lengths in (profile.characters, profile.tokens):
        if lengths:
            lines += _length_facts(lengths)
    turns = ", ".join(f"{number}: {count:,}" for number, count in profile.turns.items())
    lines += [
        ("pairs by user turns in the prompt", turns),
        ("prompts with a system message", shown(profile.with_system, profile.pairs)),
        ("distinct prompts", f"{duplicates.distinct:,}"),
        ("pairs whose prompt others have too", shown(duplicates.pairs, profile.pairs)),
    ]
    lines += [(f"noted: {what}", f"{count:,}") for what, count in profile.noted.items()]
    if profile.leakage:
        leakage = profile.leakage
        text = f"{leakage.prompts:,} of {leakage.heldout_prompts:,} prompts, in {leakage.pairs:,} pairs"
        lines.append(("held-out prompts in the set", text))
    for overlap in profile.overlaps:
        text = f"{overlap.prompts_hit:,} of {overlap.prompts:,} prompts, by {overlap.pairs:,} pairs"
        lines.append((f"overlap with {overlap.name}", text))
    return lines


def shown(count: int, n: int) -> str:
    """A count with its share."""
    return f"{count:,} ({count / n:.1%})"


def share_text(share: Share) -> str:
    """A share with its interval."""
    interval = "" if share.low is None or share.high is None else f", 95% {share.low:.1%} to {share.high:.1%}"
    return f"{share.count:,} of {share.n:,} ({share.share:.1%}{interval})"


def _length_facts(lengths: Lengths) -> list[tuple[str, str]]:
    lines = [
        (f"{name} length in {lengths.unit}", f"median {spread.quantiles[50]:,.0f}, mean {spread.mean:,.0f}, "
         f"99% {spread.quantiles[99]:,.0f}, longest {spread.max:,}")
        for name, spread in (("prompt", lengths.prompt), ("chosen", lengths.chosen), ("rejected", lengths.rejected))
    ]  # fmt: skip
    rank = "not defined" if lengths.gap_correlation is None else f"{lengths.gap_correlation:+.2f}"
    lines.append((f"chosen is the longer, in {lengths.unit}", share_text(lengths.chosen_longer)))
    lines.append((f"rank correlation of score and length gaps, in {lengths.unit}", rank))
    return lines


def figures(profile: Profile) -> dict[str, Figure]:
    """The page's figures by name."""
    lengths = profile.tokens or profile.characters
    edges = tuple(map(float, lengths.edges))
    binned = {
        name: Histogram("bin", edges, spread.counts)
        for name, spread in (("prompt", lengths.prompt), ("chosen", lengths.chosen), ("rejected", lengths.rejected))
    }
    both = {"chosen": profile.chosen_scores, "rejected": profile.rejected_scores}
    return {
        "scores": _bars(both, "score"),
        "gaps": _bars({"gap": profile.gaps.histogram}, "score_chosen − score_rejected"),
        "lengths": _bars(binned, f"{lengths.unit}, six bins to a factor of ten", by_place=True),
    }


def _bars(histograms: Mapping[str, Histogram], axis: str, *, by_place: bool = False) -> Figure:
    """Counts beside each other by value or bin; `by_place` spaces bins evenly, however wide they are."""
    import plotly.graph_objects as go

    colours = {"chosen": CHOSEN, "rejected": REJECTED}
    figure = go.Figure()
    for name, histogram in histograms.items():
        labels = _labels(histogram)
        x: Sequence[Any] = labels if by_place or histogram.by == "bin" else list(histogram.points)
        figure.add_bar(
            x=list(x),
            y=list(histogram.counts),
            name=name,
            marker={"color": colours.get(name, NEUTRAL)},
            hovertemplate=f"{name} %{{x}}: %{{y:,}} pairs<extra></extra>",
        )
    figure.update_layout(
        template="none", height=300, margin={"l": 56, "r": 18, "t": 14, "b": 48}, barmode="group",
        font={"family": FONT, "size": 12.5}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        showlegend=len(histograms) > 1, legend={"orientation": "h", "y": 1.12}, dragmode=False,
    )  # fmt: skip
    figure.update_xaxes(title=axis, automargin=True, zeroline=False)
    figure.update_yaxes(title="pairs", automargin=True, zeroline=False)
    return figure


def _labels(histogram: Histogram) -> list[str]:
    if histogram.by == "value":
        return [f"{point:g}" for point in histogram.points]
    return [f"{low:g}–{high:g}" for low, high in zip(histogram.points, histogram.points[1:], strict=False)]
