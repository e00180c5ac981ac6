"""Goals: the score a policy is asked for, as text in a conversation and as part of a chat template.

`condition` puts a goal into messages (for training); `goal_aware_template` puts it into a chat template (of the
checkpoint), so that any tool that renders the template asks for the best score. Both give the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from radpo.core.errors import DataError, ModelError
from radpo.core.json_rows import ENCODING

Placement = Literal["system", "user"]
"""Where the goal goes: into the system message, or, where a template has none, before the first user message."""

GOAL_TEXT = (
    "You are an assistant that generates responses for the instruction while implicitly achieving the following "
    "target scores (on a scale of {low}-{high}, where {low} is lowest and {high} is highest):\nOverall score: {g}."
)
"""The wording of arXiv 2410.08067: `{g}` is the score, `{low}` and `{high}` the ends of the scale it is on."""

DEFAULT_ATTRIBUTES_TEXT = GOAL_TEXT.replace("Overall score: {g}.", "{g}")
"""The same wording for a goal per attribute: `{g}` is a line for each (`attribute_goals`)."""

Scale = tuple[float, float]
"""The lowest and the highest possible score."""

ATTRIBUTE_SCALE: Scale = (1.0, 5.0)
"""The scale of attributes' scores where none is given, as UltraFeedback rates them."""

_BEGIN = "{#- radpo goal -#}"
# An empty expression ends the prologue: unlike a tag, it leaves the white space of what follows alone.
_END = "{#- radpo template -#}{{ '' }}"


def format_goal(goal: float) -> str:
    """A score as it is asked for: at most two decimals, and none where it is whole.

    >>> [format_goal(8.0), format_goal(7.5), format_goal(6.3333)]
    ['8', '7.5', '6.33']
    """
    rounded = round(float(goal), 2)
    return str(int(rounded)) if rounded == int(rounded) else str(rounded)


def goal_wording(scale: Scale, template: str = GOAL_TEXT) -> str:
    """A goal's wording with the ends of the scale put in, for `{low}` and `{high}` if it has them; `{g}` stays."""
    return template.replace("{low}", format_goal(scale[0])).replace("{high}", format_goal(scale[1]))


def asked_in(settings: Mapping[str, Any]) -> str:
    """A goal's wording from a stage's settings: `scale`, and where the matrix has one of its own, `goal_text`."""
    low, high = settings["scale"]
    return goal_wording((low, high), settings.get("goal_text", GOAL_TEXT))


DEFAULT_GOAL_TEXT = goal_wording((1.0, 10.0))
"""The paper's own sentence, on its scale of 1-10."""


def goal_text(goal: float, template: str = DEFAULT_GOAL_TEXT) -> str:
    """The sentence that asks for a goal.

    >>> goal_text(10.0, "Overall score: {g}.")
    'Overall score: 10.'
    """
    return template.replace("{g}", format_goal(goal))


def attribute_goals(goals: Mapping[str, float]) -> str:
    """Goals by attribute, a line for each.

    >>> attribute_goals({"instruction_following": 4.0})
    'Instruction following score: 4.'
    """
    return "\n".join(
        f"{name.replace('_', ' ').capitalize()} score: {format_goal(goal)}." for name, goal in goals.items()
    )


def attributes_text(scale: Scale, template: str = DEFAULT_ATTRIBUTES_TEXT) -> str:
    """`goal_wording` of attributes' goals."""
    return goal_wording(scale, template)


def wording_between(one: str, other: str, goals: tuple[float, float]) -> str | None:
    """The wording of a goal in two texts that differ in their goals alone; None where they differ in more.

    The wording ends with the text, or where a blank line parts it from what it was put before.
    """
    first, second = map(format_goal, goals)
    for place in range(min(len(one), len(other)) + 1):
        if one.startswith(first, place) and other.startswith(second, place):
            after = one[place + len(first) :]
            if after == other[place + len(second) :]:
                return f"{one[:place]}{{g}}{after.partition(chr(10) * 2)[0]}"
        if one[place : place + 1] != other[place : place + 1]:
            break
    return None


def stated_scale(wording: str) -> Scale | None:
    """The scale that a goal's wording states in the paper's words; None where it states none."""
    found = re.search(r"on a scale of (-?\d+(?:\.\d+)?)-(-?\d+(?:\.\d+)?), where", wording)
    return None if found is None else (float(found[1]), float(found[2]))


def read_goal_template(path: Path) -> str:
    """The wording of a goal from a text file; the line end at its end is no part of it.

    Raises:
        DataError: the file cannot be read, or does not say where the score goes.
    """
    try:
        text = path.read_text(encoding=ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a goal's wording ({error})") from error
    if problem := goal_text_problem(text):
        raise DataError(f"{path}: {problem}")
    return text.removesuffix("\n").removesuffix("\r")


def goal_text_problem(text: str) -> str | None:
    """What is wrong with a wording of a goal; None where nothing is."""
    if (found := text.count("{g}")) == 1:
        return None
    return f"a goal's wording must hold {{g}} once, where the score goes; it does {found} times"


def condition(
    messages: Sequence[Mapping[str, Any]],
    goal: float | None,
    placement: Placement,
    template: str = DEFAULT_GOAL_TEXT,
) -> list[dict[str, Any]]:
    """The conversation with a goal asked for; the messages given are left as they are.

    The goal opens the system message, or the first user message, and a blank line parts it from what stood there.
    None asks for no goal.
    """
    copied = [dict(message) for message in messages]
    if goal is None:
        return copied
    return join_goal_text(copied, goal_text(goal, template), placement)


def join_goal_text(messages: list[dict[str, Any]], text: str, placement: Placement) -> list[dict[str, Any]]:
    """`condition` for a goal sentence that was made before; the first message of the list may be replaced."""
    place = next((index for index, message in enumerate(messages) if message["role"] == placement), None)
    if placement == "system" and place != 0:
        return [{"role": "system", "content": text}, *messages]
    if place is None:
        return messages
    content = messages[place]["content"]
    joined = f"{text}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": f"{text}\n\n"}, *content]
    return [*messages[:place], {**messages[place], "content": joined}, *messages[place + 1 :]]


_USUAL = re.compile(r"set radpo_goal = goal if goal is defined else (-?\d+(?:\.\d+)?) -%")
_CANARY = "radpo-canary"
_SHAPES = (
    ("user",),
    ("user", "assistant"),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant"),
)
"""Conversations that a goal must survive: as prompts and with the answer that is learned, of one turn and of two."""
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def detect_placement(chat_template: str, special_tokens: Mapping[str, str] | None = None) -> Placement:
    """Where a goal goes: into the system message, if the template renders it in every conversation.

    Some templates refuse a system message, some leave it out without a word, and some (Mistral's) leave it out of
    conversations that end with an answer, so that it would be in the prompt and not in what is learned from.

    Args:
        special_tokens: what the template's variables such as `bos_token` stand for.

    Raises:
        ModelError: the template renders no user's message.
    """
    return _placement(original_template(chat_template), tuple((special_tokens or _SPECIAL).items()))


@lru_cache(maxsize=64)
def _placement(template: str, special_tokens: tuple[tuple[str, str], ...]) -> Placement:
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(roles: Sequence[str], marked: int) -> str:
        messages = [
            {"role": role, "content": _CANARY if place == marked else f"Text {place}"}
            for place, role in enumerate(roles)
        ]
        rendered, _ = render_jinja_template(
            conversations=[messages],
            chat_template=template,
            add_generation_prompt=roles[-1] == "user",
            **dict(special_tokens),
        )
        return str(rendered[0])

    known = []
    for roles in _SHAPES:
        try:
            known.append((roles, render(roles, 0)))
        except (TemplateError, TypeError) as error:  # templates add texts to variables that may be undefined
            if len(roles) == 1:
                raise ModelError(
                    f"the chat template does not render a user's message ({error}); it is no template for conversations"
                ) from error
    try:
        if all(_CANARY in render(("system", *roles), 0) for roles, _ in known):
            return "system"
    except (TemplateError, TypeError):
        pass
    if lost := next((roles for roles, text in known if _CANARY not in text), None):
        raise ModelError(
            "the chat template renders no system message, and leaves out the first user's message of a conversation "
            f"with the roles {', '.join(lost)}; there is no place for a goal in it"
        )
    return "user"


def goal_aware_template(
    chat_template: str, best: float | str, placement: Placement, template: str = DEFAULT_GOAL_TEXT
) -> str:
    """A chat template that asks for a goal.

    Rendered as usual it asks for `best` (a score, or what `attribute_goals` makes of several); with the variable
    `goal=7` it asks for 7; with `goal=None` it asks for none.
    It renders exactly what `chat_template` renders of `condition(messages, goal, placement)`.
    """
    before, after = (_literal(part) for part in template.split("{g}", 1))
    usual = _literal(best) if isinstance(best, str) else format_goal(best)
    join_system = """
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set radpo_content = messages[0]['content'] -%}
{%- if radpo_content is string -%}
{%- set radpo_content = radpo_text ~ radpo_blank ~ radpo_content -%}
{%- else -%}
{%- set radpo_content = [{'type': 'text', 'text': radpo_text ~ radpo_blank}] + radpo_content -%}
{%- endif -%}
{%- set messages = [dict(messages[0], content=radpo_content)] + messages[1:] -%}
{%- else -%}
{%- set messages = [{'role': 'system', 'content': radpo_text}] + messages -%}
{%- endif -%}"""
    join_user = """
{%- set radpo = namespace(messages=[], joined=false) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' and not radpo.joined -%}
{%- set radpo.joined = true -%}
{%- if message['content'] is string -%}
{%- set radpo.messages = radpo.messages + [dict(message, content=radpo_text ~ radpo_blank ~ message['content'])] -%}
{%- else -%}
{%- set radpo_part = {'type': 'text', 'text': radpo_text ~ radpo_blank} -%}
{%- set radpo.messages = radpo.messages + [dict(message, content=[radpo_part] + message['content'])] -%}
{%- endif -%}
{%- else -%}
{%- set radpo.messages = radpo.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = radpo.messages -%}"""
    return (
        _BEGIN
        + f"\n{{%- set radpo_goal = goal if goal is defined else {usual} -%}}"
        + "\n{%- if radpo_goal is not none -%}"
        + "\n{%- if radpo_goal is number -%}{%- set radpo_goal = radpo_goal | round(2) -%}"
        + "{%- if radpo_goal == radpo_goal | int -%}{%- set radpo_goal = radpo_goal | int -%}{%- endif -%}{%- endif -%}"
        + f"\n{{%- set radpo_text = {before} ~ radpo_goal ~ {after} -%}}"
        + f"\n{{%- set radpo_blank = {_literal(chr(10) * 2)} -%}}"
        + (join_system if placement == "system" else join_user)
        + "\n{%- endif -%}\n"
        + _END
        + _continued(original_template(chat_template))
    )


def is_goal_aware(chat_template: str) -> bool:
    """Whether a chat template takes a goal."""
    return chat_template.startswith(_BEGIN) and _END in chat_template


def template_goal(chat_template: str) -> float | None:
    """The score that a chat template asks for, rendered as usual; None where it asks for none, or several."""
    found = _USUAL.search(chat_template) if is_goal_aware(chat_template) else None
    return float(found[1]) if found else None


def original_template(chat_template: str) -> str:
    """The chat template without its goal; one that has none stays as it is."""
    return chat_template.split(_END, 1)[1] if is_goal_aware(chat_template) else chat_template


def with_preamble(chat_template: str, preamble: str) -> str:
    """A chat template with something before what its model's own begins with, its goal left where it is."""
    own = original_template(chat_template)
    return chat_template[: len(chat_template) - len(own)] + preamble + _continued(own)


def _continued(template: str) -> str:
    """A template as it goes on behind something: a renderer strips before tags only at the start of a line."""
    return template.lstrip(" \t") if re.match(r"[ \t]+\{[%#]", template) else template


def _literal(text: str) -> str:
    """A Jinja string literal that holds nothing a template parser or a reader could take for a tag."""
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted.replace("{", "\\x7b").replace("}", "\\x7d").replace("%", "\\x25")
