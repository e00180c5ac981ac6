"""A tokenizer's chat template, and conversations rendered by it: the one place where either is looked at.

A tokenizer may have several named templates, its template may print today's date, refuse or leave out a system message,
and a text may hold the very tokens that the template parts messages with. Here there is one template, one date, a
refusal that says which conversation and why, and text stays text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from radpo.core.errors import ConfigError, ModelError
from radpo.core.reasoning import MARKS
from radpo.preferences.goals import Placement, detect_placement, original_template, template_goal, with_preamble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT = "default"
"""The name of the template that is used where there are several (`tool_use`, `rag`, ...), as transformers calls it."""
DATE = "RADPO_DATE"
"""The environment variable with the date that templates print, as 2024-07-26."""
USUAL_DATE = "2024-07-26"
"""The date that Llama 3's templates print by default."""
VARIABLES = "RADPO_CHAT_TEMPLATE_KWARGS"
"""The environment variable with further variables of templates, a JSON object such as {"enable_thinking": false}."""
_OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "goal"})
"""Variables of a template that radpo, or transformers, gives a value."""

_DATED = re.compile(r"""strftime_now\(\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*\)""")


def default_template(tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """The template that conversations are rendered by: the one there is, or of several the default.

    Args:
        where: whose tokenizer it is, for the message.

    Raises:
        ModelError: there is none, or there are several and none of them is the default.
    """
    templates = tokenizer.chat_template
    if isinstance(templates, Mapping):
        if not templates.get(DEFAULT):
            raise ModelError(
                f"model {where}: its tokenizer has the chat templates {', '.join(sorted(templates))} and none that is "
                f"called {DEFAULT}, so none can be taken; save the tokenizer with the one to use"
            )
        templates = templates[DEFAULT]
    if not templates:
        raise ModelError(
            f"model {where}: its tokenizer has no chat template, so conversations cannot be rendered for it"
        )
    return str(templates)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template of a tokenizer from `radpo.models.loading.load_tokenizer`, a goal's part of it included."""
    return default_template(tokenizer, str(tokenizer.name_or_path))


def placement_of(tokenizer: PreTrainedTokenizerBase) -> Placement:
    """Where a goal goes in the conversations that a tokenizer renders.

    Raises:
        ModelError: there is no place for one.
    """
    try:
        return detect_placement(template_of(tokenizer), tokenizer.special_tokens_map)
    except ModelError as error:
        raise ModelError(f"model {tokenizer.name_or_path}: {error}") from error


def saved_goal(folder: Path) -> float | None:
    """The score that a model folder's chat template asks for; None where it asks for none."""
    try:
        own = folder / "chat_template.jinja"
        if own.is_file():
            return template_goal(own.read_text(encoding="utf-8"))
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(found, list):  # several, each with its name
        named = [each for each in found if isinstance(each, dict) and each.get("name") == DEFAULT]
        found = named[0].get("template") if named else None
    return template_goal(found) if isinstance(found, str) else None


def prints_date(template: str) -> bool:
    """Whether a template prints the date of the day on which it is rendered."""
    return _DATED.search(template) is not None


def date_notes(folder: Path) -> list[str]:
    """A sentence on the date that a model folder's chat template prints; none where it prints none."""
    places = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in places if path.is_file())
    if not any("strftime_now(" in text for text in texts):
        return []
    return [f"The chat template prints the day's date; every conversation was dated {template_date().isoformat()}."]


def template_date() -> date:
    """The date that templates print, the same for a whole run: `RADPO_DATE`, else `USUAL_DATE`.

    Raises:
        ConfigError: the variable holds no date.
    """
    given = os.environ.get(DATE) or USUAL_DATE
    try:
        return date.fromisoformat(given)
    except ValueError as error:
        raise ConfigError(f"{DATE}={given}: is no date; write it as {USUAL_DATE}") from error


def with_date(template: str, when: date) -> str:
    """A template that prints one date whatever the day.

    Raises:
        ModelError: it prints a date in a form that is made while it is rendered.
    """
    fixed = _DATED.sub(lambda found: repr(when.strftime(_unquoted(found[1]))), template)
    if re.search(r"strftime_now\s*\(", fixed):
        raise ModelError(
            "the chat template prints today's date in a form that is not written out in it, so it would ask "
            "otherwise on another day; write the form out in the template, as strftime_now('%d %b %Y')"
        )
    return fixed


def check_variables(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """See that variables are ones that a template can be given.

    Raises:
        ValueError: a name is none or is taken, or a value is no text, number, truth value or list of these.
    """
    for name, value in variables.items():
        if not name.isidentifier() or name in _OURS:
            raise ValueError(f"{name}: is no name for a variable of a chat template, or one that radpo itself sets")
        values = value if isinstance(value, list | tuple) else [value]
        if not all(each is None or isinstance(each, str | int | float | bool) for each in values):
            raise ValueError(f"{name}: must be a text, a number, true or false, or a list of these")
    return variables


def template_variables() -> dict[str, Any]:
    """Further variables of chat templates, the same for all that a stage renders.

    Raises:
        ConfigError: the environment variable holds no such variables.
    """
    given = os.environ.get(VARIABLES)
    try:
        found = json.loads(given) if given else {}
        return dict(check_variables(found))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f'{VARIABLES}: {error}; give a JSON object, such as {{"enable_thinking": false}}') from error


def template_environment(variables: Mapping[str, Any] | None, beside: Mapping[str, str] = {}) -> dict[str, str]:
    """What an environment holds where templates are to have variables; nothing where there are none.

    Args:
        beside: an environment whose variables of templates are kept beside these.
    """
    if not variables:
        return {}
    return {VARIABLES: json.dumps({**json.loads(beside.get(VARIABLES, "{}")), **variables}, sort_keys=True)}


def with_variables(template: str, variables: Mapping[str, Any]) -> str:
    """A template in which variables have these values unless it is given others."""
    if not variables:
        return template
    parts = [
        f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
        for name, value in variables.items()
    ]
    # An empty text ends it, because transformers drops the line break after a block.
    return with_preamble(template, "".join([*parts, "{{ '' }}"]))


def _unquoted(literal: str) -> str:
    return re.sub(r"\\(.)", r"\1", literal[1:-1])


def render_tokens(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    generation_prompt: bool = False,
    name: str = "",
    **variables: Any,
) -> list[int]:
    """A conversation's token ids.

    Control tokens in a message's text are encoded as text, and not as what the template parts messages with. TRL and
    lm-eval read them as control tokens; on texts without any the ids are theirs.

    Args:
        generation_prompt: end with what the template puts before an answer.
        name: what the conversation is called, for the message.
        variables: further variables of the template, such as `goal=None`.

    Raises:
        ModelError: the template refuses the conversation, or leaves its system message out.
    """
    from jinja2.exceptions import TemplateError

    if messages and messages[0].get("role") == "system":
        _check_system(tokenizer, name)
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=generation_prompt,
            return_dict=False,
            sanitize_control_tokens=bool(held_control_tokens(tokenizer, _texts(messages))),
            **variables,
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ModelError(
            f"{name or 'a conversation'}: the chat template of {tokenizer.name_or_path} refuses it ({error}); its "
            f"messages' roles are {roles}. Most templates want user and assistant by turns, after a system message at "
            "most: `radpo data clean --join-turns` joins neighbouring messages of one role"
        ) from error
    return ids


def _check_system(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if placement_of(tokenizer) == "user":
        raise ModelError(
            f"{name or 'a conversation'}: has a system message, which the chat template of {tokenizer.name_or_path} "
            "refuses or leaves out; `radpo data clean --join-system` puts it before the first user's message"
        )


@dataclass(frozen=True)
class TurnEnd:
    """What a template ends an answer with: a token, or, where it writes none there, a text."""

    text: str
    token: int | None


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd | None:
    """How the answer ends in a conversation that continues; None where the template writes only space after it."""
    template = template_of(tokenizer)
    known = _ENDS.get(tokenizer)
    if known is None or known[0] != template:
        known = _ENDS[tokenizer] = (template, _turn_end(tokenizer))
    return known[1]


_ENDS: WeakKeyDictionary[Any, tuple[str, TurnEnd | None]] = WeakKeyDictionary()


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd | None:
    from jinja2.exceptions import TemplateError

    asked, answer, further = "radpo-question", "radpo-answer", "radpo-further"
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": further},
    ]
    after = ""
    for shown in (messages[:2], messages):  # some write an answer's end only before what follows it
        try:
            rendered = str(tokenizer.apply_chat_template(shown, tokenize=False))
        except (TemplateError, TypeError):  # made for one turn
            continue
        after = after or rendered.partition(answer)[2].partition(further)[0].rstrip()
    if not after:
        return None
    begun = after.lstrip()
    tokens = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    found = max((text for text in tokens if text.strip() and begun.startswith(text)), key=len, default=None)
    return TurnEnd(after, None) if found is None else TurnEnd(found, tokens[found])


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The tokens that only a template may write: special ones, and added ones that it parts messages with.

    Those that open and close a model's reasoning are none of them: they stand in answers, and in templates.
    """
    template = original_template(template_of(tokenizer))
    known = _CONTROL.get(tokenizer)
    if known is None or known[0] != template:
        reasoning = {mark for pair in MARKS for mark in pair}
        added = [(token.content, token.special) for token in tokenizer.added_tokens_decoder.values()]
        found = {text for text, special in added if text.strip() and (special or text in template)} - reasoning
        known = _CONTROL[tokenizer] = (template, tuple(sorted(found, key=lambda text: (-len(text), text))))
    return known[1]


_CONTROL: WeakKeyDictionary[Any, tuple[str, tuple[str, ...]]] = WeakKeyDictionary()
"""Every tokenizer's control tokens, and the template that they were found with; a tokenizer has thousands of tokens."""


def held_control_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> set[str]:
    """Those control tokens that some texts hold."""
    tokens = control_tokens(tokenizer)
    if not tokens:
        return set()
    pattern = _pattern(tokens)
    return {found for text in texts for found in pattern.findall(text)}


@lru_cache(maxsize=64)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tokens)))


def _texts(messages: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part["text"] for part in content if isinstance(part, Mapping) and "text" in part)
