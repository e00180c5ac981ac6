"""A run's figures for other tools: CSV, LaTeX, Excel, and result files as lm-eval writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ConfigError
from radpo.core.files import replace_file, replace_json
from radpo.core.optional import need_package
from radpo.core.run import Run, load_run
from radpo.core.suggestions import did_you_mean
from radpo.core.tables import spreadsheet_safe
from radpo.stats.quantities import Name, label_of, measure, number, primary_names, unit_of

if TYPE_CHECKING:
    import pandas as pd

LONGEST_CELL = 32_767
"""Characters that a cell of Excel holds."""


def export_tables(run_dir: Path, kind: str, out: Path) -> list[Path]:
    """Write a run's tables into a folder.

    Args:
        run_dir: the run directory.
        kind: one of `FORMATS`.
        out: the folder; files of the same names there are replaced.

    Returns:
        The files written.

    Raises:
        ConfigError: there is no such kind, a package for it is missing, or the folder cannot be written.
        DataError: the run directory cannot be read.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind!r}: must be one of {', '.join(FORMATS)}{did_you_mean(kind, FORMATS)}")
    run = load_run(run_dir)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return list(FORMATS[kind](run, out))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}; give another folder") from error


def _tables(run: Run) -> Mapping[str, pd.DataFrame]:
    found = {"results": run.results.drop(columns=["run", "row"]), "comparisons": run.comparisons}
    return {name: frame for name, frame in {**found, "examples": run.examples}.items() if frame is not None}


def _csv(run: Run, out: Path) -> Iterator[Path]:
    for name, frame in _tables(run).items():
        safe = spreadsheet_safe(frame)
        replace_file(out / f"{name}.csv", lambda path, safe=safe: safe.to_csv(path, index=False))  # type: ignore[misc]
        yield out / f"{name}.csv"


def _xlsx(run: Run, out: Path) -> Iterator[Path]:
    need_package("openpyxl", "--format xlsx", "radpo[xlsx]")
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    for name, frame in _tables(run).items():
        sheet = book.create_sheet(name)

        def cell(value: Any, sheet: Any = sheet) -> Any:
            """Texts stay texts, whatever they begin with."""
            if not isinstance(value, str):
                return None if value != value else value
            found = WriteOnlyCell(sheet, value=ILLEGAL_CHARACTERS_RE.sub("", value)[:LONGEST_CELL])
            found.data_type = "s"
            return found

        sheet.append(list(map(cell, frame.columns)))
        for row in frame.astype(object).where(frame.notna(), None).itertuples(index=False):
            sheet.append(list(map(cell, row)))
    replace_file(out / "run.xlsx", book.save)
    yield out / "run.xlsx"


def _latex(run: Run, out: Path) -> Iterator[Path]:
    """The primary figures, a row each, the variants as columns: value and 95% interval."""
    lines = [
        f"% {_comment(run.title)}: 95% intervals in brackets; needs the package booktabs.",
        f"\\begin{{tabular}}{{l{'r' * len(run.variants)}}}",
        "\\toprule",
        f" & {' & '.join(map(_tex, run.variants))} \\\\",
        "\\midrule",
        *(f"{_title(run, name)} & {' & '.join(_value(run, one, name) for one in run.variants)} \\\\"
          for name in primary_names(run)),
        "\\bottomrule",
        "\\end{tabular}",
    ]  # fmt: skip
    replace_file(out / "results.tex", lambda path: path.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    yield out / "results.tex"


def _title(run: Run, name: Name) -> str:
    part = "" if name.subset == "all" else f", {name.subset}"
    return _tex(f"{name.benchmark}{part}: {label_of(run, name.benchmark, name.metric)}")


def _value(run: Run, variant: str, name: Name) -> str:
    found, unit = measure(run, variant, name), unit_of(run, name)
    if found is None:
        return "--"
    ends = "" if found.low == found.high else f" [{number(found.low, unit)}, {number(found.high, unit)}]"
    return f"{number(found.value, unit)}{ends}".replace("−", "$-$")


def _tex(text: str) -> str:
    """A text whose every character LaTeX prints."""
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: named.get(found[0], f"\\{found[0]}"), " ".join(text.split()))


def _comment(text: str) -> str:
    return " ".join(text.split())


def _lm_eval(run: Run, out: Path) -> Iterator[Path]:
    """A results file for each variant and seed, as lm-eval names and lays them out; tasks are the benchmarks' parts."""
    stamp = re.sub(r"[^0-9T-]", "-", str(run.manifest["created"])[:19])
    for (variant, seed), rows in run.results.groupby(["variant", "seed"], sort=False):
        results: dict[str, dict[str, Any]] = {}
        sizes: dict[str, dict[str, int]] = {}
        directions: dict[str, dict[str, bool]] = {}
        for row in rows[rows["value"].notna()].to_dict("records"):
            task = row["subset"] if row["benchmark"] == "academic" else "/".join((row["benchmark"], row["subset"]))
            task = task.removesuffix("/all")
            metric, _, chosen = str(row["metric"]).partition(",")
            figures = results.setdefault(task, {"alias": task})
            figures[f"{metric},{chosen or 'none'}"] = row["value"]
            figures[f"{metric}_stderr,{chosen or 'none'}"] = "N/A" if row["stderr"] != row["stderr"] else row["stderr"]
            sizes[task] = {"original": int(row["n"]), "effective": int(row["n"])}
            if row["higher_is_better"] in (True, False):
                directions.setdefault(task, {})[metric] = bool(row["higher_is_better"])
        document = {
            "results": results, "group_subtasks": {task: [] for task in results}, "higher_is_better": directions,
            "configs": {task: {"task": task} for task in results}, "versions": dict.fromkeys(results, "radpo"),
            "n-shot": dict.fromkeys(results, 0), "n-samples": sizes,
            "config": {"model": "radpo", "model_args": f"variant={variant},seed={seed}"},
            "git_hash": run.manifest["git_commit"], "model_name": f"{run.title}/{variant}/seed-{seed}",
        }  # fmt: skip
        folder = out / re.sub(r"[^\w.-]", "_", f"{variant}__seed-{seed}")
        folder.mkdir(exist_ok=True)
        replace_json(folder / f"results_{stamp}.json", json.loads(json.dumps(document, default=str)))
        yield folder / f"results_{stamp}.json"


FORMATS: Mapping[str, Callable[[Run, Path], Iterator[Path]]] = {
    "csv": _csv, "latex": _latex, "xlsx": _xlsx, "lm-eval": _lm_eval,
}  # fmt: skip
