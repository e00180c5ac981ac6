"""Parts of a data set that share no prompt: a hash of what it asks decides on each row.

The hash is of the words of the first user's message, so that a prompt is in the same part in whichever file it stands,
as a scored pair's or as a question's, however it is punctuated and whatever system message or later turn goes with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from radpo.core.errors import DataError
from radpo.preferences.overlap import words
from radpo.preferences.questions import Question

Share = Sequence[float]
"""The lower end, which belongs to it, and the upper one, which does not: within 0 and 1."""
Row = TypeVar("Row")


def prompt_words(text: str) -> str:
    """What makes two prompts the same: their words, whatever is between them; the text where it has none."""
    return " ".join(words(text)) or text.strip()


def place_of(text: str) -> float:
    """Where a prompt stands between 0 and 1: uniform over prompts, and the same in every file and release."""
    return int.from_bytes(hashlib.sha256(prompt_words(text).encode()).digest()[:6], "big") / 2**48


def first_message(prompt: Iterable[Mapping[str, str]]) -> str:
    """What the user says first; the whole prompt where the user says nothing."""
    messages = list(prompt)
    said = (message["content"] for message in messages if message["role"] == "user")
    return next(said, "\n".join(message["content"] for message in messages))


def in_share(text: str, share: Share | None) -> bool:
    """Whether a prompt is in a part of its data set; None for the whole."""
    return share is None or share[0] <= place_of(text) < share[1]


def taken(questions: Sequence[Question], limit: int | None, share: Share | None = None) -> list[Question]:
    """The questions of a part, the first `limit` of them.

    Raises:
        DataError: the part has none.
    """
    found = [question for question in questions if in_share(question.turns[0], share)]
    if not found:
        raise DataError(f"none of {len(questions)} questions is in the share {list(share or ())}; make it wider")
    return found[:limit]
