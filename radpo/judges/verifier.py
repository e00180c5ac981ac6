"""The verifier: a judge that is a program. It counts how many of a prompt's checkable constraints a response meets.

A constraint is data: a `kind` of `KINDS` and the parameters it takes, such as {"kind": "max_words", "n": 20}.
Responses are hostile input: every check takes time linear in the response's length, and nothing of it is evaluated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radpo.errors import DataError
from radpo.judges.base import Grade, GradeRequest, Progress, no_progress

Constraint = Mapping[str, Any]

LOWEST, HIGHEST = 1.0, 10.0


@dataclass(frozen=True)
class Kind:
    """One kind of constraint: its parameters with their types, the check, and its name in a grade's reason."""

    parameters: Mapping[str, type]
    check: Callable[[str, Mapping[str, Any]], bool]
    says: str


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)


def _has_word(text: str, word: str) -> bool:
    return word.casefold() in {found.casefold() for found in _words(text)}


def _has_phrase(text: str, phrase: str) -> bool:
    """Whether the phrase occurs as whole words, whatever its casing."""
    wanted = " ".join(_words(phrase)).casefold()
    return f" {wanted} " in f" {' '.join(_words(text))} ".casefold()


def _sentences(text: str) -> int:
    # A sentence ends with . ! or ? before white space or the end; closing quotes and brackets may follow the stop.
    return len(re.findall(r"[.!?]['\"”’)\]]*(?=\s|$)", text.strip()))


def _bullets(text: str) -> bool | int:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) if all(line.startswith(("- ", "* ")) for line in lines) else 0


def _has_keys(text: str, keys: Sequence[Any]) -> bool:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and set(document) == set(keys)


def _last_number(text: str) -> float | None:
    # Digits are bounded: a float of more digits than any answer has would only cost time.
    found = re.findall(r"(?<![\w.])-?\d{1,15}(?:,\d{3})*(?:\.\d{1,15})?", text)
    return float(found[-1].replace(",", "")) if found else None


def _cased(text: str, right: Callable[[str], bool]) -> bool:
    letters = [character for character in text if character.isalpha()]
    return bool(letters) and all(map(right, letters))


KINDS: dict[str, Kind] = {
    "max_words": Kind({"n": int}, lambda t, p: len(_words(t)) <= p["n"], "at most {n} words"),
    "min_words": Kind({"n": int}, lambda t, p: len(_words(t)) >= p["n"], "at least {n} words"),
    "sentences": Kind({"n": int}, lambda t, p: _sentences(t) == p["n"], "exactly {n} sentences"),
    "paragraphs": Kind(
        {"n": int}, lambda t, p: sum(bool(b.strip()) for b in t.split("\n\n")) == p["n"], "exactly {n} paragraphs"
    ),
    "keyword": Kind({"word": str}, lambda t, p: _has_word(t, p["word"]), "the word {word!r}"),
    "forbidden": Kind({"word": str}, lambda t, p: not _has_word(t, p["word"]), "not the word {word!r}"),
    "first_word": Kind(
        {"word": str}, lambda t, p: _words(t[:200])[:1] != [] and _words(t[:200])[0].casefold() == p["word"].casefold(),
        "first word {word!r}",
    ),
    "ends_with": Kind(
        {"text": str}, lambda t, p: t.rstrip().casefold().endswith(p["text"].casefold()), "the ending {text!r}"
    ),
    "lowercase": Kind({}, lambda t, p: _cased(t, str.islower), "only small letters"),
    "uppercase": Kind({}, lambda t, p: _cased(t, str.isupper), "only capital letters"),
    "no_commas": Kind({}, lambda t, p: "," not in t, "no commas"),
    "bullets": Kind({"n": int}, lambda t, p: _bullets(t) == p["n"], "exactly {n} bullet points and nothing else"),
    "json_keys": Kind({"keys": list}, lambda t, p: _has_keys(t, p["keys"]), "a JSON object with the keys {keys}"),
    "quoted": Kind({}, lambda t, p: len(t) > 2 and t[0] == t[-1] == '"', "double quotes around it"),
    "number": Kind({}, lambda t, p: any(map(str.isdigit, t)), "a number in digits"),
    "title": Kind({}, lambda t, p: bool(re.search(r"<<[^<>\n]{1,100}>>", t)), "a title in <<double angle brackets>>"),
    "answer_is": Kind({"value": float}, lambda t, p: _last_number(t) == p["value"], "{value:g} as the last number"),
    "says_any": Kind({"words": list}, lambda t, p: any(_has_phrase(t, w) for w in p["words"]), "one of {words}"),
}  # fmt: skip


def met(response: str, constraint: Constraint) -> bool:
    """Whether a response meets a constraint; an empty response meets none, or saying nothing would be a good answer.

    Raises:
        DataError: the constraint's kind is unknown, or its parameters are not what the kind takes.
    """
    kind = _kind(constraint)
    return bool(response.strip()) and kind.check(response, constraint)


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


def _kind(constraint: Constraint) -> Kind:
    name = constraint.get("kind")
    if name not in KINDS:
        raise DataError(f"constraint {dict(constraint)}: no kind {name!r}; there are {', '.join(KINDS)}")
    wanted = KINDS[name].parameters
    given = {key: value for key, value in constraint.items() if key != "kind"}
    fits = given.keys() == wanted.keys() and all(
        not isinstance(value, bool) and isinstance(value, int | float if wanted[key] is float else wanted[key])
        for key, value in given.items()
    )
    if not fits:
        takes = ", ".join(f"{key} ({kind.__name__})" for key, kind in wanted.items()) or "no parameters"
        raise DataError(f"constraint {dict(constraint)}: {name} takes {takes}")
    return KINDS[name]
