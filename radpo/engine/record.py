"""The record that a finished stage carries, as every reader may rely on it, whoever sent the stage."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Machine(BaseModel):
    model_config = ConfigDict(strict=True)

    threads: NonNegativeInt | None = None


class _Record(BaseModel):
    """What a stage was (its identity, which its key is the hash of) and what it took; more keys may follow."""

    model_config = ConfigDict(strict=True)

    name: str
    function: str
    version: int
    packages: dict[str, str]
    settings: dict[str, Any]
    inputs: dict[str, str]
    seconds: _Amount
    resumed: bool
    peak_mib: _Amount | None
    started: str
    machine: _Machine


def record_fault(record: Any) -> str | None:
    """What keeps a document from being a stage's record, in words; None where it is one."""
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'record'}: {first['msg']}"
    return None
