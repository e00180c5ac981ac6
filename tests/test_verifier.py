"""The verifier grades by what a program can check, and stays quick on hostile text."""

from __future__ import annotations

import time
from typing import Any

import pytest

from radpo.errors import DataError
from radpo.judges.base import GradeRequest
from radpo.judges.verifier import KINDS, Verifier, describe, met

CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"kind": "max_words", "n": 3}, ["One two three.", "one"], ["one two three four"]),
    ({"kind": "min_words", "n": 3}, ["It's well-known now"], ["It's well-known"]),
    ({"kind": "sentences", "n": 2}, ["One. Two!", 'He said "no." Why?'], ["One.", "1.5 is a number."]),
    ({"kind": "paragraphs", "n": 2}, ["a\n\nb"], ["a\nb"]),
    ({"kind": "keyword", "word": "blue"}, ["So BLUE!"], ["bluebell"]),
    ({"kind": "forbidden", "word": "good"}, ["goodness"], ["Good."]),
    ({"kind": "first_word", "word": "Once"}, ["once upon", '"Once upon"'], ["At once"]),
    ({"kind": "ends_with", "text": "The end."}, ["It was the end.", "The end.\n"], ["The end. No"]),
    ({"kind": "lowercase"}, ["all small, 3!"], ["Not small", "123"]),
    ({"kind": "uppercase"}, ["LOUD 3!"], ["Loud"]),
    ({"kind": "no_commas"}, ["no"], ["yes, sir"]),
    ({"kind": "bullets", "n": 2}, ["- a\n- b", "- a\n\n- b\n"], ["- a", "So:\n- a\n- b", "- a\n- b\n- c"]),
    ({"kind": "json_keys", "keys": ["a"]}, ['{"a": 1}'], ['{"a": 1, "b": 2}', "[1]", "{a: 1}", "[" * 100_000]),
    ({"kind": "quoted"}, ['"Yes."'], ['"Yes.', '""', 'He said "yes"']),
    ({"kind": "number"}, ["7 days"], ["seven days"]),
    ({"kind": "title"}, ["<<Blue>> it is"], ["<Blue>", "<<>>"]),
    ({"kind": "answer_is", "value": 12}, ["7 + 5 = 12.", "It is 12"], ["12 or 13", "none", "120"]),
    ({"kind": "says_any", "words": ["carbon dioxide", "CO2"]}, ["Carbon dioxide!", "co2"], ["carbon", "CO23"]),
]


@pytest.mark.parametrize(("constraint", "good", "bad"), CASES)
def test_each_kind_tells_good_from_bad(constraint: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [met(text, constraint) for text in good] == [True] * len(good)
    assert [met(text, constraint) for text in bad] == [False] * len(bad)
    assert describe(constraint)


def test_every_kind_is_tested_and_there_are_at_least_ten() -> None:
    assert {constraint["kind"] for constraint, _, _ in CASES} == set(KINDS)
    assert len(KINDS) >= 10


@pytest.mark.parametrize(("constraint", "good", "bad"), CASES)
def test_an_empty_response_meets_nothing(constraint: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert not met("", constraint)
    assert not met(" \n", constraint)


@pytest.mark.parametrize(("response", "score"), [("blue", 10.0), ("blue, red", 5.5), ("red, red", 1.0), ("", 1.0)])
def test_the_score_is_one_plus_nine_times_the_share_met(response: str, score: float) -> None:
    constraints = [{"kind": "keyword", "word": "blue"}, {"kind": "no_commas"}]
    request = GradeRequest([{"role": "user", "content": "?"}], response, {"constraints": constraints})
    assert Verifier().grade([request])[0].score == score


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        ({"kind": "rhyme"}, "no kind 'rhyme'; there are max_words"),
        ({"kind": "max_words"}, r"max_words takes n \(int\)"),
        ({"kind": "max_words", "n": "3"}, r"max_words takes n \(int\)"),
        ({"kind": "max_words", "n": True}, r"max_words takes n \(int\)"),
        ({"kind": "quoted", "n": 3}, "quoted takes no parameters"),
    ],
)
def test_a_malformed_constraint_is_an_error_in_words(constraint: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        met("text", constraint)


def test_a_prompt_without_constraints_cannot_be_graded() -> None:
    with pytest.raises(DataError, match="no constraints"):
        Verifier().grade([GradeRequest([{"role": "user", "content": "Hello"}], "Hi")])


@pytest.mark.parametrize(
    "text", ["a" * 3_000_000, "1,234" * 500_000, "<<" * 1_000_000, "a-" * 1_000_000, ". " * 1_000_000]
)
def test_hostile_text_of_megabytes_is_checked_in_seconds(text: str) -> None:
    start = time.monotonic()
    for constraint, _, _ in CASES:
        met(text, constraint)
    assert time.monotonic() - start < 60
