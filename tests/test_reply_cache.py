"""A corrupt cache of replies costs what it lost, says so, and ends nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from fault_server import FaultServer

from radpo.clients import reply_cache
from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
from radpo.clients.reply_cache import ReplyCache
from radpo.core import warn
from radpo.core.errors import DataError


@pytest.fixture(autouse=True)
def looked_through(monkeypatch):
    monkeypatch.setattr(reply_cache, "_LOOKED_THROUGH", set())
    monkeypatch.setattr(warn, "_WARNED", set())


def requests(n: int) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": f"q{i}"}], {}) for i in range(n)]


def chat(server: FaultServer, path: Path) -> Chat:
    return Chat(Endpoint(model="m", base_url=server.url), path)


def test_an_answer_that_is_not_as_it_was_kept_is_asked_again_and_said(tmp_path):
    path = tmp_path / "chat.sqlite"
    with FaultServer(lambda body: "fine") as server:
        chat(server, path).complete(requests(5))
        with sqlite3.connect(path) as connection:
            (key, reply), *_ = connection.execute("SELECT key, reply FROM replies").fetchall()
            connection.execute("UPDATE replies SET reply = ? WHERE key = ?", (reply.replace("fine", "bad!"), key))
        client = chat(server, path)
        with pytest.warns(warn.RadpoWarning, match=r"chat.sqlite: 1 answers in the cache are not as they were kept"):
            replies = client.complete(requests(5))
        assert [reply.text for reply in replies] == ["fine"] * 5
        assert len(server.asked) == 6
        assert "asked again" in client.notes[0]
        assert chat(server, path).complete(requests(5)) == replies
        assert len(server.asked) == 6


def test_answers_kept_before_there_were_checksums_are_read(tmp_path):
    with sqlite3.connect(tmp_path / "c.sqlite") as connection:
        connection.execute("CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        connection.execute("""INSERT INTO replies VALUES ('k', '{"text": "a"}')""")
    with ReplyCache(tmp_path / "c.sqlite") as cache:
        cache.put("l", {"text": "b"})
        assert cache.get(["k", "l"]) == {"k": {"text": "a"}, "l": {"text": "b"}}
        assert cache.notes == []


def spoil(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "no database":
        path.write_bytes(b"{}" * 5000)
    elif kind == "cut short":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:4096] + bytes(4096) + content[8192:])


@pytest.mark.parametrize("kind", ["no database", "cut short", "a page of zeros"])
def test_a_corrupt_file_is_set_aside_and_said_and_the_answers_are_asked_again(tmp_path, kind):
    path = tmp_path / "chat.sqlite"
    with FaultServer(lambda body: "fine " * 100) as server:
        for round_ in (1, 2):
            chat(server, path).complete(requests(100))
            reply_cache._LOOKED_THROUGH.clear()
            spoil(path, kind)
            client = chat(server, path)
            with pytest.warns(warn.RadpoWarning, match=rf"is corrupt .*set aside as chat.sqlite.corrupt-{round_}"):
                replies = client.complete(requests(100))
            assert {reply.text for reply in replies} == {"fine " * 100}
            assert len(server.asked) == 100 * (round_ + 1)
            assert (tmp_path / f"chat.sqlite.corrupt-{round_}").is_file(), "nothing that was paid for is deleted"
            assert "set aside" in client.notes[0]


def test_a_file_damaged_while_it_is_used_is_one_message(tmp_path):
    def use() -> None:
        with ReplyCache(tmp_path / "c.sqlite") as cache:
            with cache.together():
                for n in range(200):
                    cache.put(f"{n}", {"text": "x" * 500})
            spoil(tmp_path / "c.sqlite", "a page of zeros")
            cache.get(map(str, range(200)))

    with pytest.raises(DataError, match="was damaged while it was used"):
        use()
