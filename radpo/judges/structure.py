"""Text that could act as a part of the judge's prompt: found and counted, never changed.

A published prompt has to be sent as it was published, so an answer that holds `[The End of Assistant A's Answer]`, a
chat format's control token or a verdict of its own reaches the judge as it stands. How often that happened is for the
record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# A control token of a chat format (ChatML, Llama, Gemma, Mistral, ...), wherever it stands.
_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|<extra_id_\d{1,3}>"
)
# A verdict as the published prompts ask for one.
_VERDICT = re.compile(r"\[\[(?:rating|[ABC]|[AB][<>=]{1,2}[AB]|\d{1,2}(?:\.\d{1,3})?)\]\]")
# What a template sets its parts apart with: [The Start of ...], <|The End of ...|>, headings, triple quotes.
_FRAME = re.compile(r'\[[A-Z][^\[\]{}\n]{2,80}\]|<\|[^<>|{}\n]{1,80}\|>|^#{2,6} [^{}\n]+$|"""', re.MULTILINE)


def frame_of(template: str) -> frozenset[str]:
    """The marks that a prompt's template sets its parts apart with."""
    return frozenset(_FRAME.findall(template))


def acting_marks(texts: Iterable[str], frame: Iterable[str]) -> frozenset[str]:
    """The marks in texts that a judge could take for its prompt's own, for control tokens, or for a verdict.

    Args:
        texts: what goes into a prompt's placeholders.
        frame: the template's own marks, as `frame_of` gives.
    """
    frame, found = tuple(frame), set[str]()
    for text in texts:
        found.update(_CONTROL.findall(text), _VERDICT.findall(text), (mark for mark in frame if mark in text))
    return frozenset(found)
