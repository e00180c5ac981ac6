"""Published data by name, and scored pairs of the Hub, against stand-ins for their homes."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from factories import scored_pairs, write_model
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core import named_data
from radpo.core.cache import cache_folder
from radpo.core.errors import ConfigError, DataError, ServiceError
from radpo.core.named_data import NAMED, find_named, name_of
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.preferences.hub import parse_hub, pinned
from radpo.preferences.preferences import load_preferences
from radpo.preferences.writing import write_preferences

REAL = {
    "mt-bench": "mt_bench/question.jsonl",
    "mt-bench-prompts": "mt_bench/judge_prompts.jsonl",
    "mt-bench-gpt-4": "mt_bench/reference_answer/gpt-4.jsonl",
    "arena-hard-v0.1": "arena_hard_v0.1/question.jsonl",
}
ROWS = b'{"question_id": 1, "category": "math", "turns": ["2 + 2?", "And 3?"]}\n'


class Home(http.server.BaseHTTPRequestHandler):
    """A public server with one file, which counts how often it was asked."""

    content = ROWS
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *words: Any) -> None:
        pass


def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> tuple[http.server.ThreadingHTTPServer, str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Home]]:
    handler = type("OneHome", (Home,), {"asked": 0, "content": ROWS})
    server, address = serving(handler)
    known = replace(
        NAMED["mt-bench"], address=f"{address}/q.jsonl", size=len(ROWS), sha256=hashlib.sha256(ROWS).hexdigest()
    )
    monkeypatch.setattr(named_data, "NAMED", {**NAMED, "mt-bench": known})
    monkeypatch.setenv("RADPO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield handler
    server.shutdown()


def test_a_named_file_is_fetched_once_and_checked_each_time(home: type[Home], tmp_path: Path) -> None:
    path = find_named("mt-bench")
    assert path == tmp_path / "data" / "mt-bench.jsonl"
    assert path.read_bytes() == ROWS
    assert find_named("mt-bench") == path
    assert home.asked == 1
    assert name_of(path) == "mt-bench"
    assert name_of(tmp_path / "mt-bench.jsonl") is None
    path.write_bytes(ROWS + b"\n")
    with pytest.raises(DataError, match=r"mt-bench\.jsonl: is not mt-bench: its sha256 is .* fetched anew"):
        find_named("mt-bench")
    path.unlink()
    home.content = b"<html>blocked by a proxy</html>"
    with pytest.raises(ServiceError, match=r"what is at its address has the sha256"):
        find_named("mt-bench")
    assert not list(path.parent.iterdir()), "nothing that is wrong or cut off stays under its name"
    with pytest.raises(ConfigError, match=r"mt-bnch: no such data; there are .*did you mean 'mt-bench'"):
        find_named("mt-bnch")


def test_without_a_network_the_message_says_what_to_put_where(home: type[Home], monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ServiceError) as failure:
        find_named("mt-bench")
    known = named_data.NAMED["mt-bench"]
    for part in (known.address, known.sha256, str(tmp_path / "data" / "mt-bench.jsonl"), "RADPO_DATA"):
        assert part in str(failure.value)
    assert home.asked == 0
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mt-bench.jsonl").write_bytes(ROWS)
    assert find_named("mt-bench").read_bytes() == ROWS
    monkeypatch.delenv("RADPO_DATA")
    monkeypatch.delenv("RADPO_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert cache_folder() == tmp_path / "hf" / "radpo"
    assert named_data.data_folder() == tmp_path / "hf" / "radpo" / "data"


def test_the_table_names_the_published_bytes(real_data: Path) -> None:
    for name, place in REAL.items():
        content = (real_data / place).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (NAMED[name].size, NAMED[name].sha256), name
    for name, known in NAMED.items():
        assert any(len(part) == 40 and int(part, 16) for part in known.address.split("/") if len(part) == 40), name


def test_a_matrix_knows_data_by_name_and_by_content(home: type[Home], tmp_path: Path) -> None:
    """A file with the same content gives the same keys; the run directory's matrix has the name."""
    from radpo.matrix.manifest import resolved

    write_model(tmp_path / "model")
    (tmp_path / "mine.jsonl").write_bytes(ROWS)
    keys = {}
    for questions in ("mt-bench", {"path": "mt-bench", "limit": 1}, "mine.jsonl"):
        document = {
            "name": "m", "model": "model", "variants": {"base": None},
            "benchmarks": {"mt-bench": {"questions": questions, "judge": "verifier", "references": "mt-bench"}},
        }  # fmt: skip
        (tmp_path / "m.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        plan = expand(load_matrix(tmp_path / "m.yaml"))
        keys[str(questions)] = [stage.key for stage in plan.stages]
        if questions == "mt-bench":
            assert resolved(plan)["benchmarks"]["mt-bench"]["questions"] == {"path": "mt-bench"}
            assert resolved(plan)["benchmarks"]["mt-bench"]["references"] == "mt-bench"
    assert keys["mt-bench"] == keys["mine.jsonl"] != keys["{'path': 'mt-bench', 'limit': 1}"]
    assert home.asked == 1
    document["benchmarks"]["mt-bench"]["questions"] = "mt-bnech"
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"questions.path: .*mt-bnech does not exist; did you mean 'mt-bench'"):
        load_matrix(tmp_path / "m.yaml")


def test_the_commands_list_and_fetch(home: type[Home], tmp_path: Path) -> None:
    def call(*words: str) -> Any:
        return CliRunner().invoke(app, ["data", *words], catch_exceptions=False)

    assert json.loads(call("list", "--json").stdout)["mt-bench"]["here"] is False
    assert call("fetch", "mt-bench").stdout == f"{tmp_path / 'data' / 'mt-bench.jsonl'}\n"
    listed = call("list").stdout
    assert "mt-bench\n  MT-Bench: the 80 questions of two turns; Apache-2.0, arXiv:2306.05685; here" in listed
    assert home.asked == 1


COMMITS = ("1" * 40, "2" * 40)


class Hub(http.server.BaseHTTPRequestHandler):
    """A stand-in for the Hub: one data set, whose `main` is at the last of its commits."""

    commits: dict[str, dict[str, bytes]]

    def do_GET(self, *, head: bool = False) -> None:
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")
        if parts[:4] == ["api", "datasets", "me", "pairs"]:
            return self._api(parts[4:])
        if parts[:4] == ["datasets", "me", "pairs", "resolve"]:
            commit, name = self._commit(parts[4]), "/".join(parts[5:])
            content = self.commits.get(commit, {}).get(name)
            if content is None:
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self._send(200, b"" if head else content, {"ETag": tag, "X-Repo-Commit": commit}, len(content))
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET(head=True)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.strip("/").split("/")
        self._json(self._files(parts[-1]) if "paths-info" in parts else {})

    def _api(self, rest: list[str]) -> None:
        if rest[:1] == ["tree"]:
            return self._json(self._files(rest[1]))
        commit = self._commit(rest[1] if rest[:1] == ["revision"] else "main")
        if commit not in self.commits:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        names = [{"rfilename": name} for name in self.commits[commit]]
        return self._json({"id": "me/pairs", "sha": commit, "siblings": names, "private": False, "tags": []})

    def _commit(self, revision: str) -> str:
        return next(reversed(self.commits)) if revision == "main" else revision

    def _files(self, revision: str) -> list[dict[str, Any]]:
        files = self.commits[self._commit(revision)]
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    import datasets.config
    import huggingface_hub.constants as constants

    commits = {}
    for commit, score in zip(COMMITS, (9, 8), strict=True):
        write_preferences(scored_pairs([(score, 3), (7, 6)]), tmp_path / "pairs.jsonl")
        commits[commit] = {"README.md": b"# pairs\n", "train.jsonl": (tmp_path / "pairs.jsonl").read_bytes()}
    handler = type("OneHub", (Hub,), {"commits": commits})
    server, address = serving(handler)
    for place, name, value in (
        (constants, "ENDPOINT", address), (datasets.config, "HF_ENDPOINT", address),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        (constants, "HF_HUB_OFFLINE", False), (datasets.config, "HF_HUB_OFFLINE", False),
        (constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub")),
        (datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets")),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, value)
    yield handler
    server.shutdown()


def highest(source: str) -> float:
    return load_preferences(source).table.to_pylist()[0]["score_chosen"]


def test_pairs_of_the_hub_are_read_at_the_commit_that_is_in_the_key(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets.config
    import huggingface_hub.constants as constants

    from radpo.matrix.manifest import resolved

    write_model(tmp_path / "model")
    document: dict[str, Any] = {
        "name": "m", "model": "model", "variants": {"base": None, "dpo": None},
        "data": {"train": "hub:me/pairs:train", "heldout": f"hub:me/pairs:train#{COMMITS[0]}"},
        "benchmarks": {"unlearning": {}},
    }  # fmt: skip
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    def plan() -> Any:
        return expand(load_matrix(tmp_path / "m.yaml"))

    first = plan()
    sources = {stage.name: stage.settings["pairs"] for stage in first.stages if stage.function_name == "pairs"}
    assert sources["pairs/train"].read_from == sources["pairs/train"].identity == f"hub:me/pairs:train#{COMMITS[1]}"
    assert resolved(first)["data"]["train"]["path"] == f"hub:me/pairs:train#{COMMITS[1]}"
    assert [highest(sources[f"pairs/{split}"].read_from) for split in ("train", "heldout")] == [8, 9]
    assert highest("hub:me/pairs:train") == 8
    assert highest(f"stream:me/pairs:train#{COMMITS[0]}") == 9
    latest = hub.commits[COMMITS[1]]
    hub.commits["3" * 40] = {**latest, "README.md": b"# pairs, moved on\n"}
    moved = {stage.name: stage.key for stage in plan().stages}
    same = {stage.name for stage in first.stages if moved[stage.name] == stage.key}
    assert "pairs/heldout" in same
    assert "pairs/train" not in same, "another commit is other data"
    del hub.commits["3" * 40]
    with pytest.raises(DataError, match=r"hub:me/nothing:train: no such data set of the Hub"):
        pinned(parse_hub("hub:me/nothing:train"))  # type: ignore[arg-type]
    # Without a network the cache's own commit counts, and no other commit's rows are read in its place.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    shutil.rmtree(next((tmp_path / "hf" / "datasets").rglob(COMMITS[0])))
    assert [stage.key for stage in plan().stages] == [stage.key for stage in first.stages]
    assert highest(f"hub:me/pairs:train#{COMMITS[1]}") == 8
    with pytest.raises(ServiceError, match=f"its cache has the commit {COMMITS[1]} alone"):
        highest(f"hub:me/pairs:train#{COMMITS[0]}")
    with pytest.raises(ServiceError, match=r"hub:me/other:train: the Hub cannot be reached .*name the commit"):
        pinned(parse_hub("hub:me/other:train"))  # type: ignore[arg-type]
