"""What computes here: CPU, cores, memory and GPUs."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """What a manifest and a stage's record say of the machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "gpu": ", ".join(gpus()) or "none",
    }


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def gpus() -> list[str]:
    """The names of the NVIDIA GPUs that this process may use, by their drivers' own account; torch is not loaded."""
    names = []
    for folder in sorted(Path("/proc/driver/nvidia/gpus").glob("*")):
        found = re.search(r"Model:\s+(.+)", (folder / "information").read_text(encoding="utf-8"))
        names.append(found[1].strip() if found else "NVIDIA GPU")
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return names
    chosen = [part for part in allowed.split(",") if part.strip() and part.strip() != "-1"]
    return names[: len(chosen)]


@cache
def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


@cache
def _memory_gib() -> float | None:
    try:
        found = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        return None
    return round(int(found[1]) / 2**20, 1) if found else None
