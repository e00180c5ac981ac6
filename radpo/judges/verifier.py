"""The verifier: a judge that is a program. It counts how many of a prompt's checkable constraints a response meets.

A constraint is data: a `kind` of `KINDS` and the parameters it takes, such as {"kind": "max_words", "n": 20}.
Responses are hostile input: every check takes time linear in the response's length, and nothing of it is evaluated.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radpo.core.errors import DataError
from radpo.core.plugins import NoSettings
from radpo.core.progress import Progress, no_progress
from radpo.judges.base import Grade, GradeRequest, JudgeKind

Constraint = Mapping[str, Any]

LOWEST, HIGHEST = 1.0, 10.0


_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
# A number in a text: no part of a word or of another number, thousands in groups of three, the full stop after it left.
_NUMBER = re.compile(r"(?<!\w)(?<!\d\.)[-−]?(?:\d+(?:,\d{3}(?!\d))*(?:\.\d+)?|(?<!\.)\.\d+)")


@dataclass(frozen=True)
class Parameter:
    """What a constraint's parameter must be: in words, and as a test."""

    says: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Kind:
    """One kind of constraint: the parameters it takes, the check, and its name in a grade's reason."""

    parameters: Mapping[str, Parameter]
    check: Callable[[str, Mapping[str, Any]], bool]
    says: str


def _plain(text: str) -> str:
    # A typographer's apostrophe is the same letter of "don't" as a typist's.
    return text.replace("’", "'")


def _words(text: str) -> list[str]:
    return _WORD.findall(_plain(text))


def _has_word(text: str, word: str) -> bool:
    return _plain(word).casefold() in {found.casefold() for found in _words(text)}


def _has_phrase(text: str, phrase: str) -> bool:
    """Whether the phrase occurs as whole words, whatever its casing."""
    wanted = " ".join(_words(phrase)).casefold()
    return f" {wanted} " in f" {' '.join(_words(text))} ".casefold()


def _first_word(text: str) -> str:
    found = _WORD.search(_plain(text))
    return found[0] if found else ""


def _sentences(text: str) -> int:
    # A sentence ends with . ! or ? before white space or the end; closing quotes and brackets may follow the stop.
    return len(re.findall(r"[.!?]['\"”’)\]]*(?=\s|$)", text.strip()))


def _bullets(text: str) -> int:
    """How many bullet points a text is made of: none where any line is something else."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) if all(line.startswith("- ") for line in lines) else 0


def _has_keys(text: str, keys: Sequence[Any]) -> bool:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and set(document) == set(keys)


def _last_number(text: str) -> float | None:
    last = deque(_NUMBER.finditer(text), maxlen=1)
    return float(last[0][0].replace(",", "").replace("−", "-")) if last else None


def _is_quoted(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] == '"'


def _cased(text: str, right: Callable[[str], bool]) -> bool:
    letters = [character for character in text if character.isalpha()]
    return bool(letters) and all(map(right, letters))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value == value.strip()


def _has_words(value: Any) -> bool:
    return isinstance(value, str) and _WORD.search(value) is not None


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and value != [] and all(map(fits, value))


COUNT = Parameter("a whole number from 1 up", lambda v: type(v) is int and v >= 1)
NUMBER = Parameter("a number", lambda v: type(v) in (int, float) and abs(v) < math.inf)
WORD = Parameter("one word", lambda v: isinstance(v, str) and _words(v) == [_plain(v)])
TEXT = Parameter("a text without white space around it", _is_text)
NAMES = Parameter("a list of texts", lambda v: _is_list(v, _is_text))
PHRASES = Parameter("a list of words or phrases", lambda v: _is_list(v, _has_words))

KINDS: dict[str, Kind] = {
    "max_words": Kind({"n": COUNT}, lambda t, p: len(_words(t)) <= p["n"], "at most {n} words"),
    "min_words": Kind({"n": COUNT}, lambda t, p: len(_words(t)) >= p["n"], "at least {n} words"),
    "sentences": Kind({"n": COUNT}, lambda t, p: _sentences(t) == p["n"], "exactly {n} sentences"),
    "paragraphs": Kind(
        {"n": COUNT}, lambda t, p: sum(bool(b.strip()) for b in t.split("\n\n")) == p["n"], "exactly {n} paragraphs"
    ),
    "keyword": Kind({"word": WORD}, lambda t, p: _has_word(t, p["word"]), "the word {word!r}"),
    "forbidden": Kind({"word": WORD}, lambda t, p: not _has_word(t, p["word"]), "not the word {word!r}"),
    "first_word": Kind(
        {"word": WORD}, lambda t, p: _first_word(t).casefold() == _plain(p["word"]).casefold(), "first word {word!r}"
    ),
    "ends_with": Kind(
        {"text": TEXT}, lambda t, p: t.rstrip().casefold().endswith(p["text"].casefold()), "the ending {text!r}"
    ),
    "lowercase": Kind({}, lambda t, p: _cased(t, str.islower), "only small letters"),
    "uppercase": Kind({}, lambda t, p: _cased(t, str.isupper), "only capital letters"),
    "no_commas": Kind({}, lambda t, p: "," not in t, "no commas"),
    "bullets": Kind({"n": COUNT}, lambda t, p: _bullets(t) == p["n"], "exactly {n} bullet points and nothing else"),
    "json_keys": Kind({"keys": NAMES}, lambda t, p: _has_keys(t, p["keys"]), "a JSON object with the keys {keys}"),
    "quoted": Kind({}, lambda t, p: _is_quoted(t.strip()), "double quotes around it"),
    "number": Kind({}, lambda t, p: any(map(str.isdigit, t)), "a number in digits"),
    "title": Kind({}, lambda t, p: bool(re.search(r"<<[^<>\n]{1,100}>>", t)), "a title in <<double angle brackets>>"),
    "answer_is": Kind({"value": NUMBER}, lambda t, p: _last_number(t) == p["value"], "{value} as the last number"),
    "says_any": Kind({"words": PHRASES}, lambda t, p: any(_has_phrase(t, w) for w in p["words"]), "one of {words}"),
}


def met(response: str, constraint: Constraint) -> bool:
    """Whether a response meets a constraint.

    A response without a word or a number meets none: it has no commas and is short, and is no answer.

    Raises:
        DataError: the constraint's kind is unknown, or its parameters are not what the kind takes.
    """
    kind = _kind(constraint)
    return _has_words(response) and kind.check(response, constraint)


def describe(constraint: Constraint) -> str:
    """A constraint in a few words, as grades and reports show it."""
    parameters = {name: value for name, value in constraint.items() if name != "kind"}
    return _kind(constraint).says.format(**parameters)


@dataclass(frozen=True)
class Verifier:
    """Grades on 1-10: score = 1 + 9 * (constraints met / constraints)."""

    name: str = "verifier"

    def grade(self, requests: Sequence[GradeRequest], progress: Progress = no_progress) -> list[Grade]:
        """Grade every response by its request's `reference["constraints"]`.

        Raises:
            DataError: a request has no constraints, or one that is malformed.
        """
        grades = []
        for number, request in enumerate(requests, start=1):
            constraints = request.reference.get("constraints")
            if not constraints:
                prompt = str(request.prompt[-1]["content"])[:80]
                raise DataError(
                    f"verifier: the prompt {prompt!r} has no constraints to check; give it some, or another judge"
                )
            checked = [(met(request.response, constraint), describe(constraint)) for constraint in constraints]
            share = sum(good for good, _ in checked) / len(checked)
            reason = "; ".join(f"{'met' if good else 'not met'}: {says}" for good, says in checked)
            grades.append(Grade(LOWEST + (HIGHEST - LOWEST) * share, reason))
            progress(number, len(requests))
        return grades


KIND = JudgeKind(NoSettings, lambda settings: Verifier(), free=True)


def _kind(constraint: Constraint) -> Kind:
    if not isinstance(constraint, Mapping):
        raise DataError(f"constraint {constraint!r}: must be an object with a kind, one of {', '.join(KINDS)}")
    name = constraint.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise DataError(f"constraint {dict(constraint)}: no kind {name!r}; there are {', '.join(KINDS)}")
    wanted = KINDS[name].parameters
    given = {key: value for key, value in constraint.items() if key != "kind"}
    if given.keys() != wanted.keys() or not all(wanted[key].fits(value) for key, value in given.items()):
        takes = ", ".join(f"{key} ({parameter.says})" for key, parameter in wanted.items()) or "no parameters"
        raise DataError(f"constraint {dict(constraint)}: {name} takes {takes}")
    return KINDS[name]
