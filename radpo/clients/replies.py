"""What an endpoint answers: a response's body read into a reply, and the record of a reply that the cache keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FINAL = frozenset({"length", "max_tokens", "content_filter", "safety", "refusal"})
"""Reasons to finish after which the same request ends the same way."""


@dataclass(frozen=True)
class ChatReply:
    """An answer: its text, and the whole choice as the endpoint gave it; or why there is none.

    Args:
        text: None where there is no answer; `error` then says why.
        reasoning_tokens: what the model reasoned unseen, as the endpoint counts it.
        omitted: options that the endpoint takes no values of, so that its own were used.
    """

    text: str | None
    choice: Mapping[str, Any]
    error: str | None = None
    reasoning_tokens: int = 0
    omitted: tuple[str, ...] = ()

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ends, in the API's words."""
        reason = self.choice.get("finish_reason")
        return reason if isinstance(reason, str) else None

    @property
    def reasoned(self) -> bool:
        """Whether the model reasoned apart from its text: in a field of its own, or unseen but counted."""
        return self.reasoning_tokens > 0 or bool(_reasoning(self.choice))

    @property
    def is_final(self) -> bool:
        """Whether asking again is of no use."""
        return self.text is not None or self.finish_reason in FINAL

    def record(self, tokens: tuple[int, int] | None) -> dict[str, Any]:
        """What the cache keeps."""
        return {
            "choice": dict(self.choice), "text": self.text, "tokens": tokens, "error": self.error,
            "reasoning_tokens": self.reasoning_tokens, "omitted": list(self.omitted),
        }  # fmt: skip


def from_record(record: Mapping[str, Any]) -> ChatReply:
    """A reply from what the cache kept of it; records of older versions have a text and a choice alone."""
    return ChatReply(
        record["text"],
        record["choice"],
        record.get("error"),
        record.get("reasoning_tokens", 0),
        tuple(record.get("omitted", ())),
    )


def read_body(document: Any, omitted: tuple[str, ...] = ()) -> tuple[ChatReply | None, tuple[int, int] | None]:
    """A body's first choice, and its tokens of prompt and answer where it counts them, which must be positive.

    Returns:
        No reply where there is no choice with a message in the body. A reply without a text says why there is none.
    """
    fields = document if isinstance(document, dict) else {}
    choices, usage = fields.get("choices"), fields.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    # A count of nothing is none: every reply is made of tokens and read some.
    positive = type(prompt) is int and prompt > 0 and type(completion) is int and completion > 0
    tokens: tuple[int, int] | None = (prompt, completion) if positive else None  # type: ignore[assignment]
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return None, tokens
    details = counts.get("completion_tokens_details")
    unseen = details.get("reasoning_tokens") if isinstance(details, dict) else 0
    unseen = unseen if type(unseen) is int else 0
    text = _text(message)
    error = None
    if text is None:
        reason = choice.get("finish_reason")
        thought = " after reasoning" if unseen or _reasoning(choice) else ""
        error = f"the reply has no text{thought} (finish_reason {reason if isinstance(reason, str) else None})"
    return ChatReply(text, choice, error, unseen, omitted), tokens


def _reasoning(choice: Mapping[str, Any]) -> str | None:
    message = choice.get("message")
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message, dict) and isinstance(message.get(name), str) and message[name]:
            return str(message[name])
    return None


def _text(message: Mapping[str, Any]) -> str | None:
    """What a message says: its content, or the arguments of the function that it calls."""
    tools = message.get("tool_calls")
    calls = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    for call in (message.get("function_call"), *calls):
        if isinstance(call, dict) and isinstance(call.get("arguments"), str):
            return str(call["arguments"])
    for name in ("content", "refusal"):
        if isinstance(message.get(name), str):
            return str(message[name])
    return None
