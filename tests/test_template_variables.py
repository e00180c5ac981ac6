"""Variables of chat templates, here and behind endpoints, and what else every request to an endpoint holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import write_model
from fault_server import FaultServer

from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
from radpo.core.environment import environment
from radpo.core.errors import ConfigError
from radpo.judges.base import GradeRequest
from radpo.judges.fastchat import RESPONSE_FORMAT, grading, structured_rating
from radpo.judges.lookup import check_settings, split_settings
from radpo.judges.openai import OpenAIJudge, OpenAISettings
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.models.chat_template import VARIABLES, template_environment, with_variables
from radpo.models.loading import load_tokenizer
from radpo.preferences.goals import goal_aware_template, original_template, template_goal

THINKS = (
    "\n{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{{ style }}{% endif %}"
)
"""As Qwen3's, which thinks unless it is told not to."""
ASKED = [{"role": "user", "content": "Hi"}]


def rendered(folder: Path, **more: Any) -> str:
    tokenizer = load_tokenizer(folder)
    return str(tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, **more))


def test_a_template_has_the_variables_that_a_stage_finds_in_its_environment(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", THINKS)
    plain = rendered(folder)
    assert plain == "\n<|user|>Hi\n<|assistant|>"
    hostile = "%} {{ 1 }} ' \" \\ \n ü"
    with environment(template_environment({"enable_thinking": False, "style": hostile})):
        assert rendered(folder) == f"{plain}<think></think>{hostile}"
        assert rendered(folder, enable_thinking=True, style="") == plain, (
            "what a conversation is rendered with goes first"
        )
    with environment({VARIABLES: '{"messages": []}'}), pytest.raises(ConfigError, match="messages: is no name"):
        load_tokenizer(folder)
    with environment({VARIABLES: "{"}), pytest.raises(ConfigError, match=f"{VARIABLES}: .*give a JSON object"):
        load_tokenizer(folder)
    assert with_variables(THINKS, {}) == THINKS


def test_a_goals_part_of_a_template_stays_where_it_is(tmp_path: Path) -> None:
    aware = goal_aware_template(THINKS, 10.0, "system")
    found = with_variables(aware, {"enable_thinking": False})
    assert template_goal(found) == 10
    assert original_template(found) == with_variables(THINKS, {"enable_thinking": False})


def test_variables_are_of_a_matrix_or_of_one_checkpoint_and_in_keys(tmp_path: Path) -> None:
    write_model(tmp_path / "model", THINKS)
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "turns": ["Say it"]}\n', encoding="utf-8")

    def stages(matrix: dict[str, Any] | None, variant: dict[str, Any] | None, **of: Any) -> dict[str, Any]:
        document: dict[str, Any] = {
            "name": "m", "model": "model", "variants": {"base": None, "other": of or {"checkpoint": "model"}},
            "benchmarks": {"mt-bench": {"questions": "q.jsonl", "judge": "verifier"}},
        }  # fmt: skip
        if matrix is not None:
            document["chat_template_kwargs"] = matrix
        if variant is not None:
            document["variants"]["other"]["chat_template_kwargs"] = variant
        (tmp_path / "m.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        plan = expand(load_matrix(tmp_path / "m.yaml"))
        return {stage.name: stage for stage in plan.stages if stage.function_name == "generate"}

    base, other = "generate/base/seed-0/q", "generate/other/seed-0/q"
    plain, one = stages(None, None), stages(None, {"enable_thinking": False})
    assert plain[base].key == one[base].key
    assert list(plain) == [base], "the same model as it is, asked the same"
    assert plain[base].key != one[other].key
    assert json.loads(one[other].settings["environment"][VARIABLES]) == {"enable_thinking": False}
    both = stages({"enable_thinking": True, "style": "x"}, {"enable_thinking": False})
    assert json.loads(both[base].settings["environment"][VARIABLES]) == {"enable_thinking": True, "style": "x"}
    assert json.loads(both[other].settings["environment"][VARIABLES]) == {"enable_thinking": False, "style": "x"}
    with pytest.raises(ConfigError, match=r"m.yaml:\d+: chat_template_kwargs.goal: is no name for a variable"):
        stages({"goal": 3}, None)
    with pytest.raises(ConfigError, match=r"style: .*must be a text, a number, true or false"):
        stages({"style": {"a": 1}}, None)
    with pytest.raises(ConfigError, match=r"variants.other.chat_template_kwargs: is for a checkpoint"):
        stages(None, {"enable_thinking": False}, method="base")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(lambda body: '{"explanation": "good", "rating": 7}') as server:
        yield server


def test_every_request_holds_what_its_endpoints_settings_say(tmp_path: Path, server: FaultServer) -> None:
    """One contract a setting: what the body gains, and that it is part of a reply's identity."""
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"temperature": 0, "max_tokens": 5}),
        ({"token_limit": "max_completion_tokens"}, {"temperature": 0, "max_completion_tokens": 5}),
        ({"sampling_options": "omit"}, {"max_tokens": 5}),
        ({"reasoning_effort": "low"}, {"temperature": 0, "max_tokens": 5, "reasoning_effort": "low"}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"temperature": 0, "max_tokens": 5, "chat_template_kwargs": {"enable_thinking": False, "goal": 3}},
        ),
        ({"extra_body": {"top_k": 20, "temperature": 0.5}}, {"temperature": 0.5, "max_tokens": 5, "top_k": 20}),
    ]
    for settings, expected in cases:
        asked = {"temperature": 0, "max_tokens": 5}
        if "chat_template_kwargs" in settings:
            asked["chat_template_kwargs"] = {"goal": 3}  # type: ignore[assignment]
        chat = Chat(Endpoint(model="m", base_url=server.url, **settings), tmp_path / "replies.sqlite")
        before = len(server.asked)
        chat.complete([ChatRequest(ASKED, asked)])
        if settings != {"token_limit": "max_completion_tokens"}:  # a name for the same, which changes no answer
            assert len(server.asked) == before + 1, settings
            body = server.asked[-1]
            assert {name: value for name, value in body.items() if name not in ("model", "messages")} == expected
    priced = Endpoint(model="m", price_in=1e6, price_out=0, extra_body={"guided": "x" * 50})
    plain = Endpoint(model="m", price_in=1e6, price_out=0)
    options = {"max_tokens": 1}
    assert priced.highest_cost(ASKED, priced.options(options)) >= 50 + plain.highest_cost(ASKED, options)


def test_settings_that_are_not_given_are_no_part_of_a_key() -> None:
    assert set(Endpoint(model="m").identity()) == {"model", "base_url", "version", "sampling_options"}
    counted = split_settings("openai", check_settings("openai", {"model": "m"})).counted
    assert not {"reasoning_effort", "chat_template_kwargs", "extra_body", "structured"} & set(counted)
    given = {"model": "m", "reasoning_effort": "high", "extra_body": {"top_k": 1}, "structured": True}
    counted = split_settings("openai", check_settings("openai", given)).counted
    assert {name: counted[name] for name in given} == given
    for body, message in (
        ({"model": "other"}, "model: is set by model"),
        ({"max_tokens": 3}, "max_tokens: is set by the sampling's"),
        ({"stream": True}, "stream: is set by nothing"),
        ({"token": "sk-abcdefghijklmnopqrstuvwxyz123456"}, "looks like a key"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_settings("openai", {"model": "m", "extra_body": body})
    with pytest.raises(ConfigError, match="structured: is for radpo's own prompt"):
        check_settings("openai", {"model": "m", "structured": True, "prompts": "folder"})


def test_a_structured_grade_is_asked_for_and_read_as_json(tmp_path: Path, server: FaultServer) -> None:
    settings = OpenAISettings(model="m", base_url=server.url, structured=True)
    judge = OpenAIJudge(settings, tmp_path / "replies.sqlite")
    assert [grade.score for grade in judge.grade([GradeRequest(ASKED, "Hello")])] == [7]
    (body,) = server.asked
    assert body["response_format"] == RESPONSE_FORMAT
    assert "as JSON with the keys explanation and rating." in body["messages"][1]["content"]
    assert "[[" not in body["messages"][1]["content"]
    assert "[[rating]]" in grading(None, GradeRequest(ASKED, "Hello"))[1][1]["content"]
    for reply, expected in (
        ('{"rating": 3}', 3), ('{"rating": 11}', None), ('{"rating": true}', None), ('{"rating": "7"}', None),
        ("[7]", None), ("7", None), ("[" * 9999, None), ("", None), ('{"rating": 1e999}', None),
    ):  # fmt: skip
        assert structured_rating(reply) == expected, reply
