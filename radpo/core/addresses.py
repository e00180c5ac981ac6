"""Addresses in messages and records, without what may be a secret."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def masked(place: str) -> str:
    """A place for messages: of an address, without user, password, query and fragment; a path as it is."""
    if "://" not in place:
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return f"{place.partition('://')[0]}://***"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
