"""The cache folder, for what takes long or costs money to make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Of converted models, judges' replies, published data and copies of shared stores.

    `RADPO_CACHE`; else `radpo` in `HF_HOME`, which clusters set to where there is room; else `radpo` in the user's.
    """
    if given := os.environ.get("RADPO_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "radpo"
