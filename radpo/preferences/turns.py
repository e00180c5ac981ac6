"""Conversations that a set writes into one text, each turn after a mark: read as turns where the layout is documented.

A model that is given such a text as one message is shown marks that it knows nothing of, or, where they are its own
control tokens, learns to write both sides of a conversation.
"""

from __future__ import annotations

import re

Messages = list[dict[str, str]]

WRITTEN = r"<extra_id_1>(User|Assistant)\n|^\s{0,8}Human:"
"""What texts hold that `split_turns` may split: HelpSteer2's marks, and hh-rlhf's at the beginning."""
_LINE = r"(^|\n)[ \t]{0,8}(### )?"
_USER = (
    _LINE + r"(Human|User|USER|Instruction)\s?:|<\|user\|>|<\|im_start\|>user|\[INST\]|<start_of_turn>user|"
    r"<\|start_header_id\|>user|<extra_id_1>User"
)
_ASSISTANT = (
    _LINE + r"(Assistant|ASSISTANT|Response)\s?:|<\|assistant\|>|<\|im_start\|>assistant|\[/INST\]|"
    r"<start_of_turn>model|<\|start_header_id\|>assistant|<extra_id_1>Assistant"
)
SUSPECTED = rf"(?s)({_USER}).*({_ASSISTANT})"
"""Texts in which both sides of a conversation seem to speak, for a matcher that takes linear time (Arrow's)."""

_written, _user, _assistant = re.compile(WRITTEN), re.compile(_USER), re.compile(_ASSISTANT)
_HELPSTEER = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_HH = re.compile(r"(?:^|\n\n)[ \t]{0,8}(Human|Assistant):")
_ROLES = {"User": "user", "Human": "user", "Assistant": "assistant"}


def split_turns(text: str) -> Messages | None:
    """The messages of a text in one of two documented layouts; None for any other text.

    HelpSteer2 (its data card; NVIDIA's NeMo-Aligner, examples/nlp/data/steerlm/common.py): the first turn stands by
    itself, every later one after `<extra_id_1>User` or `<extra_id_1>Assistant` on a line. hh-rlhf (its data card):
    every turn stands after a blank line and `Human:` or `Assistant:`. A last mark of the assistant with nothing after
    it says who is to answer, and is no message. A text whose turns do not alternate, from the user on, is neither.
    """
    if not _written.search(text):
        return None
    if _HELPSTEER.search(text):
        first, *rest = _HELPSTEER.split(text)
        parts = [("User", first)] if first.strip() else []
        parts += list(zip(rest[::2], rest[1::2], strict=True))
    else:
        before, *rest = _HH.split(text.lstrip())
        if before.strip():
            return None
        parts = list(zip(rest[::2], rest[1::2], strict=True))
    if len(parts) > 1 and parts[-1][0] == "Assistant" and not parts[-1][1].strip():
        parts.pop()
    messages = [{"role": _ROLES[who], "content": text.strip()} for who, text in parts]
    alternate = all(message["role"] == ("user", "assistant")[place % 2] for place, message in enumerate(messages))
    return messages if alternate and all(message["content"] for message in messages) else None


def seems_to_hold_turns(text: str) -> bool:
    """Whether both sides of a conversation seem to speak in a text."""
    begun = _user.search(text)
    return begun is not None and _assistant.search(text, begun.end()) is not None
