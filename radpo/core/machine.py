"""What computes here: CPU, cores, memory and GPUs."""

from __future__ import annotations

import math
import os
import platform
import re
from contextlib import suppress
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
    """The CPU cores that this process may use: those it may run on, or the time on them that a container is given."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota())))


def cpu_quota(groups: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> float:
    """How many cores' time this process's control groups have, infinity where nothing limits them.

    Args:
        groups: where the groups are mounted, of either version.
        mine: the file that says which of them this process is in.
    """
    try:
        lines = mine.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = groups / ("cpu" if controllers else "")
        inside = mount / path.lstrip("/")
        for folder in (inside, *inside.parents):  # a group has no more than those that it is in
            for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
                with suppress(OSError, ValueError):
                    given, period = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
                    if float(given) > 0:
                        quota = min(quota, float(given) / float(period))
            if folder == mount:
                break
    return quota


@cache
def gpus() -> list[str]:
    """The names of the NVIDIA GPUs that this process may use, by their drivers' own account; torch is not loaded."""
    names = _installed_gpus()
    return names if os.environ.get("CUDA_VISIBLE_DEVICES") is None else names[: len(visible_gpus())]


def visible_gpus() -> tuple[str, ...]:
    """CUDA's names for the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` takes them.

    As CUDA reads that variable, what follows a number that there is no GPU for does not count.
    """
    there = len(_installed_gpus())
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not there:
        return tuple(map(str, range(there)))
    found: list[str] = []
    for name in (part.strip() for part in allowed.split(",")):
        number = re.fullmatch(r"-?\d+", name)
        if not name or (number and not 0 <= int(name) < there):
            break
        found.append(name)
    return tuple(found)


@cache
def _installed_gpus() -> list[str]:
    names = []
    for folder in sorted(Path("/proc/driver/nvidia/gpus").glob("*")):
        found = re.search(r"Model:\s+(.+)", (folder / "information").read_text(encoding="utf-8"))
        names.append(found[1].strip() if found else "NVIDIA GPU")
    return names


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
