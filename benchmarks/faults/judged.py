"""Judged runs against a server that misbehaves, and a run of 20 cells with a budget, killed and resumed.

Each way of misbehaving is met by a judged run, then by a second one with a store of its own: both have to end, to
count right what has no answer, and to pay once: the second asks for nothing that was answered, and what the server
billed lies between what the run's account knows and what it counts at most. Then a run of 20 cells with a limit of
dollars and two jobs is killed five times (SIGKILL and Ctrl-C in turn) and resumed, and one of 8 cells with a limit of
requests is killed and stopped by its limit.

Run from the repository's root: python benchmarks/faults/judged.py [--only ways|budget] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from fault_server import FaultServer, Http, text_choice

from radpo.core.progress import no_progress
from radpo.engine.execute import execute
from radpo.engine.store import Store
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.spending import account_of, spending

PRICE_IN, PRICE_OUT = 2.0, 8.0
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}
"""What the server of the tests tells of every answer."""
KEY = "sk-proj-abcdefghijklmnop/1234567890"
NULL = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": None}}
NESTED = b'{"choices": [{"finish_reason": "stop", "message": {"content": ' + b"[" * 900 + b"]" * 900 + b"}}]}"
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGINT, signal.SIGKILL)

Reply = Callable[[int, int, Mapping[str, Any]], Any]
"""What the server answers to a question, asked for so many times before, with this body; None: a usual grade."""


@dataclass(frozen=True)
class Way:
    """A way of misbehaving.

    Args:
        reply: what is answered.
        unanswered: how many of the first 20 questions stay without an answer.
        usage: the usage that is told; the true one unless given.
        billed: tokens that are billed.
        faults: of the server.
        judge: settings of the judge.
    """

    reply: Reply = lambda question, times, body: None
    unanswered: int = 0
    usage: Any = field(default_factory=lambda: USAGE)
    billed: Mapping[str, int] = field(default_factory=lambda: USAGE)
    faults: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)


def one(reply: Any) -> Reply:
    """That reply to the fourth question, always."""
    return lambda question, times, body: reply if question == 3 else None


def sometimes(*replies: Http, every: int, first: int) -> Reply:
    """Those replies in turn to the first tries at some questions."""
    return lambda question, times, body: (
        replies[question % len(replies)] if question % every == 0 and times < first else None
    )


def newer(question: int, times: int, body: Mapping[str, Any]) -> Any:
    """Takes neither max_tokens nor a temperature."""
    if "max_tokens" in body:
        return Http(400, {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."}})
    if "temperature" in body:
        return Http(400, {"error": {"message": "Unsupported value: 'temperature' does not support 0."}})
    return None


LONG = {"prompt_tokens": 120, "completion_tokens": 200_000}
WAYS: dict[str, Way] = {
    "refuses one question (400)": Way(one(Http(400, {"error": {"message": "no"}})), 1),
    "always fails on one (500)": Way(one(Http(500, {"error": {"message": "boom"}})), 1),
    "a gateway gives up twice (504, HTML)": Way(sometimes(Http(504, b"<html>"), every=7, first=2)),
    "answers one with content null": Way(one(NULL), 1),
    "answers one with tool calls of null": Way(one({**NULL, "message": {"content": None, "tool_calls": [None]}}), 1),
    "sends a lone surrogate": Way(lambda q, t, b: "cut \ud83d [[5]]"),
    "nests one answer 900 deep": Way(one(Http(200, NESTED)), 1),
    "cuts off and breaks a third of its answers": Way(faults={"faults": 0.3, "kinds": ("cut", "broken", "empty")}),
    "is busy and overloaded (429, 503)": Way(sometimes(Http(429, {}), Http(503, {}), every=3, first=1)),
    "answers a tenth too late": Way(faults={"faults": 0.1, "kinds": ("slow",)}, judge={"timeout": 0.2}),
    "counts no tokens": Way(usage={"prompt_tokens": 0, "completion_tokens": -5}),
    "answers 100 times longer than asked for": Way(usage=LONG, billed=LONG, judge={"max_cost": 20.0}),
    "sends the key back": Way(lambda q, t, b: f"[[5]] with {KEY}"),
    "takes other parameters": Way(newer),
}  # fmt: skip


class Server(FaultServer):
    """The server with a book of its own of what it billed."""

    def __init__(self, way: Way, delay: float = 0.0) -> None:
        super().__init__(self._made, delay=delay, **way.faults)
        self._way, self._times, self._answers = way, Counter[int](), 0

    @property
    def requests(self) -> int:
        """Requests that came, those with which a run begins (is the endpoint there?) among them."""
        return len(self.asked) + len(self.probes)

    @property
    def billed(self) -> float:
        """Dollars for every answer that was made."""
        return self._answers * _dollars(self._way.billed) + len(self.probes) * _dollars(USAGE)

    def _made(self, body: Mapping[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        question = int(text.split("Say number ")[1].split(".")[0])
        given = self._way.reply(question, self._times[question], body)
        self._times[question] += 1
        if isinstance(given, Http) and given.status != 200:
            return given
        self._answers += 1
        if isinstance(given, Http):
            return given
        choice = text_choice(given or "[[5]]") if given is None or isinstance(given, str) else given
        # Only what the server itself makes a document of is cut off and broken.
        return choice if self._way.usage is USAGE else Http(200, {"choices": [choice], "usage": self._way.usage})


def _dollars(used: Mapping[str, int]) -> float:
    return (used["prompt_tokens"] * PRICE_IN + used["completion_tokens"] * PRICE_OUT) / 1e6


def write_matrix(
    folder: Path, server: FaultServer, cells: int, questions: int, judge: Mapping[str, Any], **more: Any
) -> Path:
    """Files of answers, judged by the server: a judged stage a cell."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question_id": f"q{n}", "turns": [f"Say number {n}."]} for n in range(questions)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    variants = {}
    for cell in range(cells):
        answers = [{"question_id": row["question_id"], "turns": [f"the answer of {cell}"]} for row in rows]
        (folder / f"v{cell}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
        variants[f"v{cell}"] = {"answers": f"v{cell}.jsonl"}
    asked = {
        "kind": "openai", "model": "j", "base_url": server.url, "price_in": PRICE_IN, "price_out": PRICE_OUT,
        "concurrency": 4, "attempts": 6, "api_key_env": "FAULTS_KEY", **judge,
    }  # fmt: skip
    document = {
        "name": "judged", "variants": variants, "baseline": "v0",
        "benchmarks": {"mt-bench": {"questions": {"path": "questions.jsonl"}, "judge": asked}}, **more,
    }  # fmt: skip
    (folder / "matrix.yaml").write_text(yaml.safe_dump(document))
    return folder / "matrix.yaml"


def meet(way: Way, folder: Path, questions: int = 20) -> dict[str, Any]:
    """Two judged runs of one cell, one after the other, in this process; what came of them, and what is wrong."""
    os.environ["FAULTS_KEY"], os.environ["RADPO_CACHE"] = KEY, str(folder / "cache")
    wrong, asked = [], []
    with Server(way) as server:
        matrix, out = write_matrix(folder, server, 1, questions, way.judge), folder / "run"
        for store in (Store(folder / "one"), Store(folder / "two")):
            failed = compute(matrix, out, store)
            if failed and "max_cost" in way.judge:  # stopped by its limit; a higher one resumes
                billed, limit = server.billed, float(way.judge["max_cost"])
                if billed > limit:
                    wrong.append(f"billed ${billed:.2f} under a limit of ${limit:.2f}")
                write_matrix(folder, server, 1, questions, {**way.judge, "max_cost": 1000.0})
                failed = compute(matrix, out, store)
            asked.append(len(server.asked))
            if failed:
                wrong.append(f"does not end: {failed}")
                continue
            found = pd.read_parquet(stage_folder(matrix, store) / "results.parquet")
            counted = int(found[found["metric"] == "score"]["n"].iloc[0])
            if counted != questions - way.unanswered:
                wrong.append(f"{counted} of {questions} count, and {way.unanswered} have no answer")
        record = spending(load_matrix(matrix), out) or {}
        at_most = record["cost"] + record["unclear_cost"]
        again = asked[1] - asked[0] if len(asked) == 2 else 0
        if again > way.unanswered * 6:
            wrong.append(f"{again} requests in the second run")
        if not record["cost"] <= server.billed * (1 + 1e-9) or not server.billed <= at_most * (1 + 1e-9):
            wrong.append(f"billed ${server.billed:.5f}, known ${record['cost']:.5f}, at most ${at_most:.5f}")
        unseen = record["sent"] - server.requests  # one that took too long may never have come
        if unseen < 0 or (unseen and "timeout" not in way.judge):
            wrong.append(f"{server.requests} requests, and the account has {record['sent']}")
    if leaks := [path.name for path in folder.rglob("*") if path.is_file() and b"sk-proj" in path.read_bytes()]:
        wrong.append(f"the key is in {leaks}")
    return {
        "requests": asked[0], "requests of the second run": again, "billed": round(server.billed, 6),
        "known": round(record["cost"], 6), "at most": round(at_most, 6), "wrong": wrong,
    }  # fmt: skip


def compute(path: Path, out: Path, store: Store) -> str:
    """A matrix's stages, one after another in this process; why one failed, empty where none did."""
    matrix = load_matrix(path)
    plan = expand(matrix, account=account_of(matrix, out))
    ends = [execute(stage, store, {}, no_progress).message for stage in plan.stages if not store.has(stage)]
    return "; ".join(filter(None, ends))


def stage_folder(path: Path, store: Store) -> Path:
    """The folder of a matrix's one judged stage."""
    (cell,) = expand(load_matrix(path)).cells
    return store.folder(cell.benchmarks["mt-bench"])


def killed_and_resumed(folder: Path, cells: int = 20, questions: int = 10) -> dict[str, Any]:
    """A run with a limit of dollars, killed at five moments and resumed; beside it one that nothing disturbs."""
    with Server(Way(), delay=0.3) as server:
        matrix = write_matrix(folder / "whole", server, cells, questions, {})
        assert run(matrix, folder / "whole") == 0
        needed = server.billed
    total = cells * questions
    with Server(Way(), delay=0.3) as server:
        limit = round(needed * 1.2 + 3 * 8 * 0.02, 4)  # the most that what is killed outright can leave as unclear
        matrix = write_matrix(folder / "torn", server, cells, questions, {}, max_cost=limit)
        for number, how in enumerate(SIGNALS, start=1):
            process, wanted = start(matrix, folder / "torn"), number * total // (len(SIGNALS) + 1)
            while len(server.asked) < wanted and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(how)
            process.wait(120)
            time.sleep(1)  # until workers of a killed run are gone
        status = run(matrix, folder / "torn")
        record = spending(load_matrix(matrix), folder / "torn" / "run") or {}
        tables = [pd.read_parquet(folder / name / "run" / "results.parquet") for name in ("whole", "torn")]
        return {
            "exit status": status, "requests needed": total, "requests": server.requests, "recorded": record["sent"],
            "billed": round(server.billed, 6), "known": round(record["cost"], 6),
            "at most": round(record["cost"] + record["unclear_cost"], 6), "limit": limit,
            "billed without a kill": round(needed, 6), "equal results": tables[0].equals(tables[1]),
            "asked more than once": sum(count > 1 for count in server.delivered.values()),
        }  # fmt: skip


def stopped(folder: Path, cells: int = 8, questions: int = 10, limit: int = 50) -> dict[str, Any]:
    """A run with a limit of requests and two jobs, killed once: it stops before the request that would pass it."""
    with Server(Way(), delay=0.2) as server:
        matrix = write_matrix(folder, server, cells, questions, {}, max_requests=limit)
        process = start(matrix, folder)
        while len(server.asked) < 20 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait(60)
        time.sleep(1)
        status = run(matrix, folder)
        record = spending(load_matrix(matrix), folder / "run") or {}
        return {"exit status": status, "limit": limit, "requests": server.requests, "recorded": record["sent"]}


def start(matrix: Path, folder: Path) -> subprocess.Popen[bytes]:
    """`radpo run` with two jobs and a cache and a store of its own."""
    environment = {**os.environ, "RADPO_CACHE": str(folder / "cache"), "FAULTS_KEY": KEY}
    command = [sys.executable, "-m", "radpo", "run", str(matrix), "--jobs", "2", "--out", str(folder / "run")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def run(matrix: Path, folder: Path) -> int:
    """The same to its end; its exit status."""
    return start(matrix, folder).wait(900)


def main() -> None:
    """Run all, print what happened; exit status 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("ways", "budget"))
    parser.add_argument("--json", type=Path, help="write what happened here as JSON")
    arguments = parser.parse_args()
    said: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.only != "budget":
            said["ways"] = {what: meet(way, folder / str(number)) for number, (what, way) in enumerate(WAYS.items())}
        if arguments.only != "ways":
            said["killed and resumed"] = killed_and_resumed(folder / "budget")
            said["stopped"] = stopped(folder / "stopped")
    print(json.dumps(said, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(said, indent=1), encoding="utf-8")
    wrong = [what for what, found in said.get("ways", {}).items() if found["wrong"]]
    if (torn := said.get("killed and resumed")) is not None:
        within = torn["billed"] <= torn["at most"] * (1 + 1e-9) and torn["at most"] <= torn["limit"]
        wrong += [] if torn["exit status"] == 0 and torn["equal results"] and within else ["killed and resumed"]
        found = said["stopped"]
        wrong += [] if found["exit status"] == 3 and found["requests"] <= found["limit"] else ["stopped"]
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
