"""A run's budget: one account for all its stages, processes and reruns, which no request passes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from fault_server import FaultServer, Http, text_choice

from radpo.api import check, plan
from radpo.clients import probe
from radpo.clients.account import begin_account, read_account, stop_paying
from radpo.clients.budget import SpendingLimitError, StoppedError
from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError, DataError
from radpo.core.paid_work import RunAccount, paying
from radpo.core.progress import no_progress
from radpo.engine.execute import execute
from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.preflight import NotReadyError
from radpo.matrix.spending import FOLDER, account_of, spending

PRICES = {"price_in": 1.0, "price_out": 2.0}
USAGE = {"prompt_tokens": 30, "completion_tokens": 10}
BILLED = 0.00005
"""Dollars for one reply of that usage."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path / "cache"))


def counted(body):
    return Http(200, {"choices": [text_choice("[[5]]")], "usage": USAGE})


def requests(n: int, prefix: str = "q") -> list[ChatRequest]:
    texts = [f"{prefix}{i}. {'x' * 30}" for i in range(n)]
    return [ChatRequest([{"role": "user", "content": text}], {"max_tokens": 10}) for text in texts]


def account(folder: Path, **limits) -> RunAccount:
    return RunAccount(str(folder), begin_account(folder), **limits)


def ask(server: FaultServer, folder: Path, on: RunAccount, stage: str, number: int, **settings) -> Chat:
    """Requests of a stage of its own, with a cache of its own, on a run's account."""
    client = Chat(Endpoint(model="m", base_url=server.url, **{**PRICES, **settings}), folder / f"{stage}.sqlite")
    with paying({"account": asdict(on)}, stage, f"name of {stage}"):
        client.complete(requests(number, stage))
    return client


def test_all_clients_of_a_run_share_its_limits_and_leave_what_they_spent_in_its_account(tmp_path):
    on = account(tmp_path / "spending", max_cost=41 * BILLED)
    with FaultServer(counted, delay=0.02) as server:
        ask(server, tmp_path, on, "first", 10)
        with pytest.raises(SpendingLimitError, match=r"of at most \$0\.00205 of the whole run are spent"):
            ask(server, tmp_path, on, "second", 100, concurrency=4)
        state = read_account(tmp_path / "spending")
        assert state.spent().sent == len(server.asked)
        assert 30 < len(server.asked) <= 41
        assert state.spent().dollars == pytest.approx(len(server.asked) * BILLED)
        assert (state.stages["first"].name, state.stages["first"].answered) == ("name of first", 10)
        assert (state.stages["first"].prompt_tokens, state.stages["first"].completion_tokens) == (300, 100)
        with pytest.raises(SpendingLimitError, match=f"the limit of {len(server.asked)} requests of the whole run"):
            ask(server, tmp_path, RunAccount(on.folder, on.identity, max_requests=len(server.asked)), "third", 1)
        ask(server, tmp_path, RunAccount(on.folder, on.identity, max_cost=1.0), "second", 100)
        assert len(server.asked) == 110
    assert read_account(tmp_path / "spending").spent().dollars == pytest.approx(110 * BILLED)


def test_side_by_side_they_wait_for_what_the_others_settle_and_never_pass_the_limit(tmp_path):
    """Each request could cost more than twice of what it does, so that most wait for others."""
    on, ends = account(tmp_path / "spending", max_cost=60 * BILLED), []

    def one(stage: str) -> None:
        try:
            ends.append(ask(server, tmp_path, on, stage, 15, concurrency=5))
        except SpendingLimitError as error:
            ends.append(error)

    with FaultServer(counted, delay=0.02) as server:
        threads = [threading.Thread(target=one, args=(f"stage{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = read_account(tmp_path / "spending").spent()
        assert len(ends) == 4
        assert spent.sent == spent.answered == len(server.asked) <= 60
        assert spent.dollars == pytest.approx(len(server.asked) * BILLED)
        highest = Endpoint(model="m", **PRICES).highest_cost(requests(1, "stage1")[0].messages, {"max_tokens": 10})
        assert len(server.asked) == 60 or spent.dollars + highest > 60 * BILLED


def test_a_stages_own_limit_holds_over_its_tries(tmp_path):
    on = account(tmp_path / "spending")
    with FaultServer(counted) as server:
        with pytest.raises(SpendingLimitError, match=r"the limit of 7 requests is reached"):
            ask(server, tmp_path, on, "one", 20, max_requests=7)
        with pytest.raises(SpendingLimitError):
            ask(server, tmp_path, on, "one", 20, max_requests=7)
        assert len(server.asked) == 7
        ask(server, tmp_path, on, "two", 7, max_requests=7)


def test_what_failed_tries_cost_is_in_the_account(tmp_path):
    on = account(tmp_path / "spending")
    empty = {"choices": [{**text_choice(""), "message": {"content": None}}], "usage": USAGE}
    with FaultServer(lambda body: Http(200, empty) if "one1." in str(body) else counted(body)) as server:
        ask(server, tmp_path, on, "one", 30)
        state = read_account(tmp_path / "spending")
        assert (state.spent().sent, state.spent().answered) == (31, 29)
        assert state.spent().cost == pytest.approx(31 * BILLED)
    with FaultServer(lambda body: Http(500, {})) as server, pytest.raises(Exception, match="no answer after 2"):
        ask(server, tmp_path, on, "two", 1, attempts=2)
    assert read_account(tmp_path / "spending").stages["two"].unclear_cost > 0
    assert read_account(tmp_path / "spending").stages["two"].failed == 1


KILLED = """
import sys
from pathlib import Path
from radpo.clients.chat import Chat, ChatRequest
from radpo.clients.endpoint import Endpoint
from radpo.core.paid_work import paying
texts = [f"q{i}. {'x' * 30}" for i in range(100)]
asked = [ChatRequest([{"role": "user", "content": text}], {"max_tokens": 10}) for text in texts]
client = Chat(Endpoint(model="m", base_url=sys.argv[1], concurrency=8, price_in=1, price_out=2), Path(sys.argv[2]))
with paying({"account": {"folder": sys.argv[3], "identity": sys.argv[4], "max_cost": 1.0}}, "one", "one"):
    client.complete(asked)
"""


def test_requests_of_a_killed_process_count_as_billed_at_the_most_they_could_cost(tmp_path):
    on = account(tmp_path / "spending", max_cost=1.0)
    with FaultServer(counted, delay=0.1) as server:
        command = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "c.sqlite"), on.folder, on.identity]
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while len(server.asked) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
        time.sleep(0.3)
        state = read_account(tmp_path / "spending")
        open_, dollars = state.reserved()
        assert 0 < open_ <= 8
        client = Chat(Endpoint(model="m", base_url=server.url, **PRICES), tmp_path / "c.sqlite")
        with paying({"account": asdict(on)}, "one", "one"):
            client.complete(requests(100))
        after = read_account(tmp_path / "spending")
        assert after.on_the_way == {}
        assert after.spent().unclear_cost == pytest.approx(dollars)
        assert len(server.asked) <= after.spent().sent <= len(server.asked) + open_
        assert len(server.asked) <= 100 + open_
        # What the server billed is within what is known and what is unclear.
        assert after.spent().cost <= len(server.asked) * BILLED <= after.spent().dollars


def test_once_a_stage_of_the_run_has_failed_the_others_pay_for_nothing_more(tmp_path):
    on = account(tmp_path / "spending", occasion="today")
    with FaultServer(counted, delay=0.05) as server:
        stopping = threading.Timer(0.5, stop_paying, (tmp_path / "spending", "today"))
        stopping.start()
        with pytest.raises(StoppedError, match="another stage of the run has failed"):
            ask(server, tmp_path, on, "one", 400, concurrency=2)
        stopping.join()
        assert len(server.asked) < 100
        again = RunAccount(on.folder, on.identity, occasion="tomorrow")
        assert ask(server, tmp_path, again, "one", 30).usage.from_cache > 0


def test_an_account_that_cannot_be_seen_is_refused_under_a_limit_and_one_that_is_damaged_always(tmp_path):
    elsewhere = RunAccount(str(tmp_path / "not here"), "x", max_cost=1.0)
    with FaultServer(counted) as server:
        with pytest.raises(ConfigError, match="does not see it; give a run directory"):
            ask(server, tmp_path, elsewhere, "one", 1)
        on = account(tmp_path / "spending")
        (tmp_path / "spending" / "account.json").write_text('{"identity": 3, "stages": [')
        with pytest.raises(DataError, match="what the run has spent cannot be read"):
            ask(server, tmp_path, on, "one", 1)
        assert not server.asked


# --- matrices


def write_matrix(folder: Path, server_url: str, cells: int = 4, questions: int = 5, judge=None, **more) -> Path:
    """Files of answers, judged by an endpoint: a stage a cell."""
    rows = [{"question_id": f"q{n}", "turns": [f"Say {n}."]} for n in range(questions)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    variants = {}
    for cell in range(cells):
        answers = [{"question_id": row["question_id"], "turns": [f"answer {cell} to {row['turns']}"]} for row in rows]
        (folder / f"v{cell}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
        variants[f"v{cell}"] = {"answers": f"v{cell}.jsonl"}
    judge = (
        {"kind": "openai", "model": "j", "base_url": server_url, **PRICES, "concurrency": 4} if judge is None else judge
    )
    document = {
        "name": "paid", "variants": variants, "baseline": "v0",
        "benchmarks": {"mt-bench": {"questions": {"path": "questions.jsonl"}, "judge": judge}}, **more,
    }  # fmt: skip
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document))
    return folder / "matrix.yaml"


def compute(path: Path, out: Path, store: Store) -> list[str]:
    """A matrix's stages, one after another in this process; what became of them."""
    matrix = load_matrix(path)
    account = account_of(matrix, out)
    plan_ = expand(matrix, account=account)
    return [execute(stage, store, {}, no_progress).message for stage in plan_.stages if not store.has(stage)]


def test_a_matrix_stops_before_the_request_that_would_pass_its_limit_and_resumes(tmp_path):
    out, store = tmp_path / "run", Store(tmp_path / "store")
    with FaultServer(counted) as server:
        path = write_matrix(tmp_path, server.url, cells=4, max_requests=13)
        ends = compute(path, out, store)
        assert len(server.asked) == 13
        assert sum("the limit of 13 requests of the whole run is reached" in end for end in ends) == 2
        said = str(plan(path, out, store=str(store.root)))
        assert "At most 13 requests can be spent, all reruns together; $0.00 and 13 requests of them are spent" in said
        assert any(compute(path, out, store))
        assert len(server.asked) == 13
        write_matrix(tmp_path, server.url, cells=4, max_requests=20)
        assert not any(compute(path, out, store))
        assert len(server.asked) == 20
        record = spending(load_matrix(path), out)
        assert record is not None
        assert (record["sent"], record["answered"], record["on_the_way"], record["max_requests"]) == (20, 20, 0, 20)
        assert record["cost"] == pytest.approx(20 * BILLED)
        assert [stage["sent"] for stage in record["stages"]] == [5, 5, 5, 5]


def test_a_limit_of_dollars_refuses_what_has_no_price_and_plan_names_the_most(tmp_path):
    priceless = {"kind": "openai", "model": "j", "base_url": "http://127.0.0.1:9/v1"}
    path = write_matrix(tmp_path, "", judge=priceless, max_cost=2.5)
    for refused in (lambda: plan(path, tmp_path / "run"), lambda: account_of(load_matrix(path), tmp_path / "run")):
        with pytest.raises(
            ConfigError, match=r"benchmarks.mt-bench.judge: max_cost limits .* give price_in and price_out"
        ):
            refused()
    write_matrix(tmp_path, "", judge={**priceless, **PRICES}, max_cost=2.5)
    planned = plan(path, tmp_path / "run")
    assert "At most $2.50 can be spent, all reruns together." in str(planned)
    at_most = {"dollars": 2.5, "requests": None, "spent_dollars": 0.0, "spent_requests": 0}
    assert planned.to_json()["at_most"] == at_most
    write_matrix(tmp_path, "", judge={**priceless, **PRICES, "max_cost": 0.5})
    assert "At most $2.00 can be spent" in str(plan(path, tmp_path / "run"))  # four stages
    write_matrix(tmp_path, "", judge={**priceless, **PRICES})
    assert "Nothing limits what can be spent: set max_cost or max_requests" in str(plan(path, tmp_path / "run"))
    write_matrix(tmp_path, "", judge="verifier", max_cost=1.0)
    assert "can be spent" not in str(plan(path, tmp_path / "run"))
    assert not (tmp_path / "run" / FOLDER).exists()


def test_keys_that_are_missing_are_named_together_before_any_work(tmp_path, monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    monkeypatch.setenv("B_KEY", "b")
    judge = {"kind": "openai", "model": "j", "base_url": "https://api.example.org/v1", "api_key_env": "A_KEY"}
    path = write_matrix(tmp_path, "", judge=judge)
    with pytest.raises(NotReadyError, match=r"benchmarks.mt-bench.judge: .*set the environment variable A_KEY"):
        check(path, tmp_path / "run")
    monkeypatch.setenv("A_KEY", "a")
    monkeypatch.setitem(probe._answered, ("https://api.example.org/v1", "j", "A_KEY"), time.monotonic())
    assert check(path, tmp_path / "run") > 0
