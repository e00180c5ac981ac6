"""The chat client: every answer had and paid for once, whatever the server does; limits hold; no key is written."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
import weakref
from collections import Counter
from pathlib import Path

import pytest
from fault_server import FaultServer, Http, text_choice
from hypothesis import given, settings
from hypothesis import strategies as st

from radpo.clients.budget import Budget, SpendingLimitError, Usage
from radpo.clients.chat import Chat, ChatRequest, LazyRequests
from radpo.clients.endpoint import Endpoint
from radpo.clients.replies import ChatReply
from radpo.clients.reply_cache import ReplyCache
from radpo.core.errors import ConfigError, DataError, ServiceError

KEY = "sk-never-to-be-written-0123456789"


def echo(body):
    return "said: " + body["messages"][-1]["content"]


def requests(n: int, prefix: str = "q") -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": f"{prefix}{i}"}], {"max_tokens": 10}) for i in range(n)]


def chat(server: FaultServer, folder: Path, **settings) -> Chat:
    return Chat(Endpoint(model="m", base_url=server.url, **settings), folder / "chat.sqlite")


def texts(replies) -> list[str | None]:
    return [reply.text for reply in replies]


def test_with_a_fifth_of_faults_every_answer_is_had_and_none_paid_for_twice(tmp_path):
    asked = requests(300)
    with FaultServer(echo, faults=0.2) as server:
        client = chat(server, tmp_path, concurrency=32)
        steps = []
        assert texts(client.complete(asked, lambda *step: steps.append(step))) == [f"said: q{i}" for i in range(300)]
        assert set(server.faulted) >= {"429", "500", "cut", "broken", "empty", "slow"}
        assert len(server.delivered) == 300
        assert set(server.delivered.values()) == {1}
        assert server.most_at_once <= 32
        assert client.usage.answered == 300
        assert client.usage.sent == len(server.asked) > 300
        assert (client.usage.prompt_tokens, client.usage.completion_tokens) == (30_000, 3_000)
        assert steps[-1] == (300, 300)
        before = len(server.asked)
        again = chat(server, tmp_path)
        assert texts(again.complete(asked)) == [f"said: q{i}" for i in range(300)]
        assert len(server.asked) == before
        assert (again.usage.sent, again.usage.from_cache) == (0, 300)


def test_like_requests_are_sent_once_and_other_samples_are_not_like(tmp_path):
    one = requests(1)[0]
    with FaultServer(echo) as server:
        replies = chat(server, tmp_path).complete([one, one, ChatRequest(one.messages, one.options, sample=1)])
        assert texts(replies) == ["said: q0"] * 3
        assert len(server.asked) == 2


def test_what_can_change_an_answer_is_in_the_key_and_what_cannot_is_not(tmp_path):
    with FaultServer(echo) as server:
        chat(server, tmp_path).complete(requests(1))
        chat(server, tmp_path, concurrency=1, timeout=5, attempts=2, api_key_env="OTHER").complete(requests(1))
        assert len(server.asked) == 1
        warmer = [ChatRequest(requests(1)[0].messages, {"max_tokens": 10, "temperature": 1})]
        chat(server, tmp_path).complete(warmer)
        assert len(server.asked) == 2
        assert server.asked[1] == {
            "model": "m", "messages": [{"role": "user", "content": "q0"}], "max_tokens": 10, "temperature": 1,
        }  # fmt: skip


KILLED = """
import sys
from pathlib import Path
from radpo.clients.chat import Chat, ChatRequest, LazyRequests
from radpo.clients.endpoint import Endpoint
from radpo.clients.replies import ChatReply
asked = [ChatRequest([{"role": "user", "content": f"q{i}"}], {"max_tokens": 10}) for i in range(400)]
client = Chat(Endpoint(model="m", base_url=sys.argv[1], concurrency=16), Path(sys.argv[2]))
print(len({reply.text for reply in client.complete(asked)}))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_a_random_moment_and_resumed_the_server_sees_no_finished_request_again(tmp_path, how):
    cache = tmp_path / "chat.sqlite"
    with FaultServer(echo, faults=0.2, delay=0.02) as server:
        command = [sys.executable, "-c", KILLED, server.url, str(cache)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = random.randrange(40, 300)
        deadline = time.monotonic() + 60
        while sum(server.delivered.values()) < wanted:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(how)
        process.wait(30)
        with sqlite3.connect(cache) as connection:
            finished = {json.loads(reply)["text"] for (reply,) in connection.execute("SELECT reply FROM replies")}
        assert 0 < len(finished) < 400
        sent, delivered = len(server.asked), set(server.delivered)
        if how == signal.SIGINT:  # what was on its way is waited for: nothing that was delivered is lost
            assert len(finished) == len(delivered)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "400"
        again = {"said: " + body["messages"][0]["content"] for body in server.asked[sent:]}
        assert not again & finished
        assert len(server.delivered) == 400
        # Killed outright, an answer may have left the server and not yet reached the disk: no more than were under way.
        assert sum(count > 1 for count in server.delivered.values()) <= (16 if how == signal.SIGKILL else 0)


def test_the_spending_limit_stops_before_the_request_that_could_pass_it(tmp_path):
    # The server counts 100 tokens in and 10 out, $0.00012; a request's 153 bytes might be as many tokens and more.
    limits = {"price_in": 1.0, "price_out": 2.0, "max_cost": 0.003}
    with FaultServer(echo) as server:
        client = chat(server, tmp_path, concurrency=4, **limits)
        long = [
            ChatRequest([{"role": "user", "content": f"{i:03d}" + "x" * 150}], {"max_tokens": 10}) for i in range(60)
        ]
        with pytest.raises(SpendingLimitError, match=r"of at most \$0.003 are spent"):
            client.complete(long)
        highest = client.endpoint.highest_cost(long[0].messages, {"max_tokens": 10})
        assert client.usage.cost == pytest.approx(len(server.asked) * 0.00012)
        assert client.usage.cost <= 0.003 < client.usage.cost + highest
        assert client.usage.answered == len(server.asked) == client.usage.sent
        # What was paid for is kept, and a higher limit goes on from there.
        more = chat(server, tmp_path, **{**limits, "max_cost": 1.0})
        assert len(set(texts(more.complete(long)))) == 60
        assert len(server.asked) == 60


def test_the_limit_of_requests_counts_those_sent_again(tmp_path):
    with FaultServer(echo, faults=1.0, kinds=("500",)) as server:
        client = chat(server, tmp_path, concurrency=2, max_requests=5)
        with pytest.raises(SpendingLimitError, match="limit of 5 requests"):
            client.complete(requests(10))
        assert len(server.asked) == 5


def test_answers_lost_on_the_way_count_as_spent_at_the_most_they_could_cost(tmp_path):
    with FaultServer(echo, faults=1.0, kinds=("cut",)) as server:
        client = chat(server, tmp_path, attempts=2, price_in=1.0, price_out=2.0)
        with pytest.raises(ServiceError, match="no answer after 2 attempts: the answer was cut off"):
            client.complete(requests(1))
        assert client.usage.cost == 0
        highest = client.endpoint.highest_cost(requests(1)[0].messages, {"max_tokens": 10})
        assert client.usage.unclear_cost == pytest.approx(2 * highest)


PRICED = {"price_in": 1.0, "price_out": 2.0}


def body_with(usage, text="fine"):
    return Http(200, {"choices": [text_choice(text)], "usage": usage})


@pytest.mark.parametrize(
    "usage",
    [
        None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 9, "completion_tokens": -5},
        {"prompt_tokens": 9, "completion_tokens": 0}, {"prompt_tokens": "9", "completion_tokens": 1.5},
    ],
)  # fmt: skip
def test_usage_that_is_zero_negative_or_missing_counts_as_the_most_that_was_asked_for(tmp_path, usage):
    with FaultServer(lambda body: body_with(usage)) as server:
        client = chat(server, tmp_path, **PRICED)
        client.complete(requests(3))
    highest = client.endpoint.highest_cost(requests(1)[0].messages, {"max_tokens": 10})
    assert (client.usage.cost, client.usage.prompt_tokens) == (0, 0)
    assert client.usage.unclear_cost == pytest.approx(3 * highest)


@pytest.mark.parametrize(
    ("status", "billed"), [(500, True), (503, True), (504, True), (529, True), (408, True), (501, True), (429, False),
                           (400, False), (401, False)],
)  # fmt: skip
def test_what_fails_at_the_endpoint_counts_as_possibly_billed_and_what_it_refuses_does_not(tmp_path, status, billed):
    with FaultServer(lambda body: Http(status, {"error": "no"})) as server:
        client = chat(server, tmp_path, attempts=2, **PRICED)
        with pytest.raises(ServiceError):
            client.complete(requests(1))
        highest = client.endpoint.highest_cost(requests(1)[0].messages, {"max_tokens": 10})
        assert client.usage.unclear_cost == pytest.approx(len(server.asked) * highest * billed)


def test_replies_longer_than_asked_for_are_seen_before_more_is_sent_than_the_limit_bears(tmp_path):
    """Ten tokens are asked for and 10,000 are billed: $0.02002 each, of which a limit of $0.5 bears 24."""
    usage = {"prompt_tokens": 20, "completion_tokens": 10_000}
    with FaultServer(lambda body: body_with(usage), delay=0.01) as server:
        client = chat(server, tmp_path, **PRICED, max_cost=0.5)
        with pytest.raises(
            SpendingLimitError, match=r"of at most \$0.5 are spent, and the next request could cost \$0.02"
        ):
            client.complete(requests(100))
        assert client.usage.cost == pytest.approx(len(server.asked) * 0.02002)
        assert 20 <= len(server.asked) <= 24


def test_a_reply_without_a_count_that_is_clearly_longer_than_asked_for_counts_by_its_length(tmp_path):
    with FaultServer(lambda body: body_with(None, "x" * 5000)) as server:
        client = chat(server, tmp_path, **PRICED)
        client.complete(requests(1))
        assert client.usage.unclear_cost > client.endpoint.cost(0, 5000)


def test_tools_are_a_part_of_what_a_prompt_could_cost():
    endpoint = Endpoint(model="m", **PRICED)
    messages, tools = requests(1)[0].messages, [{"type": "function", "function": {"name": "f" * 500}}]
    more = endpoint.highest_cost(messages, {"max_tokens": 1, "tools": tools}) - endpoint.highest_cost(
        messages, {"max_tokens": 1}
    )
    assert more > endpoint.cost(500, 0)


def test_answers_on_their_way_are_kept_when_the_disk_turns_out_to_be_full_and_nothing_more_is_asked(
    tmp_path, monkeypatch
):
    """The disk takes nothing more after the eighth answer but for the room of the ballast."""
    put, ballast = ReplyCache.put, tmp_path / "chat.sqlite.ballast"
    kept = []

    def full(self, key, reply):
        if len(kept) >= 8 and ballast.exists():
            raise sqlite3.OperationalError("database or disk is full")
        kept.append(key)
        put(self, key, reply)

    monkeypatch.setattr(ReplyCache, "put", full)
    with FaultServer(echo, delay=0.02) as server:
        client = chat(server, tmp_path, concurrency=4)
        client.useful = True
        with pytest.raises(DataError, match="nothing more is asked; what was answered is kept"):
            client.complete(requests(60))
        with sqlite3.connect(tmp_path / "chat.sqlite") as connection:
            assert connection.execute("SELECT count(*) FROM replies").fetchone() == (len(server.asked),)
        assert 8 < len(server.asked) <= 8 + 3 * 4
        again = chat(server, tmp_path)
        monkeypatch.undo()
        again.complete(requests(60))
        assert len(server.asked) == 60
        assert set(server.delivered.values()) == {1}


def test_a_limit_needs_prices_and_bounded_answers(tmp_path):
    with pytest.raises(ValueError, match="max_cost needs price_in"):
        Endpoint(model="m", max_cost=1.0)
    endpoint = Endpoint(model="m", max_cost=1.0, price_in=1, price_out=1)
    with pytest.raises(ConfigError, match="needs requests with max_tokens"):
        endpoint.highest_cost([{"role": "user", "content": "q"}], {})


def test_the_key_comes_from_the_environment_and_is_nowhere_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with FaultServer(lambda body: f"the key is {body['model']}", faults=0.2) as server:
        client = chat(server, tmp_path, api_key_env="MY_KEY")
        client.complete(requests(40))
        assert all(f"Authorization: Bearer {KEY}" in head for head in server.headers)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in repr(client) + repr(client.endpoint) + json.dumps(client.endpoint.model_dump())


def test_a_server_that_sends_the_key_back_does_not_get_it_into_a_message(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with FaultServer(lambda body: {"index": 0, "message": {"content": None, "note": KEY}}) as server:
        with pytest.raises(ServiceError) as told:
            chat(server, tmp_path, api_key_env="MY_KEY", attempts=1).complete(requests(1))
        assert KEY not in str(told.value)


def test_a_remote_endpoint_without_a_key_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="set the environment variable OPENAI_API_KEY"):
        Chat(Endpoint(model="m"), tmp_path / "c.sqlite").complete(requests(1))


@pytest.mark.parametrize("url", ["ftp://x/v1", "x", "https://user:pass@host/v1", "https://host/v1?key=1"])
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ValueError, match="base_url"):
        Endpoint(model="m", base_url=url)


def test_a_server_that_is_not_there_is_a_service_error(tmp_path):
    endpoint = Endpoint(model="m", base_url="http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(ServiceError, match="no answer after 2 attempts: cannot be reached") as told:
        Chat(endpoint, tmp_path / "c.sqlite").complete(requests(3))
    assert told.value.exit_status == 3


def test_a_time_out_is_tried_again(tmp_path):
    with FaultServer(echo, delay=0.5) as server:
        with pytest.raises(ServiceError, match=r"no answer within 0\.1 s"):
            chat(server, tmp_path, timeout=0.1, attempts=2).complete(requests(1))
        assert len(server.asked) == 2


def test_the_rate_is_held(tmp_path):
    with FaultServer(echo) as server:
        start = time.monotonic()
        chat(server, tmp_path, requests_per_minute=1200).complete(requests(11))
        assert time.monotonic() - start >= 0.5


def test_it_works_where_an_event_loop_runs_already(tmp_path):
    async def notebook(server):
        return chat(server, tmp_path).complete(requests(2))

    with FaultServer(echo) as server:
        assert texts(asyncio.run(notebook(server))) == ["said: q0", "said: q1"]


def test_odd_texts_survive_the_cache(tmp_path):
    odd = "a\ud800b \u2028 \0 \U0001f600"
    with FaultServer(lambda body: odd) as server:
        first = chat(server, tmp_path).complete([ChatRequest([{"role": "user", "content": odd}])])
        second = chat(server, tmp_path).complete([ChatRequest([{"role": "user", "content": odd}])])
        assert texts(first) == texts(second) == [odd]
        assert len(server.asked) == 1


def test_a_folder_in_the_place_of_a_cache_is_named(tmp_path):
    (tmp_path / "chat.sqlite").mkdir()
    with pytest.raises(DataError, match="cannot be used as a cache"):
        Chat(Endpoint(model="m", base_url="http://127.0.0.1:9/v1"), tmp_path / "chat.sqlite").complete(requests(1))


def test_a_cache_keeps_no_write_ahead_log_and_takes_over_one_that_did(tmp_path):
    cache = tmp_path / "chat.sqlite"
    with sqlite3.connect(cache) as older:
        older.execute("PRAGMA journal_mode=WAL")
        older.execute("CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
    older.close()
    with FaultServer(echo) as server:
        chat(server, tmp_path).complete(requests(1))
        key = sqlite3.connect(cache).execute("SELECT key FROM replies").fetchone()[0]
        with sqlite3.connect(cache) as connection:
            connection.execute("UPDATE replies SET checksum = NULL")  # as older versions wrote them
        assert texts(chat(server, tmp_path).complete(requests(1))) == ["said: q0"]
        assert len(server.asked) == 1
    assert sqlite3.connect(cache).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert len(key) == 64
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(("-wal", "-shm", "-journal"))]


class Messages(list):
    """Messages that can be seen to be let go of."""


def test_no_more_requests_and_replies_are_held_than_are_under_way_or_read_together(tmp_path, monkeypatch):
    number, concurrency, alive, held = 120, 4, Counter(), []
    monkeypatch.setattr("radpo.clients.chat.AT_ONCE", 10)

    def make(place):
        messages = Messages(requests(number)[place % number].messages)
        alive["requests"] += 1
        weakref.finalize(messages, alive.subtract, ["requests"])
        return ChatRequest(messages, {"max_tokens": 10})

    def living():
        gc.collect()  # replies that nobody holds any more are not counted, whenever they would have been found
        return [one for one in gc.get_objects() if isinstance(one, ChatReply)]

    before = {id(one): one for one in living()}  # of other tests

    def look(done, total):
        replies = sum(id(one) not in before for one in living()) if done % 30 == 0 else 0
        held.append((alive["requests"], replies))

    with FaultServer(echo) as server:
        for expected in (number, 0):  # asked, then of the cache
            client = chat(server, tmp_path, concurrency=concurrency)
            given = []
            for reply in client.replies(LazyRequests(number + 1, make), look):
                given.append(reply.text)
                look(len(given), number)
            assert given == [f"said: q{place}" for place in [*range(number), 0]]
            assert client.usage.sent == expected
        assert len(server.asked) == number
    assert len(held) > 3 * number
    assert max(requests for requests, _ in held) <= 2 * concurrency
    assert 0 < max(replies for _, replies in held) <= 2 * 10 + 2 * concurrency


def test_a_reply_that_is_damaged_after_it_was_kept_is_not_given(tmp_path):
    def damage(done, total):
        if done == total:
            with sqlite3.connect(tmp_path / "chat.sqlite") as connection:
                connection.execute("UPDATE replies SET reply = replace(reply, 'q7', 'q8')")

    with FaultServer(echo) as server:
        with pytest.raises(DataError, match="an answer was damaged after it was kept; the same command asks it again"):
            chat(server, tmp_path).complete(requests(10), damage)
        again = chat(server, tmp_path)
        assert texts(again.complete(requests(10))) == [f"said: q{i}" for i in range(10)]
        assert again.usage.sent == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from([False, False, True])), min_size=1, max_size=30
    ),
    st.floats(0.1, 5),
    st.integers(1, 40),
)
def test_no_order_of_events_spends_more_than_the_limits(costs, limit, most):
    """Each request could cost `highest`, does cost a share of it, and may be lost on the way."""
    endpoint = Endpoint(
        model="m", base_url="http://127.0.0.1:9/v1", price_in=1, price_out=1, max_cost=limit, max_requests=most
    )
    usage = Usage()

    async def one(budget, highest, share, lost):
        await budget.reserve(highest)
        with budget.account.change() as state:
            assert state.spent().dollars + state.reserved()[1] <= limit * (1 + 1e-9)
        await asyncio.sleep(0)
        await budget.settle(highest, cost=0.0 if lost else highest * share, unclear=highest if lost else 0.0)

    async def run():
        budget = Budget(endpoint, usage)
        return await asyncio.gather(*(one(budget, *cost) for cost in costs), return_exceptions=True)

    ended = asyncio.run(run())
    assert all(end is None or isinstance(end, SpendingLimitError) for end in ended)
    assert usage.sent == sum(end is None for end in ended) <= most
    assert usage.cost + usage.unclear_cost <= limit * (1 + 1e-9)
    if sum(highest for highest, _, _ in costs) <= limit and len(costs) <= most:
        assert usage.sent == len(costs)
