"""The report of run directories, one self-contained HTML file that needs no network.

Whatever a model or a data set wrote is escaped by the template, or reaches the page packed and is shown as text. The
page's own scripts and styles are allowed by their hashes; no others are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from radpo.benchmarks.registry import benchmarks
from radpo.core.errors import DataError
from radpo.core.files import replace_file
from radpo.core.run import JUDGE, Run, load_run, load_runs
from radpo.core.run_files import CHECKSUMS, REPORT, note_report
from radpo.figures.sections import ReportSection
from radpo.figures.styles import Styles, variant_styles
from radpo.report import run_sections, summary
from radpo.report.benchmark_sections import benchmark_sections
from radpo.report.embed import figure, packed_json, page_template, plotly, policy, script, source_hash, style
from radpo.report.examples import ROOM, pack
from radpo.report.overview import lengths, overview
from radpo.report.training import training_section
from radpo.report.tuning import tuning_sections
from radpo.stats.comparison import compared, with_comparisons

LENGTHS_PLACE = 35
"""Where the section on answers' lengths stands among the benchmarks' places: after those that score answers."""


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, in one step: an earlier report stands until the new one is whole.

    Args:
        run_dir: results.parquet, examples.parquet and manifest.json; likelihoods.parquet, training.parquet,
            trajectory.parquet, published.csv and matrix.yaml where there are any.

    Returns:
        The report's path.

    Raises:
        DataError: a file that the report needs is missing or malformed.
    """
    report = _write(load_run(run_dir), run_dir / REPORT)
    note_report(run_dir)
    return report


def build_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write one report of several run directories side by side; see `build_report`."""
    return _write(load_runs(run_dirs), out)


def _write(run: Run, out: Path) -> Path:
    html = render(run)
    try:
        replace_file(out, lambda partial: partial.write_text(html, encoding="utf-8", errors="replace"))
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


LIMIT = 14_800_000
"""Bytes that a page may have; what does not fit of the examples' texts is left out."""
SLACK = 200_000
MOST_ROWS = 2_000
"""Rows of a table in the page: nobody reads more, and the run's own files have all of them."""
MOST_MANIFEST = 300_000
"""Characters of a manifest that the page shows with its stages."""


def render(run: Run) -> str:
    """The report's HTML."""
    from markupsafe import Markup

    styles = variant_styles(run.variants, run.baseline)
    run = with_comparisons(run)
    of_benchmarks = benchmark_sections(run, styles)
    differences = compared(run)
    views = summary.views(run, differences)
    found = _sections(run, styles, of_benchmarks.sections)
    code, sheet = script("page.js", "table.js", "text.js", "browser.js"), style()
    packed_plotly, plotly_hash, plotly_style = plotly()
    parts = {
        "run": run,
        "styles": styles,
        "view": views[run.baseline],
        "baselines": list(views),
        "views": packed_json({name: view.to_json() for name, view in views.items()}),
        "caveats": [
            *summary.caveats(run, [section.title for section in found if not section.panels]),
            *of_benchmarks.notes,
        ],
        "summary": summary.summarise(run, differences),
        "sections": [section for section in found if section.panels],
        "cost": run_sections.cost(run),
        "judge_columns": JUDGE,
        "published": run_sections.published(run),
        "settings": [run_sections.settings(source.manifest["variants"]) for source in run.sources],
        "manifests": [_manifest_text(source.manifest) for source in run.sources],
        "embedded": figure,
        "most_rows": MOST_ROWS,
        "all_results": list(_all_results(run)),
        "style": Markup(sheet),
        "script": Markup(code),
        "plotly": packed_plotly,
        "plotly_style": plotly_style,
        "policy": policy(plotly_hash, source_hash(code), styles=(source_hash(sheet),)),
    }
    template = page_template("report.html.j2")
    room, examples = ROOM, pack(run)
    while True:
        page = template.render(**parts, examples=examples)
        excess = len(page.encode("utf-8", "replace")) - LIMIT
        if excess <= 0 or room == 0:
            return page
        room = max(0, room - excess - SLACK)
        examples = pack(run, room)


def _sections(run: Run, styles: Styles, own: Mapping[str, Sequence[ReportSection]]) -> list[ReportSection]:
    """All sections in the order in which they are read.

    Args:
        own: benchmarks' own sections, by benchmark.
    """
    installed = benchmarks()
    titles = {name: benchmark.title for name, benchmark in installed.items()}
    answering = [name for name in run.benchmarks if name not in installed or installed[name].answers]
    before = [section for name in own if installed[name].place < LENGTHS_PLACE for section in own[name]]
    after = [section for name in own if installed[name].place >= LENGTHS_PLACE for section in own[name]]
    return [
        overview(run, styles, titles),
        *before,
        lengths(run, styles, answering),
        *after,
        *tuning_sections(run, styles),
        training_section(run, styles),
    ]


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest but for its checksums, of which the report's own cannot be in the report."""
    shown = {key: value for key, value in manifest.items() if key not in CHECKSUMS}
    text = json.dumps(shown, indent=1, ensure_ascii=False)
    if len(text) <= MOST_MANIFEST:
        return text
    whole = f"{len(manifest['stages']):,} of them: see manifest.json"
    return json.dumps({**shown, "stages": whole}, indent=1, ensure_ascii=False)


def _all_results(run: Run) -> Iterator[dict[str, Any]]:
    """The rows of results.parquet, missing values as None."""
    rows = run.results.astype(object).where(run.results.notna(), None)
    for row in rows.to_dict("records"):
        yield {str(key): value for key, value in row.items()}
