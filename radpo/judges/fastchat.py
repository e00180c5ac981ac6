"""FastChat's judge prompts: conversations for a judge, and the parsing of its verdicts.

The prompts of MT-Bench (Zheng et al. 2023, arXiv 2306.05685) are read from judge_prompts.jsonl, as FastChat and its
data folders carry it; nothing of them is rephrased here.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from radpo.core.errors import DataError
from radpo.core.json_rows import read_rows
from radpo.core.texts import excerpt
from radpo.judges.base import CompareRequest, GradeRequest
from radpo.judges.structure import frame_of

Winner = Literal["A", "B", "tie", "error"]
FILE = "judge_prompts.jsonl"
NEED_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories that are judged beside a reference answer."""

OPTIONS: Mapping[str, float | int] = {"temperature": 0, "max_tokens": 2048}
"""What FastChat asks its judge with."""

# FastChat's patterns, with a limit on digits, so that a reply of digits alone is read in linear time.
_NUMBER = r"(\d{1,9}\.?\d{0,9})"
_RATING = re.compile(rf"\[\[{_NUMBER}\]\]")
_RATING_BACKUP = re.compile(rf"\[{_NUMBER}\]")
_TWO = re.compile(rf"\[\[{_NUMBER},\s?{_NUMBER}\]\]")
_TWO_BACKUP = re.compile(rf"\[{_NUMBER},\s?{_NUMBER}\]")
_WINNERS: Mapping[str, Winner] = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}
TIE_DELTA = 0.1

Rule = Literal["fastchat", "last"]
"""Which of several verdicts in one reply counts: FastChat's rule takes the first rating, and of two models A before B
before a tie wherever they stand, as its released judgments were read; `last` takes the final one."""


@dataclass(frozen=True)
class Prompt:
    """One template: `output_format` is [[rating]], [[A]] or [[rating_a,rating_b]]."""

    name: str
    system: str
    template: str
    output_format: str

    @cached_property
    def frame(self) -> frozenset[str]:
        """The marks that the template sets its parts apart with."""
        return frame_of(self.template)


# For grading outside of MT-Bench, where no folder of prompts is given.
OWN = Prompt(
    name="radpo-single-v1",
    system="You are a helpful assistant.",
    template=(
        "Act as an impartial judge and grade how well the assistant's last answer below serves the user. Look at "
        "whether it is correct, whether it does what was asked, and whether it is clear; do not reward length. Explain "
        "your grade in two or three sentences, then give it on a scale of 1 (worst) to 10 (best) in this format: "
        '"[[rating]]", for example: "Rating: [[5]]".\n\n[Conversation]\n{conversation}\n\n[Answer to grade]\n{answer}\n'
        "[End of the answer]"
    ),
    output_format="[[rating]]",
)

_IN_BRACKETS = 'in this format: "[[rating]]", for example: "Rating: [[5]]".'
_IN_JSON = "as JSON with the keys explanation and rating."
RESPONSE_FORMAT: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "grade",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"explanation": {"type": "string"}, "rating": {"type": "integer", "enum": [*range(1, 11)]}},
            "required": ["explanation", "rating"],
            "additionalProperties": False,
        },
    },
}
"""What an endpoint that offers structured output holds a judge's grade to."""

_OWN_MARK = re.compile(r"\[(?:Conversation|Answer to grade|End of the answer)(?: (\d{1,9}))?\]")


def prompts_file(folder: Path) -> Path | None:
    """judge_prompts.jsonl: what is given, in a folder that is given, or beside it; None where there is none."""
    places = [folder] if folder.is_file() else [folder / FILE, folder.parent / FILE]
    return next((place for place in places if place.is_file()), None)


def load_prompts(folder: Path) -> dict[str, Prompt]:
    """The templates by name, from judge_prompts.jsonl, a folder that holds it, or a folder in one that does.

    Raises:
        DataError: there is none, or a row lacks a field.
    """
    path = prompts_file(folder)
    if path is None:
        raise DataError(f"{folder}: no {FILE} there or beside it; it comes with FastChat (fastchat/llm_judge/data)")
    prompts = {}
    for place, row in read_rows(path):
        fields = [row.get(name) for name in ("name", "system_prompt", "prompt_template", "output_format")]
        if not all(isinstance(field, str) for field in fields):
            raise DataError(f"{place}: a judge prompt needs name, system_prompt, prompt_template and output_format")
        name, system, template, output_format = map(str, fields)
        if name in prompts:
            raise DataError(f"{place}: a second prompt {name!r}; keep one of them")
        prompts[name] = Prompt(name, system, template, output_format)
    return prompts


def grading(
    prompts: Mapping[str, Prompt] | None, request: GradeRequest, *, structured: bool = False
) -> tuple[Prompt, list[dict[str, str]]]:
    """The prompt for one response of MT-Bench and the conversation that a judge is sent; radpo's own without prompts.

    One turn is graded by single-v1, two by single-v1-multi-turn; with reference answers by their math versions.

    Args:
        structured: have radpo's own prompt ask for JSON as `RESPONSE_FORMAT` describes it.

    Raises:
        DataError: the prompts lack the one that is needed, or the conversation has more than two turns.
    """
    if prompts is None:
        conversation = "\n\n".join(
            f"{message['role'].capitalize()}: {message['content']}" for message in request.prompt
        )
        own = _own_prompt(conversation, request.response)
        if structured:
            own = replace(own, template=own.template.replace(_IN_BRACKETS, _IN_JSON))
        return own, _messages(own, conversation=conversation, answer=request.response)
    turns = [message["content"] for message in request.prompt if message["role"] != "system"]
    answers = request.reference.get("reference_answers")
    kind = "single-math-v1" if answers else "single-v1"
    references = {f"ref_answer_{n}": text for n, text in enumerate(answers or (), start=1)}
    if len(turns) == 1:
        prompt = _find(prompts, kind)
        return prompt, _messages(prompt, question=turns[0], answer=request.response, **references)
    prompt = _find(prompts, f"{kind}-multi-turn")
    first, answer, second = _two_turns(turns)
    return prompt, _messages(
        prompt, question_1=first, answer_1=answer, question_2=second, answer_2=request.response, **references
    )


def pairing(prompts: Mapping[str, Prompt], request: CompareRequest) -> tuple[Prompt, list[dict[str, str]]]:
    """The prompt for two responses, shown in the request's order, and the conversation that a judge is sent.

    For second turns `reference["first_answers"]` holds the two models' answers to the first.

    Raises:
        DataError: as `grading`.
    """
    turns = [message["content"] for message in request.prompt if message["role"] == "user"]
    answers = request.reference.get("reference_answers")
    kind = "pair-math-v1" if answers else "pair-v2"
    references = {f"ref_answer_{n}": text for n, text in enumerate(answers or (), start=1)}
    if len(turns) == 1:
        prompt = _find(prompts, kind)
        shown = _messages(prompt, question=turns[0], answer_a=request.first, answer_b=request.second, **references)
        return prompt, shown
    prompt = _find(prompts, f"{kind}-multi-turn")
    before_a, before_b = request.reference["first_answers"]
    return prompt, _messages(
        prompt,
        question_1=turns[0], question_2=turns[1], answer_a_1=before_a, answer_b_1=before_b,
        answer_a_2=request.first, answer_b_2=request.second, **references,
    )  # fmt: skip


def rating(judgment: str, rule: Rule = "fastchat") -> float | None:
    """The [[rating]] in a judgment, else the [rating]; None where there is none or it is not on 1-10."""
    found = _choose(_RATING, judgment, rule) or _choose(_RATING_BACKUP, judgment, rule)
    value = float(found[1]) if found else None
    return value if value is not None and 0 <= value <= 10 else None


def structured_rating(judgment: str) -> float | None:
    """The rating of a reply as `RESPONSE_FORMAT` describes it; None where it has none on 1-10."""
    try:
        value = json.loads(judgment)["rating"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return float(value) if type(value) in (int, float) and 1 <= value <= 10 else None


def winner(judgment: str, output_format: str, rule: Rule = "fastchat") -> Winner:
    """The verdict on a pair, by the template's output format."""
    if output_format == "[[A]]":
        places = {mark: judgment.rfind(mark) for mark in _WINNERS if mark in judgment}
        if not places:
            return "error"
        return _WINNERS[max(places, key=lambda mark: places[mark]) if rule == "last" else next(iter(places))]
    found = _choose(_TWO, judgment, rule) or _choose(_TWO_BACKUP, judgment, rule)
    if not found:
        return "error"
    apart = float(found[1]) - float(found[2])
    return "tie" if abs(apart) <= TIE_DELTA else "A" if apart > 0 else "B"


def _choose(pattern: re.Pattern[str], judgment: str, rule: Rule) -> re.Match[str] | None:
    """The first or the last match."""
    if rule == "fastchat":
        return pattern.search(judgment)
    last = deque(pattern.finditer(judgment), maxlen=1)
    return last[0] if last else None


def _own_prompt(*texts: str) -> Prompt:
    """Radpo's own prompt, its marks numbered where a text holds one of them, so that no text ends its own part."""
    used = [int(number or 1) for text in texts for number in _OWN_MARK.findall(text)]
    if not used:
        return OWN
    return replace(OWN, template=_OWN_MARK.sub(lambda mark: f"{mark[0][:-1]} {max(used) + 1}]", OWN.template))


def _find(prompts: Mapping[str, Prompt], name: str) -> Prompt:
    if name not in prompts:
        raise DataError(f"the judge prompts have no {name!r}; there are {', '.join(prompts)}")
    return prompts[name]


def _two_turns(turns: Sequence[str]) -> tuple[str, str, str]:
    if len(turns) != 3:
        asked = excerpt(turns[0] if turns else "")
        raise DataError(f"MT-Bench's prompts judge one or two turns, and here are {(len(turns) + 1) // 2}: {asked!r}")
    return turns[0], turns[1], turns[2]


def _messages(prompt: Prompt, **texts: str) -> list[dict[str, str]]:
    try:
        filled = prompt.template.format(**texts)
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"judge prompt {prompt.name!r}: its template cannot be filled: {error!r}") from error
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": filled}]
