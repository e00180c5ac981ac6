"""The verifier grades by what a program can check, and stays quick on hostile text."""

from __future__ import annotations

import time
from typing import Any

import pytest

from radpo.core.errors import DataError
from radpo.judges.base import GradeRequest
from radpo.judges.verifier import KINDS, Verifier, describe, met

CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"kind": "max_words", "n": 3}, ["One two three.", "one"], ["one two three four"]),
    ({"kind": "min_words", "n": 3}, ["It's well-known now"], ["It's well-known"]),
    ({"kind": "sentences", "n": 2}, ["One. Two!", 'He said "no." Why?'], ["One.", "1.5 is a number."]),
    ({"kind": "paragraphs", "n": 2}, ["a\n\nb"], ["a\nb"]),
    ({"kind": "keyword", "word": "blue"}, ["So BLUE!"], ["bluebell"]),
    ({"kind": "keyword", "word": "don't"}, ["I don’t."], ["I do not."]),
    ({"kind": "forbidden", "word": "good"}, ["goodness"], ["Good."]),
    ({"kind": "first_word", "word": "Once"}, ["once upon", '"Once upon"'], ["At once"]),
    ({"kind": "ends_with", "text": "The end."}, ["It was the end.", "The end.\n"], ["The end. No"]),
    ({"kind": "lowercase"}, ["all small, 3!"], ["Not small", "123"]),
    ({"kind": "uppercase"}, ["LOUD 3!"], ["Loud"]),
    ({"kind": "no_commas"}, ["no"], ["yes, sir"]),
    ({"kind": "bullets", "n": 2}, ["- a\n- b", "- a\n\n- b\n"], ["- a", "So:\n- a\n- b", "- a\n- b\n- c", "* a\n* b"]),
    ({"kind": "json_keys", "keys": ["a"]}, ['{"a": 1}'], ['{"a": 1, "b": 2}', "[1]", "{a: 1}", "[" * 100_000]),
    ({"kind": "quoted"}, ['"Yes."', '"Yes."\n'], ['"Yes.', '""', 'He said "yes"']),
    ({"kind": "number"}, ["7 days"], ["seven days"]),
    ({"kind": "title"}, ["<<Blue>> it is"], ["<Blue>", "<<>>"]),
    ({"kind": "answer_is", "value": 12}, ["7 + 5 = 12.", "It is 12", "Well...12"], ["12 or 13", "none", "120", "x12"]),
    ({"kind": "answer_is", "value": -1200.5}, ["-1,200.5", "It is −1200.50."], ["1,200.5", "-1,2005"]),
    ({"kind": "answer_is", "value": 0.5}, ["0.5", "It is .5"], ["5"]),
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


@pytest.mark.parametrize("response", [".", "...", "\u200b", "🍅🍅", "- ", '"!"'])
def test_a_response_without_a_word_scores_as_an_empty_one(response: str) -> None:
    constraints = [{"kind": "no_commas"}, {"kind": "max_words", "n": 5}, {"kind": "forbidden", "word": "good"}]
    request = GradeRequest([{"role": "user", "content": "?"}], response, {"constraints": constraints})
    assert Verifier().grade([request])[0].score == 1


@pytest.mark.parametrize(("response", "score"), [("blue", 10.0), ("blue, red", 5.5), ("red, red", 1.0), ("", 1.0)])
def test_the_score_is_one_plus_nine_times_the_share_met(response: str, score: float) -> None:
    constraints = [{"kind": "keyword", "word": "blue"}, {"kind": "no_commas"}]
    request = GradeRequest([{"role": "user", "content": "?"}], response, {"constraints": constraints})
    assert Verifier().grade([request])[0].score == score


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        ({"kind": "rhyme"}, "no kind 'rhyme'; there are max_words"),
        ({"kind": ["rhyme"]}, "there are max_words"),
        ({"kind": "max_words"}, r"max_words takes n \(a whole number from 1 up\)"),
        ({"kind": "max_words", "n": "3"}, r"max_words takes n \(a whole number from 1 up\)"),
        ({"kind": "max_words", "n": True}, r"max_words takes n \(a whole number from 1 up\)"),
        ({"kind": "sentences", "n": 0}, r"sentences takes n \(a whole number from 1 up\)"),
        ({"kind": "forbidden", "word": "two words"}, r"forbidden takes word \(one word\)"),
        ({"kind": "keyword", "word": ""}, r"keyword takes word \(one word\)"),
        ({"kind": "ends_with", "text": ""}, r"ends_with takes text \(a text without white space around it\)"),
        ({"kind": "json_keys", "keys": [1]}, r"json_keys takes keys \(a list of texts\)"),
        ({"kind": "says_any", "words": [5]}, r"says_any takes words \(a list of words or phrases\)"),
        ({"kind": "says_any", "words": []}, r"says_any takes words \(a list of words or phrases\)"),
        ({"kind": "answer_is", "value": float("nan")}, r"answer_is takes value \(a number\)"),
        ("lowercase", "must be an object with a kind"),
        ({"kind": "quoted", "n": 3}, "quoted takes no parameters"),
    ],
)
def test_a_malformed_constraint_is_an_error_in_words(constraint: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        met("text", constraint)


def test_a_prompt_without_constraints_cannot_be_graded() -> None:
    with pytest.raises(DataError, match="no constraints"):
        Verifier().grade([GradeRequest([{"role": "user", "content": "Hello"}], "Hi")])


HOSTILE = (
    "a",
    "1",
    "1,234",
    ",111",
    "1.",
    "-",
    "a-",
    "<<",
    "<<a",
    ". ",
    ".'",
    "\n",
    " ",
    "- \n",
    "[",
    '{"a":',
    '"',
    "İ",
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_checks_take_time_linear_in_the_response(piece: str) -> None:
    # Two megabytes for the kinds that search, in under a second each; a quadratic search would take days.
    text = piece * (2_000_000 // len(piece)) + "x"
    for constraint in (
        {"kind": "sentences", "n": 1},
        {"kind": "title"},
        {"kind": "answer_is", "value": 1},
        {"kind": "json_keys", "keys": ["a"]},
        {"kind": "max_words", "n": 5},
    ):
        start = time.process_time()
        met(text, constraint)
        assert time.process_time() - start < 20, constraint


def test_no_check_fails_on_hostile_text() -> None:
    for piece in HOSTILE:
        for constraint, _, _ in CASES:
            assert met(piece * 1000, constraint) in (True, False)
