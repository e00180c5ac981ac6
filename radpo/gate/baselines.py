"""Kept baselines: run directories under names."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from radpo.core.errors import ConfigError, DataError
from radpo.core.files import move_into_place
from radpo.core.suggestions import did_you_mean
from radpo.gate.runs import read_run

FOLDER = Path("reports") / "baselines"
"""Where baselines are kept, from the folder that the command is run in."""
FILES = ("manifest.json", "matrix.yaml", "results.parquet", "examples.parquet")
"""What of a run directory a comparison reads."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def find_baseline(baseline: Path, folder: Path = FOLDER) -> Path:
    """A run directory, or the baseline kept under that name.

    Raises:
        ConfigError: it is neither.
    """
    if (baseline / "manifest.json").is_file():
        return baseline
    kept = folder / baseline
    if _NAME.fullmatch(str(baseline)) and (kept / "manifest.json").is_file():
        return kept
    if baseline.is_dir():
        return baseline  # which says what it lacks
    names = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
    known = f"kept under {folder} are {', '.join(names)}" if names else f"none is kept under {folder}"
    raise ConfigError(
        f"{baseline}: neither a run directory nor a kept baseline; {known}{did_you_mean(baseline, names)}; keep one "
        "with `radpo regress RUN_DIR --save NAME`"
    )


def save_baseline(run_dir: Path, name: str, folder: Path = FOLDER) -> Path:
    """Keep a run directory's figures and examples as a baseline; one of that name gives way, in one step.

    Raises:
        ConfigError: the name is no plain file name.
        DataError: the run directory lacks a file or a file is malformed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--save {name!r}: must be letters, digits, dots, dashes and underscores")
    read_run(run_dir)
    if missing := [file for file in FILES if not (run_dir / file).is_file()]:
        raise DataError(f"{run_dir}: lacks {', '.join(missing)}; give a run directory as `radpo run` makes")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as room:
        fresh, old = Path(room) / "fresh", Path(room) / "old"
        fresh.mkdir()
        for file in FILES:
            shutil.copyfile(run_dir / file, fresh / file)
        if target.exists():
            target.rename(old)
        move_into_place(fresh, target)
    return target
