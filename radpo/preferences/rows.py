"""One row of a preference set: a checked pair, or what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from radpo.preferences.turns import seems_to_hold_turns, split_turns

LOG_LIKELIHOODS = (
    "policy_logp_chosen",
    "policy_logp_rejected",
    "reference_logp_chosen",
    "reference_logp_rejected",
)
"""log p(response | prompt) in nats, summed over tokens, from which implicit rewards are made."""

CONTROL = r"[\x00-\x08\x0e-\x1f\x7f]"
"""Control characters other than white space: no writer means them, and terminals and parsers trip over them."""

_control = re.compile(CONTROL)


class BadRowError(Exception):
    """Why a row cannot be used: the column, a reason to count it under, and the fix."""

    def __init__(self, column: str, reason: str, fix: str) -> None:
        super().__init__(column, reason, fix)
        self.column, self.reason, self.fix = column, reason, fix


FalseTens = Literal["keep", "drop", "repair"]
"""What becomes of a response with UltraFeedback's best overall score whose ratings are all the worst: it is kept, it is
bad, or its score becomes the 1 that was meant."""
FALSE_TENS: tuple[FalseTens, ...] = ("keep", "drop", "repair")
TURNS_READ = "turns written into its text, read as messages"
TURNS_SUSPECTED = "both sides of a conversation seem to speak in its text, which was left as it is"
FALSE_TEN = "10 where all ratings are 1"


def note_nothing(what: str) -> None:
    """The callback of a caller who counts nothing."""


@dataclass(frozen=True)
class Rules:
    """What a pair must be.

    Args:
        scale: the lowest and the highest score there can be.
        swap: a pair whose chosen scores below its rejected changes places instead of being bad.
        lenient: rows that say little (identical or empty responses, chosen scored below rejected, control characters)
            are taken as they are, for looking at a set and not for training on it.
        attributes: the attributes that a row may be scored on.
        log_likelihoods: whether every row has the columns of `LOG_LIKELIHOODS`.
        false_tens: see `FalseTens`.
        note: called with the column and what, of everything that is not wrong and still to be known.
    """

    scale: tuple[float, float] = (1.0, 10.0)
    swap: bool = False
    lenient: bool = False
    attributes: tuple[str, ...] = ()
    log_likelihoods: bool = False
    false_tens: FalseTens = "keep"
    note: Callable[[str], None] = note_nothing


def check_row(row: Mapping[str, Any], number: int, rules: Rules) -> dict[str, Any]:
    """A row in the common form (`radpo.preferences.preferences.schema`).

    Args:
        number: the row's or line's number, which is its id where it has none of its own.

    Raises:
        BadRowError: the first thing that is wrong with it.
    """
    chosen_context, chosen = _response(row, "chosen", rules)
    rejected_context, rejected = _response(row, "rejected", rules)
    prompt = _prompt(row, chosen_context, rejected_context, rules)
    if chosen == rejected and not rules.lenient:
        raise BadRowError("rejected", "identical responses", "a pair of equal responses prefers nothing; remove it")
    contents = [("prompt", message["content"]) for message in prompt]
    for column, words in (*contents, ("chosen", chosen), ("rejected", rejected)):
        if seems_to_hold_turns(words):
            rules.note(f"{column}: {TURNS_SUSPECTED}")
    sides: dict[str, dict[str, Any]] = {"chosen": {"": chosen}, "rejected": {"": rejected}}
    for side, values in sides.items():
        values["score_"] = score(row, f"score_{side}", rules.scale)
        if rules.attributes:
            values["attributes_"] = attribute_scores(row.get(f"attributes_{side}"), f"attributes_{side}", rules)
            values["score_"] = true_score(values["score_"], values["attributes_"], f"score_{side}", rules)
        if rules.log_likelihoods:
            for who in ("policy_logp_", "reference_logp_"):
                values[who] = _number(row, who + side)
    if sides["chosen"]["score_"] < sides["rejected"]["score_"] and not rules.lenient:
        if not rules.swap:
            fix = "swap the two responses with their scores (--swap does so for all such pairs)"
            raise BadRowError("score_chosen", "chosen scored below rejected", fix)
        sides = {"chosen": sides["rejected"], "rejected": sides["chosen"]}
    name = row.get("id", row.get("source_index"))
    checked: dict[str, Any] = {"id": str(number) if name is None else text(str(name), "id", rules), "prompt": prompt}
    return checked | {prefix + side: value for side, values in sides.items() for prefix, value in values.items()}


def present(row: Mapping[str, Any], column: str) -> Any:
    """A column's value, which must be there."""
    value = row.get(column)
    if value is None:
        has = ", ".join(repr(str(name)[:40]) for name in list(row)[:20]) or "none"
        fix = f"the row needs a value for {column}; its columns are {has} (--columns {column}=NAME gives one the name)"
        raise BadRowError(column, "missing", fix)
    return value


def score(row: Mapping[str, Any], column: str, scale: tuple[float, float]) -> float:
    """A score on the scale."""
    value = _number(row, column)
    if not scale[0] <= value <= scale[1]:
        on = f"{value:g} is not on the scale {scale[0]:g}-{scale[1]:g}"
        fix = f"{on}; rescale, or state the scale (data.scale, --scale)"
        raise BadRowError(column, "outside the scale", fix)
    return value


def true_score(overall: float, ratings: Mapping[str, float | None], column: str, rules: Rules) -> float:
    """An overall score, unless it is one of UltraFeedback's false tens.

    About 2,000 of its responses were given a 1 that its annotation script made a 10, as its makers confirmed. They are
    known by their ratings, which are all 1.
    """
    given = {rating for rating in ratings.values() if rating is not None}
    if not (overall == 10 == rules.scale[1] and rules.scale[0] == 1 and given == {1.0}):
        return overall
    if rules.false_tens == "drop":
        raise BadRowError(column, FALSE_TEN, "the score that was meant is 1; repair or drop it (--false-tens)")
    rules.note(f"{column}: {FALSE_TEN}" + (", repaired" if rules.false_tens == "repair" else ""))
    return 1.0 if rules.false_tens == "repair" else overall


def attribute_scores(value: Any, column: str, rules: Rules) -> dict[str, float | None]:
    """Every attribute's score, None where it was not rated."""
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise BadRowError(column, f"wrong type {type(value).__name__}", "give an object of numbers by attribute")
    for name in value:
        if name not in rules.attributes:
            fix = f"{str(name)[:40]!r} is not among the first row's: {', '.join(rules.attributes)}"
            raise BadRowError(column, "another attribute", fix)
    return {name: None if value.get(name) is None else _number(value, name, column) for name in rules.attributes}


def text(value: str, column: str, rules: Rules) -> str:
    """The text itself, if it can be written as UTF-8 and holds nothing that only breaks what reads it."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRowError(column, "a lone surrogate", "the text is not valid Unicode; fix or remove it") from None
    if not rules.lenient and (found := _control.search(value)):
        fix = f"character {found.start() + 1} is U+{ord(found[0]):04X}; fix or remove it"
        raise BadRowError(column, "a control character", fix)
    return value


def messages(value: list[Any], column: str, rules: Rules) -> list[dict[str, str]]:
    """Role/content messages with nothing else in them."""
    fix = 'messages are objects with text "role" and "content"'
    if not value:
        raise BadRowError(column, "no messages", fix)
    checked = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadRowError(column, "a message without role or content", fix)
        checked.append({"role": text(role, column, rules), "content": text(content, column, rules)})
    return checked


def _response(row: Mapping[str, Any], column: str, rules: Rules) -> tuple[list[dict[str, str]] | None, Any]:
    """The messages before a response (None where the row gives the response alone), and its text."""
    value = present(row, column)
    context: list[dict[str, str]] | None = None
    if isinstance(value, str) and row.get("prompt") is None and (turns := split_turns(value)) is not None:
        rules.note(f"{column}: {TURNS_READ}")
        value = turns
    if isinstance(value, list):
        conversation = messages(value, column, rules)
        if conversation[-1]["role"] != "assistant":
            raise BadRowError(column, "does not end with the assistant", "its last message must be the response")
        context, value = conversation[:-1] or None, conversation[-1]["content"]
    if not isinstance(value, str):
        raise BadRowError(column, f"wrong type {type(value).__name__}", "give text, or messages with role and content")
    if not value.strip() and not rules.lenient:
        raise BadRowError(column, "empty response", "give both responses, or remove the pair")
    return context, text(value, column, rules)


def _prompt(
    row: Mapping[str, Any], chosen: list[dict[str, str]] | None, rejected: list[dict[str, str]] | None, rules: Rules
) -> list[dict[str, str]]:
    if chosen is not None and rejected is not None and chosen != rejected:
        raise BadRowError("rejected", "another conversation", "chosen and rejected must answer the same prompt")
    context = chosen or rejected
    if context is not None and row.get("prompt") is None:
        return asked(context, rules)
    prompt = conversation(row, "prompt", rules)
    if context is None:
        return prompt
    # UltraFeedback's way: the prompt again as the conversation's start, maybe after a system message.
    if isinstance(row["prompt"], str) and context[-1]["content"] == row["prompt"]:
        return asked(context, rules)
    if prompt != context:
        raise BadRowError("prompt", "another conversation", "it must be what chosen and rejected begin with")
    return prompt


def conversation(row: Mapping[str, Any], column: str, rules: Rules) -> list[dict[str, str]]:
    """A prompt as messages, whether it is given as text or as messages."""
    value = present(row, column)
    if isinstance(value, str):
        turns = split_turns(text(value, column, rules))
        if turns is not None:
            rules.note(f"{column}: {TURNS_READ}")
            return asked(turns, rules, column)
        return asked([{"role": "user", "content": value}], rules, column)
    if isinstance(value, list):
        return asked(messages(value, column, rules), rules, column)
    raise BadRowError(column, f"wrong type {type(value).__name__}", "give text, or messages with role and content")


def asked(prompt: list[dict[str, str]], rules: Rules, column: str = "prompt") -> list[dict[str, str]]:
    """A conversation that ends with something asked by the user."""
    if prompt[-1]["role"] != "user":
        raise BadRowError(column, "does not end with the user", "its last message must be the user's")
    if not prompt[-1]["content"].strip() and not rules.lenient:
        raise BadRowError(column, "empty", "give the instruction, or remove the pair")
    return prompt


def _number(row: Mapping[str, Any], key: str, column: str | None = None) -> float:
    column = column or key
    value = present(row, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRowError(column, f"wrong type {type(value).__name__}", "give it as a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRowError(column, "not a finite number", "give the number, or remove the pair")
    return number
