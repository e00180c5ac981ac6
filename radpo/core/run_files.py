"""Whether a run directory is as it was written: its manifest has the checksum of every file, and its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from radpo.core.errors import DataError
from radpo.core.files import replace_json, sha256

MANIFEST = "manifest.json"
REPORT = "report.html"
CHECKSUMS = ("files", "checksum")
"""The keys of a manifest that say what the directory's files, and all of its other keys, were when it was whole."""

VERDICTS = "verdicts.parquet"
"""What every judge of a panel said: of a run, and in the folder of the stage that asked it."""
CHECKPOINTS = "checkpoints.json"
"""Where the checkpoints are that the run trained: here and now, so it is no part of what the directory shows."""


def write_checkpoints(run_dir: Path, store: str, trained: Iterable[tuple[str, int, str]], stages: Path) -> None:
    """Name the trained checkpoints of a run directory.

    Args:
        run_dir: the run directory.
        store: the store that has them, a folder or a URL.
        trained: variant, seed and the key of the stage that trained it.
        stages: the folder in which this machine has, or will have, the stages' folders.
    """
    named = [
        {"variant": variant, "seed": seed, "stage": key, "folder": str(stages.absolute() / key / "policy")}
        for variant, seed, key in trained
    ]
    replace_json(run_dir / CHECKPOINTS, {"store": store, "checkpoints": named})


def read_checkpoints(run_dir: Path) -> tuple[str, list[dict[str, Any]]]:
    """The store, and the trained checkpoints that it has.

    Raises:
        DataError: the run directory does not name them.
    """
    path = run_dir / CHECKPOINTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["store"]), [{**one, "seed": int(one["seed"])} for one in found["checkpoints"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}); run the matrix again, which writes it"
        ) from error


def write_manifest(run_dir: Path, document: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the manifest of a run directory whose files, of these names, are all in place."""
    _replace_manifest(run_dir, {**document, "files": {name: sha256(run_dir / name) for name in names}})


def whole_manifest(run_dir: Path) -> dict[str, Any] | None:
    """A run directory's manifest where it and all the files that it names are as they were written; else None."""
    found = _unaltered_manifest(run_dir)
    try:
        whole = found is not None and all(sha256(run_dir / name) == known for name, known in found["files"].items())
    except OSError:
        return None
    return found if whole else None


def note_report(run_dir: Path) -> None:
    """Record the checksum of a report that was built anew, where the manifest is as it was written."""
    found = _unaltered_manifest(run_dir)
    if found is not None:
        _replace_manifest(run_dir, {**found, "files": {**found["files"], REPORT: sha256(run_dir / REPORT)}})


def _unaltered_manifest(run_dir: Path) -> dict[str, Any] | None:
    """The manifest where it has its own checksum and names the report's; else None."""
    try:
        found: dict[str, Any] = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
        unaltered = found["checksum"] == _checksum(found) and isinstance(found["files"], dict)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return found if unaltered and REPORT in found["files"] else None


def _replace_manifest(run_dir: Path, document: Mapping[str, Any]) -> None:
    replace_json(run_dir / MANIFEST, {**document, "checksum": _checksum(document)})


def _checksum(manifest: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in manifest.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
