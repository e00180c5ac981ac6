"""Packages that only some work needs, and which an extra of radpo, or the user, installs."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
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


def package_version(package: str) -> str:
    """A distribution's version, read once: to parse torch's metadata takes 10 ms, and a matrix asks hundreds of times.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return _version(package, search_path())


def installed_version(package: str) -> str | None:
    """A distribution's version; None where it is not installed."""
    try:
        return package_version(package)
    except PackageNotFoundError:
        return None


def search_path() -> tuple[tuple[str, int], ...]:
    """Where packages are looked for, and when each place last changed: another one where something was installed."""
    return tuple((folder, _modified(folder)) for folder in sys.path)


def _modified(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns  # noqa: PTH116 - many times a second, and without a Path
    except OSError:
        return 0


@cache
def _version(package: str, path: tuple[tuple[str, int], ...]) -> str:
    return version(package)
