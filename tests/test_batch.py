"""Batches: half the price, each request paid for once, whatever is killed or lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer

from radpo.clients import batch as batch_module
from radpo.clients import batch_api
from radpo.clients.account import begin_account, read_account
from radpo.clients.batch_api import BatchApi
from radpo.clients.budget import SpendingLimitError
from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ServiceError
from radpo.core.paid_work import ACCOUNT, RunAccount, paying

EACH = 100 * 1e-6 + 10 * 2e-6
"""Dollars of one reply of the stand-in at the full price."""


def echo(body: Any) -> Any:
    return f"to {body['messages'][-1]['content']}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "POLL", 0.01)
    monkeypatch.setattr(batch_module, "LONGEST_POLL", 0.02)
    monkeypatch.setattr(batch_api, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(echo) as server:
        yield server


def chat(server: BatchServer, folder: Path, **more: Any) -> Chat:
    settings = {"batch": True, "price_in": 1, "price_out": 2, "attempts": 3, "max_unanswered": 0.5, **more}
    return Chat(Endpoint(model="m", base_url=server.url, **settings), folder / "replies.sqlite")


def asked(number: int) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": f"q{n}"}], {"max_tokens": 10, "top_k": n}) for n in range(number)]


def texts(replies: Any) -> list[str | None]:
    return [reply.text for reply in replies]


EXPECTED = [f"to q{n}" for n in range(12)]


def test_a_batch_costs_half_and_is_asked_once(server: BatchServer, tmp_path: Path) -> None:
    one = chat(server, tmp_path)
    assert texts(one.complete(asked(12))) == EXPECTED
    assert [body["messages"][-1]["content"] for body in server.direct] == ["q0"], "the first goes by itself"
    (lines,) = server.inputs
    assert {line["body"]["messages"][-1]["content"] for line in lines} == {f"q{n}" for n in range(1, 12)}
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert lines[0]["body"] == {
        "model": "m", "messages": [{"role": "user", "content": "q1"}], "max_tokens": 10, "top_k": 1,
    }  # fmt: skip
    (created,) = server.batches.values()
    assert (created["endpoint"], created["completion_window"]) == ("/v1/chat/completions", "24h")
    assert one.usage.cost == pytest.approx(EACH * (1 + 11 / 2))
    assert (one.usage.sent, one.usage.unclear_cost, one.usage.prompt_tokens) == (12, 0, 1200)
    again = chat(server, tmp_path, batch=False)
    assert texts(again.complete(asked(12))) == EXPECTED, "replies are known whichever way they came"
    assert (len(server.batches), len(server.direct), again.usage.sent) == (1, 1, 0)
    assert not list((tmp_path / "replies.sqlite.batches").glob("*.json"))


def test_errors_are_asked_again_where_that_can_help_and_else_unanswered(tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    def answer(body: Any) -> Any:
        name = body["messages"][-1]["content"]
        tries[name] = tries.get(name, 0) + 1
        if name == "q3":
            return 400, {"error": {"message": "not this one"}}
        if name == "q4" and tries[name] == 1:
            return 500, {"error": {"message": "come again"}}
        if name == "q5" and tries[name] < 3:
            return None
        if name == "q6":
            return 429, {"error": {"message": "never"}}
        return echo(body)

    with BatchServer(answer) as server:
        server.ends = "expired"
        one = chat(server, tmp_path)
        replies = one.complete(asked(12))
        assert [n for n, reply in enumerate(replies) if reply.text is None] == [3, 6]
        assert replies[3].error == "HTTP 400: not this one"
        assert replies[6].error == "no answer in 3 batches: HTTP 429: never"
        assert tries == {**{f"q{n}": 1 for n in range(12)}, "q4": 2, "q5": 3, "q6": 3}
        assert [len(lines) for lines in server.inputs] == [11, 3, 2]
        assert one.usage.cost == pytest.approx(EACH * (1 + 9 / 2))
        with pytest.raises(ServiceError, match=r"2 of 12 requests have no answer, more than max_unanswered \(5%\)"):
            chat(server, tmp_path, max_unanswered=0.05).check_unanswered(["x", "y"], 12)


def account(folder: Path, **limits: Any) -> dict[str, Any]:
    run = RunAccount(str(folder / "spending"), begin_account(folder / "spending"), **limits)
    return {ACCOUNT: asdict(run)}


class KilledError(Exception):
    """As of a process that is killed: nothing takes care of it."""


def killed(how: Callable[[], Any]) -> None:
    with pytest.raises((KilledError, ServiceError)):
        how()


def test_a_killed_process_resumes_its_batch_and_pays_once(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it waits, and killed between the API's beginning of the batch and its note of that."""
    state, submit = BatchApi.state, BatchApi.submit

    async def dies(self: BatchApi, *of: Any) -> Any:
        raise ServiceError("killed")

    async def dies_after(self: BatchApi, *of: Any) -> Any:
        await submit(self, *of)
        raise KilledError

    for number, (name, way) in enumerate((("state", dies), ("submit", dies_after)), start=1):
        folder = tmp_path / name
        monkeypatch.setattr(BatchApi, name, way)
        with paying(account(folder), "stage", "the stage"):
            killed(lambda folder=folder: chat(server, folder).complete(asked(12)))  # type: ignore[misc]
        spent = read_account(folder / "spending").spent()
        assert spent.unclear_cost > 11 * EACH / 2, "until the batch is seen again, it may cost the most"
        monkeypatch.setattr(BatchApi, "state", state)
        monkeypatch.setattr(BatchApi, "submit", submit)
        with paying(account(folder), "stage", "the stage"):
            assert texts(chat(server, folder).complete(asked(12))) == EXPECTED
        assert len(server.batches) == number, "it is the same batch"
        assert len(server.direct) == number
        spent = read_account(folder / "spending").spent()
        assert (spent.cost, spent.unclear_cost) == (pytest.approx(EACH * (1 + 11 / 2)), pytest.approx(0))
        assert (spent.sent, spent.prompt_tokens) == (12, 1200)


def test_a_creation_whose_answer_is_lost_begins_no_second_batch(server: BatchServer, tmp_path: Path) -> None:
    server.lose_next_creation = True
    assert texts(chat(server, tmp_path).complete(asked(12))) == EXPECTED
    assert len(server.batches) == 1


def test_two_clients_of_one_cache_share_a_batch(server: BatchServer, tmp_path: Path) -> None:
    server.looks = 10
    chats = [chat(server, tmp_path) for _ in range(2)]
    found: dict[int, Any] = {}

    def ask(place: int) -> None:
        found[place] = texts(chats[place].complete(asked(12)))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: EXPECTED, 1: EXPECTED}
    contents = [line["body"]["messages"][-1]["content"] for lines in server.inputs for line in lines]
    contents += [body["messages"][-1]["content"] for body in server.direct]
    assert sorted(contents) == sorted(f"q{n}" for n in range(12)), "each is asked once"
    assert sum(one.usage.sent for one in chats) == 12


def test_limits_hold_for_batches(server: BatchServer, tmp_path: Path) -> None:
    one = chat(server, tmp_path, max_requests=5)
    with pytest.raises(SpendingLimitError, match="the limit of 5 requests is reached"):
        one.complete(asked(12))
    assert (len(server.direct), [len(lines) for lines in server.inputs]) == (1, [4])
    dear = Endpoint(model="m", base_url=server.url, price_in=1, price_out=2, batch=True)
    most = dear.highest_cost(asked(1)[0].messages, {"max_tokens": 10})
    two = chat(server, tmp_path, max_cost=EACH + 3.5 * most)
    with pytest.raises(SpendingLimitError, match=r"\$0\.\d+ of at most"):
        two.complete(asked(40)[12:])
    assert two.usage.cost <= EACH + 3.5 * most
    assert texts(chat(server, tmp_path).complete(asked(12))) == EXPECTED


def test_a_failed_batch_and_an_api_without_batches_are_said_at_once(server: BatchServer, tmp_path: Path) -> None:
    server.ends = "failed"
    one = chat(server, tmp_path)
    with pytest.raises(ServiceError, match="batch batch_0 was failed: the file is no good"):
        one.complete(asked(12))
    assert (one.usage.cost, one.usage.unclear_cost) == (pytest.approx(EACH), 0)
    server.no_batches = True
    with pytest.raises(ServiceError, match=r"HTTP 404: .*it may have no batch API: leave `batch` out"):
        chat(server, tmp_path).complete(asked(12))
    with BatchServer(lambda body: (400, {"error": {"message": "no such model"}})) as refusing:
        one = chat(refusing, tmp_path / "other")
        with pytest.raises(ServiceError, match=r"HTTP 400: .*no such model"):
            one.complete(asked(12))
    assert (len(refusing.direct), len(refusing.batches)) == (5, 0), "no batch is begun that would come to nothing"


def test_a_batch_is_no_part_of_a_key_and_halves_a_plan() -> None:
    from radpo.benchmarks.work import _dollars
    from radpo.judges.lookup import check_settings, split_settings

    parts = split_settings("openai", check_settings("openai", {"model": "m", "batch": True}))
    assert "batch" not in parts.counted
    assert parts.hints["batch"] is True
    said = {"price_in": 2, "price_out": 4}
    assert _dollars({**said, "batch": True}, 1e6, 1e6) == 3.0 == 0.5 * _dollars(said, 1e6, 1e6)  # type: ignore[operator]
