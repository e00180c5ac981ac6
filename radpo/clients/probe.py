"""Whether an endpoint answers: one tiny request, asked before the work that would need it."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from radpo.clients.budget import SpendingLimitError
from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ServiceError

QUESTION = "Reply with OK."
MAX_TOKENS = 16
"""Of the answer, which is of no interest; some endpoints refuse fewer."""
LONGEST_WAIT = 60.0
"""Seconds, as an endpoint may be loading its model or have others to answer."""
REMEMBERED = 60.0
"""Seconds for which an endpoint that answered is not asked again: several benchmarks may have one judge."""

_answered: dict[tuple[str, str, str], float] = {}


def probe(endpoint: Endpoint) -> None:
    """Ask an endpoint one tiny request, which counts as any other on the run's account.

    Of one whose server radpo starts, see that it could be started.

    Raises:
        ConfigError: a remote endpoint's key is not in the environment, or what starts its server is not there.
        ServiceError: it cannot be reached, refuses the key or the model, or gives no answer.
    """
    if endpoint.is_served:
        endpoint.check_command()
        return
    who = (endpoint.base_url, endpoint.model, endpoint.api_key_env)
    endpoint.api_key()
    if time.monotonic() - _answered.get(who, -REMEMBERED) < REMEMBERED:
        return
    brief: dict[str, Any] = {
        "batch": False,
        "attempts": min(2, endpoint.attempts),
        "timeout": min(LONGEST_WAIT, endpoint.timeout),
    }
    with TemporaryDirectory(prefix="radpo-probe-") as folder:
        chat = Chat(endpoint.model_copy(update=brief), Path(folder) / "replies.sqlite")
        try:
            chat.complete([ChatRequest([{"role": "user", "content": QUESTION}], {"max_tokens": MAX_TOKENS})])
        except SpendingLimitError:
            return  # whether more than that is to be asked, the work itself finds out
        except ServiceError:
            if not chat.usage.prompt_tokens:  # else it did answer, though without a text: it may have thought too long
                raise
    _answered[who] = time.monotonic()
