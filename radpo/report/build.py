"""The report: a run directory comes in, one self-contained HTML file goes out that needs no network.

Whatever a model or a data set wrote is escaped by the template, or reaches the page as JSON that is shown as text. The
page's own scripts are allowed by their hashes; no others are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.report import figures, summary
from radpo.report.analysis_sections import analysis_sections
from radpo.report.embed import script_hash, script_json
from radpo.report.examples import example_groups
from radpo.report.load import Run, load_run
from radpo.report.sections import sections

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, in one step: an earlier report stands until the new one is whole.

    Args:
        run_dir: results.parquet, examples.parquet and manifest.json; likelihoods.parquet, training.parquet and
            matrix.yaml where there are any.

    Returns:
        The report's path.

    Raises:
        DataError: a file that the report needs is missing or malformed.
    """
    html = render(load_run(run_dir))
    out, partial = run_dir / "report.html", run_dir / ".report.html.partial"
    partial.write_text(html, encoding="utf-8", errors="replace")
    partial.replace(out)
    return out


def render(run: Run) -> str:
    """The report's HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    plotly, script = get_plotlyjs(), (TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    looks = figures.looks(run.variants, run.baseline)
    html: str = environment.get_template("report.html.j2").render(
        run=run,
        manifest=run.manifest,
        looks=looks,
        headline=summary.headline(run),
        findings=summary.findings(run),
        caveats=summary.caveats(run),
        summary=summary.summarise(run),
        sections=[*sections(run, looks), *analysis_sections(run, looks)],
        settings=_settings(run.manifest["variants"]),
        longest=max((float(stage["seconds"]) for stage in run.manifest["stages"]), default=0.0) or 1.0,
        all_results=_all_results(run.results),
        page_data=Markup(script_json({"baseline": run.baseline, "groups": example_groups(run.examples, run.variants)})),
        manifest_text=json.dumps(run.manifest, indent=1, ensure_ascii=False),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        plotly=Markup(plotly),
        script=Markup(script),
        policy="default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"img-src data: blob:; script-src {script_hash(plotly)} {script_hash(script)}",
    )
    return html


def _settings(variants: dict[str, Any]) -> list[tuple[str, list[str], bool]]:
    """The variants' settings by dotted name: (name, one value a variant, whether they differ)."""
    flat = [dict(_flat(settings)) for settings in variants.values()]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [(name, [settings.get(name, "–") for settings in flat]) for name in names]
    return [(name, values, len(set(values)) > 1) for name, values in rows]


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None or prefix:
        yield prefix or "value", value if isinstance(value, str) else json.dumps(value)


def _all_results(results: pd.DataFrame) -> list[tuple[int, dict[str, Any]]]:
    """The rows of results.parquet with their places, missing values as None."""
    rows = results.astype(object).where(results.notna(), None)
    return [
        (place, {str(key): value for key, value in row.items()}) for place, row in enumerate(rows.to_dict("records"))
    ]
