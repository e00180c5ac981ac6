"""How an endpoint wants to be asked: its name for the limit of tokens, and which sampling options it takes.

Newer APIs refuse `max_tokens` (they take `max_completion_tokens`) and any temperature but their own. Settings choose;
left to themselves they are found from the endpoint's own error, which costs nothing, and kept for later requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TokenLimit = Literal["auto", "max_tokens", "max_completion_tokens"]
SamplingOptions = Literal["auto", "send", "omit"]
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
"""The options of a request that an endpoint may have values of its own for."""
_OLD, _NEW = "max_tokens", "max_completion_tokens"
_REFUSES = re.compile(
    r"unsupported|not support|only the default|may only be|must be 1\b|not allowed|not permitted|unrecognized|unknown"
    r"|deprecated",
    re.IGNORECASE,
)


@dataclass
class Dialect:
    """What is known of one endpoint; every request of a client shares it."""

    token_limit: TokenLimit = "auto"
    sampling_options: SamplingOptions = "auto"
    _renames: bool = False
    _omits: set[str] = field(default_factory=set)

    def options(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """A request's options as the endpoint takes them."""
        renames = self._renames or self.token_limit == _NEW
        return {
            _NEW if renames and name == _OLD else name: value
            for name, value in wanted.items()
            if name not in self._omits
        }

    def omitted(self, wanted: Mapping[str, Any]) -> tuple[str, ...]:
        """The options of a request that the endpoint was found to take no values of."""
        return tuple(name for name in wanted if name in self._omits)

    def learn(self, refusal: bytes, sent: Mapping[str, Any]) -> bool:
        """Take up what a refusal says; True where the request is worth sending again, in another form.

        Args:
            refusal: the body of an answer with status 400 or 422.
            sent: the options that were refused.
        """
        message, parameter = _error(refusal)
        if not _REFUSES.search(message) and parameter is None:
            return False
        if self.token_limit == "auto" and _OLD in sent and _NEW in message and _REFUSES.search(message):
            self._renames = True
            return True
        if self.sampling_options == "auto" and _REFUSES.search(message):
            named = [name for name in SAMPLING if name in sent and re.search(rf"\b{name}\b", message)]
            refused = parameter if parameter in sent and parameter in SAMPLING else next(iter(named), None)
            if refused is not None:
                self._omits.add(refused)
                return True
        return False


def _error(body: bytes) -> tuple[str, str | None]:
    """What a refusal says, and the parameter that it is about where it names one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    error = document.get("error", document) if isinstance(document, dict) else None
    fields = error if isinstance(error, dict) else {}
    parameter = fields.get("param")
    message = fields.get("message")
    text = message if isinstance(message, str) else body[:4096].decode("utf-8", "replace")
    code = fields.get("code")
    return f"{text} {code if isinstance(code, str) else ''}", parameter if isinstance(parameter, str) else None
