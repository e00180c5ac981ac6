"""An endpoint's key kept out of what its server sends back: of messages, replies and the files that hold them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

_SHORTEST = 8
"""Shorter keys are placeholders, such as EMPTY for a local server, and ordinary words of answers."""
_SHOWN = 300
_READ = 2**16


@dataclass(frozen=True)
class Redactor:
    """Replaces a key wherever it stands, also as JSON or an address writes it. None replaces nothing."""

    key: str | None

    def __call__(self, text: str) -> str:
        """The text without the key."""
        for form in self._forms():
            text = text.replace(form, "***")
        return text

    def excerpt(self, content: bytes) -> str:
        """The beginning of what a server sent, for a message: redacted before it is cut, so that no part stays."""
        return self(content[:_READ].decode("utf-8", "replace"))[:_SHOWN]

    def document(self, document: Any) -> Any:
        """A JSON document without the key, in names and texts."""
        if not self._forms():
            return document
        if isinstance(document, str):
            return self(document)
        if isinstance(document, list):
            return [self.document(value) for value in document]
        if isinstance(document, dict):
            return {self(name): self.document(value) for name, value in document.items()}
        return document

    def _forms(self) -> list[str]:
        if self.key is None or len(self.key) < _SHORTEST:
            return []
        forms = {
            self.key,
            json.dumps(self.key)[1:-1],
            json.dumps(self.key)[1:-1].replace("/", "\\/"),
            quote(self.key, ""),
        }
        return sorted(forms, key=len, reverse=True)
