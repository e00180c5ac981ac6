"""The layouts that preference sets have, and the scored pairs that their rows hold.

`pairs`: a chosen and a rejected response a row, as in ultrafeedback_binarized. `completions`: all responses to one
prompt in a row, as in UltraFeedback itself. `responses`: one response a row, those to one prompt following each other,
as in HelpSteer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from radpo.preferences.pairing import Rule, ScoredResponse, pair_up
from radpo.preferences.rows import (
    LOG_LIKELIHOODS,
    BadRowError,
    Rules,
    attribute_scores,
    conversation,
    present,
    score,
    text,
    true_score,
)

Layout = Literal["pairs", "completions", "responses"]
Row = dict[str, Any] | BadRowError
Numbered = tuple[int, Row]

NOTHING_TO_PAIR = "nothing to pair"
MOST_ATTRIBUTES = 50
"""So many attributes are columns; a hostile set may name any number."""
_NAME = re.compile(r"\w[\w .-]{0,60}")
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""HelpSteer's attributes; the first is its overall measure, and the score where there is no column of that name."""


@dataclass(frozen=True)
class Shape:
    """What a file's first rows tell of all: the layout, the attributes rated, and which columns matter."""

    layout: Layout
    attributes: tuple[str, ...]
    log_likelihoods: bool

    def rules(self, rules: Rules) -> Rules:
        """The rules, with what a row of this shape has."""
        return replace(rules, attributes=self.attributes, log_likelihoods=self.log_likelihoods)


def shape_of(rows: Sequence[Mapping[str, Any]]) -> Shape:
    """The shape of a file by its first rows, at least one: the first one's layout, and what any of them has."""
    shapes = [_shape_of(row) for row in rows]
    alike = [shape for shape in shapes if shape.layout == shapes[0].layout]
    rated = next((shape.attributes for shape in alike if shape.attributes), ())
    rated = tuple(name for name in rated if _NAME.fullmatch(name))[:MOST_ATTRIBUTES]
    return Shape(shapes[0].layout, rated, any(shape.log_likelihoods for shape in alike))


def _shape_of(row: Mapping[str, Any]) -> Shape:
    if isinstance(row.get("completions"), list):
        rated = (_ratings(completion) for completion in row["completions"] if isinstance(completion, Mapping))
        return Shape("completions", tuple(dict.fromkeys(name for ratings in rated for name in ratings)), False)
    if "response" in row and "chosen" not in row:
        names = [name for name in (*HELPSTEER, *_mapping(row.get("attributes"))) if name in row or "attributes" in row]
        return Shape("responses", tuple(dict.fromkeys(map(str, names))), False)
    rated = (_mapping(row.get(f"attributes_{side}")) for side in ("chosen", "rejected"))
    attributes = tuple(dict.fromkeys(str(name) for ratings in rated for name in ratings))
    return Shape("pairs", attributes, all(row.get(name) is not None for name in LOG_LIKELIHOODS))


def completions_pairs(
    number: int,
    row: Mapping[str, Any],
    rules: Rules,
    rule: Rule,
    seed: int,
    leave_out: Callable[[BadRowError], None],
) -> list[dict[str, Any]]:
    """The pairs that a rule makes of one row's completions.

    Args:
        leave_out: called with what is wrong with a completion, before the row is used without it.

    Raises:
        BadRowError: the row is bad, or nothing can be paired.
    """
    completions = present(row, "completions")
    if not isinstance(completions, list):
        raise BadRowError("completions", f"wrong type {type(completions).__name__}", "give a list of objects")
    prompt = conversation(row, "instruction" if row.get("prompt") is None else "prompt", rules)
    responses = []
    for completion in completions:
        try:
            if not isinstance(completion, Mapping):
                raise BadRowError("completions", "not an object", "each needs a response and its score")
            column = next((name for name in ("overall_score", "score", "scores") if name in completion), "score")
            responses.append(_scored(completion, column, _ratings(completion), rules))
        except BadRowError as problem:
            leave_out(problem)
    return _pairs(number, row, prompt, responses, rule, seed)


def responses_pairs(
    rows: Iterable[Numbered], rules: Rules, rule: Rule, seed: int
) -> Iterator[tuple[list[int], list[dict[str, Any]] | BadRowError]]:
    """The pairs that a rule makes of each run of rows with the same prompt, with the numbers of its rows.

    A bad row comes by itself, as its error.
    """
    group: list[tuple[int, Mapping[str, Any], ScoredResponse]] = []
    prompt: list[dict[str, str]] = []

    def finished() -> Iterator[tuple[list[int], list[dict[str, Any]] | BadRowError]]:
        if group:
            numbers = [number for number, _, _ in group]
            try:
                yield numbers, _pairs(*group[0][:2], prompt, [response for _, _, response in group], rule, seed)
            except BadRowError as problem:
                yield numbers, problem

    for number, row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            asked = conversation(row, "prompt", rules)
            ratings = _mapping(row.get("attributes")) | {n: row[n] for n in rules.attributes if n in row}
            response = _scored(row, "score" if "score" in row else HELPSTEER[0], ratings, rules)
        except BadRowError as problem:
            yield [number], problem
            continue
        if asked != prompt:
            yield from finished()
            group, prompt = [], asked
        group.append((number, row, response))
    yield from finished()


def _pairs(
    number: int,
    row: Mapping[str, Any],
    prompt: list[dict[str, str]],
    responses: list[ScoredResponse],
    rule: Rule,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of the `pairs` layout; several of one prompt carry their responses' places in their ids."""
    name = str(row["id"]) if row.get("id") is not None else str(number)
    pairs = pair_up(responses, rule, random.Random(f"{seed}:{name}"))
    if not pairs:
        fix = "at least two responses with different texts (and, but for best-other, different scores) make a pair"
        raise BadRowError("responses", NOTHING_TO_PAIR, fix)
    several = rule in ("adjacent", "all")
    return [
        {
            "id": f"{name}/{chosen}-{rejected}" if several else name,
            "prompt": prompt,
            **{
                key + side: value
                for side, place in (("chosen", chosen), ("rejected", rejected))
                for key, value in (
                    ("", responses[place].text),
                    ("score_", responses[place].score),
                    ("attributes_", responses[place].attributes),
                )
            },
        }
        for chosen, rejected in pairs
    ]


def _scored(row: Mapping[str, Any], column: str, ratings: Mapping[str, Any], rules: Rules) -> ScoredResponse:
    value = present(row, "response")
    if not isinstance(value, str):
        raise BadRowError("response", f"wrong type {type(value).__name__}", "give the response as text")
    if not value.strip() and not rules.lenient:
        raise BadRowError("response", "empty response", "give the response, or remove it")
    judged = row.get(column)
    if isinstance(judged, list) and judged:  # several judgments of one response: their mean
        marks = [score({column: mark}, column, rules.scale) for mark in judged]
        overall = sum(marks) / len(marks)
    else:
        overall = score(row, column, rules.scale)
    rated = attribute_scores(ratings, "attributes", rules)
    return ScoredResponse(text(value, "response", rules), true_score(overall, rated, column, rules), rated)


def _ratings(completion: Mapping[str, Any]) -> dict[str, Any]:
    """UltraFeedback's ratings of a completion by attribute; 'N/A' is None."""
    ratings: dict[str, Any] = {}
    for name, annotation in _mapping(completion.get("annotations")).items():
        rating = _mapping(annotation).get("Rating")
        if isinstance(rating, str):
            rating = None if rating.strip().upper() == "N/A" else as_number(rating)
        ratings[str(name)] = rating
    return ratings


def as_number(value: Any) -> Any:
    """The number that a text says; anything else as it is, for a check to refuse."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
