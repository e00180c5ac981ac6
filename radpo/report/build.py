"""The report: a run directory comes in, one self-contained HTML file goes out that needs no network.

Everything that a model or a data set wrote is escaped by the template or reaches the page as JSON that the page shows
as text. The page's own scripts are allowed by their hashes and no others are.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

TEMPLATES = Path(__file__).parent / "templates"
SMALL_SAMPLE = 200
"""Fewer examples than this, and the report calls the run a toy."""


@dataclass(frozen=True)
class Run:
    """A run directory's tables and manifest."""

    manifest: dict[str, Any]
    results: pd.DataFrame
    examples: pd.DataFrame
    likelihoods: pd.DataFrame | None
    training: pd.DataFrame | None

    @property
    def baseline(self) -> str:
        """The variant that the others are compared with."""
        return str(self.manifest["baseline"])

    @property
    def variants(self) -> list[str]:
        """The variants in the matrix's order."""
        return list(self.manifest["variants"])


@dataclass(frozen=True)
class Section:
    """A figure with the words below it, or the reason why there is none."""

    anchor: str
    title: str
    caption: str
    figure: str | None
    missing: str


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory.

    Raises:
        DataError: a file that the report needs is missing or cannot be read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    run = _load(run_dir)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    plotly = get_plotlyjs()
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("report.html.j2").render(
        run=run,
        manifest=run.manifest,
        headlines=headlines(run),
        caveats=_caveats(run),
        summary=summary(run),
        sections=_sections(run),
        examples=Markup(script_json(_examples(run))),
        manifest_text=json.dumps(run.manifest, indent=1, ensure_ascii=False),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        plotly=Markup(plotly),
        script=Markup(script),
        policy="default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"script-src {_hash(plotly)} {_hash(script)}",
    )
    out, partial = run_dir / "report.html", run_dir / ".report.html.partial"
    partial.write_text(html, encoding="utf-8", errors="replace")
    partial.replace(out)
    return out


def headlines(run: Run) -> list[str]:
    """What the primary figures say in words, and no more than their intervals allow."""
    said = []
    rows = run.results[run.results["primary"].fillna(False)]
    for row in rows[rows["metric"] == "win_rate"].to_dict("records"):
        half = 1.96 * row["stderr"]
        apart = (
            "not distinguishable from a draw"
            if abs(row["value"] - 50) <= half
            else ("ahead" if row["value"] > 50 else "behind")
        )
        said.append(
            f"{row['variant']} (seed {row['seed']}) wins {row['value']:.1f}% ± {half:.1f} against {run.baseline} "
            f"on {row['n']} instructions: {apart}."
        )
    lost = rows[(rows["metric"] == "delta_logp_rejected_high") & (rows["variant"] != run.baseline)]
    for row in lost.to_dict("records"):
        if row["stderr"] != row["stderr"] or row["stderr"] is None:
            continue
        half = 1.96 * row["stderr"]
        sure = "" if abs(row["value"]) > half else ", which could be no change"
        said.append(
            f"{row['variant']} (seed {row['seed']}) changes log p of high-scored rejected responses by "
            f"{row['value']:+.2f} ± {half:.2f} nats (n = {row['n']}){sure}."
        )
    return said


def summary(run: Run) -> dict[str, Any]:
    """The summary table: a column for each primary metric, a row for each variant, cells with their interval."""
    primary = run.results[run.results["primary"].fillna(False)]
    found = primary[["benchmark", "subset", "metric"]].drop_duplicates().to_dict("records")
    names: list[dict[str, Any]] = [{str(key): value for key, value in row.items()} for row in found]
    columns = [
        {
            **name,
            "up": bool(_of(primary, **name)["higher_is_better"].iloc[0]),
            "title": _title(name),
        }
        for name in names
    ]
    rows: list[dict[str, Any]] = []
    for variant in run.variants:
        cells = [_cell(run, variant, name) for name in names]
        rows.append({"variant": variant, "cells": cells, "baseline": variant == run.baseline})
    for place, column in enumerate(columns):
        _mark_best([row["cells"][place] for row in rows], bool(column["up"]))
    return {"columns": columns, "rows": rows}


def script_json(document: Any) -> str:
    """JSON that can stand inside a script element: no `<`, `>` or `&`, so nothing in it can end the element."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _load(run_dir: Path) -> Run:
    import pandas as pd

    def table(name: str) -> pd.DataFrame:
        try:
            return pd.read_parquet(run_dir / name)
        except (OSError, ValueError) as error:
            raise DataError(f"{run_dir / name}: cannot be read ({error}); run the matrix again") from error

    try:
        manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{run_dir}: has no readable manifest.json, so it is no finished run directory") from error
    optional = {
        name: table(f"{name}.parquet") if (run_dir / f"{name}.parquet").exists() else None
        for name in ("likelihoods", "training")
    }
    return Run(manifest, table("results.parquet"), table("examples.parquet"), **optional)


def _of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def _title(name: dict[str, Any]) -> str:
    parts = [str(name["benchmark"]), str(name["metric"]).replace("_", " ")]
    if name["subset"] != "all":
        parts.insert(1, str(name["subset"]))
    return " · ".join(parts)


def _cell(run: Run, variant: str, name: dict[str, Any]) -> dict[str, Any]:
    """One cell: the value with a 95% interval, from the metric's standard error or, with several seeds, t over them."""
    from radpo.analysis.statistics import mean

    rows = _of(run.results, variant=variant, **name)
    if rows.empty:
        return {"value": None, "text": "–", "half": None, "n": None, "seeds": 0, "best": False, "delta": ""}
    value, half = float(rows["value"].mean()), None
    if len(rows) > 1:
        spread = mean(rows["value"].to_numpy())
        half = None if spread.high is None else spread.high - spread.value
    elif rows["stderr"].notna().all():
        half = 1.96 * float(rows["stderr"].iloc[0])
    digits = 1 if abs(value) >= 20 else 3 if abs(value) < 1 else 2
    text = f"{value:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")
    return {
        "value": value,
        "half": half,
        "text": text,
        "n": int(rows["n"].iloc[0]),
        "seeds": len(rows),
        "best": False,
        "delta": _delta(run, variant, name, digits),
    }


def _delta(run: Run, variant: str, name: dict[str, Any], digits: int) -> str:
    """The paired difference from the baseline with its 95% bootstrap interval, where both have the same examples."""
    import numpy as np

    from radpo.analysis.statistics import paired_bootstrap

    if variant == run.baseline:
        return ""
    chosen = _of(run.examples, benchmark=name["benchmark"], metric=name["metric"])
    if name["subset"] != "all":
        chosen = _of(chosen, subset=name["subset"])
    keys = ["seed", "subset", "example_id"]
    both = _of(chosen, variant=variant).merge(_of(chosen, variant=run.baseline), on=keys, suffixes=("", "_baseline"))
    differences = (both["value"] - both["value_baseline"]).to_numpy(dtype=float)
    if len(both) < 2 or not np.isfinite(differences).all():
        return ""
    estimate = paired_bootstrap(differences, clusters=both["example_id"].to_numpy(), rng=np.random.default_rng(0))
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.value:+.{digits}f} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def _mark_best(cells: list[dict[str, Any]], up: bool) -> None:
    """Mark a cell only where its interval keeps clear of every other's: a lead within the error is no lead."""
    known = [cell for cell in cells if cell["value"] is not None and cell["half"] is not None]
    if len(known) < 2:
        return
    sign = 1 if up else -1
    ranked = sorted(known, key=lambda cell: -sign * float(cell["value"]))
    first = ranked[0]
    reach = max(sign * cell["value"] + cell["half"] for cell in ranked[1:])
    first["best"] = bool(sign * first["value"] - first["half"] > reach)


def _caveats(run: Run) -> list[str]:
    found = list(run.manifest.get("notes", []))
    smallest = run.results.loc[run.results["primary"].fillna(False), "n"].min()
    if smallest == smallest and smallest < SMALL_SAMPLE:
        found.insert(0, f"A toy result: the smallest primary figure rests on {int(smallest)} examples.")
    return found


def _sections(run: Run) -> list[Section]:
    from radpo.report import figures

    colour = figures.colours(run.variants, run.baseline)
    present = set(run.results["benchmark"])
    judged = _of(run.results, benchmark="alpaca-eval", metric="win_rate", subset="all")
    graded = _of(run.results, benchmark="mt-bench", metric="score", subset="all")
    missing = "The matrix did not ask for it, so there is nothing to show."
    tasks = _of(run.results, benchmark="academic", primary=True)
    return [
        Section(
            "win-rate",
            "Win rate",
            f"Share of instructions on which the judge prefers the variant's answer to {run.baseline}'s, ties counting "
            f"half (n = {_sizes(judged)} instructions). Whiskers: 95% normal interval of the mean. Left of 50% the "
            "baseline is better.",
            None if judged.empty else _figure(figures.win_rates(run.results, colour, run.baseline)),
            missing,
        ),
        Section(
            "unlearning",
            "Unlearning",
            "Change of log-likelihood from reference to policy on held-out pairs, by the response's score; below zero "
            "the response was unlearned. High-scored rejected responses (right, above) should not sink. "
            f"n = {_pairs(run)} pairs. Whiskers: 95% t interval of the mean, clustered by pair; a bin with one pair "
            "has none.",
            None if run.likelihoods is None else _figure(figures.unlearning(run.likelihoods, colour, _edges(run))),
            missing,
        ),
        Section(
            "mt-bench",
            "MT-Bench style, by category",
            f"Mean score (1-10) over both turns of each category's questions (n = {_sizes(graded)} judgments in all). "
            "A category holds few questions: differences between spokes are rough, and no interval is drawn.",
            _figure(figures.mt_bench(run.results, colour)) if "mt-bench" in present else None,
            missing,
        ),
        Section(
            "academic",
            "Academic retention",
            "Tasks that alignment should not hurt, scored by lm-eval with the chat template applied "
            f"(n = {_sizes(tasks)} documents a task). Whiskers: 95% normal interval.",
            _figure(figures.academic(run.results, colour)) if "academic" in present else None,
            missing,
        ),
        Section(
            "training",
            "Training",
            "TRL's own figures for every optimiser step, on the training pairs of that step: single batches, so they "
            "jump. Plain and reward-augmented pairs differ, and so do their losses.",
            None if run.training is None else _figure(figures.training(run.training, colour)),
            "Nothing was trained.",
        ),
    ]


def _edges(run: Run) -> list[float]:
    """Whole-score bins, two scores wide, over the scores that occur."""
    assert run.likelihoods is not None
    low, high = int(run.likelihoods["score"].min()), float(run.likelihoods["score"].max())
    edges = [float(low)]
    while edges[-1] < high:
        edges.append(edges[-1] + 2)
    return edges if len(edges) > 1 else [edges[0], edges[0] + 1]


def _sizes(rows: pd.DataFrame) -> str:
    sizes = sorted({int(n) for n in rows["n"]})
    return "0" if not sizes else str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _pairs(run: Run) -> int:
    return 0 if run.likelihoods is None else int(run.likelihoods["pair_id"].nunique())


def _figure(figure: Figure) -> str:
    return script_json(json.loads(figure.to_json()))


def _examples(run: Run) -> list[dict[str, Any]]:
    """Examples that have an answer, as short keyed rows; likelihoods have none and are in the tables."""
    shown = run.examples[run.examples["output"].notna()]
    rows = []
    for row in shown.to_dict("records"):
        try:
            detail = json.loads(row["detail"])
        except (TypeError, ValueError):
            detail = {"detail": str(row["detail"])}
        value = float(row["value"])
        rows.append(
            {
                "v": row["variant"],
                "d": int(row["seed"]),
                "b": row["benchmark"],
                "s": row["subset"],
                "i": row["example_id"],
                "p": row["prompt"],
                "o": row["output"],
                "a": None
                if row["baseline_output"] is None or row["baseline_output"] != row["baseline_output"]
                else row["baseline_output"],
                "m": row["metric"],
                "x": value if value == value and abs(value) != float("inf") else None,
                "t": json.loads(json.dumps(detail, default=str, allow_nan=True).replace("NaN", "null")),
            }
        )
    return rows


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
