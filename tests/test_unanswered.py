"""One refused or unusable reply ends nothing and is paid for once; an endpoint that is of no use is found out early."""

from __future__ import annotations

import _thread
import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, Http, text_choice

from radpo.api import evaluate
from radpo.clients import reply_cache
from radpo.clients.chat import FIRST_FEW, Chat, ChatRequest
from radpo.clients.dialect import Dialect
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError, DataError, ServiceError
from radpo.judges.annotator import annotate_pairs
from radpo.judges.base import CompareRequest, GradeRequest
from radpo.judges.lookup import check_settings
from radpo.judges.openai import OpenAIJudge, OpenAISettings
from radpo.judges.record import judge_notes
from radpo.judges.samples import score_samples
from radpo.models.backends import unanswered_of, with_endpoint
from radpo.models.decoding import Sampling

NULL = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": None}}
UNUSABLE = {
    "refused": Http(400, {"error": {"message": "not this one"}}),
    "always fails": Http(500, {"error": {"message": "boom"}}),
    "gateway": Http(504, b"<html>"),
    "null": NULL,
    "null tool calls": {**NULL, "message": {"content": None, "tool_calls": [None]}},
    "odd tool calls": {**NULL, "message": {"content": None, "tool_calls": {"a": 1}, "function_call": "x"}},
    "filtered": {**NULL, "finish_reason": "content_filter"},
    "odd finish": {**NULL, "finish_reason": ["x"]},
    "nested": Http(
        200, b'{"choices": [{"finish_reason": "stop", "message": {"content": ' + b"[" * 900 + b"]" * 900 + b"}}]}"
    ),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))


def judged_by(server: FaultServer, **settings) -> dict[str, Any]:
    return {"kind": "openai", "model": "j", "base_url": server.url, **settings}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def requests(n: int) -> list[ChatRequest]:
    return [ChatRequest(user(f"q{i}."), {"max_tokens": 10}) for i in range(n)]


def last(body) -> str:
    return body["messages"][-1]["content"]


def chat(server: FaultServer, folder: Path, **settings) -> Chat:
    return Chat(Endpoint(model="m", base_url=server.url, **settings), folder / "chat.sqlite")


@pytest.mark.parametrize("kind", UNUSABLE)
def test_one_unusable_reply_ends_nothing_and_says_why(tmp_path, kind):
    def answer(body):
        return UNUSABLE[kind] if last(body) == "q3." else f"said {last(body)}"

    with FaultServer(answer) as server:
        client = chat(server, tmp_path, attempts=3)
        replies = client.complete(requests(30))
        asked = sum(last(body) == "q3." for body in server.asked)
    assert [reply.text for reply in replies] == [None if i == 3 else f"said q{i}." for i in range(30)]
    assert replies[3].error
    assert asked <= 3
    client.check_unanswered([replies[3].error], 30)


@pytest.mark.parametrize(("reason", "times"), [("length", 1), ("content_filter", 1), ("stop", 2)])
def test_a_reply_without_a_text_is_asked_again_only_where_that_can_help_and_never_on_a_rerun(tmp_path, reason, times):
    def answer(body):
        return {**NULL, "finish_reason": reason} if last(body) == "q3." else "fine"

    for _ in range(2):
        with FaultServer(answer) as server:
            # The address is part of what answers are known by.
            endpoint = Endpoint(model="m", base_url=server.url)
            replies = Chat(endpoint, tmp_path / "chat.sqlite").complete(requests(10))
            assert sum(last(body) == "q3." for body in server.asked) == times
            assert replies[3].error == f"the reply has no text (finish_reason {reason})"
            before = len(server.asked)
            again = Chat(endpoint, tmp_path / "chat.sqlite").complete(requests(10))
            assert len(server.asked) == before
            assert again[3].error == replies[3].error
            assert again[3].finish_reason == reason


def test_reasoning_that_used_its_tokens_up_is_never_read_as_the_answer_and_is_said(tmp_path):
    message = {"content": None, "reasoning_content": "Rating: [[9]]"}
    with FaultServer(lambda body: {**NULL, "message": message} if "Q1" in str(body) else "[[5]]") as server:
        judge = OpenAIJudge(OpenAISettings(model="j", base_url=server.url), tmp_path / "c.sqlite")
        grades = judge.grade([GradeRequest(user(f"Q{n}"), "A") for n in range(4)])
    assert [grade.score for grade in grades] == [5, None, 5, 5]
    assert grades[1].reason == "the reply has no text after reasoning (finish_reason length)"
    assert (
        "1 of 4 requests have no answer: 'Q1' (the reply has no text after reasoning (finish_reason length))"
        in (judge_notes(judge, "b")[-1])
    )


def test_reasoning_that_is_only_counted_makes_a_judge_one_that_reasons(tmp_path, real_data):
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}}
    body = {"choices": [text_choice("Not [[3]] but [[8]]")], "usage": usage}
    with FaultServer(lambda _: Http(200, body)) as server:
        settings = OpenAISettings(model="o", base_url=server.url, prompts=real_data / "mt_bench")
        for _ in range(2):  # from the cache, too
            judge = OpenAIJudge(settings, tmp_path / "c.sqlite")
            assert judge.grade([GradeRequest(user("Q"), "A")])[0].score == 8
            assert judge.record.reasoned == 1
        assert len(server.asked) == 1


def test_a_lone_surrogate_in_a_judges_reply_is_stored_and_its_verdict_counts(tmp_path):
    with FaultServer(lambda body: "cut \ud83d Rating: [[6]]") as server:
        judge = OpenAIJudge(OpenAISettings(model="j", base_url=server.url), tmp_path / "c.sqlite")
        (grade,) = judge.grade([GradeRequest(user("Q"), "A")])
    assert grade.score == 6
    assert grade.reason == "cut \ufffd Rating: [[6]]"
    import pyarrow as pa

    assert pa.array([grade.reason])[0].as_py() == grade.reason


def test_more_unanswered_than_the_setting_allows_fail_the_stage_which_says_so(tmp_path):
    def answer(body):
        return (
            UNUSABLE["refused"]
            if int(body["messages"][-1]["content"].split("Q")[1].split("\n")[0]) % 10 == 9
            else "[[5]]"
        )

    asked = [GradeRequest(user(f"Q{n}"), "A") for n in range(60)]
    with FaultServer(answer) as server:
        settings = {"model": "j", "base_url": server.url}
        with pytest.raises(ServiceError, match=r"4 of 60 requests have no answer, more than max_unanswered \(5%\)"):
            OpenAIJudge(OpenAISettings(**settings), tmp_path / "c.sqlite").grade(asked)
        judge = OpenAIJudge(OpenAISettings(**settings, max_unanswered=0.1), tmp_path / "c.sqlite")
        assert sum(grade.score is None for grade in judge.grade(asked)) == 6
        answered = [body for body in server.asked if answer(body) == "[[5]]"]
        assert len(answered) == len({last(body) for body in answered})  # nothing that was answered is paid for twice


def scored_by(server: FaultServer, folder: Path, number: int, **settings) -> list[dict[str, Any]]:
    """That many samples with their scores."""
    rows = [{"prompt_id": f"p{n}", "prompt": user(f"Q{n}."), "response": "r"} for n in range(number)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = OpenAIJudge(OpenAISettings(model="j", base_url=server.url, **settings), folder / "c.sqlite")
    score_samples(folder / "samples.jsonl", judge, folder / "scored.jsonl")
    return [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]


def test_the_limit_is_of_all_requests_and_not_of_the_parts_in_which_samples_are_scored(tmp_path):
    """Four of the first 64 samples are refused, and four of all 192 may be."""
    refused = [f"Q{n}." for n in (3, 5, 7, 9)]

    def answer(body):
        return UNUSABLE["refused"] if any(name in last(body) for name in refused) else "[[5]]"

    with FaultServer(answer) as server:
        with pytest.raises(ServiceError, match=r"2 of 192 requests have no answer, more than max_unanswered \(1%\)"):
            scored_by(server, tmp_path, 192, max_unanswered=0.01)
        assert len(server.asked) < 64  # once too many have none, no more are paid for
        rows = scored_by(server, tmp_path, 192, max_unanswered=0.05)
        assert [row["prompt_id"] for row in rows if row["score"] is None] == ["p3", "p5", "p7", "p9"]


def test_an_interrupted_call_of_which_only_refused_requests_are_left_ends_as_one_that_was_not(tmp_path):
    down = threading.Event()

    def answer(body):
        if "Q64." in last(body):
            return Http(401, {"error": "later"}) if down.is_set() else UNUSABLE["refused"]
        return "[[5]]"

    down.set()
    with FaultServer(answer) as server:
        with pytest.raises(ServiceError, match="HTTP 401"):
            scored_by(server, tmp_path, 65)
        down.clear()
        assert [row["prompt_id"] for row in scored_by(server, tmp_path, 65) if row["score"] is None] == ["p64"]
        assert len(server.asked) == 66
    # The same of a model under test, whose journal has all answers but the refused one's.
    with FaultServer(lambda body: UNUSABLE["refused"]) as server:
        backend = with_endpoint(chat(server, tmp_path))
        backend([user("a"), user("b")], Sampling(8, 0.0), {0: "done"}, lambda fresh: None, lambda done, total: None)
        assert list(unanswered_of(backend)) == [1]


def test_a_rerun_that_lacks_only_the_refused_does_not_fail(tmp_path):
    def answer(body):
        return UNUSABLE["refused"] if last(body) == "q3." else "fine"

    with FaultServer(answer) as server:
        for _ in range(2):
            replies = chat(server, tmp_path).complete(requests(30))
            assert sum(reply.text is None for reply in replies) == 1
        assert len(server.asked) == 31


@pytest.mark.parametrize("reply", [UNUSABLE["refused"], NULL])
def test_an_endpoint_that_answers_nothing_is_found_out_after_the_first_few(tmp_path, reply):
    with FaultServer(lambda body: reply, delay=0.02) as server:
        with pytest.raises(ServiceError, match=f"The first {FIRST_FEW} requests all came to this"):
            chat(server, tmp_path).complete(requests(100))
        assert len(server.asked) == FIRST_FEW


def test_a_few_quick_refusals_before_the_first_slow_answer_stop_nothing(tmp_path):
    def answer(body):
        if int(last(body)[1:-1]) < 4:
            return UNUSABLE["refused"]
        time.sleep(0.05)
        return "fine"

    with FaultServer(answer) as server:
        replies = chat(server, tmp_path).complete(requests(60))
    assert sum(reply.text is None for reply in replies) == 4


def test_an_outage_in_the_middle_stops_the_run_and_keeps_what_was_answered(tmp_path):
    down = threading.Event()

    def answer(body):
        if down.is_set():
            return UNUSABLE["always fails"]
        if last(body) == "q20.":
            down.set()
        return "fine"

    with FaultServer(answer) as server:
        with pytest.raises(ServiceError, match="no answer after 2 attempts: HTTP 500"):
            chat(server, tmp_path, attempts=2, concurrency=4).complete(requests(200))
        assert len(server.asked) < 60
        down.clear()
        client = chat(server, tmp_path, concurrency=4)
        others = [request for request in requests(200) if request.messages[-1]["content"] != "q20."]
        assert all(reply.text == "fine" for reply in client.complete(others))
        assert client.usage.from_cache >= 15


def test_an_error_of_any_kind_stops_the_other_workers_from_paying(tmp_path, monkeypatch):
    puts = []

    def fail(self, key, reply):
        puts.append(key)
        raise DataError("the disk is gone")

    with FaultServer(lambda body: "fine", delay=0.01) as server:
        chat(server, tmp_path).complete([ChatRequest(user("useful"))])
        monkeypatch.setattr(reply_cache.ReplyCache, "put", fail)
        client = chat(server, tmp_path, concurrency=4)
        client.useful = True
        with pytest.raises(DataError, match="the disk is gone"):
            client.complete(requests(100))
        assert len(server.asked) <= 1 + 4


def test_a_disk_without_room_is_noticed_before_anything_is_paid_for(tmp_path, monkeypatch):
    with FaultServer(lambda body: "fine") as server:
        monkeypatch.setattr(reply_cache, "ROOM", 2**62)
        with pytest.raises(DataError, match="nothing more is asked; what was answered is kept"):
            chat(server, tmp_path).complete(requests(10))
        assert not server.asked


# --- endpoints without logprobs


def test_an_endpoint_without_logprobs_is_found_out_after_the_first_few(tmp_path, capfd):
    pairs = [CompareRequest(user(f"Q{n}"), "a", "b") for n in range(100)]
    with FaultServer(lambda body: "m", delay=0.02) as server:
        for _ in range(2):  # also where the first few are in the cache
            with pytest.raises(ServiceError, match="hold no logprobs, which this annotator of alpaca-eval reads"):
                annotate_pairs(chat(server, tmp_path), "weighted_alpaca_eval_gpt4_turbo", pairs)
        assert len(server.asked) <= FIRST_FEW + 1
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("text", ["<think>", "<think>so far, so"])
@pytest.mark.parametrize("annotator", ["weighted_alpaca_eval_gpt4_turbo", "alpaca_eval_gpt4", None])
def test_a_judge_whose_tokens_are_used_up_by_reasoning_is_found_out_after_the_first_few(tmp_path, text, annotator):
    top = [{"token": "<think>", "logprob": -0.1, "top_logprobs": [{"token": "<think>", "logprob": -0.1}]}]
    choice = {**text_choice(text), "finish_reason": "length", "logprobs": {"content": top}}
    with FaultServer(lambda body: choice, delay=0.02) as server:
        settings = {} if annotator is None else {"annotator": annotator}
        judge = OpenAIJudge(OpenAISettings(model="j", base_url=server.url, **settings), tmp_path / "c.sqlite")
        graded = [GradeRequest(user(f"Q{n}"), "A") for n in range(100)]
        compared = [CompareRequest(request.prompt, "a", "b") for request in graded]
        with pytest.raises(ServiceError, match=r"ends in its reasoning \(finish_reason length\)\. The first 5"):
            judge.grade(graded) if annotator is None else judge.compare(compared)
        assert len(server.asked) == FIRST_FEW


# --- the endpoint's own way of being asked


def newer(body):
    """Refuses what the o-series refuses."""
    if "max_tokens" in body:
        return Http(400, {"error": {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.", "type": "invalid_request_error", "param": "max_tokens",
            "code": "unsupported_parameter",
        }})  # fmt: skip
    if body.get("temperature", 1) != 1:
        return Http(400, {"error": {
            "message": "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
            "value is supported.", "type": "invalid_request_error", "param": "temperature", "code": "unsupported_value",
        }})  # fmt: skip
    return "[[7]]"


def test_what_a_newer_endpoint_takes_is_found_from_its_own_error_once(tmp_path):
    with FaultServer(newer, delay=0.01) as server:
        judge = OpenAIJudge(OpenAISettings(model="o", base_url=server.url), tmp_path / "c.sqlite")
        grades = judge.grade([GradeRequest(user(f"Q{n}"), "A") for n in range(80)])
        refused = [body for body in server.asked if isinstance(newer(body), Http)]
        assert [grade.score for grade in grades] == [7] * 80
        assert len(refused) <= 2 * FIRST_FEW
        assert server.asked[-1].keys() == {"model", "messages", "max_completion_tokens"}
        assert judge_notes(judge, "b") == (
            "b: the endpoint takes no temperature from its users; 80 of 80 replies were drawn at its own.",
        )
        before = len(server.asked)
        again = OpenAIJudge(judge.settings, tmp_path / "c.sqlite")
        again.grade([GradeRequest(user(f"Q{n}"), "A") for n in range(80)])
        assert len(server.asked) == before
        assert judge_notes(again, "b") == judge_notes(judge, "b")


def test_settings_choose_it_without_a_refusal(tmp_path):
    with FaultServer(newer) as server:
        chosen = {"token_limit": "max_completion_tokens", "sampling_options": "omit"}
        judge = OpenAIJudge(OpenAISettings(model="o", base_url=server.url, **chosen), tmp_path / "c.sqlite")
        assert judge.grade([GradeRequest(user("Q"), "A")])[0].score == 7
        assert len(server.asked) == 1


def test_settings_that_forbid_it_leave_the_refusal_as_it_is(tmp_path):
    with FaultServer(newer) as server, pytest.raises(ServiceError, match="Use 'max_completion_tokens' instead"):
        chat(server, tmp_path, token_limit="max_tokens").complete(requests(1))


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum context length is 4096.",
        "This model's maximum context length is 4096 tokens, temperature 0",
        "Invalid prompt: your prompt was flagged",
        "",
    ],
)
def test_refusals_of_another_kind_change_nothing(message):
    dialect, sent = Dialect(), {"max_tokens": 5, "temperature": 0}
    assert not dialect.learn(json.dumps({"error": {"message": message}}).encode(), sent)
    assert dialect.options(sent) == sent


def test_learning_ends_whatever_the_endpoint_says():
    dialect, wanted = Dialect(), {"max_tokens": 5, "temperature": 0, "top_p": 1, "seed": 1}
    said = b'{"detail": "unsupported: max_completion_tokens, temperature, top_p, seed"}'
    for _ in range(10):
        if not dialect.learn(said, dialect.options(wanted)):
            break
    assert dialect.options(wanted) == {"max_completion_tokens": 5}
    assert not dialect.learn(said, dialect.options(wanted))


# --- answers of a model under test


def questions_file(folder: Path, n: int) -> Path:
    path = folder / "questions.jsonl"
    rows = [{"question_id": f"q{i}", "category": "c", "turns": [f"Say {i}", "And?"]} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_that_the_model_under_test_cannot_answer_are_left_out_counted_and_named(tmp_path):
    def answer(body):
        if body["model"] == "j":
            return "[[7]]"
        return (
            UNUSABLE["refused"]
            if last(body) == "Say 2"
            else NULL
            if last(body) == "And?" and "Say 4" in str(body)
            else "A"
        )

    with FaultServer(answer) as server:
        found = evaluate(
            "mt-bench", {"questions": {"path": questions_file(tmp_path, 8)}, "judge": judged_by(server)},
            variant={"endpoint": {"model": "s", "base_url": server.url, "max_unanswered": 0.25}}, out=tmp_path / "out",
        )  # fmt: skip
        assert not [
            body for body in server.asked if body["model"] == "s" and "Say 2" in str(body) and last(body) == "And?"
        ]
        judged = {last(body) for body in server.asked if body["model"] == "j"}
    assert len(judged) == 12  # six questions of two turns
    (note,) = (note for note in found["notes"] if "left out" in note)
    assert note.startswith("2 of 8 questions have no answer and are left out: q2 (HTTP 400")
    assert "q4 (the reply has no text (finish_reason length))" in note
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in rows if "unanswered" in row] == ["q2", "q4"]


def test_the_limit_of_questions_without_an_answer_is_that_of_all_questions_and_not_of_a_group(tmp_path):
    """Two of forty may lack an answer where they are two of the five that are sampled at a temperature of their own."""
    from radpo.models.answers import answer_questions, unanswered_questions
    from radpo.preferences.questions import load_questions

    questions = load_questions(questions_file(tmp_path, 40))

    def sampling_of(question, turn):
        return Sampling(8, 1.0 if question.question_id in {"q1", "q2", "q3", "q4", "q5"} else 0.0)

    refused = {"Say 1", "Say 2"}
    with FaultServer(lambda body: UNUSABLE["refused"] if last(body) in refused else "A") as server:
        path = answer_questions(questions, lambda: with_endpoint(chat(server, tmp_path)), sampling_of, tmp_path / "two")
        assert set(unanswered_questions(path)) == {"q1", "q2"}
        refused.add("Say 9")
        with pytest.raises(ServiceError, match="3 of 40 requests have no answer"):
            answer_questions(
                questions, lambda: with_endpoint(chat(server, tmp_path / "c")), sampling_of, tmp_path / "three"
            )


def test_another_model_under_the_same_name_does_not_get_the_first_ones_answers(tmp_path):
    serving = {"text": "first"}

    def answer(body):
        return "[[7]]" if body["model"] == "j" else serving["text"]

    def run(out: str, **settings):
        return evaluate(
            "mt-bench", {"questions": {"path": questions_file(tmp_path, 3)}, "judge": judged_by(server)},
            variant={"endpoint": {"model": "s", "base_url": server.url, **settings}}, out=tmp_path / out,
            # With a store of its own each; in one store they would share what a version says is the same.
            store=None if not settings else str(tmp_path / f"store-{out}"),
        )  # fmt: skip

    def answers(out: str) -> set[str]:
        rows = (tmp_path / out / "answers.jsonl").read_text().splitlines()
        return {turn for row in rows for turn in json.loads(row)["turns"]}

    with FaultServer(answer) as server:
        run("one")
        serving["text"] = "second"
        run("two")
        assert (answers("one"), answers("two")) == ({"first"}, {"second"})
        assert not list((tmp_path / "two").glob("replies.sqlite*"))
        run("three", version="v1")
        serving["text"] = "third"
        found = run("four", version="v1")
        assert answers("three") == answers("four") == {"second"}
        assert "6 of 6 answers came from the cache of replies, of version v1." in found["notes"]
        run("five", version="v2")
        assert answers("five") == {"third"}
        assert found["judge"]["usage"]["from_cache"] == 6


# --- paid once


def test_two_clients_that_ask_the_same_at_once_share_what_is_in_flight(tmp_path):
    with FaultServer(lambda body: f"said {last(body)}", delay=0.05) as server:
        clients = [chat(server, tmp_path, concurrency=8) for _ in range(3)]
        found = {}
        threads = [
            threading.Thread(target=lambda n=n, c=c: found.update({n: c.complete(requests(40))}))
            for n, c in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.asked) == 40
        assert all([r.text for r in found[n]] == [f"said q{i}." for i in range(40)] for n in range(3))
        assert sum(client.usage.answered for client in clients) == 40
        assert sum(client.usage.from_cache for client in clients) == 80


ASKING = """
import sys
from pathlib import Path
from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
asked = [ChatRequest([{"role": "user", "content": f"q{i}."}], {"max_tokens": 10}) for i in range(60)]
client = Chat(Endpoint(model="m", base_url=sys.argv[1], concurrency=8), Path(sys.argv[2]))
print(len({reply.text for reply in client.complete(asked)}))
"""


def test_processes_share_what_is_in_flight_and_a_killed_ones_requests_are_taken_over(tmp_path):
    with FaultServer(lambda body: f"said {last(body)}", delay=0.1) as server:
        command = [sys.executable, "-c", ASKING, server.url, str(tmp_path / "chat.sqlite")]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        deadline = time.monotonic() + 60
        while sum(server.delivered.values()) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        both[0].kill()
        assert [process.communicate(timeout=60)[0].strip() for process in both[1:]] == ["60", "60"]
        both[0].wait()
        assert len(server.delivered) == 60
        # Killed outright, answers may have left the server and not yet reached the disk: no more than were under way.
        assert sum(server.delivered.values()) <= 60 + 8


def test_a_process_that_is_told_to_terminate_keeps_what_is_on_its_way(tmp_path):
    with FaultServer(lambda body: f"said {last(body)}", delay=0.3) as server:
        command = [sys.executable, "-c", ASKING, server.url, str(tmp_path / "chat.sqlite")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.asked) < 12:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
        sent = len(server.asked)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "60"
        assert len(server.asked) == 60
        assert set(server.delivered.values()) == {1}
        assert sent < 60


def test_a_stage_on_ray_is_interrupted_waited_for_while_it_pays_and_only_then_ended(tmp_path, monkeypatch):
    """Ray interrupts a task as Ctrl-C does; here its calls are noted, and one task pays for a second and a half."""
    ray = pytest.importorskip("ray")
    from radpo.engine import ray_pool

    class Cluster:
        def __init__(self):
            self.news = [("pays", ray_pool._PAYING, 1), ("pays", 3, 10)]

        def progress(self):
            news, self.news = self.news, []
            return news

    class Task:
        def __init__(self, key):
            self.key = key

    calls, began = [], time.monotonic()
    cluster, pays, idles = Cluster(), Task("pays"), Task("idles")

    def wait(tasks, num_returns, timeout):
        time.sleep(0.05)
        over = time.monotonic() - began > 1.5
        return ([pays] if over and pays in tasks else []), []

    monkeypatch.setattr(ray, "cancel", lambda task, force: calls.append((task.key, force)))
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(ray_pool, "STOP_SECONDS", 0.3)
    pool = ray_pool.RayPool(None, 2, None)
    pool._cluster, pool._at_work = cluster, {pays: pays, idles: idles}
    pool.close()
    assert calls == [("pays", False), ("idles", False), ("idles", True), "shutdown"]
    assert time.monotonic() - began > 1.5


def test_a_task_that_ray_interrupts_keeps_what_is_on_its_way(tmp_path):
    with FaultServer(lambda body: f"said {last(body)}", delay=0.4) as server:
        client = chat(server, tmp_path, concurrency=8)
        client.useful = True
        interrupting = threading.Timer(0.6, _thread.interrupt_main)  # what Ray's cancel does
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            client.complete(requests(100))
        sent = len(server.asked)
        assert 8 <= sent < 50
        assert sum(server.delivered.values()) == sent
        assert len({reply.text for reply in chat(server, tmp_path).complete(requests(100))}) == 100
        assert len(server.asked) == 100


def test_a_worker_is_waited_for_while_it_waits_for_what_is_paid_for(tmp_path, monkeypatch):
    from radpo.engine import local

    monkeypatch.setattr(local, "STOP_SECONDS", 0.2)
    context = multiprocessing.get_context("spawn")
    worker = object.__new__(local._Worker)
    worker.paying, (worker.connection, _) = context.Event(), context.Pipe()
    worker.process = context.Process(target=time.sleep, args=(1.0,))
    worker.process.start()
    worker.paying.set()
    assert "status 0" in worker.end()
    worker.paying.clear()
    worker.connection, _ = context.Pipe()
    worker.process = context.Process(target=time.sleep, args=(60.0,))
    worker.process.start()
    assert "signal 9" in worker.end()


# --- secrets

KEY = "sk-proj-abcdefghijklmnop/1234567890"


def test_a_key_is_redacted_before_a_message_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    for padding in range(280, 300):
        body = json.dumps({"error": "x" * padding + KEY}).encode()
        with FaultServer(lambda _, body=body: Http(400, body)) as server, pytest.raises(ServiceError) as told:
            chat(server, tmp_path, api_key_env="MY_KEY").complete(requests(1))
        assert "sk-proj" not in str(told.value)


@pytest.mark.parametrize("written", [KEY, KEY.replace("/", "\\/"), KEY.replace("/", "%2F")])
def test_a_key_that_a_server_echoes_in_a_reply_is_not_kept(tmp_path, monkeypatch, written):
    monkeypatch.setenv("MY_KEY", KEY)
    body = text_choice("TEXT")
    body["message"]["note"] = {"TEXT": ["TEXT"]}
    content = json.dumps({"choices": [body]}).replace("TEXT", f"your key is {written}").encode()
    with FaultServer(lambda _: Http(200, content)) as server:
        (reply,) = chat(server, tmp_path, api_key_env="MY_KEY").complete(requests(1))
    assert reply.text == "your key is ***"
    assert "sk-proj" not in str(reply.choice)
    assert not any(b"sk-proj" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_placeholder_for_a_key_is_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "EMPTY")
    with FaultServer(lambda body: "the list is EMPTY") as server:
        assert chat(server, tmp_path, api_key_env="MY_KEY").complete(requests(1))[0].text == "the list is EMPTY"


@pytest.mark.parametrize(
    "given", [KEY, "gsk_abc123def456ghi789", "AKIAIOSFODNN7EXAMPLE", "0123456789abcdef0123456789abcdef"]
)
def test_a_key_given_where_its_name_belongs_is_refused_and_not_printed(given):
    with pytest.raises(ConfigError, match="looks like a key itself") as told:
        check_settings("openai", {"model": "m", "api_key_env": given})
    with pytest.raises(ValueError, match="looks like a key itself") as direct:
        Endpoint(model="m", api_key_env=given)
    for error in (told, direct):
        assert given not in str(error.value)
        assert given not in repr(error.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "my_key_2", "AZURE_OPENAI_KEY_2024_PROD", "KEY"])
def test_names_of_variables_are_names(name):
    assert Endpoint(model="m", api_key_env=name).api_key_env == name


def test_alpaca_eval_leaves_out_what_the_judge_did_not_answer_and_names_it(tmp_path):
    def answer(body):
        return NULL if "Say 1" in last(body) else "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"

    rows = [{"instruction": f"Say {i}", "output": f"a{i}", "generator": "g"} for i in range(6)]
    (tmp_path / "base.json").write_text(json.dumps(rows))
    (tmp_path / "ours.json").write_text(
        json.dumps([{**row, "output": "x" * (n != 1), "generator": "h"} for n, row in enumerate(rows)])
    )
    with FaultServer(answer) as server:
        settings = {"judge": judged_by(server, annotator="alpaca_eval_gpt4"), "swap_check": 0}
        found = evaluate(
            "alpaca-eval", {**settings, "baseline_outputs": tmp_path / "base.json"},
            variant={"answers": tmp_path / "ours.json"}, out=tmp_path / "out",
        )  # fmt: skip
    assert found["n_total"] == 5
    # Also where there is no verdict on it.
    assert "alpaca-eval: 1 of 6 answers are empty and were judged as they are." in found["notes"]
    (note,) = (note for note in found["notes"] if "no verdict" in note)
    assert note == (
        "alpaca-eval: 1 of 6 comparisons have no verdict and are left out: "
        "1 (the reply has no text (finish_reason length))."
    )
