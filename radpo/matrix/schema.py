"""The JSON schema (draft 2020-12) of matrix files, for editors."""

from __future__ import annotations

from typing import Any

from radpo.matrix.settings import matrix_type
from radpo.training.settings import TrainingSettings


def matrix_schema() -> dict[str, Any]:
    """What a matrix file may hold as written: with `extends`, and with lists of values where variants are swept."""
    schema = matrix_type().model_json_schema(by_alias=True)
    training = TrainingSettings.model_json_schema()
    schema["$defs"] |= training.pop("$defs", {})
    swept = {key: _one_or_several(value) for key, value in training["properties"].items()}
    schema["$defs"]["TrainingSettings"] = {**training, "properties": swept}
    own = {key: {k: v for k, v in value.items() if k != "default"} for key, value in swept.items()}
    variant = schema["$defs"]["VariantSettings"]["properties"]
    described = {"description": variant["training"]["description"]}
    variant["training"] = {"type": "object", "properties": own, "additionalProperties": False, **described}
    variants = schema["properties"]["variants"]
    variants["additionalProperties"] = {"anyOf": [variants["additionalProperties"], {"type": "null"}]}
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "A matrix file to start from; mappings are merged key by key, and paths are relative to each "
        "file's own folder.",
    }
    whole = {"required": schema.pop("required"), "oneOf": [{"required": ["model"]}, {"required": ["models"]}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "radpo matrix",
        "if": {"not": {"required": ["extends"]}},
        "then": whole,
    }


def _one_or_several(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting's schema, where a list of values makes a variant of each."""
    described = {key: value for key, value in setting.items() if key in ("default", "description")}
    one = {key: value for key, value in setting.items() if key not in (*described, "title")}
    return {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}], **described}
