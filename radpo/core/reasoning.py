"""What a reasoning model thinks before it answers, cut off from what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
"""How models open and close their reasoning."""


@dataclass(frozen=True)
class Reply:
    """A reply in its two parts.

    Args:
        reasoning: what was thought; None where the reply has none.
        answer: what is said; empty where the reply ends before its reasoning does.
    """

    reasoning: str | None
    answer: str


def split_reasoning(text: str) -> Reply:
    """The reasoning that a reply opens with, and its answer.

    A mark counts at the reply's beginning only, so an answer that writes about `<think>` stays whole. Templates that
    open the reasoning themselves leave a reply that only closes it; that counts, too, where nothing opened it before.
    """
    for opening, closing in MARKS:
        begun = text.lstrip().startswith(opening)
        before, closed, after = text.partition(closing)
        if begun and not closed:
            return Reply(text.lstrip().removeprefix(opening), "")
        if closed and (begun or opening not in before):
            return Reply(before.lstrip().removeprefix(opening), after.lstrip())
    return Reply(None, text)


def reasoning_notes(replies: Iterable[Reply]) -> list[str]:
    """What a record says of answers whose reasoning was cut off; nothing where none had any."""
    replies = list(replies)
    cut = sum(reply.reasoning is not None for reply in replies)
    unfinished = sum(reply.reasoning is not None and not reply.answer.strip() for reply in replies)
    if not cut:
        return []
    ended = f" {unfinished} of them ended before they answered, and count as empty." if unfinished else ""
    return [
        f"{cut} of {len(replies)} answers began with reasoning, which was cut off before answers were judged and their "
        f"lengths counted.{ended}"
    ]


def cut_reasoning(answers: Mapping[str, Sequence[str]]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Answers to every turn of questions without their reasoning, and what a record says of that."""
    replies = {name: [split_reasoning(turn) for turn in turns] for name, turns in answers.items()}
    notes = reasoning_notes(reply for turns in replies.values() for reply in turns)
    return {name: tuple(reply.answer for reply in turns) for name, turns in replies.items()}, notes
