"""The workflows under examples/ci: their steps run as printed, in a project with a tiny matrix, and comment once."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import warm_commands
import yaml
from factories import scored_pairs, write_model

from radpo.gate.baselines import save_baseline
from radpo.gate.documents import MARK
from radpo.preferences.writing import write_preferences

CI = Path(__file__).parents[1] / "examples" / "ci"
GITHUB = yaml.safe_load((CI / "github.yml").read_text(encoding="utf-8"))
(GITLAB,) = yaml.safe_load((CI / "gitlab.yml").read_text(encoding="utf-8")).values()
SHIMS = {
    # The packages are here already; that the install step is what it is, its words say.
    "python": 'if [ "$1 $2" = "-m pip" ]; then echo "$@" >> pip.log; else exec {python} "$@"; fi',
}


class Comments(BaseHTTPRequestHandler):
    """As much of both services' interfaces as comments take."""

    kept: ClassVar[dict[int, str]] = {}
    calls: ClassVar[list[str]] = []

    def do(self) -> None:
        self.calls.append(f"{self.command} {self.path.partition('?')[0]}")
        told = self.headers["Authorization"] or self.headers["PRIVATE-TOKEN"]
        found: Any = {"id": 0}
        if self.command == "GET":
            page = int(re.search(r"page=(\d+)$", self.path)[1])  # type: ignore[index]
            of = [{"id": number, "body": body} for number, body in self.kept.items()]
            found = of[page - 1 : page]  # one a page, so that pages are followed
        else:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]
            number = len(self.kept) if self.command == "POST" else int(self.path.rsplit("/", 1)[1])
            self.kept[number] = body
        self.send_response(200 if told in ("Bearer secret", "secret") else 403)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    do_GET = do_POST = do_PATCH = do_PUT = do  # noqa: N815

    def log_message(self, *words: Any) -> None: ...


@pytest.fixture
def service() -> Iterator[str]:
    """The address of a service with one comment of somebody else."""
    Comments.kept.clear()
    Comments.calls.clear()
    Comments.kept[0] = "Looks good."
    server = ThreadingHTTPServer(("127.0.0.1", 0), Comments)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout whose gate is tiny, with its baseline."""
    import radpo

    root = tmp_path_factory.mktemp("project")
    write_model(root / "benchmarks" / "model")
    write_preferences(scored_pairs([(9, 7), (8, 6), (10, 5)]), root / "benchmarks" / "pairs.jsonl")
    document = {
        "name": "gate", "model": "model", "variants": {"base": None}, "data": {"heldout": {"path": "pairs.jsonl"}},
        "benchmarks": {"unlearning": {}},
    }  # fmt: skip
    (root / "benchmarks" / "gate.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    shutil.copytree(CI, root / "examples" / "ci")
    (root / "radpo").mkdir()
    (root / "radpo" / "code.py").write_text("")
    for words in (
        ["init", "-q"],
        ["add", "radpo"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *words], cwd=root, check=True)
    (run,) = radpo.run(root / "benchmarks" / "gate.yaml", root / "first", store=str(root / "first-store")).run_dirs
    save_baseline(run, "main", root / "reports" / "baselines")
    for name, text in SHIMS.items():
        shim = root / "bin" / name
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f"#!/bin/sh\n{text.format(python=sys.executable)}\n")
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    with warm_commands.program(root / "bin" / "radpo", "-m", "radpo"):
        yield root


def bash(text: str, project: Path, **environment: str) -> None:
    """A script as both services run it."""
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", text], cwd=project, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_github_workflow_runs_as_printed_and_updates_its_comment(project: Path, service: str) -> None:
    assert GITHUB.keys() == {"name", True, "permissions", "concurrency", "jobs"}, "YAML reads the key `on` as true"
    job = GITHUB["jobs"]["gate"]
    steps = {step["name"]: step for step in job["steps"] if "run" in step}
    assert list(steps) == ["Install", "Run the matrix", "Gate", "Show the verdict", "Comment"]
    uses = {step["uses"] for step in job["steps"] if "uses" in step}
    assert uses == {f"actions/{name}" for name in (
        "checkout@v4", "setup-python@v5", "cache/restore@v4", "cache/save@v4", "upload-artifact@v4",
    )}  # fmt: skip
    restored, saved = (step["with"] for step in job["steps"] if "cache/" in step.get("uses", ""))
    assert restored["key"] == saved["key"]
    assert restored["key"].startswith(restored["restore-keys"]), "what one run saves the next one finds"
    assert saved["path"] == restored["path"] == job["env"]["RADPO_STORE"].rpartition("}}/")[2]
    given = {
        "HF_HUB_OFFLINE": job["env"]["HF_HUB_OFFLINE"], "RADPO_STORE": str(project / restored["path"]),
        "GITHUB_STEP_SUMMARY": str(project / "summary.md"), "GITHUB_API_URL": service, "GITHUB_REPOSITORY": "me/mine",
        "GH_TOKEN": "secret", "PULL_REQUEST": "7",
    }  # fmt: skip
    for name in (*steps, "Comment"):
        bash(steps[name]["run"], project, **given)
    assert (project / "pip.log").read_text().splitlines() == ["-m pip install -c constraints.txt -e ."]
    assert (project / "summary.md").read_text().startswith(f"{MARK}\n## gate against main: pass\n\nPass: none of ")
    assert (project / "gate" / "junit.xml").is_file()
    assert (project / restored["path"]).is_dir()
    assert list(Comments.kept) == [0, 1], "one comment beside the other's, however often"
    assert Comments.kept[1] == (project / "gate" / "gate.md").read_text()
    assert [call for call in Comments.calls if not call.startswith("GET")] == [
        "POST /repos/me/mine/issues/7/comments", "PATCH /repos/me/mine/issues/comments/1",
    ]  # fmt: skip


def test_the_gitlab_job_runs_as_printed_and_updates_its_comment(project: Path, service: str) -> None:
    git = ["git", "rev-parse", "HEAD:radpo"]
    code = subprocess.run(git, cwd=project, capture_output=True, text=True, check=True).stdout.strip()
    stores = project / "runs" / "store"
    (stores / "of-older-code").mkdir(parents=True, exist_ok=True)
    shutil.copytree(project / "first-store", stores / code)  # as the cache of an earlier job brings it
    given = {
        "CI_API_V4_URL": f"{service}/api/v4", "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "7",
        "GITLAB_TOKEN": "secret",
    }  # fmt: skip
    bash("\n".join(GITLAB["script"]), project, **given)
    assert [path.name for path in stores.iterdir()] == [code], "the store of the code that there is"
    assert GITLAB["cache"][0]["paths"] == ["runs/store"]
    for _ in range(2):
        bash("\n".join(GITLAB["after_script"]), project, **given)
    assert list(Comments.kept) == [0, 1]
    assert Comments.kept[1].startswith(MARK)
    assert [call for call in Comments.calls if not call.startswith("GET")] == [
        "POST /api/v4/projects/5/merge_requests/7/notes", "PUT /api/v4/projects/5/merge_requests/7/notes/1",
    ]  # fmt: skip
    no_request = {name: value for name, value in given.items() if name != "CI_MERGE_REQUEST_IID"}
    bash("\n".join(GITLAB["after_script"]), project, **no_request)
    assert (project / "gate" / "gate.md").is_file()
