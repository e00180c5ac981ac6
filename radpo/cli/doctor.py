"""`radpo doctor`: what this machine has for radpo."""

from __future__ import annotations

import platform
import re
from importlib.metadata import requires
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ConfigError, ModelError
from radpo.core.optional import installed_version

if TYPE_CHECKING:
    from radpo.models.speeds import Speeds

GROUPS = ("radpo.variants", "radpo.benchmarks", "radpo.judges", "radpo.executors")
OPTIONAL = ("vllm", "ray")
"""Packages of extras that change what can be run."""


def examine() -> dict[str, Any]:
    """Versions, CPU, arithmetic, GPU and the bundled model; each finding in words a bug report can quote."""
    import torch

    from radpo.core.cache import cache_folder
    from radpo.core.machine import cores
    from radpo.models.loading import BUNDLED, model_fingerprint
    from radpo.models.precision import arithmetic, bf16_supported
    from radpo.models.speeds import speeds

    models: dict[str, str] = {}
    for name, bundled in BUNDLED.items():
        try:
            model_fingerprint(name)
            models[name] = "installed"
        except ModelError:
            models[name] = f"not installed: {bundled.install}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "python": platform.python_version(),
        **{
            package: installed_version(package) or "not installed" for package in ("radpo", *_requirements(), *OPTIONAL)
        },
        "cores": cores(),
        "gpu": gpu,
        "bfloat16": "yes" if bf16_supported() else "no",
        "precision auto": str(arithmetic()),
        **_speeds(speeds(anew=True), "GPU" if torch.cuda.is_available() else "a core"),
        "model cache": str(cache_folder()),
        **models,
        "plug-ins": plugins() or "none",
    }


def _speeds(found: Speeds, of: str) -> dict[str, str]:
    """What was measured now, which plans go by from here on."""
    return {
        **{
            f"matrix products, {name}": f"{getattr(found, name) / 1e9:,.0f} GFLOP/s {of}"
            for name in ("float32", "bfloat16")
        },
        "memory": f"{found.bandwidth / 1e9:,.1f} GB/s {of}",
    }


def _requirements() -> list[str]:
    """The packages that radpo cannot do without, as its own metadata name them."""
    needed = [line for line in requires("radpo") or [] if "extra ==" not in line]
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in needed]


def plugins() -> dict[str, str]:
    """What installed packages add, by group and name: the package, or why it cannot be used."""
    from radpo.core.plugins import is_own, load_plugin, package_of, plugin_entries

    found = {}
    for group in GROUPS:
        for name, entry in plugin_entries(group).items():
            if is_own(entry):
                continue
            try:
                load_plugin(group, entry, object)
                found[f"{group} {name}"] = package_of(entry)
            except ConfigError as error:
                found[f"{group} {name}"] = f"broken: {error}"
    return found
