"""The kinds of sources that stages read: files and folders, models, the code of installed packages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from radpo.core.errors import ServiceError
from radpo.core.files import can_be_there, is_there
from radpo.core.plugins import plugin_code, plugin_entries, plugin_places
from radpo.engine.sources import ABSENT, FILE, Reader, Source, content_hash, identified
from radpo.models.loading import model_fingerprint, model_places, pinned_model
from radpo.preferences.hub import parse_hub, pinned

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
    """A file or folder, or a data set of the Hub at the commit that it is at now.

    Where a matrix is planned it may be yet to come.

    Raises:
        DataError, ServiceError: as `radpo.preferences.hub.pinned`.
    """
    if (hub := parse_hub(path)) is not None:
        try:
            return identified(str(path), HUB, str(pinned(hub)))
        except ServiceError:
            if planning:
                return Source(str(path), ABSENT + str(hub))
            raise
    if planning and can_be_there(path) and not is_there(path):
        return Source(str(path), ABSENT + path.name)
    return identified(str(path))


def _code_of(location: str) -> str:
    group, _, name = location.partition(":")
    return plugin_code(plugin_entries(group)[name]) or ""


def _places_of(location: str) -> list[Path]:
    group, _, name = location.partition(":")
    return plugin_places(plugin_entries(group)[name])


def _hub_identity(location: str) -> str:
    """Of a data set its commit and what is read of it; of a folder in its place the content of that."""
    hub = parse_hub(location)
    assert hub is not None
    return f"{replace(hub, name=content_hash(Path(hub.name)))}" if hub.is_folder else str(hub)


def _hub_places(location: str) -> Iterable[Path]:
    hub = parse_hub(location)
    assert hub is not None
    return FILE.places(hub.name) if hub.is_folder else []


HUB = Reader(_hub_identity, _hub_places)
CODE = Reader(_code_of, _places_of, imported=True)
