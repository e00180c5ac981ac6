"""Generation: padded batches answer as single prompts do, killed runs go on, and every backend takes the goal."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from factories import TEMPLATE, write_model
from fault_server import FaultServer

from radpo.clients.chat import Chat
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError, DataError, ModelError, ServiceError
from radpo.models.answers import answer_questions
from radpo.models.backends import with_endpoint, with_transformers, with_vllm
from radpo.models.decoding import Sampling
from radpo.models.generation import answer, generate
from radpo.models.loading import load_model, load_tokenizer
from radpo.preferences.questions import Question


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def talk(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


TEXTS = ["Why?", "Say it all again, and at length, please.", "Hm", "One more question of some length", "What?"]


def test_batches_of_padded_prompts_answer_as_each_alone(folder):
    sampling = Sampling(max_new_tokens=8, temperature=0)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    together = answer(model, tokenizer, talk(*TEXTS), sampling, batch_size=3)
    for text, found in zip(TEXTS, together, strict=True):
        ids = tokenizer.apply_chat_template(
            talk(text)[0], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        alone = model.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=1)
        assert found == tokenizer.decode(alone[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_a_resumed_call_gives_what_the_whole_call_gives(folder):
    sampling = Sampling(max_new_tokens=6, temperature=1.0, top_p=0.9, seed=3)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    kept: dict[int, str] = {}
    whole = answer(model, tokenizer, talk(*TEXTS), sampling, batch_size=2, keep=kept.update)
    assert kept == dict(enumerate(whole))
    fresh: dict[int, str] = {}
    first = dict(list(kept.items())[:2])  # the first batch, as kept
    resumed = answer(model, tokenizer, talk(*TEXTS), sampling, batch_size=2, done=first, keep=fresh.update)
    assert resumed == whole
    assert not fresh.keys() & first.keys()
    other = answer(model, tokenizer, talk(*TEXTS), Sampling(6, 1.0, 0.9, seed=4), batch_size=2)
    assert other != whole


def test_an_answer_ends_at_a_stop_text(folder):
    free = generate(folder, talk("Why?"), Sampling(20, 0), precision="float32")[0]
    assert len(free) > 3
    mark = free[2:4]
    stopped = generate(folder, talk("Why?"), Sampling(20, 0, stop=(mark,)), precision="float32")[0]
    assert stopped == free[: free.index(mark)].strip()


QUESTIONS = [
    Question("q1", "math", ("One?", "And then?"), ((), ())),
    Question("q2", "writing", ("Two? " * 3,), ((),)),
    Question("q3", "math", ("Three?", "Why three?"), ((), ())),
]


def sampling_of(question: Question, turn: int) -> Sampling:
    return Sampling(5, 0.7 if question.category == "writing" else 0.0, seed=turn)


class KilledError(Exception):
    pass


class Recording:
    """A backend that notes what it is asked, answers one conversation at a time, and may be killed."""

    def __init__(self, until: int = 10**9) -> None:
        self.left, self.asked = until, []

    def __call__(self, conversations, sampling, done, keep, progress):
        answers = dict(done)
        for place, conversation in enumerate(conversations):
            if place in answers:
                continue
            if self.left == 0:
                raise KilledError
            self.left -= 1
            text = f"to {conversation[-1]['content'].strip()} after {len(conversation)}"
            self.asked.append((conversation[-1]["content"].strip(), sampling.temperature))
            answers[place] = text
            keep({place: text})
            progress(place + 1, len(conversations))
        return [answers[place] for place in range(len(conversations))]


@pytest.mark.parametrize("killed_after", range(5))
def test_a_killed_set_of_answers_goes_on_in_the_middle(tmp_path, killed_after):
    whole = Recording()
    expected = answer_questions(QUESTIONS, lambda: whole, sampling_of, tmp_path / "whole").read_text()
    torn = Recording(killed_after)
    with pytest.raises(KilledError):
        answer_questions(QUESTIONS, lambda: torn, sampling_of, tmp_path / "torn")
    journal = tmp_path / "torn" / "turns.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"question_id": "q1", "tu')  # killed while it wrote a line
    rest = Recording()
    steps = []
    path = answer_questions(
        QUESTIONS, lambda: rest, sampling_of, tmp_path / "torn", progress=lambda *s: steps.append(s)
    )
    assert path.read_text() == expected
    assert torn.asked + rest.asked == whole.asked
    assert steps[-1] == (5, 5)
    assert not journal.exists()
    again = Recording(0)
    assert answer_questions(QUESTIONS, lambda: again, sampling_of, tmp_path / "torn").read_text() == expected


def test_later_turns_see_the_earlier_answers_and_categories_have_their_temperatures(tmp_path):
    backend = Recording()
    path = answer_questions(QUESTIONS, lambda: backend, sampling_of, tmp_path / "out")
    rows = {row["question_id"]: row["turns"] for row in map(json.loads, path.read_text().splitlines())}
    assert rows["q1"] == ["to One? after 1", "to And then? after 3"]
    assert dict(backend.asked)["Two? Two? Two?"] == 0.7
    assert dict(backend.asked)["Why three?"] == 0.0


def test_a_journal_of_other_questions_is_refused(tmp_path):
    with pytest.raises(KilledError):
        answer_questions(QUESTIONS, lambda: Recording(1), sampling_of, tmp_path)
    others = [replace(question, question_id=f"other {question.question_id}") for question in QUESTIONS]
    with pytest.raises(DataError, match="begun with other questions"):
        answer_questions(others, lambda: Recording(), sampling_of, tmp_path)


def test_an_answer_that_the_disk_hurt_is_had_anew(tmp_path):
    whole = answer_questions(QUESTIONS, lambda: Recording(), sampling_of, tmp_path / "whole").read_text()
    with pytest.raises(KilledError):
        answer_questions(QUESTIONS, lambda: Recording(3), sampling_of, tmp_path / "torn")
    journal = tmp_path / "torn" / "turns.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], lines[1].replace("after", "aftes"), lines[2]]) + "\n")
    rest = Recording()
    assert answer_questions(QUESTIONS, lambda: rest, sampling_of, tmp_path / "torn").read_text() == whole
    assert len(rest.asked) == 3, "the hurt one and the two that were left"


@pytest.fixture
def goal_folder(tmp_path) -> Path:
    from radpo.preferences.goals import goal_aware_template

    return write_model(tmp_path / "goal", goal_aware_template(TEMPLATE, best=10.0, placement="system"))


def test_transformers_takes_the_goal_and_a_plain_checkpoint_refuses_it(goal_folder, folder):
    def once(where, goal):
        backend = with_transformers(where, goal=goal, precision="float32")
        return backend(talk("Why?"), Sampling(12, 0), {}, lambda fresh: None, lambda *step: None)

    assert once(goal_folder, "default") == once(goal_folder, 10.0) != once(goal_folder, None)
    with pytest.raises(ModelError, match="takes no goal"):
        once(folder, 7.0)


def test_vllm_is_given_prompts_that_ask_for_the_goal(goal_folder, monkeypatch):
    """Against a stand-in: it shows what vLLM is called with, and nothing of vLLM itself."""
    seen = {}

    class LLM:
        def __init__(self, **settings):
            seen["settings"] = settings

        def generate(self, prompts, parameters, use_tqdm):
            seen.setdefault("prompts", []).extend(prompts)
            seen["parameters"] = parameters
            return [types.SimpleNamespace(outputs=[types.SimpleNamespace(text=" text ")]) for _ in prompts]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, lambda **values: values
    monkeypatch.setitem(sys.modules, "vllm", module)
    kept: dict[int, str] = {}
    backend = with_vllm(goal_folder, goal=7.0)
    found = backend(talk("A", "B"), Sampling(9, 0.5, 0.9, 4, ("END",)), {0: "kept"}, kept.update, lambda *step: None)
    assert (found, kept) == (["kept", "text"], {1: "text"})
    assert seen["parameters"] == [
        {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 4, "stop": ["END"], "stop_token_ids": [0]}
    ]
    shown = load_tokenizer(goal_folder).decode(seen["prompts"][0]["prompt_token_ids"])
    assert "Overall score: 7." in shown
    assert seen["settings"]["trust_remote_code"] is False


def test_without_vllm_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"install radpo\[vllm\]"):
        with_vllm(folder)


def test_an_endpoint_answers_turn_after_turn_with_sampling_and_goal(tmp_path):
    with FaultServer(lambda body: f" {len(body['messages'])} ", faults=0.2) as server:
        chat = Chat(Endpoint(model="m", base_url=server.url), tmp_path / "chat.sqlite")
        path = answer_questions(QUESTIONS, lambda: with_endpoint(chat, goal=7.0), sampling_of, tmp_path / "out")
        rows = [json.loads(line)["turns"] for line in path.read_text().splitlines()]
        assert rows == [["1", "3"], ["1"], ["1", "3"]]
        by_text = {body["messages"][-1]["content"].strip(): body for body in server.asked}
        assert by_text["One?"]["temperature"] == 0
        assert "seed" not in by_text["One?"]
        assert (by_text["Two? Two? Two?"]["temperature"], by_text["Two? Two? Two?"]["seed"]) == (0.7, 0)
        assert all(body["chat_template_kwargs"] == {"goal": 7.0} for body in server.asked)
        assert [m["role"] for m in by_text["And then?"]["messages"]] == ["user", "assistant", "user"]


def test_an_endpoint_that_refuses_a_question_is_named(tmp_path):
    endpoint = Endpoint(model="m", base_url="http://127.0.0.1:9/v1", attempts=1)
    chat = Chat(endpoint, tmp_path / "c")
    with pytest.raises(ServiceError, match="cannot be reached"):
        answer_questions(QUESTIONS, lambda: with_endpoint(chat), sampling_of, tmp_path / "out")
