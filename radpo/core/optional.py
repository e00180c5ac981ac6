"""Packages that only some work needs, and which an extra of radpo, or the user, installs."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from radpo.core.errors import ConfigError


def need_package(package: str, what: str, install: str) -> None:
    """Raise unless a package is there.

    Args:
        what: what needs it, as a matrix file or an option names it.
        install: what to give to `pip install`.

    Raises:
        ConfigError: it is not installed; the message says how to install it.
    """
    if not is_installed(package):
        raise ConfigError(f"{what}: needs the package {package}; install it with `pip install {install}`")


def is_installed(package: str) -> bool:
    """Whether a top-level package could be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def installed_version(package: str) -> str | None:
    """A distribution's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
