"""Endpoints whose server radpo starts: what of them is part of a key, and what a stage's executor is to start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from radpo.clients.endpoint import Endpoint
from radpo.core.files import is_there
from radpo.core.served import SERVERS
from radpo.engine.sources import Source

Settings = TypeVar("Settings", bound=BaseModel)


def settled(endpoint: Settings, model_source: Callable[[str], Source]) -> Settings:
    """An endpoint with its server's identity for a version, and its model's folder for weights; others as they are.

    The version stands for the program with its own version, the arguments that can change an answer, and the model's
    content; where the model lies, and at which port the server listens, is no part of it. A folder goes by its name.

    Args:
        model_source: a model by its name, known by its content.

    Raises:
        ModelError: the model is unavailable.
    """
    if not isinstance(endpoint, Endpoint) or not endpoint.is_served:
        return endpoint
    from radpo.models.loading import resolve_model

    counted, more = endpoint.counted(), dict[str, Any]()
    if endpoint.loads_model:
        source = model_source(endpoint.weights or endpoint.model)
        counted["model"] = source.identity
        weights = source.read_from if source.absent else str(resolve_model(source.read_from))
        more = {"weights": weights, "model": _name(endpoint.model)}
    document = json.dumps({**counted, "version": endpoint.version}, sort_keys=True)
    digest = hashlib.sha256(document.encode()).hexdigest()[:16]
    program = endpoint.serve or Path(endpoint.command[0]).name
    return endpoint.model_copy(update={**more, "version": f"{program} {digest}"})


def server_hint(*settings: BaseModel) -> dict[str, Any]:
    """What a stage's hints have for its executor to start the servers of settled endpoints; nothing of others."""
    servers = {one.server() for one in settings if isinstance(one, Endpoint) and one.is_served}
    return {SERVERS: [asdict(server) for server in sorted(servers, key=lambda server: server.id)]} if servers else {}


def _name(model: str) -> str:
    """What requests call a model: a folder or file by its name, a model of the Hub by its id."""
    return Path(model).name if is_there(Path(model)) or model.startswith((".", "/", "~")) else model
