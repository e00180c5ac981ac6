"""Goals: what is asked, where it stands, and that template and messages say the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from radpo.preferences.goals import (
    condition,
    detect_placement,
    format_goal,
    goal_aware_template,
    goal_text,
    is_goal_aware,
    original_template,
)

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
SPACED = """
  {%- for message in messages %}
    {{- '[' + message.role + '] ' + message.content }}
  {%- endfor %}
  {%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}
"""

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
goals = st.none() | st.integers(1, 10) | st.floats(1, 10)


def render(template: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    texts, _ = render_jinja_template(conversations=[messages], chat_template=template, bos="<bos>", **variables)
    return str(texts[0])


@st.composite
def conversations(draw: st.DrawFn, system: bool) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": draw(words)}] if system and draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 3))):
        if turn:
            messages.append({"role": "assistant", "content": draw(words)})
        messages.append({"role": "user", "content": draw(words)})
    return messages


@pytest.mark.parametrize(("template", "placement"), [(CHATML, "system"), (GEMMA, "user"), (SPACED, "system")])
def test_placement_is_read_off_the_template(template: str, placement: str) -> None:
    assert detect_placement(template) == placement
    assert detect_placement(goal_aware_template(template, 10, placement)) == placement  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(st.data(), goals, st.booleans(), st.sampled_from([CHATML, GEMMA, SPACED]))
def test_the_template_asks_as_the_messages_do(data: st.DataObject, goal: Any, prompt: bool, template: str) -> None:
    placement = detect_placement(template)
    messages = data.draw(conversations(system=placement == "system"))
    before = copy.deepcopy(messages)
    aware = goal_aware_template(template, 10, placement)
    by_messages = render(template, condition(messages, goal, placement), add_generation_prompt=prompt)
    assert render(aware, messages, goal=goal, add_generation_prompt=prompt) == by_messages
    best = render(template, condition(messages, 10, placement), add_generation_prompt=prompt)
    assert render(aware, messages, add_generation_prompt=prompt) == best
    assert messages == before


@pytest.mark.parametrize(("goal", "text"), [(8.0, "8"), (8, "8"), (7.5, "7.5"), (16 / 3, "5.33"), (9.999, "10")])
def test_a_whole_score_has_no_decimal_point(goal: float, text: str) -> None:
    assert format_goal(goal) == text
    assert goal_text(goal).endswith(f"\nOverall score: {text}.")


def test_the_goal_joins_a_system_message_and_does_not_replace_it() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    asked = condition(messages, 9, "system")
    assert asked[0]["content"] == f"{goal_text(9)}\n\nBe brief."
    assert asked[1:] == messages[1:]


def test_without_a_system_role_the_goal_opens_the_first_user_message_after_a_blank_line() -> None:
    messages = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    asked = condition(messages, 9, "user")
    assert asked[0]["content"] == f"{goal_text(9)}\n\nOne"
    assert asked[1:] == messages[1:]


def test_a_content_of_parts_gets_a_text_part() -> None:
    asked = condition([{"role": "user", "content": [{"type": "image"}]}], 9, "user")
    assert asked[0]["content"] == [{"type": "text", "text": f"{goal_text(9)}\n\n"}, {"type": "image"}]


@settings(deadline=None)
@given(words, st.sampled_from([CHATML, GEMMA]))
def test_any_wording_can_be_asked_for(wording: str, template: str) -> None:
    placement = detect_placement(template)
    wording = "{{ 7 * 7 }}{% raw %}'\"\\" + wording.replace("{g}", "") + " {g}!"
    messages = [{"role": "user", "content": "Hello"}]
    aware = goal_aware_template(template, 10, placement, wording)
    assert render(aware, messages, goal=3) == render(template, condition(messages, 3, placement, wording))


@pytest.mark.parametrize("template", [CHATML, GEMMA, SPACED])
def test_the_goal_can_be_taken_out_again(template: str) -> None:
    aware = goal_aware_template(template, 10, detect_placement(template))
    assert is_goal_aware(aware)
    assert not is_goal_aware(template)
    assert original_template(aware) == original_template(template) == template
    assert goal_aware_template(aware, 10, detect_placement(template)) == aware
