"""A real OpenAI-compatible server, `transformers serve`: it generates as transformers called directly, and judges."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cheap_stages import WRITE
from factories import TEMPLATE, write_model

from radpo.benchmarks.served import server_hint
from radpo.clients.chat import Chat
from radpo.clients.endpoint import Endpoint
from radpo.engine.graph import Stage
from radpo.engine.servers import serving
from radpo.judges.base import GradeRequest
from radpo.judges.openai import OpenAIJudge, OpenAISettings
from radpo.models.backends import with_endpoint
from radpo.models.decoding import Sampling
from radpo.models.generation import generate
from radpo.preferences.goals import goal_aware_template

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")),
    reason="`transformers serve` needs fastapi and uvicorn",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    template = goal_aware_template(TEMPLATE, best=10.0, placement="system")
    return write_model(tmp_path_factory.mktemp("served"), template)


@pytest.fixture(scope="module")
def endpoint(folder, tmp_path_factory) -> Iterator[Endpoint]:
    """As radpo starts it for the stages that need it."""
    served = Endpoint(
        model="policy", serve="transformers", weights=str(folder), args="--device cpu --dtype float32",
        concurrency=2, timeout=60, start_seconds=120,
    )  # fmt: skip
    served.check_command()
    needs = Stage("answers", "f", WRITE, {}, {}, server_hint(served))
    with serving(needs, tmp_path_factory.mktemp("servers")):
        yield served


def talk(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ask(endpoint: Endpoint, cache: Path, goal, texts) -> list[str]:
    backend = with_endpoint(Chat(endpoint, cache), goal=goal)
    return backend([talk(text) for text in texts], Sampling(12, 0.0), {}, lambda fresh: None, lambda *step: None)


def test_answers_equal_those_of_transformers_called_directly_with_and_without_a_goal(endpoint, folder, tmp_path):
    texts = ["Why?", "What is it that you say?"]
    for goal in ("default", 3.0):
        direct = generate(
            folder, [talk(text) for text in texts], Sampling(12, 0.0), goal=goal, batch_size=1, precision="float32"
        )
        assert ask(endpoint, tmp_path / "chat.sqlite", goal, texts) == direct
    assert direct != ask(endpoint, tmp_path / "chat.sqlite", "default", texts)


def test_judging_by_a_real_server_counts_tokens_and_what_has_no_rating(endpoint, tmp_path):
    settings = OpenAISettings(
        **endpoint.model_dump(exclude={"max_cost", "price_in", "price_out"}),
        price_in=1.0, price_out=2.0, max_cost=1.0, max_tokens=8,
    )  # fmt: skip
    judge = OpenAIJudge(settings, tmp_path / "chat.sqlite")
    (grade,) = judge.grade([GradeRequest(talk("Why?"), "Because.")])
    assert grade.score is None  # a random model rates nothing
    assert judge.chat.usage.answered == 1
    assert judge.chat.usage.completion_tokens <= 8 < judge.chat.usage.prompt_tokens
    assert 0 < judge.chat.usage.cost < 0.001
    assert json.dumps(judge.chat.usage.__dict__)
