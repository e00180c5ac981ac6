"""Whether a run directory is as it was written: its manifest has the checksum of every file, and its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from radpo.core.files import replace_json, sha256

MANIFEST = "manifest.json"
REPORT = "report.html"
CHECKSUMS = ("files", "checksum")
"""The keys of a manifest that say what the directory's files, and all of its other keys, were when it was whole."""


def write_manifest(run_dir: Path, document: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the manifest of a run directory whose files, of these names, are all in place."""
    whole = {**document, "files": {name: sha256(run_dir / name) for name in names}}
    replace_json(run_dir / MANIFEST, {**whole, "checksum": _checksum(whole)})


def whole_manifest(run_dir: Path) -> dict[str, Any] | None:
    """A run directory's manifest where it and all the files that it names are as they were written; else None."""
    try:
        found: dict[str, Any] = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
        whole = found["checksum"] == _checksum(found) and REPORT in found["files"]
        whole = whole and all(sha256(run_dir / name) == checksum for name, checksum in found["files"].items())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return found if whole else None


def note_report(run_dir: Path) -> None:
    """Record the checksum of a report that was built anew, where the manifest is as it was written."""
    try:
        found: dict[str, Any] = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
        unaltered = REPORT in found["files"] and found["checksum"] == _checksum(found)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return
    if unaltered:
        whole = {**found, "files": {**found["files"], REPORT: sha256(run_dir / REPORT)}}
        replace_json(run_dir / MANIFEST, {**whole, "checksum": _checksum(whole)})


def _checksum(manifest: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in manifest.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
