"""Embedding in HTML: documents and scripts come in, text that is safe inside a script element and hashes go out."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any


def script_json(document: Any) -> str:
    """JSON that can stand inside a script element: ASCII without `<`, `>`, `&`, so nothing in it ends the element."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_hash(script: str) -> str:
    """A script's source expression in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
