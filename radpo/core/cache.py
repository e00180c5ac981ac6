"""The cache folder, for what takes long or costs money to make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Of converted models, judges' replies and copies of shared stores: `RADPO_CACHE`, else `radpo` in the user's."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("RADPO_CACHE") or Path(base) / "radpo").expanduser()
