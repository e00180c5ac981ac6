"""Stores by place: a folder, or an fsspec URL that several machines share."""

from __future__ import annotations

from pathlib import Path

from radpo.matrix.store import Store


def open_store(place: str) -> Store:
    """The store at a folder's path or an fsspec URL (`s3://bucket/store`)."""
    return Store(Path(place))
