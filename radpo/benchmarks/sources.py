"""The kinds of sources that stages read: files and folders, models, the code of installed packages."""

from __future__ import annotations

from pathlib import Path

from radpo.core.plugins import plugin_code, plugin_entries, plugin_places
from radpo.engine.sources import ABSENT, Reader, Source, identified
from radpo.models.loading import model_fingerprint, model_places, pinned_model

MODEL = Reader(model_fingerprint, model_places)


def model_source(name: str) -> Source:
    """A model by its name; what the Hub has under a name that may move is read from the commit that it is at now.

    Raises:
        ModelError: it is unavailable, or not whole.
    """
    return identified(name, MODEL, pinned_model(name))


def plugin_source(group: str, name: str) -> Source | None:
    """The code of a plug-in that another package brings; None for radpo's own, whose versions are raised by hand."""
    if plugin_code(plugin_entries(group)[name]) is None:
        return None
    return identified(f"{group}:{name}", CODE)


def file_source(path: Path, *, planning: bool = False) -> Source:
    """A file or folder; where a matrix is planned it may be yet to come."""
    if planning and not path.exists():
        return Source(str(path), ABSENT + path.name)
    return identified(str(path))


def _code_of(location: str) -> str:
    group, _, name = location.partition(":")
    return plugin_code(plugin_entries(group)[name]) or ""


def _places_of(location: str) -> list[Path]:
    group, _, name = location.partition(":")
    return plugin_places(plugin_entries(group)[name])


CODE = Reader(_code_of, _places_of, imported=True)
